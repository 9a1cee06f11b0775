"""What the report shows beside the table: groups, repaired confusions, latency, contrast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastheads.clustering import group_purity
from fastheads.data import Data, ImageDataset, Normalize
from fastheads.labels import Grouping
from fastheads.models import AugmentedNetwork, Tap
from fastheads.nn import AugmentedClassifier, ConditionalClassifier
from fastheads.pipelines.heads import score_batches
from fastheads.pipelines.rows import SeedRows
from fastheads.pipelines.run_folder import dataset_counts, environment, write_arrays, write_json

EXAMPLES = 40  # labels shown of each group
REPAIRED = 3  # confusions shown of each group


def analyse(
    folder: Path,
    data: Data,
    seeds: dict[int, SeedRows],
    contrast: list[dict[str, Any]],
    tap: Tap,
    normalize: Normalize,
    settings: dict[str, Any],
    command: str,
    durations: list[dict[str, Any]],
) -> None:
    """Writes ``analysis.json`` and ``analysis.npz``; pictures are of the first seed."""
    started = time.monotonic()
    first = next(iter(seeds.values()))
    found = first.clusters["confusions"]
    grouping = Grouping(np.asarray(found["group_of"]))
    arrays: dict[str, np.ndarray] = {
        "similarity": np.asarray(found["similarity"], np.float32),
        "similarity_bounds": np.asarray(found["bounds"], np.float64),
    }
    pictures = _Pictures(data)
    groups = _groups(grouping, data, pictures, arrays)
    before, after = (_mistakes(top, first) for top in (first.base, first.tops["confusions"]))
    repaired = _repaired(before, after, grouping, data, pictures, arrays)
    images, _ = data.test.__getitems__(list(range(min(32, len(data.test)))))
    inputs = normalize(images)
    conditional = _mean_over_seeds([rows.conditional for rows in seeds.values()])
    for row in conditional:
        row["latency_ms"] = _conditional_latency(tap, first, row, inputs, settings)
    dense = {
        row: measure_latency(AugmentedNetwork(tap, top).eval(), inputs)
        for row, top in first.tops.items()
    }
    spent = time.monotonic() - started
    content = {
        "title": "A classifier grows specialist heads for the labels it confuses",
        "settings": settings,
        "command": command,
        "environment": environment(),
        "dataset": dataset_counts(data),
        "durations": [*durations, {"stage": "analysis", "seconds": spent}],
        "eigenvalues": found["eigenvalues"],
        "num_groups": grouping.num_groups,
        "suggested_num_groups": found["suggested"],
        "groups": groups,
        "conditional": conditional,
        "latency_ms": dense,
        "repaired": repaired,
        "mistakes": {
            "images": first.frozen["holdout"].passes * len(data.holdout),
            "before": sum(before.values()),
            "after": sum(after.values()),
        },
        "contrast": contrast,
        "curves": [curve for rows in seeds.values() for curve in rows.curves],
    }
    write_arrays(folder / "analysis.npz", arrays)
    write_json(folder / "analysis.json", content)


@torch.no_grad()
def measure_latency(
    run: Callable[[Tensor], Any],
    inputs: Tensor,
    sizes: Sequence[int] = (1, 32),
    seconds: float = 1.0,
) -> dict[str, float]:
    """Median milliseconds of one call, for some batch sizes.

    Of 35 calls, or where these take longer than ``seconds``, of as many as fit, 6 at least; the
    first sixth only warms up.
    """
    out = {}
    for size in sizes:
        batch = inputs[:size]
        times: list[float] = []
        while len(times) < 6 or (len(times) < 35 and sum(times) < seconds):
            start = time.perf_counter()
            run(batch)
            times.append(time.perf_counter() - start)
        out[str(size)] = 1000 * statistics.median(times[len(times) // 6 :])
    return out


class _Pictures:
    """One picture of each label: its first test picture, as gray ``[S, S]`` uint8."""

    def __init__(self, data: Data) -> None:
        self.test: ImageDataset = data.test
        targets = data.test.targets
        rows = targets.row_indices().numpy()
        self.first = np.full(data.num_labels, -1)
        self.first[targets.indices.numpy()[::-1]] = rows[::-1]

    def of_labels(self, labels: Sequence[int]) -> np.ndarray:
        return self.of_rows([int(self.first[label]) for label in labels])

    def of_rows(self, rows: Sequence[int]) -> np.ndarray:
        images, _ = self.test.__getitems__(list(rows))
        return images.float().mean(1).round().to(torch.uint8).numpy()


def _groups(
    grouping: Grouping, data: Data, pictures: _Pictures, arrays: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Name, size, purity and examples of each group; their pictures go into ``arrays``."""
    names = data.label_space.names
    level = next(reversed(data.label_space.levels.values()), None)
    above, purity = group_purity(grouping, level or [""] * grouping.num_labels)
    groups = []
    for group in range(grouping.num_groups):
        members = grouping.members(group)
        members = members[pictures.first[members] >= 0]
        spread = np.linspace(0, len(members) - 1, min(EXAMPLES, len(members)))
        shown = members[spread.round().astype(int)]
        key = f"group_{group}"
        if len(shown):
            arrays[key] = pictures.of_labels(shown)
        groups.append(
            {
                "name": above[group] or f"group {group}",
                "size": int(grouping.sizes[group]),
                "purity": float(purity[group]),
                "examples": [names[label] for label in shown],
                "sheet": key,
            }
        )
    return groups


