"""Any network with auxiliary heads beside its classifier."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.nn import AugmentedClassifier


class Tap(nn.Module):
    """Runs a network up to its classifier and hands out the features of an earlier layer.

    Holds a copy of the network in which the classifier is left out; the network itself stays as
    it is.

    Args:
        model: any network whose forward takes one tensor.
        feature_layer: name of the layer whose output the heads will read, as in
            ``model.named_modules()``.
        classifier: name of the last ``nn.Linear``.
        grid: average-pool a feature map to ``grid`` by ``grid``; 0 keeps it as it is.

    Shapes: inputs to features ``[N, ...]`` and hidden units ``[N, classifier inputs]``.
    """

    def __init__(
        self, model: nn.Module, feature_layer: str, classifier: str, grid: int = 0
    ) -> None:
        super().__init__()
        names = {name for name, _ in model.named_modules() if name}
        for argument, name in (("feature_layer", feature_layer), ("classifier", classifier)):
            if name not in names:
                raise ValueError(
                    f"{argument} must be the name of a layer of {type(model).__name__}, "
                    f"got {name!r}"
                )
        if not isinstance(model.get_submodule(classifier), nn.Linear):
            raise ValueError(
                "classifier must be the name of an nn.Linear, got "
                f"{type(model.get_submodule(classifier)).__name__} {classifier!r}"
            )
        if f"{classifier}.".startswith(f"{feature_layer}."):
            raise ValueError(
                f"feature_layer must come before the classifier {classifier!r}, "
                f"got {feature_layer!r}"
            )
        self.model = copy.deepcopy(model)
        self.feature_layer, self.classifier, self.grid = feature_layer, classifier, grid
        _replace(self.model, classifier, _Recorder(nn.Identity()))
        _replace(self.model, feature_layer, _Recorder(self.model.get_submodule(feature_layer)))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        self.model(inputs)
        features = self._recorder(self.feature_layer).take()
        hidden = self._recorder(self.classifier).take()
        if self.grid and features.dim() == 4:
            features = F.adaptive_avg_pool2d(features, self.grid)
        return features, hidden

    def _recorder(self, name: str) -> _Recorder:
        recorder = self.model.get_submodule(name)
        assert isinstance(recorder, _Recorder)
        return recorder


class AugmentedNetwork(nn.Module):
    """A network, its classifier, and auxiliary heads: what augmentation makes.

    Warde-Farley, Rabinovich, Anguelov, "Self-informed neural network structure learning", 2015,
    Figure 1.

    Args:
        tap: the network below its classifier.
        top: classifier and heads.

    Shapes: inputs of the network to logits ``[N, labels]``.
    """

    def __init__(self, tap: Tap, top: AugmentedClassifier) -> None:
        super().__init__()
        self.tap, self.top = tap, top

    def forward(self, inputs: Tensor) -> Tensor:
        return self.top(*self.tap(inputs))


class _Recorder(nn.Module):
    """A layer that remembers its output until it is taken. Survives copying, unlike a hook."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.output: Tensor | None = None

    def forward(self, *inputs: Tensor) -> Tensor:
        output = self.layer(*inputs)
        # A copy, because the next layer may overwrite it, as activations in place do.
        self.output = output.clone() if isinstance(output, Tensor) else output
        return output

    def take(self) -> Tensor:
        output, self.output = self.output, None
        if not isinstance(output, Tensor):
            raise ValueError(
                f"the layer {type(self.layer).__name__} must run and give one tensor, "
                f"got {type(output).__name__}"
            )
        return output


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
