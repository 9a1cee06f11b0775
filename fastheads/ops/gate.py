"""gate: which residual block runs for which sample.

Veit, Belongie, "Convolutional networks with adaptive computation graphs", 2018, eq. 5.4-5.7 of
Veit's thesis; Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, linear
from torch.utils.flop_counter import register_flop_formula

from .dispatch import any_layout, call, sum_dtype


def gate_reference(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    noise: Tensor | None = None,
    temperature: float = 1.0,
    soft: bool = False,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """:func:`gate` in plain PyTorch."""
    dtype = sum_dtype(x)
    mean = x.mean((2, 3), dtype=dtype) if x.dim() == 4 else x.to(dtype)
    units = _linear(mean, weight1, bias1)
    if running_mean is not None:
        norm = (running_mean, running_var, norm_weight, norm_bias)
        center, variance, weight, bias = (t if t is None else t.to(dtype) for t in norm)
        units = batch_norm(units, center, variance, weight, bias, eps=eps)
    beta = _linear(units.relu(), weight2, bias2)
    beta = beta if noise is None else beta + noise
    probability = (beta / temperature).softmax(1)[:, 1]
    if soft:
        return probability, probability
    execute = (beta[:, 1] >= beta[:, 0]).to(dtype)
    return execute + (probability - probability.detach()), probability


def active_samples_reference(z: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`active_samples` in plain PyTorch: a stable sort of what does not execute."""
    execute = z > 0
    return (~execute).byte().sort(stable=True).indices, execute.sum(0, keepdim=True)


