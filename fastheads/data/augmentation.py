"""From uint8 pictures to float batches: augmented to train on, plain to evaluate on.

Every picture of a batch draws its own parameters. torchvision's v2 transforms draw one set for a
whole batch, so the affine map is one ``grid_sample`` over all pictures, and blur blends each
picture with torchvision's Gaussian blur of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fastheads.ranges import check_range


@dataclass(frozen=True)
class Normalize:
    """uint8 ``[B, C, H, W]`` to float32: ``(images / 255 - mean) / std``.

    Attributes:
        mean: one number a channel, or one for all.
        std: one number a channel, or one for all.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one number, got ()")
        check_range(self, "std", above=0)

    def check_channels(self, channels: int) -> None:
        """ValueError unless there is a number for each of the channels, or one for all."""
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, channels):
                raise ValueError(
                    f"{name} must hold one number for all channels, or one for each of the "
                    f"{channels}, got {getattr(self, name)}"
                )

    def __call__(self, images: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        # One pass: images * scale - shift.
        return torch.addcmul(-mean / std, images.float(), 1 / (255 * std))

    def invert(self, images: Tensor) -> Tensor:
        """Normalised pictures to values from 0 to 1."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return torch.addcmul(mean, images, std)


eval_transform = Normalize()


@dataclass(frozen=True)
class Augmentation:
    """Random affine map, blur, contrast and noise, for each picture on its own.

    Attributes:
        degrees: rotations are uniform in plus or minus so many degrees.
        translate: shifts, in plus or minus so large a part of the picture's size.
        scale: smallest and largest factor of size.
        shear: shears along x, in plus or minus so many degrees.
        blur: largest weight of the blurred picture in its blend with the sharp one, 0 to 1.
        contrast: contrast factors are uniform in 1 plus or minus this.
        noise: largest standard deviation of Gaussian noise, as part of the range of values.
        flip: share of the pictures that are mirrored, left for right.
        padding: what lies outside: ``zeros``, ``border`` or ``reflection``.
        normalize: the last step.
    """

    degrees: float = 10.0
    translate: float = 0.08
    scale: tuple[float, float] = (0.85, 1.1)
    shear: float = 8.0
    blur: float = 0.7
    contrast: float = 0.3
    noise: float = 0.08
    flip: float = 0.0
    padding: str = "zeros"
    normalize: Normalize = eval_transform

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be positive and ascending, got {self.scale}")
        check_range(self, "degrees", "noise", least=0)
        check_range(self, "shear", least=0, below=90)
        check_range(self, "translate", "blur", "contrast", "flip", least=0, most=1)
        if self.padding not in {"zeros", "border", "reflection"}:
            raise ValueError(
                f"padding must be 'zeros', 'border' or 'reflection', got {self.padding!r}"
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augments a batch.

        Args:
            images: ``[B, C, H, W]``, uint8.
            generator: all randomness; its state alone decides the result.

        Returns:
            ``[B, C, H, W]``, float32, normalised, on the device of ``images``.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images must be uint8 [B, C, H, W], got {images.dtype} {list(images.shape)}"
            )
        if images.numel() == 0:
            return self.normalize(images)
        draws = torch.rand(8, len(images), generator=generator, device=generator.device)
        draws = draws.to(images.device)
        x = images.float()
        grid = F.affine_grid(self._theta(draws[:5], images), list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, padding_mode=self.padding, align_corners=False)
        blur, contrast, noise = (d.view(-1, 1, 1, 1) for d in draws[5:])
        if self.blur:
            x = torch.lerp(x, tv.gaussian_blur(x, [3, 3], [1.0, 1.0]), self.blur * blur)
        if self.contrast:
            # About each picture's own mean, as torchvision's adjust_contrast.
            factor = 1 + self.contrast * (2 * contrast - 1)
            x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, factor)
        if self.noise:
            normal = torch.randn(x.shape, generator=generator, device=generator.device)
            x = torch.addcmul(x, normal.to(x.device), 255 * self.noise * noise)
        if self.flip:
            mirrored = torch.rand(len(x), generator=generator, device=generator.device) < self.flip
            x = torch.where(mirrored.to(x.device).view(-1, 1, 1, 1), x.flip(3), x)
        return self.normalize(x.clamp_(0, 255))

    def _theta(self, draws: Tensor, images: Tensor) -> Tensor:
        """``[B, 2, 3]``: from places in the result to places in the picture, both in -1..1."""
        height, width = images.shape[-2:]
        spread = 2 * draws - 1
        angle = math.radians(self.degrees) * spread[0]
        shear = torch.tan(math.radians(self.shear) * spread[1])
        low, high = math.log(self.scale[0]), math.log(self.scale[1])
        zoom = torch.exp(-(low + (high - low) * draws[2]))  # the inverse map
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        aspect = height / width  # coordinates are scaled by side: rotate in pixels
        rows = [cos, (cos * shear - sin) * aspect, 2 * self.translate * spread[3]]
        rows += [sin / aspect, sin * shear + cos, 2 * self.translate * spread[4]]
        return torch.stack(rows, dim=1).view(-1, 2, 3)
