"""The one training loop, its checkpoints, and the finished stages of a run."""

from fastheads.training.checkpoint import load_weights, save_weights
from fastheads.training.config import TrainConfig
from fastheads.training.fit import FitResult, fit
from fastheads.training.stage import Stages

__all__ = ["FitResult", "Stages", "TrainConfig", "fit", "load_weights", "save_weights"]
