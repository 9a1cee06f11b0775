"""What the reports of all systems share: marks and legends, cells, claims, how to reproduce."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastheads.report.findings import Claim
from fastheads.report.page import Content, Html, details, notice, number, paragraph, table, tag
from fastheads.report.rows import (
    Row,
    count,
    mean_and_spread,
    ordered,
    percent,
    points,
    ratio,
)

_GLYPHS = {"s": "■□", "D": "◆◇", "o": "●○", "^": "▲△", "v": "▼▽", "P": "✚✚", "X": "✖✖",
           "*": "★☆", "<": "◀◁", ">": "▶▷"}  # fmt: skip


def mark(row: Row) -> Html:
    """The row's marker in its colour, as in the figures."""
    style = f"color:var(--row-{row.like or row.key},{row.color})"
    return tag(
        "span", _GLYPHS[row.marker][row.hollow], class_="mark", style=style, aria_hidden="true"
    )


def legend(keys: Iterable[str]) -> Html:
    """Marker and name of the rows that a group of figures shows."""
    items = [tag("li", mark(row), row.short) for row in ordered(keys)]
    return tag("ul", items, class_="legend")


def tile_list(shown: Sequence[tuple[str, str, str]]) -> Html:
    """The numbers to remember: what it is, the number, what to compare it with."""
    return tag("dl", [tag("div", tag("dt", a), tag("dd", b, tag("small", c))) for a, b, c in shown],
               class_="tiles")  # fmt: skip


def data_line(
    dataset: Mapping[str, Any], parts: Mapping[str, str], lost: Mapping[str, str]
) -> Html | None:
    """What data the run had: the sizes of ``parts``, and of ``lost`` those that are not zero."""
    shown = [
        f"{dataset[key]:,} {name}" if isinstance(dataset[key], int) else f"{dataset[key]} {name}"
        for key, name in parts.items()
        if dataset.get(key) is not None
    ]
    shown += [f"{dataset[key]:,} {text}" for key, text in lost.items() if dataset.get(key)]
    return paragraph("Data: ", ", ".join(shown), ".", class_="small") if shown else None


def accuracy_cells(
    values: Mapping[str, Any], names: Iterable[str], best: Mapping[str, float]
) -> list[Content]:
    """A row's accuracies, the best of a column bold, a dash where there is none."""
    cells: list[Content] = []
    for name in names:
        if name not in values:
            cells.append("–")
            continue
        mean = values[name]["mean"]
        text = number(mean, mean_and_spread(values[name]))
        cells.append(tag("b", text) if mean == best.get(name) else text)
    return cells


def cost_cells(values: Mapping[str, Any], base: Mapping[str, Any] | None) -> list[Content]:
    """A row's multiply-adds, with their ratio to the base row if there is one, and parameters."""
    macs = number(values["macs"], count(values["macs"]))
    under = None if base is None else tag("small", ratio(values["macs"], base["macs"]))
    return [[macs, under], number(values["parameters"], count(values["parameters"]))]


def best_of(rows: Mapping[str, Any], keys: Iterable[str], names: Iterable[str]) -> dict[str, float]:
    """The highest mean of each metric among the rows ``keys``."""
    values = {name: [rows[key][name]["mean"] for key in keys if name in rows[key]]
              for name in names}  # fmt: skip
    return {name: max(means) for name, means in values.items() if means}


def over_seeds(rows: Mapping[str, Any], names: Sequence[str]) -> str:
    """``over 3 seeds``, or ``over the seeds`` where rows have different numbers of them."""
    seeds = {len(row[name].get("seeds", ())) for row in rows.values() for name in names
             if name in row}  # fmt: skip
    return f"over {max(seeds)} seeds" if len(seeds) == 1 and max(seeds) > 1 else "over the seeds"


