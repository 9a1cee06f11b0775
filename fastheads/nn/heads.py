"""The top layers of a network over many labels: full, or structurally connected to groups."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.labels import Grouping
from fastheads.nn.group_ordered import GroupOrdered
from fastheads.nn.sc_linear import SCLinear
from fastheads.nn.self_paced import SelfPacedLogits
from fastheads.ops import sc_sigmoid_loss
from fastheads.targets import SparseTargets, may_be_read


class TopLayers(GroupOrdered):
    """``logits(relu(top2(relu(top1(features)))))``: two layers below the logits of all labels.

    Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single
    CNN", 2017, arXiv:1711.07607, section 3.2 and figure 3. The four heads of the figure are made by
    :func:`fc_fc`, :func:`fc_sc` and :func:`sc_sc`.

    Inside, labels are in group order, so that each group is one block of columns; the labels that
    come in with targets and go out with logits are those of the grouping.

    Args:
        top1: features to s1 units, or s1 a group.
        top2: to s2 units, or s2 a group; the first ``logits.generic`` units are for all groups.
        logits: to the labels, group by group.
        grouping: the groups of the labels; each label is in one.
        pacing: normalises the logits within each group (section 3.3); ``None`` leaves them.
        initial_bias: of the logits, in place of one near 0: -6 says that each label is rare.
        loss_every: :meth:`loss` computes its value in one of so many calls that train.

    Shapes: features ``[N, features]`` to logits ``[N, labels]``.
    """

    def __init__(
        self,
        top1: nn.Linear,
        top2: nn.Linear | SCLinear,
        logits: SCLinear,
        grouping: Grouping,
        *,
        pacing: SelfPacedLogits | None = None,
        initial_bias: float | None = None,
        loss_every: int = 1,
    ) -> None:
        super().__init__(grouping)
        _check_grouping(grouping)
        sizes = tuple(grouping.sizes.tolist())
        for name, given in (("logits", logits), ("pacing", pacing)):
            if given is not None and given.out_sizes != sizes:
                raise ValueError(f"{name} must have out_sizes of the grouping, got others")
        if loss_every < 1:
            raise ValueError(f"loss_every must be at least 1, got {loss_every}")
        self.top1, self.top2, self.logits, self.pacing = top1, top2, logits, pacing
        self.loss_every, self._calls = loss_every, 0
        self._last_loss: Tensor | None = None
        if initial_bias is not None:
            if logits.bias is None:
                raise ValueError("initial_bias must be None for logits without bias, got a number")
            nn.init.constant_(logits.bias, initial_bias)
        # torch.compile does not read the arrays of a grouping.
        self.in_label_order = bool((self.permutation.diff() > 0).all())
        self._order_on(logits.weight.device)

    def hidden(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the logits read: the units of the groups, and the generic ones if there are any."""
        units = F.relu(self.top2(F.relu(self.top1(features))))
        generic = self.logits.generic
        return (units[:, generic:], units[:, :generic]) if generic else (units, None)

    def grouped(self, features: Tensor) -> Tensor:
        """Logits ``[N, labels]`` with the labels in group order."""
        x, generic = self.hidden(features)
        logits = self.logits(x, generic)
        return logits if self.pacing is None else self.pacing(logits)

    def forward(self, features: Tensor) -> Tensor:
        logits = self.grouped(features)
        return logits if self.in_label_order else logits.index_select(1, self.position)

    def loss(
        self,
        features: Tensor,
        targets: SparseTargets,
        *,
        label_weights: Tensor | None = None,
        reduction: str = "mean_rows",
        scratch_bytes: int | None = None,
    ) -> Tensor:
        """Sigmoid cross-entropy of the logits (eq. 2), which are never held all at once.

        Args:
            features: ``[N, features]``.
            targets: labels of the grouping; values, if any, are soft targets.
            label_weights: ``[labels]``, floating; 0 for a label to ignore.
            reduction: ``mean_rows`` sums over labels and averages over rows, ``mean`` averages over
                both, ``sum`` sums over both.
            scratch_bytes: of logits held at a time; see ``fastheads.ops.sc_sigmoid_loss``.

        Returns:
            A scalar. Its gradient is always that of this call; with ``loss_every`` above 1 its
            value, while gradients are recorded, is that of the last call that computed one
            (compiled, all do: a counter would be compiled anew for each of its values).

        Raises:
            ValueError: if a label is unknown; on CUDA, which is not waited for, the loss is NaN.
            RuntimeError: if a row has a label twice; likewise.

        ``DistributedDataParallel`` must wrap a module whose forward calls this.
        """
        x, generic = self.hidden(features)
        counted = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        with_loss = not counted or self._calls == 0
        if label_weights is not None and not self.in_label_order:
            label_weights = label_weights[self.permutation]
        weight, bias = self.logits.weight, self.logits.bias
        loss = sc_sigmoid_loss(
            x,
            weight.to(x.dtype),  # that of autocast, in its range
            None if bias is None else bias.to(x.dtype),
            self.group_targets(targets),
            self.logits.in_offsets,
            self.logits.out_offsets,
            generic=generic,
            normalize=self.pacing is not None,
            gamma=None if self.pacing is None else self.pacing.factors,
            gamma_per_label=self.pacing is not None and self.pacing.level == "label",
            label_bias=None if self.pacing is None else self.pacing.label_bias,
            label_weights=label_weights,
            reduction=reduction,
            scratch_bytes=scratch_bytes,
            with_loss=with_loss,
        )
        if self.loss_every == 1 or not counted:
            return loss
        self._calls = (self._calls + 1) % self.loss_every
        if with_loss:
            self._last_loss = loss.detach()
            return loss
        assert self._last_loss is not None
        return loss - loss.detach() + self._last_loss

    def group_targets(self, targets: SparseTargets) -> SparseTargets:
        """The same targets with the labels numbered in group order, ascending in each row."""
        labels = targets.indices
        known = labels.clamp(0, self.logits.out_features - 1)
        checked = may_be_read(labels)
        if checked and not torch.equal(known, labels):
            where = int((known != labels).nonzero()[0])
            raise ValueError(
                f"targets must hold labels 0 to {self.logits.out_features - 1}, "
                f"got {int(labels[where])} at position {where} of indices"
            )
        if self.in_label_order:
            return targets
        # What is out of range stays so for the operator, which checks on every device.
        labels = torch.where(known == labels, self.position[known], labels)
        labels, by_label = labels.sort(stable=True)
        rows, by_row = targets.row_indices()[by_label].sort(stable=True)
        labels, order = labels[by_row], by_label[by_row]
        twice = (labels.diff() == 0) & (rows.diff() == 0) if checked else None
        if twice is not None and twice.any():  # the operator would name it by its group order
            where = int(order[1:][twice].min())
            raise ValueError(
                f"targets must be distinct within a row, "
                f"got {int(targets.indices[where])} again at position {where} of indices"
            )
        values = None if targets.values is None else targets.values[order]
        return SparseTargets(labels, targets.offsets, values)

    @torch.no_grad()
    def to_dense(self) -> nn.Sequential:
        """The same function in layers of PyTorch alone, with zeros between groups.

        For those who must do without this package: with M groups the weights of the logits take M
        times the memory (and time). They are copied, in the order of the labels.

        Raises:
            ValueError: of a head with pacing, which no layer of PyTorch computes.
        """
        if self.pacing is not None:
            raise ValueError("to_dense needs a head without pacing, got one with SelfPacedLogits")
        top1, top2, logits = (
            layer.to_dense() if isinstance(layer, SCLinear) else copy.deepcopy(layer)
            for layer in (self.top1, self.top2, self.logits)
        )
        logits.weight.copy_(logits.weight[self.position])
        if logits.bias is not None:
            logits.bias.copy_(logits.bias[self.position])
        return nn.Sequential(top1, nn.ReLU(), top2, nn.ReLU(), logits).train(self.training)

    @property
    def macs(self) -> int:
        """Multiply-adds of one sample: every weight once.

        Of N labels, M groups and s_b features (section 3.2)::

            fc_fc    s2 N + s2 s1 + s1 s_b
            fc_sc    s2 N + M (s2 - x) s1 + x s1 + s1 s_b    x of the s2 units generic
            sc_sc    s2 N + M s2 s1 + M s1 s_b
        """
        return self.top1.weight.numel() + self.top2.weight.numel() + self.logits.macs

    @property
    def num_parameters(self) -> int:
        """All parameters; without biases and pacing as many as :attr:`macs`, as the paper counts.

        On ``device="meta"`` a head of any size takes no memory to be counted.
        """
        return sum(parameter.numel() for parameter in self.parameters())


