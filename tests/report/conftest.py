"""A finished run's folder, as the pipeline leaves it, with glyphs that Pillow draws."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FACES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-BoldOblique.ttf", "DejaVuSerif.ttf")
GROUPS = {
    "Latin Lu": "ABCDÉÈÊËĀĂĄÆÇĆĈĊÐĎ",
    "Cyrillic": "ЖШЩЫЭЮЯФЦЧБД",
    'Greek <&> "signs"': "αβγδεζηθλμξπ<&\"'",
    "Hebrew אב": "אבגדהוזחטיכל",
    "Arabic": "بتثجحخدذرزسش",
    "marks": "\u0300\u0301\u0302\u0303\u0308\u030a\u0327\u0328",
    "So playing cards, dominoes and other pictures": "☀☁☂☃★☆☎☏☠☢♠♡♢♣",
    "arrows": "←↑→↓↔↕⇐⇑⇒⇓⇔⇕",
}
ROW_MEANS = {
    "base": (0.0863, 0.5121, 0.3904, 0.7221),
    "retrained": (0.0952, 0.5610, 0.4591, 0.7934),
    "confusions": (0.2631, 0.7012, 0.6093, 0.8951),
    "randomized_confusions": (0.1284, 0.6233, 0.5342, 0.8522),
    "co_detections": (0.2540, 0.6970, 0.6101, 0.8863),
    "randomized_co_detections": (0.1311, 0.6254, 0.5320, 0.8490),
}
METRICS = ("map50_per_label", "map50_per_image", "top1", "top5")


@cache
def covered(face: str) -> frozenset[int]:
    with TTFont(FONTS / face) as font:
        return frozenset(font.getBestCmap())


def faces_of(character: str) -> list[str]:
    return [face for face in FACES if ord(character) in covered(face)]


def draw(character: str, face: str) -> np.ndarray:
    """``[32, 32]`` uint8: the character in a face, white on black."""
    image = Image.new("L", (32, 32))
    font = ImageFont.truetype(str(FONTS / face), 22)
    ImageDraw.Draw(image).text((16, 16), character, fill=255, font=font, anchor="mm")
    return np.asarray(image)


def make_rows(means: dict[str, tuple[float, ...]] = ROW_MEANS, scale: float = 1.0) -> dict:
    """Rows as in ``metrics.json``, three seeds each, with their true mean and deviation."""
    generator = np.random.default_rng(0)
    rows = {}
    for key, values in means.items():
        row: dict = {}
        for name, value in zip(METRICS, values, strict=True):
            seeds = (scale * value + generator.normal(0, 0.004, 3)).clip(0, 1)
            row[name] = {
                "mean": float(seeds.mean()), "std": float(seeds.std(ddof=1)),
                "seeds": seeds.tolist(),
            }  # fmt: skip
        grown = 1 if key in ("base", "retrained") else 1.0284 if "confusions" in key else 1.0312
        rows[key] = row | {"macs": int(12_203_520 * grown), "parameters": int(621_303 * grown)}
    return rows


def make_similarity(sizes: list[int]) -> np.ndarray:
    """``[m, m]`` float32: blocks on the diagonal over a weak background, symmetric."""
    generator = np.random.default_rng(1)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    level = np.where(owner[:, None] == owner, 25.0, 0.4)
    matrix = generator.exponential(level)
    return ((matrix + matrix.T) / 2).astype(np.float32)


def make_analysis() -> tuple[dict, dict[str, np.ndarray]]:
    """The content of ``analysis.json`` and ``analysis.npz``, the caller's to change."""
    analysis, arrays = _analysis()
    return deepcopy(analysis), dict(arrays)


