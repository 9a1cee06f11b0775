"""A classifier grows specialist heads for the labels that it confuses (paper 000).

Warde-Farley, Rabinovich, Anguelov, "Self-informed neural network structure learning", 2015.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fastheads.data import Data, Normalize, load_data
from fastheads.losses import sigmoid_cross_entropy
from fastheads.metrics import count_macs, count_parameters, evaluate
from fastheads.models import AugmentedNetwork, BaseNetwork, Tap
from fastheads.nn import AugmentedClassifier
from fastheads.pipelines.analysis import analyse
from fastheads.pipelines.frozen import BATCH, Frozen, channels_last
from fastheads.pipelines.heads import HeadsConfig, check_groups
from fastheads.pipelines.network_file import CLASSIFIER, FEATURE_LAYER, save_network
from fastheads.pipelines.rows import SeedRows, grow_rows
from fastheads.pipelines.run_folder import (
    check_distinct,
    fingerprint,
    flat,
    mean_and_std,
    open_stages,
    total_durations,
    write_config,
    write_json,
)
from fastheads.pipelines.train import (
    TrainBaseConfig,
    freeze_trunk,
    train_top,
    train_trunk,
    with_hidden,
)
from fastheads.ranges import check_range, check_seeds
from fastheads.report import print_results, write_report
from fastheads.training import Stages, TrainConfig, fit
from fastheads.training.config import check_training

COUNTS = ("macs", "parameters", "heads")  # of a row, beside its metrics


@dataclass(frozen=True)
class AugmentConfig(TrainBaseConfig):
    """The base network, the heads that it grows, and their controls.

    Attributes:
        heads: the heads and their groups.
        heads_training: training of heads and classifier on frozen outputs; an epoch sees each
            augmented pass once.
        seeds: every row is trained once for each: layers above the trunk, groups, heads.
        trunk_per_seed: train a trunk for each seed too, instead of one by ``seed`` for all.
        contrast: further bottleneck widths, to show where heads pay and where not.
        second_round: augment the augmented network once more, by what it still confuses.
        fine_tune_epochs: epochs of training everything at the end; 0 for none.
        fine_tune: settings of that training; its epochs are ``fine_tune_epochs``.
    """

    output_dir: Path = Path("runs/augment")
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    heads_training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=1, batch_size=256, lr=5e-3, weight_decay=1e-4)
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    trunk_per_seed: bool = False
    contrast: tuple[int, ...] = (32,)
    second_round: bool = False
    fine_tune_epochs: int = 0
    fine_tune: TrainConfig = field(
        default_factory=lambda: TrainConfig(batch_size=128, lr=2e-4, weight_decay=1e-4)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct("seeds", self.seeds)
        check_seeds(self, "seeds")
        check_range(self, "fine_tune_epochs", least=0)
        check_training(heads_training=self.heads_training, fine_tune=self.fine_tune)
        if len(set(self.contrast)) < len(self.contrast) or min(self.contrast, default=1) < 1:
            raise ValueError(f"contrast must hold distinct widths above 0, got {self.contrast}")


@dataclass(frozen=True)
class AugmentResult:
    """What a run leaves.

    Attributes:
        network: the first seed's network with heads for its confusions, in eval mode.
        metrics: the content of ``metrics.json``: for each row, each metric as mean, std, seeds.
        report: the page that shows it.
    """

    network: AugmentedNetwork
    metrics: dict[str, Any]
    report: Path


def augment_run(config: AugmentConfig) -> AugmentResult:
    """Trains a base network, grows heads by its confusions, compares, and writes a report."""
    folder = config.output_dir
    data = load_data(config.data)
    print(data.summary())
    config.augmentation.normalize.check_channels(data.image_shape[0])
    check_groups(config.heads.num_groups, data.num_labels)
    stages = open_stages(folder, fingerprint(config), data)
    write_config(folder, config)

    trained: dict[int, tuple[BaseNetwork, SeedRows]] = {}
    contrast: dict[int, list[SeedRows]] = {width: [] for width in config.contrast}
    for number, seed in enumerate(config.seeds):
        trunk_seed = seed if config.trunk_per_seed else config.seed
        if number == 0 or config.trunk_per_seed:
            trunk_network = train_trunk(data, config, folder, stages, trunk_seed)
            features = freeze_trunk(trunk_network, data, config, stages, trunk_seed)
        network, rows = _grow(trunk_network, features, data, config, stages, seed)
        if config.fine_tune_epochs:
            rows.rows["fine_tuned"] = _fine_tune(network, rows, data, config, seed)
        trained[seed] = network, rows
        for width in config.contrast:
            contrast[width].append(
                _grow(trunk_network, features, data, config, stages, seed, width)[1]
            )

    seeds = {seed: rows for seed, (_, rows) in trained.items()}
    network, rows = trained[config.seeds[0]]
    augmented = AugmentedNetwork(Tap(network, FEATURE_LAYER, CLASSIFIER), rows.tops["confusions"])
    save_network(
        folder, augmented.eval(), data.label_space, data.image_shape, config.base,
        config.augmentation,
    )  # fmt: skip
    metrics, report = conclude(
        folder,
        data,
        seeds,
        _beside(config.base.hidden[-1], list(seeds.values()), contrast),
        augmented.tap,
        config.augmentation.normalize,
        settings=fingerprint(config),
        command=f"fastheads augment --config {shlex.quote(str(folder / 'config.yaml'))}",
        durations=stages.durations,
    )
    return AugmentResult(augmented, metrics, report)


def conclude(
    folder: Path,
    data: Data,
    seeds: dict[int, SeedRows],
    contrast: dict[int, list[SeedRows]],
    tap: Tap,
    normalize: Normalize,
    settings: dict[str, Any],
    command: str,
    durations: list[dict[str, Any]],
) -> tuple[dict[str, Any], Path]:
    """Writes the metrics, the analysis and the report of finished rows; prints the table."""
    metrics = summarise(list(seeds.values()))
    analyse(
        folder,
        data,
        seeds,
        [{"bottleneck": width, "rows": summarise(each)} for width, each in contrast.items()],
        tap,
        normalize,
        settings=flat(settings),
        command=command,
        durations=total_durations(durations),
    )
    write_json(folder / "metrics.json", metrics)
    report = write_report(folder)
    print_results(metrics, report)
    return metrics, report


def summarise(seeds: Sequence[SeedRows]) -> dict[str, Any]:
    """For each row, each metric as mean, std and seeds; multiply-adds and parameters as numbers."""
    metrics: dict[str, Any] = {}
    for row in seeds[0].rows:
        values = [each.rows[row] for each in seeds]
        metrics[row] = {
            name: mean_and_std([value[name] for value in values])
            for name in values[0]
            if name not in COUNTS
        }
        # Groups differ in size from seed to seed, and so do their heads by a little.
        for name in COUNTS:
            metrics[row][name] = round(sum(value[name] for value in values) / len(values))
    return metrics


def _grow(
    trunk_network: BaseNetwork,
    features: dict[str, Frozen],
    data: Data,
    config: AugmentConfig,
    stages: Stages,
    seed: int,
    bottleneck: int | None = None,
) -> tuple[BaseNetwork, SeedRows]:
    """Layers above a frozen trunk, and the rows that are grown on them."""
    hidden, name = config.base.hidden, ""
    if bottleneck is not None:
        hidden, name = (*hidden[:-1], bottleneck), f"bottleneck {bottleneck} "
    torch.manual_seed(seed)
    network = BaseNetwork(data.image_shape, data.num_labels, replace(config.base, hidden=hidden))
    network.trunk = trunk_network.trunk
    seconds = train_top(network, features, config.top, config.output_dir, seed, f"{name}base")
    stages.durations.append({"stage": f"{name}base", "seconds": seconds})
    network.eval().requires_grad_(False)
    images, _ = data.test.__getitems__([0])
    example = config.augmentation.normalize(images)
    rows = grow_rows(
        with_hidden(network, features),
        AugmentedClassifier(network.classifier).eval(),
        config.heads,
        config.heads_training,
        stages,
        seed,
        below=(
            count_macs(network, example) - network.classifier.weight.numel(),
            count_parameters(network) - count_parameters(network.classifier),
        ),
        prefix=name,
        brief=bottleneck is not None,
        second_round=config.second_round and bottleneck is None,
    )
    return network, rows


def _fine_tune(
    network: BaseNetwork, rows: SeedRows, data: Data, config: AugmentConfig, seed: int
) -> dict[str, float]:
    """Trains the whole augmented network on pictures (paper 000, section 2), and measures it."""
    top = copy.deepcopy(rows.tops["confusions"])
    tuned = AugmentedNetwork(Tap(network, FEATURE_LAYER, CLASSIFIER), top)
    tuned.requires_grad_(True)
    fit(
        tuned,
        data.train,
        sigmoid_cross_entropy,
        replace(config.fine_tune, epochs=config.fine_tune_epochs, seed=seed),
        folder=config.output_dir / "training" / f"fine tuned seed {seed}",
        augment=lambda images, generator: channels_last(config.augmentation(images, generator)),
        name=f"fine-tuning, seed {seed}",
    )

    tuned.cpu()

    def batches():
        for start in range(0, len(data.test), BATCH):
            picked = list(range(start, min(start + BATCH, len(data.test))))
            images, targets = data.test.__getitems__(picked)
            with torch.no_grad():
                yield tuned(config.augmentation.normalize(images)), targets

    cost = {name: rows.rows["confusions"][name] for name in COUNTS}
    return {**evaluate(batches(), data.num_labels), **cost}


def _beside(
    bottleneck: int, rows: list[SeedRows], contrast: dict[int, list[SeedRows]]
) -> dict[int, list[SeedRows]]:
    """The contrast with the main bottleneck in it, by width; empty if there is nothing beside."""
    others = {width: each for width, each in contrast.items() if each and width != bottleneck}
    return dict(sorted({bottleneck: rows, **others}.items())) if others else {}
