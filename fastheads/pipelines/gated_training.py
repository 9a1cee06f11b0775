"""What a process needs to train a residual network, with or without gates (paper 004, 5.2.3)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastheads.data import Augmentation
from fastheads.data.images import Pictures
from fastheads.losses import softmax_cross_entropy, target_rate_loss
from fastheads.models import resnet, resnet110
from fastheads.models.resnet import imagenet_resnet
from fastheads.nn import (
    GateReport,
    StochasticDepth,
    gate_model,
    gated_blocks,
    record_gates,
    scale_branches,
)
from fastheads.pipelines.foreign_network import build_network
from fastheads.pipelines.frozen import channels_last
from fastheads.ranges import check_range
from fastheads.targets import SparseTargets
from fastheads.training import FitResult, TrainConfig, fit


@dataclass(frozen=True)
class NetworkConfig:
    """A residual network.

    Attributes:
        model: small, resnet110 (the form for 32x32 pictures), resnet50, resnet101, or one of
            torchvision or timm, such as torchvision:resnet18 or timm:seresnet50.
        blocks: of each stage of the small network, two 3x3 convolutions a block.
        widths: channels of each stage of the small network; a later stage halves the size.
        stem_stride: of the first convolution of the small network.
    """

    model: str = "small"
    blocks: tuple[int, ...] = (2, 4, 4)
    widths: tuple[int, ...] = (48, 96, 192)
    stem_stride: int = 2

    def __post_init__(self) -> None:
        known = ("small", "resnet110", "resnet50", "resnet101")
        if self.model not in known and not self.model.startswith(("timm:", "torchvision:")):
            raise ValueError(
                f"network.model must be {', '.join(known)}, timm:NAME or torchvision:NAME, "
                f"got {self.model!r}"
            )

    def build(self, channels: int, num_labels: int, preactivation: bool = False) -> nn.Module:
        """A new network of pictures with ``channels`` channels.

        Raises:
            ValueError: if there is no such network, or none with pre-activation.
        """
        if self.model == "small":
            return resnet(
                self.blocks, self.widths, num_labels=num_labels, in_channels=channels,
                stem_stride=self.stem_stride, preactivation=preactivation, shortcut="projection",
            )  # fmt: skip
        if self.model == "resnet110":
            return resnet110(num_labels, channels, preactivation)
        if preactivation:
            raise ValueError(
                f"model must be small or resnet110 for pre-activation, got {self.model!r}"
            )
        if self.model in ("resnet50", "resnet101"):
            if channels != 3:
                raise ValueError(f"model {self.model} takes pictures of 3 channels, got {channels}")
            return imagenet_resnet(50 if self.model == "resnet50" else 101, num_labels)
        return build_network(self.model, num_labels, channels)


@dataclass(frozen=True)
class GatesConfig:
    """The gates, and the loss that holds them at their rates.

    Attributes:
        hidden: units of the first layer; 16 as worded, or c/16, a sixteenth of the channels.
        batch_norm: normalise them.
        rate: share of open gates at first.
        temperature: of the softmax that gradients pass through.
        always_on: blocks without a gate, by name or by the beginning of their names.
        rates: target of each gate in the order of the network; null where the run's target holds,
            by default for all.
        reduction: of the target-rate loss: total holds all gates together at the target, which
            leaves to the network where it skips; sum holds each of them there, as worded; mean is
            that of the authors' code.
        weight: of the target-rate loss; 1 as worded for sum, 2 in the authors' code for mean.
        lr_factor: learning rate of the gates, as a multiple of the training's.
        exact: batches of pictures give the bits that they give with all blocks run; without, up to
            rounding, and for less time.
    """

    hidden: int | Literal["c/16"] = 16
    batch_norm: bool = True
    rate: float = 0.85
    temperature: float = 1.0
    always_on: tuple[str, ...] = ()
    rates: tuple[float | None, ...] | None = None
    reduction: Literal["total", "sum", "mean"] = "total"
    weight: float = 10.0
    lr_factor: float = 5.0
    exact: bool = False

    def __post_init__(self) -> None:
        check_range(self, "rate", above=0, below=1)
        check_range(self, "temperature", "lr_factor", above=0)
        check_range(self, "weight", least=0)
        check_range(self, "rates", above=0, most=1)

    def targets(self, target: float, gates: int) -> list[float]:
        """The target of each gate.

        Raises:
            ValueError: if their number is not that of the gates.
        """
        rates = self.rates or (None,) * gates
        if len(rates) != gates:
            raise ValueError(f"rates must hold one for each of the {gates} gates, got {len(rates)}")
        return [target if rate is None else rate for rate in rates]

    def worded(self) -> GatesConfig:
        """The same with the loss of the paper's words (eq. 5.8)."""
        return replace(self, reduction="sum", weight=1.0, lr_factor=1.0)

    def put_into(self, network: nn.Module, soft: bool = False) -> GateReport:
        """Gives the blocks of ``network`` gates, in place."""
        return gate_model(
            network,
            hidden=self.hidden,
            batch_norm=self.batch_norm,
            rate=self.rate,
            temperature=self.temperature,
            soft=soft,
            always_on=self.always_on,
            inplace=True,  # nothing else reads what goes from block to block
            exact=self.exact,
        )


