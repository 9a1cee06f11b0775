"""GatedResidual: a residual block whose branch runs only for the samples that need it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from fastheads.nn.gate import Gate
from fastheads.nn.gated_cost import GatherCosts, cost_key, gather_rows, measure_costs
from fastheads.nn.hooks import changed
from fastheads.ops import (
    active_samples,
    gated_residual,
    gated_residual_,
    gated_residual_scatter_,
)

MODES = ("auto", "dense", "gather")


class GatedResidual(nn.Module):
    """``y = act(shortcut(x) + z * branch(x))``, with ``z`` 0 or 1 for each sample (eq. 5.3).

    In training, and where gradients are recorded, the branch runs on all samples and is masked.
    Else the samples with open gates are gathered, the branch runs on them alone and is added in
    place, or all is dense, whichever is cheaper: both are timed once for each shape, dtype, device,
    layout and number of threads, at the first such batch or by :meth:`calibrate`. If no gate is
    open, the branch does not run; a batch of one needs no calibration.

    All modes give the same bits, as long as ``exact``. A library may choose another order of
    summation for another batch size, so only those numbers of rows are ever gathered that were seen
    to give the bits of the dense pass; a gather is padded up to the next of these. (PyTorch's
    float32 convolutions of fewer than 16 samples often differ from those of more.) The calibration
    belongs to the weights: training mode and loading a state dict forget it.

    ``torch.compile`` takes training and mode "dense" as one graph. The other modes depend on data
    and break the graph; the branch is compiled by itself.

    Veit, "Conditional networks", 2018, section 5.2.1.

    Args:
        branch: ``[N, C, H, W]`` to the shape of the shortcut, each sample by itself in evaluation.
        gate: gives ``z`` and its probability for ``x``, as :class:`Gate` does.
        shortcut: module for the other path; ``None`` for the identity.
        relu: the activation; without it there is none.
        nonnegative: ``x`` is never negative, as behind a ReLU, so that samples which are skipped
            stay as they are and cost nothing.
        inplace: without gradients ``y`` may take the place of ``x``. What the branch returns is
            never overwritten, since hooks may keep it; what the shortcut returns is.
        mode: "auto", "dense" (never gather) or "gather" (whatever it costs).
        exact: without, modes and batch sizes differ by the rounding of the branch, and gathers are
            padded by fewer rows: of 32 samples by one at most.

    Attributes:
        last_executed: samples that the branch ran on in the last eager call, padding included.
        leads: what this block returns is read by one more gated block alone, which need not take
            the means of channels that are known here; set by :func:`gate_model`. In inference mode
            it takes them nevertheless: nothing there tells whether the tensor has changed since.
    """

    place = ""  # in a network, for messages
    leads = False

    def __init__(
        self,
        branch: nn.Module,
        gate: Gate,
        *,
        shortcut: nn.Module | None = None,
        relu: bool = True,
        nonnegative: bool = False,
        inplace: bool = False,
        mode: Literal["auto", "dense", "gather"] = "auto",
        exact: bool = True,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        self.branch, self.gate, self.shortcut = branch, gate, shortcut
        self.relu, self.nonnegative, self.inplace, self.mode = relu, nonnegative, inplace, mode
        self.exact = exact
        self.last_executed: int | None = None
        self._costs: dict[str, GatherCosts] = {}

    def forward(
        self,
        x: Tensor,
        z: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        return_gate: bool = False,
    ) -> Any:
        """Runs the block.

        Args:
            x: ``[N, C, H, W]``.
            z: ``[N]`` to use in place of the gate, of any values: the branch runs on all samples.
            generator: for the noise of the gate.
            return_gate: also return ``z`` and the probabilities (``z`` too if it was given).

        Returns:
            ``y``, or ``(y, z, probability)``.

        Raises:
            ValueError: where samples may be skipped, if ``z`` of the gate is NaN. On CUDA, where
                nothing waits for that, only in a batch of one; in others the sample is skipped.
        """
        decided, probability = z is None, z
        own = self.__dict__  # attributes of modules take longer, which a batch of one feels
        # Always taken off: x may be written over here, and be what this block returns.
        known = x if torch.compiler.is_compiling() else _known_means(x)
        if z is None and not (return_gate or own["training"] or own["mode"] == "dense"):
            gate = own["_modules"]["gate"]
            if type(gate) is Gate and (number := gate.decide_one(x)) is not None:
                return self._one(x, number)
        means = None
        if z is None:
            gate = self.gate
            decided = not (self.training or gate.training or torch.is_grad_enabled())
            if decided and _is_plain(gate):
                z, probability, means = gate.decide(known, generator)
            else:
                z, probability = gate(x, generator=generator)
        infers = decided and self.mode != "dense"
        y = self._infer(x, z, means) if infers else self._dense(x, z)
        return (y, z, probability) if return_gate else y

    def _one(self, x: Tensor, z: float) -> Tensor:
        """A batch of one with its decision, by the operators of a block without gate."""
        own = self.__dict__
        own["last_executed"] = int(self._number(z) > 0)
        if not own["last_executed"]:
            return self.finish(self.start(x))
        owned = self.inplace or self.shortcut is not None
        y = self.start(x) if owned else x
        f = self.branch(x)
        if f.dtype != y.dtype:
            f = f.to(y.dtype)
        if f.shape != y.shape:
            return gated_residual(y, f, torch.ones(1), relu=self.relu)  # which says what is wrong
        y = y.add_(f) if owned else y.add(f)
        return y.relu_() if self.relu else y

    def _dense(self, x: Tensor, z: Tensor) -> Tensor:
        compiling = torch.compiler.is_compiling()
        if not compiling:
            self.__dict__["last_executed"] = x.shape[0]
        owned = self.inplace or self.shortcut is not None
        if owned and not (compiling or torch.is_grad_enabled()):
            y = self.start(_laid_out(x))
            gated_residual_(y, self.branch(x).to(y.dtype), z, relu=self.relu)
            return y
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return gated_residual(shortcut, self.branch(x).to(shortcut.dtype), z, relu=self.relu)

    @torch.compiler.disable(recursive=False)
    def _infer(self, x: Tensor, z: Tensor, means: Tensor | None) -> Tensor:
        x, samples = _laid_out(x), x.shape[0]
        if samples == 1:  # nothing to list
            rows = int(self._number(z.item()) > 0)
        else:
            active, count = self._list_active(z)
            rows = self._rows(x, int(count))  # on CUDA this waits; see gated_graphs.py
        if rows == samples:
            return self._dense(x, z)
        self.__dict__["last_executed"] = rows
        y = self.start(x)
        # Samples that are skipped keep their means where they keep their values.
        kept = self.leads and self.shortcut is None and not self.rectifies_skipped
        if rows:
            part = gather_rows(x, active[:rows])
            self.add_branch(y, part, active, count, means if kept else None)
        y = self.finish(y)
        if kept and means is not None and not changed(self):
            _set_means(y, means)
        return y

    def _list_active(self, z: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return active_samples(z)
        except RuntimeError:  # of a NaN, found in passing
            for sample, value in enumerate(z.tolist()):
                self._number(value, sample)
            raise

    def _number(self, value: float, sample: int = 0) -> float:
        if math.isnan(value):
            raise ValueError(f"gate logits must be finite, got nan for sample {sample}{self.place}")
        return value

    @torch.compiler.disable
    def _rows(self, x: Tensor, open_gates: int) -> int:
        if open_gates in (0, len(x)):
            return open_gates
        costs = self._costs.get(cost_key(x)) or self.calibrate(x)
        return costs.rows(open_gates, force=self.mode == "gather")

    def start(self, x: Tensor) -> Tensor:
        """The shortcut path, in memory that the branch may be added to."""
        if self.shortcut is None:
            return x if self.inplace else x.clone()
        y = self.shortcut(x)
        shared = y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        return y.clone(memory_format=torch.contiguous_format) if shared else _laid_out(y)

    def add_branch(
        self, y: Tensor, part: Tensor, active: Tensor, count: Tensor, means: Tensor | None = None
    ) -> None:
        """Adds the branch of ``part`` to the first ``count`` samples of ``y`` in ``active``.

        Their rows of ``means`` become the means of their channels in ``y``.
        """
        f = self.branch(part).to(y.dtype)
        gated_residual_scatter_(y, f, active, means, count=count, relu=self.relu)

    @property
    def rectifies_skipped(self) -> bool:
        """Whether samples that are skipped still need the activation."""
        return self.relu and not (self.nonnegative and self.shortcut is None)

    def finish(self, y: Tensor) -> Tensor:
        """The activation of skipped samples; it changes nothing in those that have had it."""
        return y.relu_() if self.rectifies_skipped else y

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> GatherCosts:
        """Times the block for batches like ``x``, in some twenty passes over random data.

        Raises:
            RuntimeError: in training mode, in which statistics would be changed.
        """
        if self.training:
            raise RuntimeError("calibrate needs evaluation mode, got training mode")
        x = _laid_out(x)

        def gather(batch: Tensor, rows: Tensor) -> None:
            y = self.start(batch)
            count = torch.full((1,), len(rows), device=batch.device)
            self.add_branch(y, gather_rows(batch, rows), rows, count)
            self.finish(y)

        executed = self.last_executed
        ones = torch.ones(
            len(x), device=x.device, dtype=torch.float64 if x.dtype == torch.float64 else None
        )
        # A counter of operations that is at work must not see this.
        with _disable_current_modes():
            costs = measure_costs(
                self.branch, lambda b: self._dense(b, ones), gather, x, exact=self.exact
            )
        self._costs[cost_key(x)] = costs
        self.last_executed = executed
        return costs

    def calibration(self) -> dict[str, dict[str, Any]]:
        """All measurements, for JSON."""
        return {key: asdict(costs) for key, costs in self._costs.items()}

    def set_calibration(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes over the :meth:`calibration` of this block, or of another one of its kind."""
        self._costs = {key: GatherCosts(**costs) for key, costs in state.items()}

    def train(self, mode: bool = True) -> GatedResidual:
        if mode:
            self._costs.clear()
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._costs.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return (
            f"relu={self.relu}, nonnegative={self.nonnegative}, inplace={self.inplace}, "
            f"mode={self.mode!r}, exact={self.exact}"
        )


def _is_plain(gate: nn.Module) -> bool:
    """Whether :meth:`Gate.decide` is all that it does, and no hook or compiler has to see it."""
    if torch.compiler.is_compiling() or changed(gate):
        return False
    return getattr(type(gate), "forward", None) is Gate.forward


def _set_means(y: Tensor, means: Tensor) -> None:
    """Keeps the means of channels with ``y``, for the one that reads it next.

    Not in inference mode, where no version tells whether ``y`` has changed since.
    """
    if not y.is_inference():
        y.__dict__["channel_means"] = (means, y._version)


def _known_means(x: Tensor) -> Tensor:
    """The means of channels that were kept with ``x``, once; else ``x``."""
    means, version = x.__dict__.pop("channel_means", (None, None))
    return x if means is None or version != x._version else means


def _laid_out(x: Tensor) -> Tensor:
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
