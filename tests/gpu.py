"""Where the CUDA operators run: on a GPU, or emulated on the CPU, as `make emulated` does."""

import os

import torch

EMULATED = os.environ.get("FASTHEADS_EMULATED") == "1"
GPU = torch.device("cpu" if EMULATED else "cuda")


def is_gpu(device: torch.device) -> bool:
    """Whether the CUDA operators run there, which wait for nothing and so check fewer values."""
    return EMULATED or device.type == "cuda"
