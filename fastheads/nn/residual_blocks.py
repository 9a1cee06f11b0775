"""Finds the residual blocks of a network, own, torchvision's and timm's, as branch and shortcut."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastheads.nn.patch import Entry, original_class
from fastheads.nn.patch_rules import class_path, forward_owner, reads_only
from fastheads.nn.residual_rules import BLOCKS, CHAINS
from fastheads.nn.squeeze_excite import ExcitedBranch


@dataclass(frozen=True)
class ResidualBlock:
    """A module that computes ``act(shortcut(x) + branch(x))``, for ``before(x)`` if there is that.

    Attributes:
        name: of the module in its network.
        module: the block itself.
        branch: the residual function; its layers are those of the block.
        shortcut: the other path; ``None`` for the identity.
        relu: whether a ReLU follows the sum.
        downsampling: the block changes the size or the number of channels.
        nonnegative: its input is known never to be negative, as behind a ReLU.
        plain: a layer without shortcut: ``branch(x)``, and ``x`` where it is deleted.
        absorbed: names of the modules that follow it and whose work ``branch`` does too.
        before: layer that both paths begin with.
    """

    name: str
    module: nn.Module
    branch: nn.Module
    shortcut: nn.Module | None
    relu: bool
    downsampling: bool
    nonnegative: bool
    plain: bool = False
    absorbed: tuple[str, ...] = ()
    before: nn.Module | None = None

    @property
    def channels(self) -> int:
        """Channels of its input."""
        return _entrance(self.branch)[0].in_channels


_OWN = "fastheads.models.resnet.Residual"
_OWN_SE = "fastheads.models.senet.SEResidual"
_TAKEN = {
    "fastheads.nn.gate_model.GatedBlock": "it has a gate",
    "fastheads.nn.gated_residual.GatedResidual": "it has a gate",
    "fastheads.nn.switched_block.SwitchedBlock": "it has a switch",
}
_LAYER = "fastheads.models.vgg.Layer"
_KEEPS_SIGN = (nn.MaxPool2d, nn.AvgPool2d, nn.Identity)
_LOOKS_LIKE_ONE = re.compile(r"(?i)bottle(neck|2neck)|basic_?block|resid|pre_?act|res(net)?_?block")
_CHANGES_SHAPE = "its branch changes the shape and there is no projection on its shortcut"


def residual_blocks(model: nn.Module) -> tuple[list[ResidualBlock], list[Entry]]:
    """The residual blocks of a network, and what looks like one and is not understood.

    Known are :class:`fastheads.models.Residual` and ``SEResidual``, torchvision's ResNet (also
    ResNeXt and wide), RegNet, MobileNet and EfficientNet, and timm's ``resnet`` (with SE,
    anti-aliasing, drop block, drop path), ``resnetv2``, ``senet``, ``sknet``, ``regnet`` and the
    families of ``efficientnet``, with a ReLU behind the sum or nothing. Classes are known by name
    and by the attributes that their ``forward`` reads. Branches are made of the layers of the
    block, never of copies.

    Returns:
        The blocks in the order of the network, and the others with the reason.
    """
    found: list[ResidualBlock] = []
    unknown: list[Entry] = []
    _search("", model, False, found, unknown)
    places = Counter(id(block.module) for block in found)
    for block in [block for block in found if places[id(block.module)] > 1]:
        found.remove(block)
        kind = original_class(block.module).__name__
        unknown.append(Entry(block.name, kind, "it stands in several places"))
    return found, unknown


def require_residual_blocks(model: nn.Module) -> list[ResidualBlock]:
    """The blocks of :func:`residual_blocks`.

    Raises:
        ValueError: if there is none, if the model is traced, scripted or exported, or if a branch
            changes the shape without a projection.
    """
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
            raise ValueError(
                "model must be made of modules, as it is before tracing, scripting or export, "
                f"got a {type(module).__name__}"
            )
    found, unknown = residual_blocks(model)
    for entry in unknown:
        if entry.note == _CHANGES_SHAPE:
            raise ValueError(f"block {entry.name} cannot be skipped: {entry.note}")
    if not found:
        reason = f" ({unknown[0].name}: {unknown[0].note})" if unknown else ""
        raise ValueError(
            f"model must have residual blocks that are known, got {type(model).__name__} without "
            f"any{reason}"
        )
    return found


def plain_layers(model: nn.Module) -> list[ResidualBlock]:
    """The layers of a VGG network that could be left out, since they keep the number of channels.

    Those of :func:`fastheads.models.vgg15` and of torchvision's ``vgg*_bn``: convolution, norm and
    ReLU.

    Raises:
        ValueError: if there is none.
    """
    layers = [
        _plain(name, module, module)
        for name, module in model.named_modules()
        if _is(module, _LAYER)
    ]
    for name, module in model.named_modules():
        if not _is(module, "torch.nn.modules.container.Sequential"):
            continue
        names = [f"{name}.{child}" if name else child for child in module._modules]
        for i in range(len(names) - 2):
            three = module[i : i + 3]
            kinds = tuple(type(layer) for layer in three)
            if kinds == (nn.Conv2d, nn.BatchNorm2d, nn.ReLU):
                layers.append(_plain(names[i], module[i], three, tuple(names[i + 1 : i + 3])))
    layers = [layer for layer in layers if not layer.downsampling]
    if not layers:
        raise ValueError(
            "model must have layers of convolution, batch norm and ReLU that keep the number of "
            f"channels, got {type(model).__name__} without any"
        )
    return layers


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts ``module`` in the place of the one of that name.

    Raises:
        ValueError: if the name is empty.
    """
    parent, _, last = name.rpartition(".")
    if not last:
        raise ValueError("name must be that of a module within the model, got ''")
    setattr(model.get_submodule(parent), last, module)


