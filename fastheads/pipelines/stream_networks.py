"""The networks that a stream of new labels is learned with (paper 001, Tables 3 and 4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from fastheads.models import inception_resnet, senet, vgg16
from fastheads.pipelines.run_folder import check_distinct

# What each row changes in the squeeze-and-excitation network; sections 5.1.1, 6.1 and 8.1.1.
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet": {"se": False},
    "senet": {},
    "senet_2x": {"expansion": 2},
    "senet_4x": {"expansion": 4},
    "senet_2x_averaged": {"expansion": 2, "squeeze": "averaged"},
    "senet_r8": {"reduction": 8},
    "senet_r32": {"reduction": 32},
    "senet_sqrt": {"reduction": "sqrt"},
    "senet_log": {"reduction": "log"},
    "senet_2x_r32": {"expansion": 2, "reduction": 32},
}
# Channels of the three modules of Inception-ResNet, beside a ResNet whose first stage has 64.
INCEPTIONS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "inception_48": ((48, 144, 288), {}),
    "inception_96": ((96, 288, 576), {}),
    "inception_senet": ((48, 144, 288), {"se": True, "expansion": 2, "reduction": 32}),
}
ROWS = ("vgg", *VARIANTS, *INCEPTIONS)
PUBLISHED = tuple(row for row in ROWS if row not in ("senet_2x_averaged", "senet_log"))
FULL_WIDTH = 64


@dataclass(frozen=True)
class NetworksConfig:
    """The networks of a comparison.

    Attributes:
        rows: which of ``ROWS``; by default those of the paper's tables.
        depth: layers of the ResNets and SENets.
        width: channels of their first stage, 64 in the paper; the others are scaled alike.
        small: for pictures of 64 pixels or less: a 3x3 convolution in front, without a max-pool.
        stem_stride: of that convolution.
        dropout: share of the features left out before the classifier.
    """

    rows: tuple[str, ...] = PUBLISHED
    depth: Literal[18, 34, 50, 101, 152] = 18
    width: int = 24
    small: bool = True
    stem_stride: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for row in self.rows:
            if row not in ROWS:
                raise ValueError(f"networks.rows must be among {', '.join(ROWS)}, got {row!r}")
        check_distinct("networks.rows", self.rows)

    def build(self, row: str, num_labels: int, channels: int) -> nn.Module:
        """A new network of ``row`` for pictures with ``channels`` channels."""
        common: dict[str, Any] = {"small": self.small, "dropout": self.dropout}
        if row == "vgg":
            width = max(8, 2 * self.width // 3)  # about as many multiply-adds as the ResNet
            return vgg16(num_labels, channels, width=width, **common)
        common["stem_stride"] = self.stem_stride
        if row in VARIANTS:
            variant = VARIANTS[row]
            return senet(self.depth, num_labels, channels, width=self.width, **common, **variant)
        widths, options = INCEPTIONS[row]
        a, b, c = (max(8, width * self.width // FULL_WIDTH) for width in widths)
        return inception_resnet(
            (a, b, c), (2, 2, 2), num_labels, channels, stem="resnet", **common, **options
        )

    def describe(self, row: str) -> dict[str, Any]:
        """What :func:`described_network` builds the network of ``row`` from."""
        return {"row": row, "networks": asdict(self)}


def described_network(
    stored: dict[str, Any], image_shape: tuple[int, ...], num_labels: int
) -> nn.Module:
    """A network of a row without its weights."""
    settings = {**stored["networks"], "rows": tuple(stored["networks"]["rows"])}
    return NetworksConfig(**settings).build(stored["row"], num_labels, image_shape[0])
