"""Results as a figure: under the ceilings of this machine, and against the best peers.

python -m bench.figure results.csv roofline.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .harness import Row, is_ours, line_ups, read

CEILINGS = ("copy", "matmul")
OURS, OUR_MARKERS, MARKERS = "#c8102e", "oDP*", "s^vX<>hpd"
PEERS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#17becf", "#7f7f7f", "#bcbd22"]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Writes the figure of the rows of one run, as PNG, SVG or PDF by the name of ``path``.

    Left: multiply-adds a second over multiply-adds a byte, below the roof of the measured copy
    bandwidth and the measured products (only if something multiplies). Middle: bytes a second over
    the least bytes of the case. Right: times as fast as the best peer. A number is a case, named
    at its bar.
    """
    cases = {key: case for key, case in line_ups(rows).items() if key[0] not in CEILINGS}
    multiplying = any(_macs(row) for case in cases.values() for row in case)
    height = max(5.0, 1.5 + 0.24 * sum(len(_ours(case)) for case in cases.values()))
    figure = Figure(figsize=(19 if multiplying else 14, height), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(1, 3 if multiplying else 2)))
    look = _looks(cases)
    if multiplying:
        _roofline(panels.pop(0), cases, rows, look)
    _bandwidth(panels[0], cases, rows, look)
    _ratios(panels[1], cases)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    last = rows[-1]
    where = f"{last['device'].removeprefix('cpu: ')}, {last['threads']} threads"
    figure.suptitle(
        f"{where}, PyTorch {last['torch']}, fastheads {last['version']}, {last['date']}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _looks(cases: Mapping[Any, Sequence[Row]]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each provider: ours red, and larger: peers stay seen on them."""
    names = dict.fromkeys(row["provider"] for case in cases.values() for row in case)
    groups = sorted(filter(is_ours, names)), [name for name in names if not is_ours(name)]
    looks = {}
    for group, colours, markers, size, zorder in (
        (groups[0], [OURS], OUR_MARKERS, 80, 3),
        (groups[1], PEERS, MARKERS, 26, 4),
    ):
        for i, name in enumerate(group):
            looks[name] = {"color": colours[i % len(colours)], "marker": markers[i % len(markers)],
                           "s": size, "zorder": zorder, "label": name,
                           "edgecolor": "white", "linewidth": 0.5}  # fmt: skip
    return looks


def _macs(row: Row) -> float:
    """Multiply-adds; what operators on integers count there are increments."""
    return float(row["macs"] or 0) if "float" in row["dtype"] else 0.0


def _points(axes: Axes, cases: Mapping[Any, Sequence[Row]], looks: dict, position: Any) -> None:
    """One point a row at ``position(row)``; ours are numbered."""
    places: dict[str, list[tuple[float, float]]] = {}
    for number, case in enumerate(cases.values(), 1):
        for row in case:
            if place := position(row):
                places.setdefault(row["provider"], []).append(place)
                if is_ours(row["provider"]):
                    axes.annotate(str(number), place, (5, 4), textcoords="offset points",
                                  fontsize=8, color=OURS, zorder=5)  # fmt: skip
    for name, found in places.items():
        axes.scatter(*zip(*found, strict=True), **looks[name])
    axes.set(xscale="log", yscale="log")
    axes.grid(which="major", color="0.9")


def _roofline(
    axes: Axes, cases: Mapping[Any, Sequence[Row]], rows: Sequence[Row], looks: dict
) -> None:
    def position(row: Row) -> tuple[float, float] | None:
        macs, moved = _macs(row), float(row["bytes"] or 0)
        return (macs / moved, macs / float(row["median_us"]) / 1e3) if macs and moved else None

    _points(axes, cases, looks, position)
    bandwidth = max((_rate(row, "bytes") for row in rows if row["op"] == "copy"), default=None)
    low, high = axes.get_xlim()
    used = {key[3] for key in cases}
    for row in rows:
        if row["op"] != "matmul" or row["dtype"] not in used:
            continue
        peak, kind = _rate(row, "macs"), row["provider"].removeprefix("torch").strip()
        x = np.geomspace(low, high, 200)
        axes.plot(x, np.minimum(peak, x * bandwidth) if bandwidth else x * 0 + peak, "k-", lw=1)
        text = f"{row['dtype']} {kind} {peak:,.0f} GMAC/s"
        axes.annotate(text, (high, peak), (-4, 3), textcoords="offset points", ha="right",
                      fontsize=8)  # fmt: skip
    if bandwidth:
        axes.plot([low, high], [low * bandwidth, high * bandwidth], color="0.6", ls=":", lw=1)
    axes.set(xlim=(low, high), xlabel="multiply-adds a byte", ylabel="GMAC/s", title="Roofline")


def _bandwidth(
    axes: Axes, cases: Mapping[Any, Sequence[Row]], rows: Sequence[Row], looks: dict
) -> None:
    def position(row: Row) -> tuple[float, float] | None:
        moved = float(row["bytes"] or 0)
        return (moved, moved / float(row["median_us"]) / 1e3) if moved else None

    _points(axes, cases, looks, position)
    for row in rows:
        if row["op"] == "copy":
            rate = _rate(row, "bytes")
            axes.axhline(rate, color="k", lw=1)
            axes.annotate(f"copy {rate:,.0f} GB/s", (1, rate), (-4, 3), textcoords="offset points",
                          xycoords=axes.get_yaxis_transform(), ha="right", fontsize=8)  # fmt: skip
    axes.set(xlabel="least bytes moved", ylabel="GB/s of them", title="Memory")


def _ratios(axes: Axes, cases: Mapping[Any, Sequence[Row]]) -> None:
    names, ratios = [], []
    for number, ((op, pass_, shape, dtype), case) in enumerate(cases.items(), 1):
        for row in _ours(case):
            operation = op if pass_ == "forward" else f"{op}, {pass_}"
            variant = row["provider"].partition(" ")[2]
            names.append(f"{number}  {operation} {shape} {dtype} {variant}".rstrip())
            ratios.append(float(row["ratio_to_best_peer"] or "nan"))
    places = np.arange(len(names))
    axes.barh(places, ratios, color=[OURS if ratio >= 1 else "0.6" for ratio in ratios], height=0.7)
    for place, ratio in zip(places, ratios, strict=True):
        text = "no peer" if np.isnan(ratio) else f"{ratio:.2f}"
        axes.annotate(text, (0 if np.isnan(ratio) else ratio, place), (3, 0), va="center",
                      textcoords="offset points", fontsize=8)  # fmt: skip
    axes.axvline(1, color="k", lw=1)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="times as fast as the best peer", title="Against peers")


def _ours(case: Sequence[Row]) -> list[Row]:
    return [row for row in case if is_ours(row["provider"])]


def _rate(row: Row, quantity: str) -> float:
    """Billions a second."""
    return float(row[quantity]) / float(row["median_us"]) / 1e3


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("results", type=Path, help="CSV of fastheads bench")
    options.add_argument("figure", type=Path)
    chosen = options.parse_args(argv)
    rows = read(chosen.results)
    draw([row for row in rows if row["device"] == rows[-1]["device"]], chosen.figure)


if __name__ == "__main__":
    main()
