"""Specialist heads for a network that already exists: ``fastheads.augment``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from torch import nn

from fastheads.data import Augmentation, Data
from fastheads.metrics import count_macs, count_parameters
from fastheads.models import AugmentedNetwork, Tap
from fastheads.nn import AugmentedClassifier
from fastheads.pipelines.augment import AugmentResult, conclude
from fastheads.pipelines.frozen import Frozen, extract
from fastheads.pipelines.heads import HeadsConfig, check_groups
from fastheads.pipelines.rows import grow_rows
from fastheads.pipelines.run_folder import digest, open_stages
from fastheads.training import TrainConfig, save_weights


def augment(
    model: nn.Module,
    *,
    feature_layer: str,
    classifier: str,
    data: Data,
    output_dir: str | Path,
    heads: HeadsConfig | None = None,
    training: TrainConfig | None = None,
    augmentation: Augmentation | None = None,
    passes: int = 4,
    grid: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
) -> AugmentResult:
    """Grows specialist heads beside the classifier of any trained network.

    The network is run once on all pictures and stays as it is; its confusions on the hold-out
    pictures give the groups; classifier and heads are trained on its frozen features, with the
    same controls and the same report as the command line's.

    Warde-Farley, Rabinovich, Anguelov, "Self-informed neural network structure learning", 2015.

    Args:
        model: any trained network of one image tensor whose last layer is an ``nn.Linear`` over
            the labels of ``data``, such as those of torchvision and timm.
        feature_layer: name of the layer whose output the heads read, such as ``layer4``.
        classifier: name of the last ``nn.Linear``, such as ``fc``.
        data: as of :func:`fastheads.data.load_data`.
        output_dir: the run folder; a run that was stopped goes on there.
        heads: the heads; by default six equal ones for a network trained by softmax.
        training: of heads and classifier.
        augmentation: of the pictures, and the normalisation that the network expects.
        passes: augmented copies of each training and hold-out picture.
        grid: feature maps are average-pooled to ``grid`` by ``grid``; 0 keeps them.
        seeds: every row is trained once for each.

    Returns:
        The augmented network of the first seed, the metrics and the path of the report.

    Raises:
        ValueError: if a layer does not exist, or the classifier does not fit the labels.
    """
    heads = heads or HeadsConfig(num_groups=6, loss="softmax")
    training = training or TrainConfig(epochs=2, lr=5e-3, weight_decay=1e-4)
    augmentation = augmentation or Augmentation()
    tap = Tap(model, feature_layer, classifier, grid).eval().requires_grad_(False)
    last = copy.deepcopy(model.get_submodule(classifier)).cpu()
    assert isinstance(last, nn.Linear)  # Tap has checked it
    if last.out_features != data.num_labels:
        raise ValueError(
            f"classifier must have one output for each of the {data.num_labels} labels, "
            f"got {last.out_features}"
        )
    check_groups(heads.num_groups, data.num_labels)
    settings = {
        "model": type(model).__name__,
        "weights": digest(model.state_dict().values()),
        "feature_layer": feature_layer,
        "classifier": classifier,
        "heads": asdict(heads),
        "training": asdict(training),
        "augmentation": asdict(augmentation),
        "passes": passes,
        "grid": grid,
        "seeds": list(seeds),
    }
    folder = Path(output_dir)
    stages = open_stages(folder, settings, data)
    frozen = {}
    for number, split in enumerate(("train", "holdout", "test")):
        part = getattr(data, split)
        copies = 0 if split == "test" else passes
        features, hidden = stages.run(
            f"features of the {split} pictures",
            partial(extract, tap, part, copies, augmentation, seed=number, title="features"),
        )
        frozen[split] = Frozen(features, hidden, part.targets)

    images, _ = data.test.__getitems__([0])
    base = AugmentedClassifier(last).eval().requires_grad_(False)
    below = (count_macs(tap, augmentation.normalize(images)), count_parameters(tap))
    rows = {seed: grow_rows(frozen, base, heads, training, stages, seed, below) for seed in seeds}
    network = AugmentedNetwork(tap, rows[seeds[0]].tops["confusions"]).eval()
    save_weights(network, folder / "model.safetensors")
    metrics, report = conclude(
        folder,
        data,
        rows,
        {},
        tap,
        augmentation.normalize,
        settings=settings,
        command=f"fastheads.augment(model, feature_layer={feature_layer!r}, ...)",
        durations=stages.durations,
    )
    return AugmentResult(network, metrics, report)