@cache
def _analysis() -> tuple[dict, dict[str, np.ndarray]]:
    generator = np.random.default_rng(2)
    arrays: dict[str, np.ndarray] = {}
    groups, repaired = [], []
    for position, (name, labels) in enumerate(GROUPS.items()):
        arrays[f"sheet_{position}"] = np.stack(
            [draw(label, faces_of(label)[-1]) for label in labels]
        )
        groups.append({"name": name, "size": 60 * len(labels), "purity": 0.95 - 0.07 * position,
                       "examples": list(labels), "sheet": f"sheet_{position}"})  # fmt: skip
        arrays[f"pair_{position}"] = np.stack(
            [draw(label, faces_of(label)[0]) for label in labels[:2]]
        )
        repaired.append({"group": position, "label": labels[0], "confused_with": labels[1],
                         "before": 14 - position, "after": max(0, 5 - position),
                         "pictures": f"pair_{position}"})  # fmt: skip
    sizes = [4 * len(labels) for labels in GROUPS.values()]
    arrays["similarity"] = make_similarity(sizes)
    arrays["similarity_bounds"] = np.concatenate([[0.0], np.cumsum(sizes)])
    total = len(GROUPS)
    learned = {1: (0.567, 0.878), 2: (0.603, 0.976), 3: (0.608, 0.994), total: (0.609, 1.0)}
    random = {1: (0.412, 0.462), 2: (0.484, 0.655), 3: (0.512, 0.765), total: (0.534, 1.0)}
    conditional = [
        {"grouping": grouping, "groups": groups_, "of": total, "top1": top1, "top5": top1 + 0.28,
         "top1_std": 0.004,
         "macs": int(12_203_520 * (0.994 + 0.034 * groups_ / total)), "recall": recall,
         "latency_ms": {"1": 0.41 + 0.05 * groups_, "32": 5 + 0.2 * groups_ + (recall < 0.8) / 9}}
        for grouping, points in (("confusions", learned), ("randomized_confusions", random))
        for groups_, (top1, recall) in points.items()
    ]  # fmt: skip
    widths = {16: 1.0, 32: 1.9, 64: 2.6, 128: 2.9}
    contrast = []
    for width, scale in widths.items():
        closing = {
            key: tuple(
                v
                if key in ("base", "retrained")
                else ROW_MEANS["retrained"][i]
                + (v - ROW_MEANS["retrained"][i]) * {16: 1.0, 32: 0.4, 64: 0.1, 128: 0.0}[width]
                for i, v in enumerate(values)
            )
            for key, values in ROW_MEANS.items()
        }
        contrast.append({"bottleneck": width, "rows": make_rows(closing, min(scale, 1.2))})
    curves = [
        {"row": row, "seed": seed, "step": list(range(0, 2000, 50)),
         "loss": (0.02 + np.exp(-np.arange(0, 2000, 50) / (300 + 40 * position))
                  * (0.4 + 0.02 * generator.random(40))).tolist()}
        for position, row in enumerate(ROW_MEANS) for seed in range(3)
    ]  # fmt: skip
    eigenvalues = [1.0, 0.97, 0.95, 0.93, 0.92, 0.9, 0.88, 0.85, 0.71, 0.69, 0.66, 0.64, 0.6, 0.58]
    analysis = {
        "title": "Specialist heads on glyphs",
        "settings": {"seeds": 3, "bottleneck": 16, "top_k": 100, "fonts": "matplotlib <default>"},
        "command": "fastheads augment --data.fonts matplotlib --seeds 3 --run runs/demo",
        "environment": {"torch": "2.15.0", "cpu": "AMD EPYC", "threads": 2,
                        "version": "0.1.0", "date": "2025-11-20"},
        "dataset": {"labels": 5547, "train": 38217, "holdout": 5547, "test": 5547, "faces": 16,
                    "skipped": 2, "dropped": 0},
        "durations": [{"stage": "drawing the glyphs", "seconds": 3.2},
                      {"stage": "base network", "seconds": 171.4},
                      {"stage": "features", "seconds": 40.1},
                      {"stage": "heads", "seconds": 96.0}],
        "latency_ms": {"base": {"1": 0.43, "32": 5.25}},
        "suggested_num_groups": total, "eigenvalues": eigenvalues, "num_groups": total,
        "groups": groups,
        "conditional": conditional, "repaired": repaired,
        "mistakes": {"images": 16272, "before": 9000, "after": 6200},
        "contrast": contrast, "curves": curves,
    }  # fmt: skip
    return analysis, arrays


def save_run(folder: Path, metrics: dict, analysis: dict, arrays: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "analysis.json").write_text(json.dumps(analysis))
    np.savez(folder / "analysis.npz", **arrays)
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run", make_rows(), *make_analysis())


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that tests only read."""
    return save_run(tmp_path_factory.mktemp("report") / "run", make_rows(), *make_analysis())