def bars_alt(metrics: Mapping[str, Any], name: str, title: str) -> str:
    """What a chart of bars shows, for those who do not see it."""
    values = "; ".join(f"{row.short} {percent(metrics[row.key][name]['mean'])}"
                       for row in ordered(metrics))  # fmt: skip
    return f"Bars of {title} in percent: {values}."


def claims_table(found: Sequence[Claim], metrics: Mapping[str, str], caption: str) -> Html:
    """The paper's order of rows, statement by statement, beside ours in each of ``metrics``."""
    written = [
        [claim.text, points(claim.published), *(_compared(claim, name) for name in metrics)]
        for claim in found
    ]
    header = ["statement", "paper", *metrics.values()]
    return table(header, written, caption, class_="tabular narrow")


def _compared(claim: Claim, metric: str) -> Content:
    if metric not in claim.ours:
        return "–"
    found, verdict = claim.ours[metric], claim.verdict(metric)
    text = points(found.mean)
    if found.spread is not None:
        text += f"\u00a0±\u00a0{percent(found.spread)}"
    return [number(found.mean, text), tag("small", verdict, class_=verdict)]


def claims_notice(found: Sequence[Claim], metric: str) -> Html | None:
    """A remark at the top if a statement of the paper does not hold here, or if all do."""
    against = [claim for claim in found if claim.verdict() == "contradicts"]
    if against:
        texts = "; ".join(
            f"{_uncapitalised(claim.text)} ({points(claim.published)} points of {metric}"
            f" in the paper, {points(claim.main.mean)} here)"
            for claim in against
        )
        title = f"Contradicts the paper in {len(against)} of {len(found)} statements."
        return notice(title, f"The other way round here: {texts}.", kind="warning")
    agreed = sum(claim.verdict() == "agrees" for claim in found)
    if not found or agreed < len(found):
        return None
    return notice("Agrees with the paper.", f"All {agreed} comparisons with it come out in the "
                  "same order.", kind="good")  # fmt: skip


def _uncapitalised(text: str) -> str:
    """``text`` with a small first letter, unless it begins with an abbreviation."""
    return text if text[1:2].isupper() else text[0].lower() + text[1:]


def reproduction_section(
    analysis: Mapping[str, Any], terms: Iterable[tuple[str, str]], paper: str
) -> list[Content]:
    """Command, environment, durations, settings, what the words mean, and the paper."""
    blocks: list[Content] = []
    if command := analysis.get("command"):
        blocks += [tag("pre", tag("code", str(command)))]
    if environment := analysis.get("environment"):
        text = ", ".join(f"{key} {value}" for key, value in environment.items())
        blocks += [tag("h3", "Environment"), paragraph(text)]
    if durations := analysis.get("durations"):
        blocks += [tag("h3", "Durations"), _durations(durations)]
    if settings := analysis.get("settings"):
        rows: list[list[Content]] = [[str(key), str(value)] for key, value in settings.items()]
        shown = table(["setting", "value"], rows, "All settings of the run.", align="ll")
        blocks.append(details("Settings", shown))
    named = [[tag("dt", name), tag("dd", meaning)] for name, meaning in terms]
    blocks += [tag("h3", "What the words mean"), tag("dl", named, class_="terms")]
    return [*blocks, tag("footer", "The method: ", paper, ".")]


def _durations(durations: Sequence[Mapping[str, Any]]) -> Html:
    total = sum(entry["seconds"] for entry in durations)
    longest = max(entry["seconds"] for entry in durations)
    rows: list[list[Content]] = [
        [str(entry["stage"]), f"{entry['seconds']:.1f}", bar(entry["seconds"], longest)]
        for entry in durations
    ]
    rows.append([tag("b", "total"), tag("b", f"{total:.1f}"), ""])
    return table(["stage", "seconds", ""], rows, "Wall time of each stage.", "lrl", "narrow")


def bar(seconds: float, longest: float) -> Html:
    """A bar in proportion to the longest of several durations."""
    share = seconds / longest if longest else 0.0
    return tag("span", class_="bar", style=f"width:{6 * share:.2f}rem")
