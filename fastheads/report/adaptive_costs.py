"""What skipping saves on the clock, a fixed number of layers, and what the gates cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastheads.report.adaptive_figures import budget_curve
from fastheads.report.adaptive_findings import budget_sentence, share_of, value_of
from fastheads.report.blocks import mark
from fastheads.report.page import Content, Html, figure, number, paragraph, side_by_side, table, tag
from fastheads.report.rows import count, milliseconds, ordered, percent, row_for

_LITTLE = 0.95  # of the plain network's multiply-adds: above it there is hardly a saving to see
_PEERS = {
    "masked": "masked: every layer runs, the decision multiplies",
    "skip_batch_of_one": "skips for a single image, multiplies in a batch",
    "compiled_plain": "plain network, torch.compile",
}


def time_section(
    analysis: Mapping[str, Any], metrics: Mapping[str, Any], kept: str | None
) -> list[Content]:
    """Measured time of each row and of other ways to run the kept one."""
    latency = analysis.get("latency") or {}
    rows, peers = latency.get("rows") or {}, latency.get("peers") or {}
    if not rows:
        return []
    sizes = sorted({size for times in (*rows.values(), *peers.values()) for size in times}, key=int)
    plain = rows.get("plain") or {}
    beside = peers.get("plain") or plain  # what was measured together is compared
    written: list[list[Content]] = []
    for row in ordered(rows):
        macs = share_of(metrics, row.key, "macs")
        name = [mark(row), row.short]
        written.append([name, _share(macs), *_times(rows[row.key], plain, sizes, macs)])
    for key, times in peers.items():
        if key in ("plain", "kept"):
            continue
        macs = 1.0 if key in ("masked", "compiled_plain") else None
        name = [_PEERS.get(key, key.replace("_", " "))]
        name += [] if key == "compiled_plain" or not kept else [tag("small", row_for(kept).short)]
        written.append([name, _share(macs), *_times(times, beside, sizes, None)])
    header: list[Content] = ["", "multiply-adds, × plain"]
    for size in sizes:
        what = "ms, one image" if size == "1" else f"ms an image, batch of {size}"
        header += [what, "× plain", "saving seen"]
    threads = latency.get("threads")
    caption = (
        "Median of repeated runs, taken in turns so that a drift of the machine hits all rows "
        "alike; below it the quartiles. “Saving seen”: which share of the saved "
        "multiply-adds is saved time."
        + (f" {threads} thread{'' if threads == 1 else 's'}." if threads else "")
    )
    return [
        paragraph(
            "The published code multiplies the decision with the output of a layer that has run "
            "anyway. Here a layer runs only for the images whose gate is open."
        ),
        table(header, written, caption),
    ]


def _share(value: float | None) -> Content:
    return "–" if value is None else number(value, f"{value:.3f}×")


def _times(
    times: Mapping[str, Mapping[str, float]],
    plain: Mapping[str, Mapping[str, float]],
    sizes: Sequence[str],
    macs: float | None,
) -> list[Content]:
    """For each batch size: time with its range, ratio to the plain network, share of the saving."""
    cells: list[Content] = []
    for size in sizes:
        if size not in times:
            cells += ["–"] * 3
            continue
        entry = times[size]
        span = [milliseconds(entry[end]) for end in ("low", "high") if entry.get(end) is not None]
        own = [number(entry["ms"], milliseconds(entry["ms"])), tag("small", " – ".join(span))]
        share = entry["ms"] / plain[size]["ms"] if size in plain else None
        seen = None if share is None or macs is None or macs > _LITTLE else (1 - share) / (1 - macs)
        cells += [
            own,
            _share(share),
            "–" if seen is None else number(seen, f"{100 * seen:.0f} %".replace("-", "−")),
        ]
    return cells


def budget_section(
    analysis: Mapping[str, Any], metrics: Mapping[str, Any], kept: str | None
) -> list[Content]:
    """Exactly k open gates for every image: accuracy, cost and time of each k."""
    budget = sorted(analysis.get("budget") or [], key=lambda entry: entry["k"])
    if not budget:
        return []
    held = [name for name in ("layers", "macs", "ms_1") if any(name in entry for entry in budget)]
    titles = {"layers": "executed layers", "macs": "multiply-adds", "ms_1": "ms, one image"}
    forms = {"layers": "{:.2f}".format, "macs": count, "ms_1": milliseconds}
    written: list[list[Content]] = []
    for entry in budget:
        top1 = value_of(entry, "top1")
        cells: list[Content] = [str(entry["k"]), number(top1 or 0.0, percent(top1))]
        for name in held:
            value = value_of(entry, name)
            cells.append("–" if value is None else number(value, forms[name](value)))
        written.append(cells)
    mean = ((analysis.get("histogram") or {}).get("all") or {}).get("mean")
    free = (mean, metrics[kept]["top1"]["mean"]) if kept and kept in metrics and mean else None
    drawn = budget_curve(budget, free, "top1", alt="Top-1 against the number of open gates.")
    caption = (
        "Top-1 with exactly so many open gates for every image, without new training; the diamond "
        "is the same network that chooses freely, at its mean number of open gates."
    )
    shown = table(["open gates", "top-1, %", *(titles[name] for name in held)], written,
                  "Every image costs the same: the thresholds were set on other images.",
                  class_="narrow")  # fmt: skip
    return [
        paragraph(
            "The paper's future work: which layers run still depends on the image, how many does "
            "not, so that every image takes the same time. ",
            budget_sentence(budget, metrics, kept),
        ),
        side_by_side(figure(drawn, caption), shown),
    ]


def costs_of_gates(analysis: Mapping[str, Any]) -> list[Content]:
    """Parameters and multiply-adds of the gates, and the exact counts of the paper's networks."""
    network = analysis.get("network") or {}
    written: list[list[Content]] = []
    for name, cost, whole, paper in (
        ("parameters of the gates", "gate_parameters", "parameters", "+4.8 % (CIFAR), +3.9 %"),
        ("multiply-adds of the gates", "gate_macs", "macs", "+0.01 % (CIFAR), +0.04 %"),
        ("multiply-adds that no gate can save", "unskippable_macs", "macs", "–"),
    ):
        if network.get(cost) is not None:
            share = f"{percent(network[cost] / network[whole])} %" if network.get(whole) else "–"
            written.append([name, number(network[cost], count(network[cost])), share,
                            tag("span", paper, class_="paper")])  # fmt: skip
    blocks: list[Content] = []
    if written:
        whole = network.get("name") or "the network"
        caption = f"Of {whole}; shares are those of the network without gates."
        blocks.append(table(["", "here", "share", "paper"], written, caption, class_="narrow"))
    return [*blocks, *_counts(analysis.get("counts") or [])]


