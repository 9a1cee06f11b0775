"""Trains the base network: a trunk by softmax, then ReLU layers and one logistic unit a label."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from fastheads.data import Augmentation, Data, DataConfig, load_data
from fastheads.losses import sigmoid_cross_entropy
from fastheads.metrics import count_macs, count_parameters
from fastheads.models import BaseConfig, BaseNetwork
from fastheads.nn import AugmentedClassifier, Standardize
from fastheads.pipelines.frozen import Frozen, FrozenRows, OnFrozen, extract
from fastheads.pipelines.heads import measure
from fastheads.pipelines.network_file import save_network
from fastheads.pipelines.run_folder import fingerprint, open_stages, write_config, write_json
from fastheads.pipelines.trunk import fit_trunk
from fastheads.ranges import check_range, check_seeds
from fastheads.training import Stages, TrainConfig, fit
from fastheads.training.config import check_training

SPLITS = ("train", "holdout", "test")


@dataclass(frozen=True)
class TrainBaseConfig:
    """How the base network is trained.

    Attributes:
        output_dir: the run folder; a run that was stopped goes on there.
        data: which pictures and labels.
        augmentation: of the pictures.
        base: shape of the network.
        trunk_width: width of the layer between trunk and labels while the trunk is trained.
        trunk: training of the trunk, by softmax cross-entropy.
        top: training of the layers above the frozen trunk, by sigmoid cross-entropy; an epoch sees
            each augmented pass once.
        passes: augmented copies of each training picture that the frozen trunk is run on.
        holdout_passes: augmented copies of each hold-out picture.
        seed: of weights, order and augmentation.
    """

    output_dir: Path = Path("runs/base")
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    base: BaseConfig = field(default_factory=BaseConfig)
    trunk_width: int = 128
    trunk: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=6, batch_size=128, lr=4e-3, weight_decay=1e-4)
    )
    top: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=1, batch_size=256, lr=5e-3, weight_decay=1e-4)
    )
    passes: int = 8
    holdout_passes: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "passes", "holdout_passes", "trunk_width", least=1)
        check_seeds(self, "seed")
        check_training(trunk=self.trunk, top=self.top)


@dataclass(frozen=True)
class TrainBaseResult:
    """The base network and how good it is.

    Attributes:
        network: in eval mode.
        metrics: map50_per_label, map50_per_image, top1, top5, macs, parameters.
    """

    network: BaseNetwork
    metrics: dict[str, float]


def train(config: TrainBaseConfig) -> TrainBaseResult:
    """Trains a base network and writes it into its run folder."""
    data = load_data(config.data)
    print(data.summary())
    config.augmentation.normalize.check_channels(data.image_shape[0])
    folder = config.output_dir
    stages = open_stages(folder, fingerprint(config), data)
    write_config(folder, config)
    network = train_trunk(data, config, folder, stages, config.seed)
    frozen = freeze_trunk(network, data, config, stages, config.seed)
    train_top(network, frozen, config.top, folder, config.seed)
    network.eval()
    test = with_hidden(network, frozen)["test"]
    metrics = measure(AugmentedClassifier(network.classifier), test, data.num_labels)
    images, _ = data.test.__getitems__([0])
    metrics["macs"] = count_macs(network, config.augmentation.normalize(images))
    metrics["parameters"] = count_parameters(network)
    save_network(
        folder, network, data.label_space, data.image_shape, config.base, config.augmentation
    )
    write_json(folder / "metrics.json", {"base": metrics})
    return TrainBaseResult(network, metrics)


def train_trunk(
    data: Data, config: TrainBaseConfig, folder: Path, stages: Stages, seed: int
) -> BaseNetwork:
    """A base network whose trunk is trained and whose other layers are new."""
    torch.manual_seed(seed)
    network = BaseNetwork(data.image_shape, data.num_labels, config.base)
    seconds = fit_trunk(
        network.trunk, data, config.trunk_width, config.trunk, config.augmentation, folder, seed
    )
    stages.durations.append({"stage": "training the trunk", "seconds": seconds})
    return network


def freeze_trunk(
    network: BaseNetwork, data: Data, config: TrainBaseConfig, stages: Stages, seed: int
) -> dict[str, Frozen]:
    """The trunk's features of all three data sets; the test pictures as they are."""
    network.eval()
    frozen = {}
    for number, split in enumerate(SPLITS):
        part = getattr(data, split)
        passes = {"train": config.passes, "holdout": config.holdout_passes, "test": 0}[split]
        (features,) = stages.run(
            f"features of the {split} pictures, seed {seed}",
            partial(
                extract,
                network.trunk,
                part,
                passes,
                config.augmentation,
                seed=1000 * seed + number,
                title="trunk features",
            ),
        )
        empty = features.new_empty(*features.shape[:2], 0)
        frozen[split] = Frozen(features, empty, part.targets)
    return frozen


def train_top(
    network: BaseNetwork,
    frozen: dict[str, Frozen],
    config: TrainConfig,
    folder: Path,
    seed: int,
    name: str = "base",
) -> float:
    """Trains the layers above the trunk on its frozen features; returns the seconds it took."""
    standardize = network.stack[0]
    assert isinstance(standardize, Standardize)
    standardize.measure(frozen["train"].features[0])
    on_features = OnFrozen(
        AugmentedClassifier(network.classifier), frozen["train"].feature_shape, network.stack
    )
    result = fit(
        on_features,
        FrozenRows(frozen["train"]),
        sigmoid_cross_entropy,
        replace(config, seed=seed),
        folder=folder / "training" / f"{name} seed {seed}",
        name=name,
    )
    on_features.cpu()
    return result.seconds


@torch.no_grad()
def with_hidden(network: BaseNetwork, frozen: dict[str, Frozen]) -> dict[str, Frozen]:
    """The same features, and what the classifier reads of each row."""
    network.stack.eval()
    out = {}
    for split, part in frozen.items():
        hidden = [network.stack(features) for features, _, _ in part.batches()]
        shape = part.features.shape[:2]
        out[split] = replace(part, hidden=torch.cat(hidden).unflatten(0, shape))
    return out
