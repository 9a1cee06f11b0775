"""Gate: decides for each sample whether a residual block runs (paper 004, section 5.2.2)."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_linear_bn_eval

from fastheads.nn.gate_of_one import GateOfOne, places
from fastheads.nn.hooks import hooks_on_all
from fastheads.ops import gumbel_noise
from fastheads.ops.gate import gate_with_means


class Gate(nn.Module):
    """``z[n] = 1`` where the gate opens for sample ``n``, from the means of its channels.

    ``beta = fc2(relu(norm(fc1(mean of x over H, W))))`` (eq. 5.4, 5.5), index 1 = open. In training
    Gumbel noise is added and the larger entry decides, with the gradient of the softmax, the
    straight-through estimator (eq. 5.6, 5.7), or the softmax itself is ``z`` if ``soft``. In
    evaluation ``z`` is the larger entry without noise, or a sample if ``sample``, and all of it,
    batch norm included, is one operator, :func:`fastheads.ops.gate`.

    Veit, "Conditional networks", 2018, section 5.2.2; Veit, Belongie, "Convolutional networks with
    adaptive inference graphs", 2018, https://arxiv.org/abs/1711.11503, whose code has the batch
    norm, initial rate 0.870 and samples in evaluation too.

    Args:
        channels: size of dimension 1 of the input.
        hidden: units of the first layer.
        batch_norm: normalise the hidden units.
        rate: share of open gates at first, between 0 and 1.
        temperature: of the softmax, above 0; an attribute that may be changed at any time.
        soft: in training ``z`` is the softmax, not a decision.
        sample: draw the decision in evaluation too.

    Shapes: ``[N, channels, H, W]``, or means ``[N, channels]``, to ``z`` and the probability of
    opening, both ``[N]``, float32 (float64 for float64); both NaN where the logits are.
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 16,
        *,
        batch_norm: bool = True,
        rate: float = 0.85,
        temperature: float = 1.0,
        soft: bool = False,
        sample: bool = False,
    ) -> None:
        super().__init__()
        if channels < 1 or hidden < 1:
            raise ValueError(f"channels and hidden must be positive, got {channels} and {hidden}")
        if not 0 < rate < 1:
            raise ValueError(f"rate must be between 0 and 1, got {rate}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature, self.soft, self.sample = temperature, soft, sample
        self.fc1 = nn.Linear(channels, hidden)
        self.norm = nn.BatchNorm1d(hidden) if batch_norm else None
        self.fc2 = nn.Linear(hidden, 2)
        nn.init.kaiming_normal_(self.fc1.weight, nonlinearity="relu")
        nn.init.zeros_(self.fc1.bias)
        nn.init.normal_(self.fc2.weight, std=1e-3)  # so that all samples begin at the same rate
        with torch.no_grad():
            self.fc2.bias.copy_(torch.tensor([0.0, math.log(rate / (1 - rate))]))

    def forward(
        self, x: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decisions ``z`` and probabilities; ``generator`` draws the noise, if there is any."""
        z, probability, _ = self.decide(x, generator)
        return z, probability

    def decide(
        self, x: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`forward`, and the means ``[N, channels]`` it decided by, in memory of their own.

        In training with a batch norm these are of the normalised units, ``[N, hidden]``.
        """
        noise = None
        if self.training or self.sample:
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            noise = gumbel_noise((x.shape[0], 2), generator=generator, device=x.device, dtype=dtype)
        fc1, fc2, norm = self.fc1, self.fc2, self.norm
        if norm is not None and norm.training:
            # Statistics of a batch cannot be taken in; on normalised units the operator has a first
            # layer that does nothing.
            x, bias, running = self._normalized(x), None, ()
            weight = torch.eye(x.shape[1], dtype=fc2.weight.dtype, device=x.device)
        else:
            weight, bias, running = fc1.weight, fc1.bias, _running(norm)
        soft = self.soft and self.training
        layers = (weight, bias, fc2.weight, fc2.bias)
        return gate_with_means(x, *layers, noise, self.temperature, soft, *running)

    def decide_one(self, x: Tensor) -> float | None:
        """``z`` of a batch of one as a number, in evaluation: the bits of a call, NaN included.

        No operator is called, so that nothing sees this that watches operators. A hook that has
        ``of_one``, from the probability to a decision, makes that. None where this does not go
        (other hooks, samples, float64, not on the CPU, a layer that is not plain): call the gate
        then.
        """
        own = self.__dict__  # attributes of modules take longer
        norm, hooks, choose = own["_modules"].get("norm"), own["_forward_hooks"], None
        if hooks:
            choose = getattr(next(iter(hooks.values())), "of_one", None)
            if choose is None or len(hooks) > 1:
                return None
        if x.shape[0] != 1 or own["sample"] or own["_forward_pre_hooks"] or not _unwatched(x):
            return None
        if own["training"] or (norm is not None and norm.training):
            return None
        try:
            of_one, temperature = own.get("_of_one"), own["temperature"]
            if of_one is None or of_one.places != places(own["_modules"]):
                of_one = own["_of_one"] = GateOfOne(self)
        except (AttributeError, KeyError):  # a layer or a temperature that is not plain
            return None
        signed = of_one(x, temperature)
        if signed is None or math.isnan(signed):
            return signed
        return choose(abs(signed)) if choose else (math.copysign(1, signed) + 1) / 2

    def __getstate__(self) -> dict[str, Any]:
        # Its addresses are of this object, and of this process.
        return {name: value for name, value in self.__dict__.items() if name != "_of_one"}

    def fold(self) -> Gate:
        """A copy for evaluation with the norm in the first layer: a little less to do, the same."""
        folded = copy.deepcopy(self).eval()
        if folded.norm is not None:
            folded.fc1, folded.norm = fuse_linear_bn_eval(folded.fc1, folded.norm), None
        return folded

    def _normalized(self, x: Tensor) -> Tensor:
        assert self.norm is not None
        # Half precision would round decisions: autocast is left out of it.
        with torch.autocast(x.device.type, enabled=False):
            mean = x if x.dim() == 2 else x.mean((2, 3), dtype=self.fc1.weight.dtype)
            return self.norm(self.fc1(mean.to(self.fc1.weight.dtype)))

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, soft={self.soft}, sample={self.sample}"


def _unwatched(x: Tensor) -> bool:
    """Nothing compiles, traces, differentiates, counts or hooks what is done with ``x``."""
    return type(x) is Tensor and not (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state()
        or hooks_on_all()
    )


def _running(norm: nn.Module | None) -> tuple[Any, ...]:
    """What the operator takes of a norm; its dictionaries, as attributes take microseconds."""
    if norm is None:
        return ()
    statistics, affine = norm._buffers, norm._parameters
    norm_inputs = (statistics["running_mean"], statistics["running_var"])
    return *norm_inputs, affine["weight"], affine["bias"], norm.eps