def _counts(counts: Sequence[Mapping[str, Any]]) -> list[Content]:
    if not counts:
        return []
    written: list[list[Content]] = []
    for entry in counts:
        expected, published = entry.get("expected") or {}, entry.get("published") or {}
        cells: list[Content] = [str(entry["network"])]
        for name, unit, letter in (("parameters", 1e6, "M"), ("gated_parameters", 1e6, "M"),
                                   ("macs", 1e9, "B")):  # fmt: skip
            cells += [_exact(entry.get(name)), _paper(published.get(name), unit, letter)]
        wrong = [name.replace("_", " ") for name in expected if not _equal(name, entry)]
        verdict = f"not as expected: {', '.join(wrong)}" if wrong else "as expected"
        cells.append(tag("span", verdict, class_="contradicts" if wrong else "agrees"))
        written.append(cells)
    header = ["", "parameters", "paper", "with gates", "paper", "multiply-adds", "paper",
              "verdict"]  # fmt: skip
    caption = (
        "The paper's networks as built here, counted, and what the paper prints. Expected is what "
        "was counted by hand from its description, with gates of 16 hidden units; multiply-adds to "
        "four digits. The paper's sizes of networks with gates fit other hidden units, and its "
        "0.5 B of ResNet-110 count multiplications and additions."
    )
    return [tag("h3", "Exact counts"), table(header, written, caption, "lrrrrrrl")]


def _equal(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether a count is the expected one: parameters exactly, multiply-adds to four digits."""
    expected, found = entry["expected"][name], entry[name]
    return abs(found - expected) <= (0.0005 * expected if name == "macs" else 0)


def _exact(value: float | None) -> Content:
    return "–" if value is None else number(value, f"{value:,.0f}")


def _paper(value: float | None, unit: float, name: str) -> Html:
    text = "–" if value is None else f"{value / unit:.4g} {name}"
    return tag("span", text, class_="paper")
