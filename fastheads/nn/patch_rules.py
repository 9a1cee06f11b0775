"""Which modules of torchvision and timm are a squeeze-excitation that one operator computes.

Classes are known by name, so that neither library is imported, and by the attributes that their
``forward`` reads, so that a release which computes something else is left alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import nn

from fastheads.nn.hooks import changed


class Excitation(NamedTuple):
    """Names of the layers in a class of SE modules."""

    fc1: str
    inner: str
    fc2: str
    gate: str
    reads: str  # what else its forward reads


class Tail(NamedTuple):
    """Names of the layers in a class of residual blocks that end in SE, sum and ReLU."""

    body: tuple[str, ...]  # in the order of their calls
    norm: str  # the last of the branch; empty where an activation follows it
    se: str
    act: str
    reads: str  # what else its forward reads


class Formula(NamedTuple):
    """What an SE module computes."""

    fc1: nn.Conv2d
    fc2: nn.Conv2d
    inner: str
    gate: str


_EXCITATIONS = {
    "torchvision.ops.misc.SqueezeExcitation": Excitation(
        "fc1", "activation", "fc2", "scale_activation", "_scale avgpool"
    ),
    "timm.layers.squeeze_excite.SEModule": Excitation(
        "fc1", "act", "fc2", "gate", "mean add_maxpool amax bn"
    ),
    "timm.models._efficientnet_blocks.SqueezeExcite": Excitation(
        "conv_reduce", "act1", "conv_expand", "gate", "mean"
    ),
    "timm.models.senet.SEModule": Excitation("fc1", "relu", "fc2", "sigmoid", "mean"),
}
_OTHER_FORMULAS = {
    "fastheads.nn.squeeze_excite.SqueezeExcite": "the operator computes it already",
    "timm.layers.squeeze_excite.EffectiveSEModule": "it has one layer, not two",
    "timm.layers.squeeze_excite.SqueezeExciteCl": "its channels are the last dimension",
}
_TAILS = {
    "timm.models.resnet.BasicBlock": Tail(
        ("conv1", "bn1", "drop_block", "act1", "aa", "conv2"),
        *("bn2", "se", "act2", "drop_path downsample"),
    ),
    "timm.models.resnet.Bottleneck": Tail(
        ("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa", "conv3"),
        *("bn3", "se", "act3", "drop_path downsample"),
    ),
    "timm.models.senet.Bottleneck": Tail(
        ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3"),
        *("bn3", "se_module", "relu", "downsample"),
    ),
    "timm.models.senet.SEResNetBlock": Tail(
        ("conv1", "bn1", "relu", "conv2", "bn2", "relu"),
        *("", "se_module", "relu", "downsample"),
    ),
}
_INNER = {
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Hardswish": "hard_swish",
}
_GATE = {
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "timm.layers.activations.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Hardsigmoid": "hard_sigmoid",
}
_LOOKS_LIKE_ONE = re.compile(r"(?i)squeeze_?excit|^(e|effective)?_?se_?(module|layer)$")


def excitation(cls: type[nn.Module]) -> Excitation | str | None:
    """The layers of a class of SE modules, or why it is none of ours; None for other classes."""
    owner = class_path(forward_owner(cls))
    if owner in _OTHER_FORMULAS:
        return _OTHER_FORMULAS[owner]
    if owner not in _EXCITATIONS:
        return "its class is unknown" if _LOOKS_LIKE_ONE.search(cls.__name__) else None
    rule = _EXCITATIONS[owner]
    return rule if reads_only(cls, *rule) else "its forward is not the known one"


def residual_tail(cls: type[nn.Module]) -> Tail | str | None:
    """The layers of a class of residual blocks with SE, as :func:`excitation`."""
    rule = _TAILS.get(class_path(forward_owner(cls)))
    if rule is None:
        return None
    known = reads_only(cls, *rule.body, *rule[1:])
    return rule if known else "its forward is not the known one"


def formula(module: nn.Module, rule: Excitation) -> Formula | str:
    """What an SE module computes now, or why the operator cannot."""
    fc1, inner, fc2, gate = parts = [getattr(module, name) for name in rule[:4]]
    if reason := changed(module, *parts):
        return reason
    if not (_is_pointwise(fc1) and _is_pointwise(fc2)):
        return "its layers are not plain 1x1 convolutions"
    if (inner_name := _INNER.get(class_path(type(inner)))) is None:
        return f"its inner activation is {type(inner).__name__}"
    if (gate_name := _GATE.get(class_path(type(gate)))) is None:
        return f"its gate is {type(gate).__name__}"
    if getattr(module, "add_maxpool", False):
        return "it also pools by maximum"
    norm = getattr(module, "bn", None)
    if not (norm is None or type(norm) is nn.Identity):
        return f"{type(norm).__name__} between its layers"
    return Formula(fc1, fc2, inner_name, gate_name)


def tail_obstacle(block: nn.Module, rule: Tail) -> str:
    """Why the operator cannot compute the end of a residual block, or nothing."""
    act, drop_path = getattr(block, rule.act), getattr(block, "drop_path", None)
    if reason := changed(block, act, *([] if drop_path is None else [drop_path])):
        return reason
    if type(act) is not nn.ReLU:
        return f"its activation is {type(act).__name__}"
    if drop_path is not None and type(drop_path).__name__ not in ("DropPath", "Identity"):
        return f"{type(drop_path).__name__} behind SE"
    return ""


def drops_path(block: nn.Module) -> bool:
    """Whether stochastic depth is at work between SE and sum."""
    drop_path = getattr(block, "drop_path", None)
    return drop_path is not None and drop_path.training and getattr(drop_path, "drop_prob", 0) > 0


def _is_pointwise(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (1, 1)
        and layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
    )


def reads_only(cls: type, *names: str) -> bool:
    """Whether the forward of a class reads the attributes in these words, and no others.

    What the methods of the class read that its forward calls counts as well.
    """
    methods, read = ["forward"], set[str]()
    while methods:
        code = getattr(getattr(cls, methods.pop()), "__code__", None)
        new = set(code.co_names) - read if code else set()
        methods += [name for name in new if name in vars(forward_owner(cls))]
        read |= new
    return read == set(" ".join(names).split())


def forward_owner(cls: type) -> type:
    return next(base for base in cls.__mro__ if "forward" in vars(base))


def class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
