"""Fast last layers for image classifiers over 10,000 to 100,000+ labels."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def _load_libraries() -> None:
    here = Path(__file__).parent
    try:
        from ._C import with_cuda

        torch.ops.load_library(here / "libfastheads.so")
        # The CUDA library needs a PyTorch built with CUDA, not a GPU.
        if with_cuda and torch.version.cuda:
            torch.ops.load_library(here / "libfastheads_cuda.so")
    except (ImportError, OSError) as error:
        raise ImportError(
            f"fastheads: the native libraries in {here} are missing or do not load ({error}); "
            "build them with `pip install -e . --no-build-isolation`"
        ) from error


_load_libraries()

from . import nn, ops  # noqa: E402  registers fakes for the operators of the libraries above
from .memory import empty_cache  # noqa: E402

try:
    __version__ = version("fastheads")
except PackageNotFoundError:  # a source tree that was built but not installed
    __version__ = "0.1.0"

__all__ = ["__version__", "empty_cache", "nn", "ops"]  # the rest: __getattr__


def __getattr__(name: str) -> object:
    # Here, because they need the extra `fastheads[pipelines]`, which `import fastheads` does not.
    if name == "augment":
        from fastheads.pipelines.own_network import augment

        return augment
    if name == "concentrate":
        from fastheads.pipelines.own_students import concentrate

        return concentrate
    if name == "adapt":
        from fastheads.pipelines.own_adaptive import adapt

        return adapt
    if name == "lesion":
        from fastheads.pipelines.lesion import lesion

        return lesion
    if name == "StreamingClassifier":
        from fastheads.pipelines.streaming_classifier import StreamingClassifier

        return StreamingClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