class WithLoss(nn.Module):
    """A network that gives the loss of a batch: cross-entropy, and that of its gates (eq. 5.9).

    Attributes:
        opened: ``[points, gates]``, for each point of the curve the sum over its batches of the
            share of open gates; a buffer, so that a run that was stopped goes on with it.
        batches: ``[points]``, how many batches each sum holds.
    """

    opened: Tensor
    batches: Tensor

    def __init__(
        self,
        network: nn.Module,
        targets: Sequence[float] = (),
        gates: GatesConfig | None = None,
        points: int = 0,
        every: int = 1,
    ) -> None:
        super().__init__()
        self.network, self.targets, self.gates, self.every = network, targets, gates, every
        self.register_buffer("opened", torch.zeros(points, len(targets), dtype=torch.float64))
        self.register_buffer("batches", torch.zeros(points, dtype=torch.float64))

    def forward(self, images: Tensor, labels: SparseTargets) -> Tensor:
        if self.gates is None:
            return softmax_cross_entropy(self.network(images), labels)
        with record_gates(self.network) as record:
            logits = self.network(images)
        loss = softmax_cross_entropy(logits, labels)
        point = int(self.batches.sum()) // self.every
        rates = torch.stack([z.detach().mean() for z in record.z])
        self.opened[point] += rates
        self.batches[point] += 1
        held = target_rate_loss(record.z, self.targets, self.gates.reduction)
        return loss + self.gates.weight * held

    def trajectory(self) -> Tensor:
        """``[points, gates]``: the rate of each gate along the training (Fig. 5.5)."""
        return self.opened / self.batches.clamp(min=1)[:, None]


@dataclass(frozen=True)
class GatedTask:
    """All that a process needs to train one row of one seed.

    Attributes:
        row: of the comparison.
        seed: of weights, order, augmentation and noise.
        make: a new network, or a trained one to go on with.
        target: rate of the gates; None for a network without.
        soft: gates train by the softmax itself, not straight through.
        stochastic_depth: blocks are left out at random in training.
        gates: settings of the gates.
        training: settings.
        augmentation: of the pictures.
        pictures: to train on.
        folder: of the run.
    """

    row: str
    seed: int
    make: Callable[[], nn.Module] | GatedTask
    target: float | None
    soft: bool
    stochastic_depth: bool
    gates: GatesConfig
    training: TrainConfig
    augmentation: Augmentation
    pictures: Pictures
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"

    @property
    def steps(self) -> int:
        return self.training.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        return len(self.pictures) // min(self.training.batch_size, len(self.pictures))

    def run(
        self, watch: Callable[[int, float], None] | None = None
    ) -> tuple[nn.Module, FitResult, Tensor]:
        """The trained network, what happened, and the trajectory of its gates' rates."""
        torch.manual_seed(self.seed)
        network = self.make.run()[0] if isinstance(self.make, GatedTask) else self.make()
        torch.manual_seed(self.seed)
        model = self._with_loss(network)
        result = fit(
            model,
            self.pictures,
            None,
            replace(self.training, seed=self.seed),
            folder=self.folder / "training" / f"{self.row} seed {self.seed}",
            augment=self._augment,
            parameters=self._groups(network),
            watch=watch,
            name=self.name,
            quiet=True,
        )
        network = model.cpu().network
        if isinstance(network, StochasticDepth):
            survival = network.survival
            scale_branches(network.release(), survival)
            network = network.network
        return network.eval(), result, model.trajectory()

    def _groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Weights decay, biases and norms do not; gates have a learning rate of their own."""
        of_gates = {
            id(p) for block in gated_blocks(network).values() for p in block.gate.parameters()
        }
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in network.parameters():
            kind = parameter.ndim > 1, id(parameter) in of_gates
            groups.setdefault(kind, []).append(parameter)
        training = self.training
        return [
            {
                "params": parameters,
                "weight_decay": training.weight_decay if decays else 0.0,
                "lr": training.lr * (self.gates.lr_factor if gates else 1.0),
            }
            for (decays, gates), parameters in groups.items()
        ]

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return channels_last(self.augmentation(images, generator))

    def _with_loss(self, network: nn.Module) -> WithLoss:
        if self.stochastic_depth:
            return WithLoss(StochasticDepth(network))
        if self.target is None:
            return WithLoss(network)
        self.gates.put_into(network, self.soft)
        targets = self.gates.targets(self.target, len(gated_blocks(network)))
        every = self.training.log_every
        return WithLoss(network, targets, self.gates, -(-self.steps // every), every)


def describe_gated(network: NetworkConfig, gates: GatesConfig) -> dict[str, Any]:
    """What :func:`described_gated` builds the network from."""
    return {"network": asdict(network), "gates": asdict(gates)}


def described_gated(
    stored: dict[str, Any], image_shape: Sequence[int], num_labels: int
) -> nn.Module:
    """A gated network without its weights."""

    def built(kind: type[Any], values: dict[str, Any]) -> Any:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    network = built(NetworkConfig, stored["network"]).build(image_shape[0], num_labels)
    built(GatesConfig, stored["gates"]).put_into(network)
    return network


def copied(network: nn.Module) -> Callable[[], nn.Module]:
    """Makes copies of a network, in another process too."""
    return _Copies(network)


@dataclass(frozen=True)
class _Copies:
    network: nn.Module

    def __call__(self) -> nn.Module:
        return copy.deepcopy(self.network)
