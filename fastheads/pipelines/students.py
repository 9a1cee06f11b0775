"""Students of Knowledge Concentration: which rows there are, and how one is trained (paper 002).

Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN",
2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastheads.labels import Grouping
from fastheads.metrics import evaluate_verticals
from fastheads.nn import SelfPacedLogits, TopLayers, fc_fc, fc_sc, sc_sc
from fastheads.pipelines.frozen import BATCH
from fastheads.ranges import check_range
from fastheads.targets import SparseTargets
from fastheads.training import TrainConfig
from fastheads.training.config import check_training

Kind = Literal["fc_fc", "fc_sc", "sc_sc"]


@dataclass(frozen=True)
class Pacing:
    """How the logits of a vertical are normalised and scaled (section 3.3).

    Attributes:
        level: one gamma a vertical (``group``) or one a ``label``.
        trainable: whether gamma is learned.
        init: of gamma: ``sqrt`` of the labels in the vertical, or a number.
        bias: of a label: ``inside`` the normalised logits, as the paper words it, or ``after`` the
            scaling, where it can say that a label is rare.
        log: whether a trainable gamma is learned by its logarithm: a step changes it by a share of
            what it is.
    """

    level: Literal["group", "label"] = "group"
    trainable: bool = True
    init: Literal["sqrt"] | float = "sqrt"
    bias: Literal["inside", "after"] = "after"
    log: bool = True


@dataclass(frozen=True)
class Student:
    """One row of the comparison.

    Attributes:
        kind: of the top layers (figure 3).
        distilled: trained on the teachers' soft targets, or on the labels as annotated.
        generic: share of the second layer's units that all verticals read (table 3).
        pacing: self-paced scaling; None for none.
        verticals: the given ones, or those that the generalist's confusions show.
    """

    kind: Kind
    distilled: bool = True
    generic: float = 0.0
    pacing: Pacing | None = None
    verticals: Literal["given", "found"] = "given"


# The five settings of figure 5, by their numbers there.
_SETTINGS = {
    "": Pacing(),  # 4
    "_label": Pacing("label"),  # 5
    "_fixed": Pacing(trainable=False),  # 1
    "_10": Pacing(init=10.0),  # 2
    "_label_10": Pacing("label", init=10.0),  # 3
}
STUDENTS: dict[str, Student] = {
    "generalist": Student("fc_fc", distilled=False),
    "sc_sc_annotated": Student("sc_sc", distilled=False),
    "fc_fc": Student("fc_fc"),
    "fc_sc": Student("fc_sc"),
    "sc_sc": Student("sc_sc"),
    **{f"fc_sc_generic_{x}": Student("fc_sc", generic=x / 100) for x in (25, 50, 75)},
    **{f"paced{name}": Student("fc_sc", pacing=pacing) for name, pacing in _SETTINGS.items()},
    **{
        f"worded{name}": Student("fc_sc", pacing=replace(pacing, bias="inside", log=False))
        for name, pacing in _SETTINGS.items()
    },
    "found": Student("fc_sc", verticals="found"),
    "found_paced": Student("fc_sc", pacing=Pacing(), verticals="found"),
}


@dataclass(frozen=True)
class StudentsConfig:
    """The students and their training.

    Attributes:
        rows: which of the comparison's rows are trained; by default all but four of the five
            settings of self-pacing as worded.
        keep: the row whose student of the first seed is saved; ``paced`` if it is trained, or else
            the last one on given verticals, by default.
        top1: units of the first layer, s1; of each vertical in SC-SC.
        top2: units of the second layer, s2, that the labels of a vertical read.
        ancestors: whether students learn the nodes above the labels as well, which teachers know
            by label smearing, and name them like any label (figure 6).
        initial_bias: of logits that are not paced: -6 says that each label is rare.
        training: on frozen features; an epoch sees each augmented pass once.
        processes: that train students side by side; by default one for each GPU, or else for each
            thread that PyTorch would use.
    """

    rows: tuple[str, ...] = tuple(row for row in STUDENTS if not row.startswith("worded_"))
    keep: str | None = None
    top1: int = 256
    top2: int = 16
    ancestors: bool = False
    initial_bias: float = -6.0
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=1, batch_size=64, lr=0.15, optimizer="adagrad", weight_decay=1e-4, log_every=50
        )
    )
    processes: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "top1", "top2", "processes", least=1)
        check_training(training=self.training)
        unknown = [row for row in self.rows if row not in STUDENTS]
        if unknown or not self.rows:
            raise ValueError(
                f"rows must be some of {', '.join(STUDENTS)}, got "
                + (repr(unknown[0]) if unknown else "none")
            )
        if self.keep is not None and self.keep not in self.rows:
            raise ValueError(f"keep must be one of the rows, got {self.keep!r}")

    @property
    def kept(self) -> str:
        """The row whose student is saved."""
        given = [row for row in self.rows if STUDENTS[row].verticals == "given"]
        return self.keep or ("paced" if "paced" in given else [*self.rows, *given][-1])


def build_head(
    student: Student,
    features: int,
    config: StudentsConfig,
    grouping: Grouping,
    prior: Tensor | None = None,
) -> TopLayers:
    """New top layers, whose biases say that labels are rare.

    Args:
        student: which.
        features: columns that the head reads.
        config: widths and the initial bias of logits that are not paced.
        grouping: the verticals.
        prior: ``[labels]``, the mean of each label's targets in training, whose log-odds are what
            the biases of paced logits start from; None where weights will be loaded.
    """
    if prior is None:
        prior = torch.zeros(grouping.num_labels)
    log_odds = torch.logit(prior.double().clamp(1e-6, 0.5)).float()
    log_odds = log_odds[torch.from_numpy(grouping.permutation)]
    pacing = None
    if (paced := student.pacing) is not None:
        pacing = SelfPacedLogits(
            grouping.sizes.tolist(),
            paced.level,
            paced.trainable,
            paced.init,
            label_bias=log_odds if paced.bias == "after" else None,
            log=paced.log and paced.trainable,
        )
    widths = features, config.top1, config.top2, grouping
    if student.kind == "fc_sc":
        generic = round(student.generic * config.top2)
        head = fc_sc(*widths, generic=generic, pacing=pacing)
    else:
        head = (fc_fc if student.kind == "fc_fc" else sc_sc)(*widths, pacing=pacing)
    bias = head.logits.bias
    assert bias is not None
    with torch.no_grad():
        if pacing is None:
            bias.fill_(config.initial_bias)
        elif pacing.label_bias is None:
            bias.copy_(log_odds)
        else:
            bias.zero_()
    return head


def feature_batches(
    features: Tensor, targets: SparseTargets
) -> Iterator[tuple[Tensor, SparseTargets]]:
    """Features ``[N, ...]`` and the labels of their rows, batch by batch."""
    for rows in torch.arange(len(features)).split(BATCH):
        yield features[rows], targets.select(rows)


def measure(
    network: nn.Module, batches: Iterable[tuple[Tensor, SparseTargets]], grouping: Grouping
) -> dict[str, Any]:
    """The metrics of a network whose first labels are those of ``grouping``."""

    def scores() -> Iterator[tuple[Tensor, SparseTargets]]:
        for inputs, targets in batches:
            with torch.no_grad():
                logits = network(inputs)
            yield logits[:, : grouping.num_labels], targets

    network.eval()
    return evaluate_verticals(scores(), grouping)
