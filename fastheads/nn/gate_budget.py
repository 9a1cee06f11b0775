"""A constant budget: exactly k gates open for each image (future work of paper 004, chapter 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastheads.nn.gate_model import gated_blocks
from fastheads.nn.gate_record import record_gates

NEVER, ALWAYS = 1.0, -1.0  # no probability exceeds the one, each the other


@dataclass(frozen=True)
class BudgetThresholds:
    """What the probability of each gate must exceed to open, by how many may still open.

    Attributes:
        names: of the gated blocks, in forward order.
        table: ``[gates, k + 1]``, float32: of a gate, by the number of gates that this and later
            ones have left to open.
    """

    names: tuple[str, ...]
    table: Tensor

    @property
    def k(self) -> int:
        """The number of gates that open for each image."""
        return self.table.shape[1] - 1

    def to_json(self) -> dict[str, Any]:
        return {"names": list(self.names), "table": self.table.tolist()}

    @staticmethod
    def from_json(state: Mapping[str, Any]) -> BudgetThresholds:
        return BudgetThresholds(
            tuple(state["names"]), torch.tensor(state["table"], dtype=torch.float32)
        )


def fit_budget(model: nn.Module, batches: Iterable[Tensor], k: int) -> BudgetThresholds:
    """Finds the thresholds by which ``k`` gates open for each image.

    With ``b`` left, gate ``l`` opens where its probability exceeds that at which ``b`` of the gates
    from ``l`` on would open on average over the images. The probabilities are those that the
    network has when its gates decide for themselves, or, inside of a :func:`use_budget`, under
    that budget: a second fit is so one to the features that the first one brings about.

    Args:
        model: with blocks of :func:`fastheads.nn.gate_model`, in evaluation mode.
        batches: of images, as the model takes them; some hundreds of images are enough.
        k: gates to open, from 0 to all.

    Raises:
        ValueError: if the model has no gates or is in training mode, ``k`` is more than its gates,
            there is no image, or a gate gives NaN.
    """
    names = _gate_names(model)
    if not 0 <= k <= len(names):
        raise ValueError(f"k must be from 0 to the number of gates, {len(names)}, got {k}")
    if model.training:
        raise ValueError("model must be in evaluation mode, got training mode")
    seen = []
    with torch.no_grad(), record_gates(model) as record:
        for batch in batches:
            model(batch)
            record.rates()  # refuses NaN
            seen.append(torch.stack(record.probability, 1).float().cpu())
    if not sum(map(len, seen)):
        raise ValueError("batches must hold images, got none")
    return BudgetThresholds(names, budget_table(torch.cat(seen), k))


def budget_table(probability: Tensor, k: int) -> Tensor:
    """The table of :class:`BudgetThresholds` for probabilities ``[images, gates]``.

    Row ``l``: nothing exceeds its entry for ``b = 0``, everything those for ``b`` of all gates left
    and more; between, ``b`` of them are the largest ``b * images`` probabilities of gates ``l`` on.
    """
    images, gates = probability.shape
    table = torch.full((gates, k + 1), ALWAYS)
    table[:, 0] = NEVER
    for gate in range(gates):
        largest = probability[:, gate:].flatten().sort(descending=True).values
        for b in range(1, min(k + 1, gates - gate)):
            table[gate, b] = largest[b * images]
    return table


def use_budget(model: nn.Module, thresholds: BudgetThresholds) -> ExitStack:
    """Lets exactly ``k`` gates open for each image, until :func:`clear_budget`.

    Gates keep their probabilities; only decisions change, in all modes of the blocks alike::

        with use_budget(model, fit_budget(model, batches, k=7)):
            logits = model(images)

    Args:
        model: in evaluation mode when it runs; no training with a budget.
        thresholds: of a network with the same gates.

    Returns:
        A context that clears the budget when it is left; it may be ignored.

    Raises:
        ValueError: if the model has other gates than the thresholds, or a budget already.
        RuntimeError: from the model, if it runs in training mode.
    """
    names = _gate_names(model)
    if names != thresholds.names:
        raise ValueError(
            f"thresholds must be for the gates of the model, {_listed(names)}, "
            f"got {_listed(thresholds.names)}"
        )
    gates = [block.gate for block in gated_blocks(model).values()]
    if any(_hooks(gate) for gate in gates):
        raise ValueError("model has a budget already: clear_budget comes first")
    budget = _Budget(thresholds.table)
    for number, gate in enumerate(gates):
        # First of all hooks: those that record decisions must see these.
        gate.register_forward_hook(_Hook(budget, number), prepend=True)
    context = ExitStack()
    context.callback(clear_budget, model)
    return context


def clear_budget(model: nn.Module) -> None:
    """Ends :func:`use_budget`; without a budget, does nothing."""
    for block in gated_blocks(model).values():
        for key in _hooks(block.gate):
            del block.gate._forward_hooks[key]


@dataclass
class _Budget:
    """The thresholds on the device of the gates, and how many may still open for each image.

    Attributes:
        left: a number for a batch of one.
    """

    table: Tensor
    left: Tensor | int = 0

    def __post_init__(self) -> None:
        self.rows = self.table.tolist()


@dataclass
class _Hook:
    budget: _Budget
    gate: int

    def __call__(
        self, gate: nn.Module, args: Any, output: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        _, probability = output
        if gate.training:
            raise RuntimeError("a budget needs a model in evaluation mode, got training mode")
        budget = self.budget
        if budget.table.device != probability.device:
            budget.table = budget.table.to(probability.device)
        left = len(budget.rows[0]) - 1 if self.gate == 0 else budget.left
        if isinstance(left, int):
            left = probability.new_full(probability.shape, left, dtype=torch.int64)
        opens = probability > budget.table[self.gate][left]
        budget.left = left - opens.to(torch.int64)
        # What is NaN stays so, for the block to refuse.
        return torch.add(opens, probability, alpha=0), probability

    def of_one(self, probability: float) -> float:
        """The decision for a batch of one; see :meth:`Gate.decide_one`."""
        budget = self.budget
        left = len(budget.rows[0]) - 1 if self.gate == 0 else int(budget.left)
        opens = probability > budget.rows[self.gate][left]
        budget.left = left - opens
        return float(opens)


def _hooks(gate: nn.Module) -> list[int]:
    return [key for key, hook in gate._forward_hooks.items() if isinstance(hook, _Hook)]


def _gate_names(model: nn.Module) -> tuple[str, ...]:
    names = tuple(gated_blocks(model))
    if not names:
        raise ValueError("model must have gates, see gate_model, got none")
    return names


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} gates ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