def gate(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    noise: Tensor | None = None,
    temperature: float = 1.0,
    soft: bool = False,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Decides for each sample whether a residual block executes.

    ``m = x.mean((2, 3))`` (eq. 5.4), ``beta = weight2 relu(norm(weight1 m + bias1)) + bias2``
    (eq. 5.5) with index 1 for executing, ``probability = softmax((beta + noise) / temperature)[1]``
    (eq. 5.7), and ``z = 1`` where ``beta + noise`` is largest at 1 (eq. 5.6; a tie executes). The
    batch norm is that of evaluation, by running statistics, if there are any. The features are
    read once and nothing but the means is kept.

    Args:
        x: ``[N, C, H, W]``, contiguous or channels-last (anything else is copied), or ``[N, C]``
            means; float32, float64, float16 or bfloat16, CPU or CUDA.
        weight1: ``[d, C]``, in any of these dtypes; float64 if and only if ``x`` is.
        bias1: ``[d]`` in the dtype of ``weight1``, or None.
        weight2: ``[2, d]`` in the dtype of ``weight1``.
        bias2: ``[2]`` in the dtype of ``weight1``, or None.
        noise: ``[N, 2]`` of :func:`gumbel_noise`, float32 (float64 with float64 ``x``), or None
            for the more probable choice.
        temperature: positive; towards 0 the probabilities become the decisions, towards infinity
            they become a half.
        soft: whether ``z`` is the probability (the relaxation) instead of the decision.
        running_mean: ``[d]`` in the dtype of ``weight1``, or None for no norm.
        running_var: as ``running_mean``; both or neither.
        norm_weight: as ``running_mean``, or None for ones.
        norm_bias: as ``running_mean``, or None for zeros.
        eps: added to ``running_var``, at least 0.

    Returns:
        ``z`` and ``probability``, both ``[N]``, float32 (float64 with float64 ``x``). Where
        ``beta + noise`` has no larger entry, because of a NaN or two equal infinities, both are
        NaN.

    Raises:
        RuntimeError: if shapes, dtypes or devices disagree, ``temperature`` is not positive or
            ``eps`` is negative.

    Differentiable in ``x``, weights and biases, those of the norm too, but not in its statistics;
    the gradient of a decision is that of its probability (straight through). All sums are float32
    (float64). Deterministic.
    """
    norm = (running_mean, running_var, norm_weight, norm_bias, eps)
    z, probability, _ = gate_with_means(
        x, weight1, bias1, weight2, bias2, noise, temperature, soft, *norm
    )
    return z, probability


def gate_with_means(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`gate` of all its inputs in their order, and the means of eq. 5.4, ``[N, C]``."""
    return call(torch.ops.fastheads.gate.default, *inputs)


def active_samples(z: Tensor) -> tuple[Tensor, Tensor]:
    """Lists the samples that execute, without waiting for the device.

    Args:
        z: ``[N]``, float32 or float64.

    Returns:
        ``active``, ``[N]``, int64: the samples with ``z > 0``, ascending, then all others,
        ascending; and ``count``, ``[1]``, int64: how many execute.

    Raises:
        RuntimeError: if ``z`` is no floating vector; on the CPU also if an entry is NaN. On CUDA
            such a sample does not execute, since nothing waits to find it.

    Not differentiable. Deterministic.
    """
    return torch.ops.fastheads.active_samples.default(z)


def gumbel_noise(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draws ``-log(-log U)``, ``U`` uniform: the noise of eq. 5.6 and 5.7.

    Args:
        shape: of the result.
        generator: on ``device``; PyTorch's default one if None.
        device: of the result; PyTorch's default one if None.
        dtype: of the result.

    Returns:
        Noise between -3.7 and 36.8, never infinite or NaN. ``U`` is a multiple of 2^-53 from
        2^-53 to 1 - 2^-53, so that neither logarithm meets zero; in float32, ``U`` would be 0
        once in 2^24 draws, and no noise above 16.7 would come out.

    Raises:
        ValueError: if ``generator`` is on another device.
    """
    place = torch.get_default_device() if device is None else torch.device(device)
    if generator is not None and not _same_device(generator.device, place):
        raise ValueError(
            f"gumbel_noise: generator must be on {place}, the device of the noise, "
            f"got one on {generator.device}"
        )
    uniform = torch.rand(shape, generator=generator, device=place, dtype=torch.float64)
    return uniform.clamp_min_(2.0**-53).log_().neg_().log_().neg_().to(dtype)


def _same_device(actual: torch.device, wanted: torch.device) -> bool:
    same_index = wanted.index is None or actual.index is None or actual.index == wanted.index
    return actual.type == wanted.type and same_index


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


@torch.library.register_fake("fastheads::gate")
def _(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    noise: Tensor | None,
    temperature: float,
    soft: bool,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    z = x.new_empty(x.shape[0], dtype=sum_dtype(x))
    return z, torch.empty_like(z), z.new_empty(x.shape[:2])


@torch.library.register_fake("fastheads::active_samples")
def _(z: Tensor) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape, dtype=torch.int64), z.new_empty(1, dtype=torch.int64)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight1, bias1, weight2, bias2, _, ctx.temperature, _, *norm, ctx.eps = inputs
    _, probability, mean = output
    ctx.x_shape, ctx.x_dtype, ctx.has_bias2 = x.shape, x.dtype, bias2 is not None
    ctx.save_for_backward(weight1, bias1, weight2, probability, mean, *norm)


def _backward(
    ctx: Any, grad_z: Tensor, grad_probability: Tensor, grad_mean: Tensor
) -> tuple[Tensor | None, ...]:
    weight1, bias1, weight2, probability, mean, *norm = ctx.saved_tensors
    running_mean, running_var, norm_weight, norm_bias = norm
    slope = (probability * (1 - probability)).double() / ctx.temperature
    grad_logit = (grad_z + grad_probability) * slope.to(mean.dtype)
    grad_beta = torch.stack((-grad_logit, grad_logit), 1)

    hidden = units = _linear(mean, weight1, bias1)
    if running_mean is not None:
        scale = (running_var.to(mean.dtype) + ctx.eps).rsqrt()
        hidden = units = (units - running_mean) * scale
    hidden = hidden if norm_weight is None else hidden * norm_weight
    hidden = (hidden if norm_bias is None else hidden + norm_bias).relu()

    grad_hidden = grad_units = (grad_beta @ weight2.to(mean.dtype)) * (hidden > 0)
    grad_units = grad_units if norm_weight is None else grad_units * norm_weight
    grad_units = grad_units if running_mean is None else grad_units * scale
    grads = [
        grad_units.T @ mean,
        None if bias1 is None else grad_units.sum(0),
        grad_beta.T @ hidden,
        grad_beta.sum(0) if ctx.has_bias2 else None,
        None if norm_weight is None else (grad_hidden * units).sum(0),
        None if norm_bias is None else grad_hidden.sum(0),
    ]
    *layers, grad_weight, grad_bias = (g if g is None else g.to(weight1.dtype) for g in grads)
    grad_x = None
    if ctx.needs_input_grad[0]:
        grad_x = _spread(grad_mean + grad_units @ weight1.to(mean.dtype), ctx.x_shape, ctx.x_dtype)
    return grad_x, *layers, None, None, None, None, None, grad_weight, grad_bias, None


def _spread(grad_mean: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    grad = (grad_mean / shape[2:].numel()).to(dtype)
    return grad.reshape(*grad.shape, *(1 for _ in shape[2:])).expand(shape)


torch.library.register_autograd("fastheads::gate", _backward, setup_context=_save)
any_layout("gate")


@register_flop_formula(torch.ops.fastheads.gate)
def _(x_shape: Sequence[int], weight1_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    hidden, channels = weight1_shape
    return 2 * x_shape[0] * hidden * (channels + 2)


@register_flop_formula(torch.ops.fastheads.active_samples)
def _(*args: Any, **kwargs: Any) -> int:
    return 0