def fc_fc(
    features: int, top1: int, top2: int, grouping: Grouping, *, bias: bool = True,
    device: torch.device | str | None = None, dtype: torch.dtype | None = None, **options: Any,
) -> TopLayers:  # fmt: skip
    """``FC(s1)-FC(s2)``, figure 3 (a): all labels read the same units.

    Args:
        features: s_b, columns of the features.
        top1: s1, units of the first layer.
        top2: s2, units of the second.
        grouping: the groups of the labels.
        bias: whether the layers have biases.
        device: of the parameters.
        dtype: of the parameters.
        options: ``pacing``, ``initial_bias`` and ``loss_every`` of :class:`TopLayers`.
    """
    made: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
    layers = nn.Linear(features, top1, **made), nn.Linear(top1, top2, **made)
    return TopLayers(*layers, SCLinear(top2, grouping.sizes.tolist(), **made), grouping, **options)


def fc_sc(
    features: int, top1: int, top2: int, grouping: Grouping, *, generic: int = 0, bias: bool = True,
    device: torch.device | str | None = None, dtype: torch.dtype | None = None, **options: Any,
) -> TopLayers:  # fmt: skip
    """``FC(s1)-SC(s2, x)``, figure 3 (b) and (d): each group reads ``top2`` units.

    The first ``generic`` units are the same for all groups; if all are, this is :func:`fc_fc`.
    Arguments are those of :func:`fc_fc`.

    Example::

        grouping = Grouping(vertical_of_each_label)
        head = fc_sc(9216, 4096, 512, grouping, pacing=SelfPacedLogits(grouping.sizes))
        head.loss(features, targets).backward()
        logits, labels = topk_logits(head, features, 5)
    """
    if not 0 <= generic <= top2:
        raise ValueError(f"generic must be 0 to top2, {top2}, got {generic}")
    made: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
    if generic == top2:
        return fc_fc(features, top1, top2, grouping, **made, **options)
    own, groups = top2 - generic, grouping.num_groups
    layers = nn.Linear(features, top1, **made), nn.Linear(top1, generic + groups * own, **made)
    logits = SCLinear([own] * groups, grouping.sizes.tolist(), generic=generic, **made)
    return TopLayers(*layers, logits, grouping, **options)


def sc_sc(
    features: int, top1: int, top2: int, grouping: Grouping, *, bias: bool = True,
    device: torch.device | str | None = None, dtype: torch.dtype | None = None, **options: Any,
) -> TopLayers:  # fmt: skip
    """``SC(s1)-SC(s2)``, figure 3 (c): groups share nothing but the features.

    Arguments are those of :func:`fc_fc`; ``top1`` and ``top2`` are units of each group.
    """
    made: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
    groups = grouping.num_groups
    top = nn.Linear(features, groups * top1, **made)
    below = SCLinear([top1] * groups, [top2] * groups, **made)
    return TopLayers(
        top, below, SCLinear([top2] * groups, grouping.sizes.tolist(), **made), grouping, **options
    )


def _check_grouping(grouping: Grouping) -> None:
    free = grouping.num_labels - int(grouping.offsets[-1])
    if free or not grouping.num_groups:
        raise ValueError(
            "grouping must put every label into one of its groups, got "
            + (f"{free} labels in none" if free else "no group")
        )
