"""Lesions of residual networks: which layers and which paths matter (paper 004, chapter 4).

Veit, "Conditional networks", 2018; Veit, Wilber, Belongie, "Residual networks behave like ensembles
of relatively shallow networks", 2016, arXiv:1605.06431.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastheads.data import Augmentation, Data, DataConfig, Normalize, eval_transform, load_data
from fastheads.pipelines.foreign_network import build_network, fill_network, first_line
from fastheads.pipelines.lesion_analysis import analyse, summarise
from fastheads.pipelines.lesion_networks import NetworksConfig
from fastheads.pipelines.lesion_rows import Measured, study_one, train_and_study
from fastheads.pipelines.lesion_studies import check_evaluating, lesionable_blocks
from fastheads.pipelines.lesion_task import LesionsConfig
from fastheads.pipelines.run_folder import (
    check_distinct,
    digest,
    fingerprint,
    open_stages,
    write_arrays,
    write_config,
    write_json,
)
from fastheads.ranges import check_seeds
from fastheads.report import print_results, write_report
from fastheads.training import Stages


@dataclass(frozen=True)
class LesionConfig:
    """A lesion study of own networks, or of one that exists.

    Attributes:
        output_dir: the run folder; a run that was stopped goes on there.
        data: which pictures and labels.
        augmentation: of the pictures that own networks are trained on, and the normalisation
            that the network expects.
        networks: own networks, trained first.
        lesions: what is done to them.
        model: study this network instead: timm:NAME or torchvision:NAME, with one output a label.
        checkpoint: its weights; such as model.safetensors or checkpoint.pth.
        seeds: every own network is trained once for each.
    """

    output_dir: Path = Path("runs/lesion")
    data: DataConfig = field(default_factory=lambda: DataConfig(scripts=("Latin",)))
    augmentation: Augmentation = field(default_factory=Augmentation)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    lesions: LesionsConfig = field(default_factory=LesionsConfig)
    model: str | None = None
    checkpoint: Path | None = None
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_distinct("seeds", self.seeds)
        check_seeds(self, "seeds")
        if (self.model is None) != (self.checkpoint is None):
            raise ValueError(
                "model and checkpoint must be given together, "
                f"got model {self.model} and checkpoint {self.checkpoint}"
            )


@dataclass(frozen=True)
class LesionResult:
    """What a run leaves.

    Attributes:
        networks: of each row the first seed's, whole, in eval mode.
        metrics: the content of ``metrics.json``: of the whole networks.
        analysis: the content of ``analysis.json``: the lesions and what they say.
        report: the page that shows it.
    """

    networks: dict[str, nn.Module]
    metrics: dict[str, Any]
    analysis: dict[str, Any]
    report: Path


def lesion_run(config: LesionConfig) -> LesionResult:
    """Trains or loads networks, lesions them, and writes a report."""
    folder, data, lesions = config.output_dir, load_data(config.data), config.lesions
    print(data.summary())
    config.augmentation.normalize.check_channels(data.image_shape[0])
    settings, augmentation = fingerprint(config), config.augmentation
    command = f"fastheads lesion --config {shlex.quote(str(folder / 'config.yaml'))}"
    if config.model is None or config.checkpoint is None:
        stages = open_stages(folder, settings, data)
        write_config(folder, config)
        rows = train_and_study(config.networks, lesions, config.seeds, data, augmentation, stages)
        modules = config.networks.num_modules
        return conclude(rows, data, lesions, stages, settings, command, modules)

    network = build_network(config.model, data.num_labels, data.image_shape[0])
    fill_network(network, config.checkpoint)
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    check_network(network, data, augmentation.normalize)
    settings["weights"] = digest(network.state_dict().values())  # a file may change
    stages = open_stages(folder, settings, data)
    write_config(folder, config)
    measured = study_one(network, config.model, data, augmentation.normalize, lesions, stages)
    return conclude({"network": measured}, data, lesions, stages, settings, command)


def lesion(
    model: nn.Module,
    data: Data,
    *,
    output_dir: str | Path,
    lesions: LesionsConfig | None = None,
    normalize: Normalize = eval_transform,
) -> LesionResult:
    """Lesions of any trained residual network: which of its layers and paths matter.

    Its blocks are deleted one by one and many at a time, and change places; the gradient is
    measured along single paths. A network without shortcuts, such as torchvision's ``vgg16_bn``,
    has its layers deleted one by one. Everything is computed where the network is, and it is left
    exactly as it was, also after an exception.

    Args:
        model: a trained network of :mod:`fastheads.models.resnet`, torchvision or timm in eval
            mode, with one output for each label of ``data``.
        data: as of :func:`fastheads.data.load_data`; lesions are measured on its test pictures,
            gradients on its training pictures.
        output_dir: the run folder; a run that was stopped goes on there.
        lesions: how many, and on how many pictures.
        normalize: as the network expects its pictures.

    Returns:
        The network, its metrics, the lesions and the path of the report.

    Raises:
        ValueError: if the network has no residual blocks, is in training mode, or does not fit the
            pictures or labels.
    """
    lesions = lesions or LesionsConfig()
    check_network(model, data, normalize)
    settings = {
        "model": type(model).__name__,
        "weights": digest(model.state_dict().values()),
        "lesions": asdict(lesions),
        "normalize": asdict(normalize),
    }
    stages = open_stages(Path(output_dir), settings, data)
    name = type(model).__name__
    measured = {"network": study_one(model, name, data, normalize, lesions, stages)}
    command = "fastheads.lesion(model, data, output_dir=...)"
    return conclude(measured, data, lesions, stages, settings, command)


def check_network(model: nn.Module, data: Data, normalize: Normalize) -> None:
    """ValueError unless the network can be lesioned, and gives a score for each label."""
    lesionable_blocks(model)
    check_evaluating(model)
    images = normalize(data.test.__getitems__([0])[0])
    try:
        with torch.no_grad():
            scores = model(images.to(next(model.parameters()).device))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"model must take pictures {list(images.shape)}, got: {first_line(error)}"
        ) from None
    got = list(scores.shape[1:]) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
    if got != [data.num_labels]:
        raise ValueError(
            f"model must have one output for each of the {data.num_labels} labels, got {got}"
        )


def conclude(
    rows: dict[str, Measured],
    data: Data,
    lesions: LesionsConfig,
    stages: Stages,
    settings: dict[str, Any],
    command: str,
    modules: int | None = None,
) -> LesionResult:
    """Writes the metrics, the analysis and the report of what has been measured."""
    folder, metrics = stages.folder, summarise(rows)
    analysis = analyse(rows, data, lesions, stages, settings, command, modules)
    write_arrays(folder / "analysis.npz", {})
    write_json(folder / "analysis.json", analysis)
    write_json(folder / "metrics.json", metrics)
    report = write_report(folder)
    for finding in analysis.get("findings", ()):
        verdict = {True: "holds", False: "does not hold", None: "undecided"}[finding["holds"]]
        print(f"{verdict}: {finding['sentence']}")
    print_results(metrics, report)
    networks = {row: found.network for row, found in rows.items()}
    return LesionResult(networks, metrics, analysis, report)
