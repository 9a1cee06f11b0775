"""One finished run with every option, for all tests that read one."""

import pytest
import tiny
import torch

from fastheads.data import load_data
from fastheads.pipelines.augment import augment_run
from fastheads.pipelines.heads import HeadsConfig


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small gain nothing from more, and lose much where a core is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def full_config(tmp_path_factory, cache_dir):
    return tiny.config(
        tmp_path_factory.mktemp("run"),
        cache_dir,
        heads=HeadsConfig(num_groups=4, widths=(8, 8), top_k=5, capacity="difficulty"),
        second_round=True,
        fine_tune_epochs=1,
        contrast=(16,),
    )


@pytest.fixture(scope="session")
def finished(full_config):
    """The result of a run; its folder is ``full_config.output_dir``."""
    return augment_run(full_config)


@pytest.fixture(scope="session")
def data(full_config):
    return load_data(full_config.data, progress=False)
