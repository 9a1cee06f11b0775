"""What a network costs: multiply-adds and bytes moved of one forward pass, and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, *inputs: Any) -> int:
    """Counts the multiply-adds that ``model(*inputs)`` executes, in eval mode.

    One multiply-add is one multiplication and one addition; biases, norms and activations are not
    counted, as in the tables of the papers. What a conditional network skips for these inputs is
    not counted either. Give a batch of one for the cost of an image.

    Args:
        model: a network on the device of the inputs; left in the mode that it was in.
        inputs: the arguments of its forward.
    """
    with _evaluating(model), FlopCounterMode(display=False) as counter:
        model(*inputs)
    # PyTorch counts a multiply-add as two operations.
    return counter.get_total_flops() // 2


def count_bytes(model: nn.Module, *inputs: Any) -> int:
    """Counts the least bytes that ``model(*inputs)`` moves when run eagerly, in eval mode.

    The sum over the executed operators of the distinct tensors read and of the tensors written,
    each once: what crosses the memory bus when nothing stays in a cache between operators and
    every operator is perfect within. Views and uninitialised memory are free; an expanded tensor
    counts as what is stored; an operation in place reads and writes its tensor; a gather reads as
    much as it writes; an operator that touches part of a tensor counts that part (for counts of
    labels: one cell for each increment, at most all cells). A fused operator so counts less than
    the operators that it replaces. Scratch memory within an operator is not seen.

    Args:
        model: a network on the device of the inputs; left in the mode that it was in.
        inputs: the arguments of its forward.
    """
    with _evaluating(model), _ByteCounter() as counter:
        model(*inputs)
    return counter.total


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class _ByteCounter(TorchDispatchMode):
    """Adds up what each operator reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.total += _bytes_of(func, args, kwargs, result)
        return result


def _bytes_of(func: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> int:
    schema, operator = func._schema, str(func.overloadpacket)
    given = zip(schema.arguments, args, strict=False)  # defaults may be left out
    arguments = {argument.name: value for argument, value in given} | kwargs
    mutated = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
    storages = {_storage(tensor) for tensor in _tensors(arguments)}
    fresh = [tensor for tensor in _tensors(result) if _storage(tensor) not in storages]
    if operator in ALLOCATIONS or not (fresh or mutated):  # memory as it comes, or a view
        return 0
    if operator.endswith("_like"):  # of the given tensor only the shape is used
        return sum(map(_stored, fresh))
    read: dict[tuple, int] = {}
    written = sum(map(_stored, fresh))
    part = PARTS.get(operator)
    for name, value in arguments.items():
        for tensor in _tensors(value):
            size = _stored(tensor)
            if part and name == part[0]:
                size = min(size, part[1](arguments, result) * tensor.element_size())
            if name in mutated:
                written += size
            if not (name in mutated and (operator in OVERWRITES or name == "out")):
                where = _storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride()
                read[where] = size
    return written + sum(read.values())


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _stored(tensor: Tensor) -> int:
    """Bytes behind a tensor: of an expanded or overlapping one, those that exist."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    elements = math.prod(size for size, stride in sizes if stride != 0 or size == 0)
    return min(elements * tensor.element_size(), tensor.untyped_storage().nbytes())


def _pairs_below(arguments: dict[str, Any], result: Any) -> int:
    (rows, k), labels = arguments["top"].shape, len(arguments["counts"])
    return min(rows * k * (k + 1), labels * (labels + 1)) // 2


def _asked_weights(arguments: dict[str, Any], result: Any) -> int:
    """Of the groups that any pair names, each once."""
    ins, outs, wide = arguments["in_offsets"], arguments["out_offsets"], arguments["x"].shape[1]
    asked = arguments["groups"].unique().tolist()
    widths = {g: wide if ins is None else ins[g + 1] - ins[g] for g in asked}
    return sum((outs[g + 1] - outs[g]) * width for g, width in widths.items())


def _result_size(arguments: dict[str, Any], result: Tensor) -> int:
    return result.numel()


ALLOCATIONS = {f"aten.{name}" for name in "empty empty_like empty_strided new_empty".split()}
# Operators in place that do not read what they replace.
OVERWRITES = {
    f"aten.{name}"
    for name in "bernoulli_ copy_ exponential_ fill_ normal_ random_ uniform_ zero_".split()
}
# Operators that touch part of a tensor: its name, and how many of its elements at most.
PARTS: dict[str, tuple[str, Callable[[dict[str, Any], Any], int]]] = {
    "aten.embedding": ("weight", _result_size),
    "aten.gather": ("self", _result_size),
    "aten.index": ("self", _result_size),
    "aten.index_select": ("self", _result_size),
    "fastheads.topk_confusion_": ("counts", lambda a, _: a["top"].shape[1] * a["indices"].numel()),
    "fastheads.topk_co_detection_": ("counts", _pairs_below),
    "fastheads.gated_residual_scatter_": ("x", lambda a, _: a["f"].numel()),
    "fastheads.sc_linear_conditional": ("weight", _asked_weights),
}


def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Counts the parameters of ``model``, each shared one once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def cost_ratio(macs: int, base_macs: int) -> str:
    """Cost relative to the base network, as in the paper's table 2: ``1.026x``."""
    return f"{macs / base_macs:.3f}x"