def restore(model: nn.Module, block: ResidualBlock, training: bool) -> None:
    """Puts a block that was replaced back in its place, in the mode of its replacement."""
    set_module(model, block.name, block.module)
    block.module.training = training
    for name, layer in zip(block.absorbed, list(block.branch.children())[1:], strict=False):
        set_module(model, name, layer)


def _search(
    name: str,
    module: nn.Module,
    nonnegative: bool,
    found: list[ResidualBlock],
    unknown: list[Entry],
) -> bool:
    """Lists the blocks in a module; returns whether what the module puts out is never negative."""
    block = _block(name, module, nonnegative) if name else None
    if isinstance(block, ResidualBlock):
        found.append(block)
        return block.relu
    if isinstance(block, str):
        unknown.append(Entry(name, original_class(module).__name__, block))
        return False
    if not module._modules:
        return isinstance(module, nn.ReLU) or (nonnegative and isinstance(module, _KEEPS_SIGN))
    seen = len(found) + len(unknown)
    chain = class_path(forward_owner(type(module))) in CHAINS
    for child_name, child in module._modules.items():
        if child is not None:
            child_name = f"{name}.{child_name}" if name else child_name
            nonnegative = _search(child_name, child, chain and nonnegative, found, unknown)
    if name and seen == len(found) + len(unknown) and _looks_like_one(original_class(module)):
        if len(_convolutions(module)) > 1:
            unknown.append(Entry(name, type(module).__name__, "its class is unknown"))
    return chain and nonnegative


def _block(name: str, module: Any, nonnegative: bool) -> ResidualBlock | str | None:
    """A module of a known class as a block, or why it is none; None for other classes."""
    cls = original_class(module)
    path = class_path(forward_owner(cls))
    if path in _TAKEN:
        return _TAKEN[path]
    if "forward" in vars(module) and (path in BLOCKS or path in (_OWN, _OWN_SE)):
        return "it has a forward of its own"
    if path in (_OWN, _OWN_SE):
        branch = module.branch
        if path == _OWN_SE:
            branch = ExcitedBranch(OrderedDict(branch=branch, se=module.se))
            branch.training = module.training
        return _checked(name, module, branch, module.shortcut, module.relu, nonnegative)
    parts = BLOCKS.get(path)
    if parts is None:
        return None
    if not reads_only(cls, parts.body, parts.act, parts.shortcut, parts.when):
        return "its forward is not the known one"
    if parts.when and not getattr(module, parts.when):
        return None
    act = getattr(module, parts.act) if parts.act else nn.Identity()
    if type(act) not in (nn.ReLU, nn.Identity):
        return f"its activation is {type(act).__name__}"
    shortcut = getattr(module, parts.shortcut) if parts.shortcut else None
    if type(shortcut) is nn.Identity:
        shortcut = None
    names = parts.body.split()
    before = None
    if shortcut is not None and parts.first:
        before = getattr(module, parts.first)
        names.remove(parts.first)
    branch, relu = _sequence(module, names), type(act) is nn.ReLU
    return _checked(name, module, branch, shortcut, relu, nonnegative, before)


def _looks_like_one(cls: type) -> bool:
    known = class_path(forward_owner(cls)) in BLOCKS  # there is no sum in this one
    return not known and _LOOKS_LIKE_ONE.search(cls.__name__) is not None


def _checked(
    name: str,
    module: nn.Module,
    branch: nn.Module,
    shortcut: nn.Module | None,
    relu: bool,
    nonnegative: bool,
    before: nn.Module | None = None,
) -> ResidualBlock | str:
    entrance = _entrance(branch)
    if not entrance:
        return "there is no convolution in its branch"
    if len(entrance) > 1:
        return "its first layer is more than one convolution"
    changes = _changes_shape(branch)
    if changes and shortcut is None:
        return _CHANGES_SHAPE
    if changes is None:
        changes = shortcut is not None
    return ResidualBlock(name, module, branch, shortcut, relu, changes, nonnegative, before=before)


def _sequence(module: nn.Module, names: list[str]) -> nn.Sequential:
    """The named layers, those that are there, under their names; a second time with a number."""
    sequence = nn.Sequential()
    for i, name in enumerate(names):
        layer = getattr(module, name)
        if layer is not None:
            times = names[:i].count(name)
            sequence.add_module(f"{name}_{times + 1}" if times else name, layer)
    sequence.training = module.training
    return sequence


def _plain(
    name: str, module: nn.Module, branch: nn.Module, absorbed: tuple[str, ...] = ()
) -> ResidualBlock:
    (convolution,) = _convolutions(branch)
    changes = _changes_shape(nn.Sequential(convolution)) is not False
    return ResidualBlock(name, module, branch, None, True, changes, False, True, absorbed)


def _changes_shape(branch: nn.Module) -> bool | None:
    """Whether the output has another number of channels or size; None if that is not plain."""
    layers = list(_in_sequence(branch))
    if any(_convolutions(layer) for layer in layers if not isinstance(layer, nn.Conv2d)):
        return None
    convolutions = _convolutions(branch)
    if convolutions[0].in_channels != convolutions[-1].out_channels:
        return True
    strides = [getattr(layer, "stride", 1) for layer in layers]
    return any(max(s) > 1 if isinstance(s, tuple) else s > 1 for s in strides)


def _entrance(branch: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of the first layer that has any."""
    return next(filter(None, map(_convolutions, _in_sequence(branch))), [])


def _in_sequence(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _in_sequence(child)
    else:
        yield module


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def _is(module: nn.Module, path: str) -> bool:
    return class_path(forward_owner(type(module))) == path
