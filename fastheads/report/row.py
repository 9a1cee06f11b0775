"""What describes a row of the results, and the system it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """How a row of the results is shown, the same in every table and figure.

    Attributes:
        key: the row's key in ``metrics.json``.
        name: the full name, with ``{heads}`` where the number of heads goes.
        short: the name in figures.
        color: on a light page.
        dark: the same colour on a dark page.
        marker: matplotlib's marker, so that no figure rests on colour alone.
        hollow: shown hollow and dashed: a control of the row with the same marker.
        paper: what the paper publishes, first the main metric (a fraction), then its costs.
        like: the key of the row whose place and colour it shares, if it is one of many alike.
    """

    key: str
    name: str
    short: str
    color: str
    dark: str
    marker: str = "o"
    hollow: bool = False
    paper: tuple[float, ...] | None = None
    like: str | None = None


@dataclass(frozen=True)
class System:
    """A system whose runs have a report.

    Attributes:
        name: its name in ``analysis.json``.
        rows: in the order of its tables.
        metrics: key and title of each accuracy, the main one first.
        required: the accuracies that every row has.
        base: the row whose cost the others' costs are multiples of; empty for none.
        needs_base: whether a run without that row is incomplete.
        costs: key and short title of what rows may cost besides multiply-adds and parameters.
        needs_costs: whether every row has multiply-adds and parameters.
    """

    name: str
    rows: tuple[Row, ...]
    metrics: dict[str, str]
    required: tuple[str, ...]
    base: str
    needs_base: bool
    costs: dict[str, str] = field(default_factory=dict)
    needs_costs: bool = True

    @property
    def main(self) -> str:
        """The key of the main metric."""
        return next(iter(self.metrics))
