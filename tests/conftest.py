"""Devices for tests, and one Hypothesis profile for all of them."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("fastheads", deadline=None, max_examples=50)
hypothesis.settings.load_profile("fastheads")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
