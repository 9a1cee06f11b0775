"""The SE modules of networks of torchvision and timm, computed by one operator."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastheads.nn.folded_norm import excite, is_unseen
from fastheads.nn.patch_rules import (
    Excitation,
    Formula,
    Tail,
    drops_path,
    excitation,
    formula,
    residual_tail,
    tail_obstacle,
)


class Entry(NamedTuple):
    """A module in a report of :func:`patch`."""

    name: str
    kind: str
    note: str


@dataclass
class PatchReport:
    """What :func:`patch` found; its text is a table.

    Attributes:
        replaced: SE modules that the operator computes.
        tails: residual blocks in which it also adds the shortcut and applies the ReLU.
        skipped: SE modules and ends of blocks that stay as they are, and why.
    """

    replaced: list[Entry] = field(default_factory=list)
    tails: list[Entry] = field(default_factory=list)
    skipped: list[Entry] = field(default_factory=list)

    def __str__(self) -> str:
        parts = {"replaced": self.replaced, "tail": self.tails, "skipped": self.skipped}
        return table(parts) or "no squeeze-excitation found"


def table(parts: Mapping[str, Sequence[Entry]]) -> str:
    """The entries of a report, a line each, and how many there are of each part."""
    rows = [(part, *entry) for part, entries in parts.items() for entry in entries]
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    counts = ", ".join(f"{len(entries)} {part}" for part, entries in parts.items())
    return "\n".join([*lines, counts])


def patch(model: nn.Module) -> PatchReport:
    """Computes the SE modules of a torchvision or timm model by ``fastheads.ops.squeeze_excite``.

    In place, and undone by :func:`unpatch`. Modules, parameters, buffers and the keys of the state
    dict stay the very same objects: checkpoints and optimisers go on as before. Residual blocks
    that end in SE, sum and ReLU are computed by one operator from there on; in inference (eval
    mode, no gradient) the batch norm before SE is folded into it.

    Every call looks at the module: with hooks on what would be skipped, with another activation,
    or with stochastic depth at work, the original ``forward`` runs. ``torch.compile``, export and
    whole-module pickles take a patched model; ``torch.jit.script`` wants it unpatched.

    Args:
        model: any module; its SE modules at any depth are found.

    Returns:
        What was replaced, and what was not and why. A second call changes nothing.

    Example::

        model = timm.create_model("seresnet50").eval()
        print(fastheads.nn.patch(model))
    """
    report = PatchReport()
    for name, module in model.named_modules():
        cls = original_class(module)
        rule = excitation(cls)
        if rule is None:
            continue
        found = rule if isinstance(rule, str) else formula(module, rule)
        if isinstance(found, str):
            report.skipped.append(Entry(name, cls.__name__, found))
        else:
            module.__class__ = _fused_class(cls)
            widths = f"{found.fc1.in_channels} -> {found.fc1.out_channels}"
            note = f"{widths}, {found.inner}, {found.gate}"
            report.replaced.append(Entry(name, cls.__name__, note))
    for name, module in model.named_modules():
        cls = original_class(module)
        tail = residual_tail(cls)
        if tail is None or not any(isinstance(m, _FusedExcitation) for m in module.children()):
            continue
        obstacle = tail if isinstance(tail, str) else tail_obstacle(module, tail)
        if isinstance(tail, str) or obstacle:
            report.skipped.append(Entry(name, cls.__name__, obstacle))
        else:
            module.__class__ = _fused_class(cls)
            note = " + ".join(filter(None, [tail.norm, tail.se, "shortcut", tail.act]))
            report.tails.append(Entry(name, cls.__name__, note))
    return report


def unpatch(model: nn.Module) -> None:
    """Undoes :func:`patch`; nothing of it stays behind."""
    for module in model.modules():
        module.__class__ = original_class(module)


class _Fused(nn.Module):
    """Stands before the class of a patched module, so that ``super()`` is its own forward."""

    original_class: type[nn.Module]
    rule: Any

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time: copies and pickles make it again.
        reduced: Any = super().__reduce_ex__(protocol)
        return _new_fused, (self.original_class,), *reduced[2:]


class _FusedExcitation(_Fused):
    rule: Excitation

    def forward(self, x: Tensor) -> Tensor:
        found = formula(self, self.rule)
        return super().forward(x) if isinstance(found, str) else _excite(found, x)


class _FusedTail(_Fused):
    rule: Tail
    downsample: nn.Module | None

    def forward(self, x: Tensor) -> Tensor:
        se = getattr(self, self.rule.se)
        found = formula(se, se.rule) if isinstance(se, _FusedExcitation) else "exchanged"
        if isinstance(found, str) or tail_obstacle(self, self.rule) or drops_path(self):
            return super().forward(x)
        shortcut = x if self.downsample is None else self.downsample(x)
        for name in self.rule.body:
            x = getattr(self, name)(x)
        norm = getattr(self, self.rule.norm) if self.rule.norm else None
        unseen = is_unseen(getattr(self, self.rule.body[-1]))
        return _excite(found, x, shortcut, norm=norm, unseen=unseen, relu=True)


def _excite(found: Formula, x: Tensor, residual: Tensor | None = None, **options: Any) -> Tensor:
    fc1, fc2, inner, gate = found
    layers = (fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    return excite(x, layers, residual, inner=inner, gate=gate, **options)


def original_class(module: nn.Module) -> Any:
    """The class of a module before :func:`patch`."""
    return module.original_class if isinstance(module, _Fused) else type(module)


@functools.cache
def _fused_class(original: Any) -> Any:
    """The class of patched modules of a class; itself if it is none that can be patched."""
    for mixin, rule in (
        (_FusedExcitation, excitation(original)),
        (_FusedTail, residual_tail(original)),
    ):
        if isinstance(rule, tuple):
            members = {"original_class": original, "rule": rule, "__module__": __name__}
            return type(f"Fused{original.__name__}", (mixin, original), members)
    return original


def _new_fused(original: Any) -> nn.Module:
    cls = _fused_class(original)
    return cls.__new__(cls)
