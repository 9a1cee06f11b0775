"""Devices for tests, which of them are small, and one Hypothesis profile for all of them."""

import random
import re
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from gpu import EMULATED, GPU

hypothesis.settings.register_profile("fastheads", deadline=None, max_examples=50)
hypothesis.settings.load_profile("fastheads")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device("cpu") if request.param == "cpu" else GPU


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# What is long under compute-sanitizer or emulated, which slows a kernel down a hundredfold; and of
# how many parameters of one test a few are enough there.
LONG = re.compile(
    "huge|large|many|wide|compile|opcheck|gradcheck|graph|any_shape|repeat|thread"
    "|as_often|over_chunks|70001"
)
ENOUGH = 8


@pytest.hookimpl(tryfirst=True)  # before -m selects by these marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    short: dict[str, list[pytest.Item]] = {}
    for item in items:
        gpu = item.get_closest_marker("gpu")
        if gpu:
            item.add_marker("cuda")
        if not item.get_closest_marker("cuda"):
            continue
        if not torch.cuda.is_available() and (gpu or not EMULATED):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
        drawn = hasattr(getattr(item, "function", None), "hypothesis")
        if not (drawn or item.get_closest_marker("slow") or LONG.search(item.name)):
            short.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for same in short.values():
        for item in random.Random(0).sample(same, min(len(same), ENOUGH)):
            item.add_marker("small")
