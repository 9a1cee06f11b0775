"""Gated networks in forms that torch.export and ONNX take: masked for any batch, or branching."""

from __future__ import annotations

import copy
import importlib.util
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from fastheads.nn.gate import Gate
from fastheads.nn.gate_model import gated_blocks
from fastheads.nn.gated_residual import GatedResidual
from fastheads.nn.residual_blocks import set_module


class ExportGate(nn.Module):
    """The more probable decision of a :class:`Gate` in plain PyTorch, its norm folded.

    Shapes: ``[N, C, H, W]`` or ``[N, C]`` to ``[N]``, boolean.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        folded = gate.fold()
        self.fc1, self.fc2 = folded.fc1, folded.fc2

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3)) if x.dim() == 4 else x
        skip, execute = self.fc2(self.fc1(mean).relu()).unbind(1)
        return execute >= skip


class _ExportBlock(nn.Module):
    def __init__(self, block: GatedResidual) -> None:
        super().__init__()
        self.gate, self.branch, self.shortcut = ExportGate(block.gate), block.branch, block.shortcut
        self.relu = block.relu

    def _skip(self, x: Tensor) -> Tensor:
        y = x if self.shortcut is None else self.shortcut(x)
        return y.relu() if self.relu else y

    def _run(self, x: Tensor) -> Tensor:
        y = (x if self.shortcut is None else self.shortcut(x)) + self.branch(x)
        return y.relu() if self.relu else y


class MaskedBlock(_ExportBlock):
    """Runs the branch on all samples and keeps it where the gate is open (eq. 5.3)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.shortcut is None else self.shortcut(x)
        z = self.gate(x).view(-1, *(1 for _ in x.shape[1:]))
        y = torch.where(z, y + self.branch(x), y)  # a product would let through NaN
        return y.relu() if self.relu else y


class ConditionalBlock(_ExportBlock):
    """Runs the branch if the gate of the one sample is open, by ``torch.cond`` when traced."""

    def forward(self, x: Tensor) -> Tensor:
        execute = self.gate(x)
        if torch.compiler.is_compiling():
            # Its two sides must return new memory.
            return torch.cond(execute[0], self._run, lambda x: self._skip(x).clone(), (x,))
        if len(x) != 1:
            raise ValueError(f"x must be a batch of one, got {len(x)}")
        return self._run(x) if execute.item() else self._skip(x)


def masked(model: nn.Module) -> nn.Module:
    """A copy of a gated network for any batch: all branches run, and closed ones are left out.

    Plain PyTorch and deterministic, whatever the gates sample; for evaluation. What it is for::

        batch = torch.export.Dim("batch")
        torch.export.export(masked(model), (x,), dynamic_shapes=({0: batch},))

    Args:
        model: with blocks of :func:`fastheads.nn.gate_model`; unchanged.

    Raises:
        ValueError: if it has no gates.
    """
    return _exported(model, MaskedBlock)


def conditional(model: nn.Module) -> nn.Module:
    """A copy of a gated network for a batch of one, whose closed branches do not run.

    As :func:`masked`, but ``torch.export`` sees a ``torch.cond`` for each gate; run eagerly, it
    raises a ValueError for any other batch.
    """
    return _exported(model, ConditionalBlock)


def export_onnx(
    model: nn.Module, path: str | os.PathLike[str], example: Tensor, *, skip: bool = False
) -> None:
    """Writes a gated network as ONNX, input ``images``, output ``logits``.

    Args:
        model: with blocks of :func:`fastheads.nn.gate_model`; unchanged.
        path: of the file.
        example: images; the file takes any number of that size.
        skip: the :func:`conditional` form instead of the :func:`masked` one: the file takes one
            image, and its closed branches (of ``If`` nodes) do not run.

    Raises:
        ValueError: if the network has no gates, or a package is missing.
    """
    for package in ("onnx", "onnxscript"):
        if not importlib.util.find_spec(package):
            install = "pip install 'fastheads[export]'"
            raise ValueError(f"export_onnx needs the package {package}: {install}")
    if skip:
        network, example, shapes = conditional(model), example[:1], None
    else:
        # An example of one would fix the size of the batch.
        network, example = masked(model), example.expand(max(2, len(example)), *example.shape[1:])
        shapes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            network,
            (example,),
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    program.save(str(Path(path)))


def _exported(model: nn.Module, form: type[_ExportBlock]) -> nn.Module:
    network = copy.deepcopy(model).eval()
    blocks = gated_blocks(network)
    if not blocks:
        raise ValueError("model must have gates, see gate_model, got none")
    for name, block in blocks.items():
        set_module(network, name, form(block))
    return network