def _repaired(
    before: dict[tuple[int, int], int],
    after: dict[tuple[int, int], int],
    grouping: Grouping,
    data: Data,
    pictures: _Pictures,
    arrays: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
    """In each group the confusions that changed most: those that fell, and one that rose.

    Counted on the hold-out pictures: heads were never trained on these, though their groups were
    found on them.
    """
    changed: dict[int, list[tuple[int, int, int]]] = {}
    for label, confused in before.keys() | after.keys():
        group = int(grouping.group_of[label])
        change = after.get((label, confused), 0) - before.get((label, confused), 0)
        drawn = min(pictures.first[label], pictures.first[confused]) >= 0
        if change and group >= 0 and drawn:
            changed.setdefault(group, []).append((change, label, confused))
    names = data.label_space.names
    out: list[dict[str, Any]] = []
    for group, changes in sorted(changed.items()):
        fell = [each for each in sorted(changes) if each[0] < 0][:REPAIRED]
        rose = [each for each in sorted(changes, reverse=True) if each[0] > 0][:1]
        for _, label, confused in fell + rose:
            key = f"repaired_{len(out)}"
            arrays[key] = pictures.of_labels([label, confused])
            out.append(
                {
                    "group": group,
                    "label": names[label],
                    "confused_with": names[confused],
                    "before": before.get((label, confused), 0),
                    "after": after.get((label, confused), 0),
                    "pictures": key,
                }
            )
    return out


def _mistakes(top: nn.Module, seed: SeedRows) -> dict[tuple[int, int], int]:
    """How often an image of one label (its first) was taken for another, on the hold-out rows."""
    counts: dict[tuple[int, int], int] = {}
    for scores, targets in score_batches(top, seed.frozen["holdout"]):
        best = scores.argmax(1).tolist()
        for guess, row in zip(best, targets.tolist(), strict=True):
            if guess not in row:
                counts[row[0], guess] = counts.get((row[0], guess), 0) + 1
    return counts


def _mean_over_seeds(seeds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Numbers are averaged, all but the number of groups; the spread of top-1 is kept."""
    out = []
    for same in zip(*seeds, strict=True):
        row = dict(same[0])
        for name, value in row.items():
            if name not in ("grouping", "groups", "of"):
                row[name] = type(value)(np.mean([each[name] for each in same]))
        row["top1_std"] = float(np.std([e["top1"] for e in same], ddof=1)) if len(same) > 1 else 0.0
        out.append(row)
    return out


def _conditional_latency(
    tap: Tap, first: SeedRows, row: dict[str, Any], inputs: Tensor, settings: dict[str, Any]
) -> dict[str, float]:
    """Of the whole network; with all groups nothing is chosen, so the plain network runs."""
    top: AugmentedClassifier = first.tops[row["grouping"]]
    if row["groups"] == row["of"]:
        return measure_latency(AugmentedNetwork(tap, top).eval(), inputs)
    conditional = ConditionalClassifier(
        first.base.classifier, top, row["groups"], settings.get("heads.loss") == "softmax"
    ).eval()
    return measure_latency(lambda x: conditional(*tap(x)), inputs)
