"""Gates for a network that already exists: ``fastheads.adapt``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fastheads.data import Augmentation, Data
from fastheads.nn.residual_blocks import require_residual_blocks
from fastheads.pipelines.adaptive import AdaptiveResult, conclude
from fastheads.pipelines.adaptive_config import AdaptiveConfig, Other, Run
from fastheads.pipelines.adaptive_measures import time_rows, untrained_rows
from fastheads.pipelines.adaptive_rows import add_rows_of
from fastheads.pipelines.gate_analysis import GateAnalysisConfig
from fastheads.pipelines.gated_training import GatesConfig
from fastheads.pipelines.run_folder import digest, fingerprint, open_stages
from fastheads.training import TrainConfig, save_weights


def adapt(
    model: nn.Module,
    *,
    data: Data,
    output_dir: str | Path,
    targets: Sequence[float] = (0.5, 0.7, 0.9),
    kept: float = 0.7,
    gates: GatesConfig | None = None,
    tuning: TrainConfig | None = None,
    augmentation: Augmentation | None = None,
    analysis: GateAnalysisConfig | None = None,
    others: Sequence[Other] = ("plain_continued",),
    seeds: Sequence[int] = (0,),
    processes: int | None = None,
    compiled: bool = True,
) -> AdaptiveResult:
    """Puts gates into any trained residual network and trains it on, for several target rates.

    Each is compared with the network as it is, and with the network trained on as long: accuracy,
    executed layers and multiply-adds, measured milliseconds; with the report of the command line.

    Veit, "Conditional networks", 2018, chapter 5.

    Args:
        model: a trained network of torchvision, timm or :mod:`fastheads.models`, one output a
            label of ``data``; stays as it is.
        data: as of :func:`fastheads.data.load_data`.
        output_dir: the run folder; a run that was stopped goes on there.
        targets: rates of open gates to train for, one network each.
        kept: the rate whose network is analysed and returned.
        gates: the gates.
        tuning: the training.
        augmentation: of the pictures, and the normalisation that the network expects.
        analysis: what is shown of the gates.
        others: further rows: plain_continued, soft and worded.
        seeds: every row is trained once for each.
        processes: trainings side by side; see :class:`AdaptiveConfig`.
        compiled: time the network under ``torch.compile`` too.

    Returns:
        The kept network of the first seed, the metrics and the path of the report.

    Raises:
        ValueError: if the network has no residual blocks, or a setting is not as described.
    """
    if wrong := set(others) - {"plain_continued", "soft", "worded"}:
        raise ValueError(
            "others must be rows that begin with the trained network: plain_continued, soft or "
            f"worded, got {', '.join(sorted(wrong))}"
        )
    require_residual_blocks(model)
    defaults = AdaptiveConfig()
    config = AdaptiveConfig(
        output_dir=Path(output_dir),
        augmentation=augmentation or defaults.augmentation,
        gates=gates or defaults.gates,
        targets=tuple(targets),
        kept=kept,
        others=tuple(others),
        tuning=tuning or TrainConfig(epochs=8, batch_size=64, lr=5e-4, weight_decay=1e-4),
        analysis=analysis or defaults.analysis,
        seeds=tuple(seeds),
        processes=processes,
        compiled=compiled,
    )
    config.check(data, copy.deepcopy(model))
    settings = fingerprint(config)
    for name in ("data", "network", "start", "training"):  # not of this run
        del settings[name]
    settings |= {
        "model": type(model).__name__,
        "weights": digest(model.state_dict().values()),
    }
    run = Run(config, data, open_stages(config.output_dir, settings, data), settings)
    add_rows_of(run, model)
    untrained_rows(run)
    time_rows(run)
    save_weights(run.networks[run.kept], config.output_dir / "model.safetensors")
    return conclude(run, "fastheads.adapt(model, data=data, ...)")
