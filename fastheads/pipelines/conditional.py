"""Accuracy against cost where only some groups are evaluated (paper 000, section 6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastheads.metrics import evaluate
from fastheads.nn import AugmentedClassifier, ConditionalClassifier, GroupHeads
from fastheads.nn.group_heads import group_macs
from fastheads.pipelines.frozen import Frozen

ROWS = ("confusions", "randomized_confusions")


@torch.no_grad()
def conditional_rows(
    base: nn.Linear,
    tops: dict[str, AugmentedClassifier],
    test: Frozen,
    macs_below: int,
    softmax: bool = False,
) -> list[dict[str, Any]]:
    """For learned and random groups: metrics, recall and executed multiply-adds by groups chosen.

    Args:
        base: the classifier before augmentation, which chooses the groups.
        tops: the augmented classifiers by row.
        test: outputs of the frozen layers on the test pictures.
        macs_below: multiply-adds of everything below the classifier.
        softmax: the base was trained by softmax cross-entropy.
    """
    out = []
    for row in ROWS:
        groups = tops[row].heads[0].grouping.num_groups
        for chosen in sorted({1, 2, 3, groups} & set(range(1, groups + 1))):
            conditional = ConditionalClassifier(base, tops[row], chosen, softmax).eval()
            metrics = evaluate(_dense(conditional, test, base.out_features), base.out_features)
            recall, macs = _recall_and_macs(conditional, test)
            out.append(
                {
                    "grouping": row,
                    "groups": chosen,
                    "of": groups,
                    **metrics,
                    "recall": recall,
                    "macs": round(macs_below + macs),
                }
            )
    return out


def _dense(conditional: ConditionalClassifier, test: Frozen, num_labels: int):
    """Scores of all labels for the metrics, -inf where a label was not evaluated."""
    for features, hidden, rows in test.batches(first_pass_only=True):
        logits, labels = conditional(features, hidden)
        scores = logits.new_full((len(rows), num_labels), -torch.inf)
        # Padding repeats label 0 at -inf: the larger value stays.
        scores.scatter_reduce_(1, labels, logits, "amax")
        yield scores, test.targets.select(rows)


def _recall_and_macs(conditional: ConditionalClassifier, test: Frozen) -> tuple[float, float]:
    """How often a label's group is among the chosen, and the mean multiply-adds of the top."""
    heads = conditional.heads
    assert isinstance(heads, GroupHeads)
    cost = torch.tensor(
        [
            group_macs(heads, g) + int(size) * conditional.classifier.in_features
            for g, size in enumerate(heads.grouping.sizes)
        ],
        dtype=torch.float64,
    )
    group_of = torch.from_numpy(heads.grouping.group_of)
    hits, macs, images = 0, 0.0, 0
    for _, hidden, rows in test.batches(first_pass_only=True):
        chosen: Tensor = conditional.group_mass(hidden).topk(conditional.num_chosen, 1).indices
        targets = test.targets.select(rows)
        group = group_of[targets.indices, None]
        right = ((chosen[targets.row_indices()] == group) | (group < 0)).any(1)
        hit = torch.zeros(len(rows), dtype=torch.bool)
        hit[targets.row_indices()[right]] = True
        hits += int(hit.sum())
        macs += float(cost[chosen].sum())
        images += len(rows)
    everything = conditional.num_chosen == heads.grouping.num_groups  # then nothing is chosen
    choosing = 0 if everything else conditional.base.weight.numel()
    ungrouped = len(group_of) - conditional.bounds[-1]
    return hits / images, choosing + macs / images + ungrouped * conditional.base.in_features
