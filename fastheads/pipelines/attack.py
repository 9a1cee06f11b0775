"""Adversarial images by the fast gradient sign method, and JPEG against them (paper 004, 5.3.3).

Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", 2015,
arXiv:1412.6572; Guo, Rana, Cisse, van der Maaten, "Countering adversarial images using input
transformations", 2018, arXiv:1711.00117.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastheads.data import ImageDataset
from fastheads.losses import softmax_cross_entropy
from fastheads.metrics import TopKAccuracy
from fastheads.nn import Gate
from fastheads.pipelines.frozen import channels_last
from fastheads.targets import SparseTargets

Normalize = Callable[[Tensor], Tensor]


def fgsm(
    network: nn.Module,
    images: Tensor,
    targets: SparseTargets,
    epsilon: float,
    normalize: Normalize,
    *,
    through_gates: bool = False,
) -> Tensor:
    """Moves each pixel by ``epsilon`` in the direction that raises the loss.

    ``clip(x + epsilon * sign(gradient of the cross-entropy at x), 0, 1)``, of Goodfellow et al.

    Args:
        network: gives logits; in evaluation mode, so that gates decide without noise.
        images: ``[N, C, H, W]``, uint8.
        targets: the labels of the images.
        epsilon: at least 0, as share of the range of a pixel.
        normalize: from values of 0 to 255 to what the network takes; differentiable.
        through_gates: the gradient also passes, straight through, the decisions of gates (eq. 5.7);
            else they are constants: the gradient is that of the network as it is executed.

    Returns:
        ``[N, C, H, W]``, float32 from 0 to 1, on the device of the network.

    Raises:
        ValueError: if the images are not uint8, ``epsilon`` is negative or the network is in
            training mode.
    """
    sign = gradient_sign(network, images, targets, normalize, through_gates=through_gates)
    return perturb(images, sign, epsilon)


def gradient_sign(
    network: nn.Module,
    images: Tensor,
    targets: SparseTargets,
    normalize: Normalize,
    *,
    through_gates: bool = False,
) -> Tensor:
    """The direction of :func:`fgsm`, -1, 0 or 1 for each pixel, the same for each epsilon."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 [N, C, H, W], got {images.dtype} {list(images.shape)}"
        )
    if network.training:
        raise ValueError("network must be in evaluation mode, got training mode")
    device = device_of(network)
    pixels = images.to(device).float()
    with torch.enable_grad(), nullcontext() if through_gates else _constant_gates(network):
        scores = network(channels_last(normalize(pixels.requires_grad_())))
        loss = softmax_cross_entropy(scores, targets.to(device), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, pixels)
    return gradient.sign()


def perturb(images: Tensor, sign: Tensor, epsilon: float) -> Tensor:
    """``clip(images / 255 + epsilon * sign, 0, 1)``; uint8 to float32 on the device of ``sign``."""
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    return (images.to(sign.device).float() / 255 + epsilon * sign).clamp_(0, 1)


def jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """What is left of images after they were JPEG files.

    Args:
        images: ``[N, C, H, W]``, floating from 0 to 1, gray or RGB.
        quality: from 1 to 100.

    Returns:
        Alike, float32, of values that are multiples of 1/255.

    Raises:
        ValueError: if there are neither one nor three channels, or the quality is out of range.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be [N, 1 or 3, H, W], got {list(images.shape)}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, got {quality}")
    if not len(images):
        return images.float()
    pixels = (255 * images).round().clamp(0, 255).to(torch.uint8)
    # Pillow takes gray [H, W] and colour [H, W, 3].
    shown = pixels[:, 0] if images.shape[1] == 1 else pixels.permute(0, 2, 3, 1)
    after = torch.from_numpy(np.stack([_jpeg(each, quality) for each in shown.cpu().numpy()]))
    after = after[:, None] if images.shape[1] == 1 else after.permute(0, 3, 1, 2)
    return after.to(images.device).float() / 255


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def robustness(
    network: nn.Module,
    data: ImageDataset,
    normalize: Normalize,
    epsilons: Sequence[float],
    *,
    quality: int = 75,
    through_gates: bool = False,
    batch_size: int = 128,
) -> dict[str, list[float]]:
    """Top-1 accuracy under attacks of several strengths (figure 5.8).

    The attack knows the network and not the defence.

    Args:
        network: attacked, in evaluation mode.
        data: uint8 pictures with their labels.
        normalize: as of :func:`fgsm`.
        epsilons: strengths; 0 is no attack.
        quality: of JPEG.
        through_gates: as of :func:`fgsm`.
        batch_size: pictures at a time.

    Returns:
        ``direct`` and ``jpeg``, each with the accuracy at each epsilon.
    """
    top1 = {way: [TopKAccuracy(1) for _ in epsilons] for way in ("direct", "jpeg")}
    for images, targets in uint8_batches(data, batch_size):
        sign = gradient_sign(network, images, targets, normalize, through_gates=through_gates)
        for number, epsilon in enumerate(epsilons):
            attacked = perturb(images, sign, epsilon)
            for way, shown in (("direct", attacked), ("jpeg", jpeg(attacked, quality))):
                with torch.no_grad():
                    scores = network(channels_last(normalize(255 * shown)))
                top1[way][number].update(scores.cpu(), targets)
    return {way: [metric.compute().item() for metric in at] for way, at in top1.items()}


def uint8_batches(data: ImageDataset, size: int = 128) -> Iterator[tuple[Tensor, SparseTargets]]:
    """All pictures of ``data`` as they are, and their labels."""
    for start in range(0, len(data), size):
        yield data.__getitems__(list(range(start, min(start + size, len(data)))))


def device_of(network: nn.Module) -> torch.device:
    """That of its first parameter."""
    first = next(network.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def _constant_gates(network: nn.Module) -> Iterator[None]:
    """No gradient through what gates decide."""

    def detach(gate: nn.Module, args: object, decided: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(each.detach() for each in decided)

    hooks = [m.register_forward_hook(detach) for m in network.modules() if isinstance(m, Gate)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
