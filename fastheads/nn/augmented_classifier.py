"""A classifier with auxiliary heads beside it, evaluated whole or only where it points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.nn.group_heads import GroupHeads


class AugmentedClassifier(nn.Module):
    """``classifier(hidden) + sum of heads(features)``.

    Warde-Farley, Rabinovich, Anguelov, "Self-informed neural network structure learning", 2015,
    section 2: stacks of fully connected layers in parallel with the existing stack.

    Args:
        classifier: the network's last layer, ``[N, hidden]`` to ``[N, labels]``.
        heads: one set of heads a round of augmentation; none leaves the classifier as it is.
    """

    heads: Sequence[GroupHeads]

    def __init__(self, classifier: nn.Linear, heads: Iterable[GroupHeads] = ()) -> None:
        super().__init__()
        self.classifier = classifier
        self.heads = nn.ModuleList(heads)  # type: ignore[assignment]

    def forward(self, features: Tensor, hidden: Tensor) -> Tensor:
        """Logits ``[N, labels]``."""
        logits = self.classifier(hidden)
        for heads in self.heads:
            logits = logits + heads(features)
        return logits

    def grouped(self, features: Tensor, hidden: Tensor) -> Tensor:
        """The same logits with the labels in the group order of the last heads.

        Training in this order spares permuting ``[N, labels]`` logits and their gradient: the
        rows of the classifier and the targets are permuted instead.
        """
        if not self.heads:
            return self.classifier(hidden)
        *earlier, last = self.heads
        order = last.permutation
        weight, bias = self.classifier.weight[order], self.classifier.bias
        logits = F.linear(hidden, weight, None if bias is None else bias[order])
        logits = logits + last.grouped(features)
        for heads in earlier:
            logits = logits + heads(features).index_select(1, order)
        return logits


class ConditionalClassifier(nn.Module):
    """Evaluates only the heads, and only the logits, of the groups that the base points at.

    The probability mass that the base classifier gives each group chooses ``num_chosen`` groups an
    image ("conditional computation", Warde-Farley, Rabinovich, Anguelov, 2015, section 6). Labels
    in no group have no head and are always evaluated.

    Args:
        base: the classifier before augmentation, which chooses.
        augmented: the augmented classifier, with one set of heads.
        num_chosen: groups evaluated for each image.
        softmax: the base's probabilities are a softmax over labels, not one sigmoid a label.
    """

    def __init__(
        self,
        base: nn.Linear,
        augmented: AugmentedClassifier,
        num_chosen: int,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        if len(augmented.heads) != 1:
            raise ValueError(f"augmented must have one set of heads, got {len(augmented.heads)}")
        heads = augmented.heads[0]
        groups = heads.grouping.num_groups
        if not 1 <= num_chosen <= groups:
            raise ValueError(f"num_chosen must be 1 to {groups}, got {num_chosen}")
        self.heads, self.num_chosen, self.softmax = heads, num_chosen, softmax
        self.bounds = heads.grouping.offsets.tolist()
        self.widest = int(heads.grouping.sizes.max())
        order = heads.permutation
        self.base = _permuted(base, order)
        self.classifier = _permuted(augmented.classifier, order)

    def group_mass(self, hidden: Tensor) -> Tensor:
        """``[N, groups]``: the sum of the base's label probabilities over each group."""
        logits = self.base(hidden)
        probabilities = logits.softmax(1) if self.softmax else logits.sigmoid()
        masses = [
            probabilities[:, a:b].sum(1)
            for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)
        ]
        return torch.stack(masses, 1)

    def forward(self, features: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the chosen groups.

        Returns:
            Logits ``[N, num_chosen * widest + ungrouped]``, -inf where a group has fewer labels
            than the widest, and the label of each, int64, in the same shape.
        """
        chosen = self.group_mass(hidden).topk(self.num_chosen, 1).indices
        shape, free = (len(hidden), self.num_chosen, self.widest), self.bounds[-1]
        rest = F.linear(hidden, self.classifier.weight[free:], self.classifier.bias[free:])
        logits = rest.new_full(shape, -torch.inf)  # autocast has a dtype of its own
        labels = self.heads.permutation.new_zeros(shape)
        for group in chosen.unique().tolist():
            rows, slot = (chosen == group).nonzero(as_tuple=True)
            a, b = self.bounds[group], self.bounds[group + 1]
            weight, bias = self.classifier.weight[a:b], self.classifier.bias[a:b]
            part = F.linear(hidden[rows], weight, bias) + self.heads.head(group, features[rows])
            logits[rows, slot, : b - a] = part
            labels[rows, slot, : b - a] = self.heads.permutation[a:b]
        logits = torch.cat([logits.flatten(1), rest], 1)
        free_labels = self.heads.permutation[free:].expand(len(hidden), -1)
        return logits, torch.cat([labels.flatten(1), free_labels], 1)


def _permuted(classifier: nn.Linear, order: Tensor) -> nn.Linear:
    out = nn.Linear(classifier.in_features, len(order))
    with torch.no_grad():
        out.weight.copy_(classifier.weight[order])
        out.bias.copy_(classifier.bias[order] if classifier.bias is not None else 0)
    return out.to(classifier.weight)
