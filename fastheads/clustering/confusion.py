"""Counts which labels a network confuses, over any number of batches and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .. import _C
from ..ops import topk_co_detection_, topk_confusion_, topk_indices
from ..targets import SparseTargets
from .sorted_pairs import SortedPairs

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Rows are counted many at a time: a row of counts is then fetched once for all of them.
_BUFFERED = 1 << 22
_INT32_SAMPLES = 2**31 - 1


class ConfusionCounts:
    """Exact counts of confusions or co-detections over a hold-out set.

    With ``M[i]`` the indicator of label ``i`` among the top ``k`` and ``g[j]`` that of annotation
    ``j``, a batch adds ``sum M[i] g[j]`` (``confusion``, eq. 3) or ``sum M[i] M[j]``
    (``co_detection``, eq. 4) over its samples to entry ``[i, j]``.
    Warde-Farley, Rabinovich, Anguelov, "Self-informed neural network structure learning", 2015.

    Counts are dense while ``[num_labels, num_labels]`` int32 fits ``memory_limit`` (int64 from 2^31
    samples on, at twice the memory); beyond, they are sparse. On the CPU those take at most 48
    bytes a pair that occurred and, while counting, 12 bytes for each of at most ``2^19 (k + 1)``
    more pairs (640 MB at ``k=100``); on a GPU at most 32 bytes a pair, and about as many again
    three times while runs are merged. Up to 34 MB of top labels wait to be counted together.

    Args:
        num_labels: size of the label space.
        k: how many of the best labels of a sample count as detected.
        kind: ``confusion`` or ``co_detection``.
        memory_limit: bytes that a dense matrix may take.
        device: where the counts lie.

    Raises:
        ValueError: if an argument is out of range.

    Example::

        counts = ConfusionCounts(num_labels=5547, k=20)
        for inputs, targets in loader:
            counts.update(model(inputs), targets)
        a = counts.matrix() / counts.num_samples
    """

    def __init__(
        self,
        num_labels: int,
        k: int = 100,
        kind: Literal["confusion", "co_detection"] = "confusion",
        *,
        memory_limit: int = 2**30,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}")
        if not 1 <= k <= num_labels:
            raise ValueError(f"k must be between 1 and the {num_labels} labels, got {k}")
        if kind not in ("confusion", "co_detection"):
            raise ValueError(f"kind must be 'confusion' or 'co_detection', got {kind!r}")
        self.num_labels, self.k, self.kind = num_labels, k, kind
        self.num_samples = 0
        self._device = torch.device(device)
        self._dense: Tensor | None = None
        self._pairs = self._no_pairs()
        if 4 * num_labels**2 <= memory_limit:
            self._dense = torch.zeros(num_labels, num_labels, dtype=torch.int32, device=device)
        self._tops: list[Tensor] = []
        self._targets: list[SparseTargets] = []

    def update(self, scores: Tensor, targets: SparseTargets | None = None) -> None:
        """Counts one batch.

        Args:
            scores: ``[N, num_labels]``, floating.
            targets: the annotations of the N samples; not needed for co-detections.

        Raises:
            ValueError: if the shapes do not fit or targets are missing.
        """
        if scores.ndim != 2 or scores.shape[1] != self.num_labels:
            raise ValueError(f"scores must be [N, {self.num_labels}], got {list(scores.shape)}")
        self.update_top(topk_indices(scores.detach(), self.k), targets)

    def update_top(self, top: Tensor, targets: SparseTargets | None = None) -> None:
        """Counts one batch whose best labels are known.

        Args:
            top: ``[N, k]``, int64, distinct labels in each row.
            targets: as in :meth:`update`.
        """
        if top.ndim != 2 or top.shape[1] != self.k:
            raise ValueError(f"top must be [N, {self.k}], got {list(top.shape)}")
        if self.kind == "confusion":
            if targets is None:
                raise ValueError("targets must be given to count confusions, got None")
            if targets.num_rows != len(top):
                raise ValueError(
                    f"targets must have one row for each of the {len(top)} samples, "
                    f"got {targets.num_rows} rows"
                )
            self._check_annotation(targets)
            self._targets.append(
                SparseTargets(
                    *(part.to(self._device) for part in (targets.indices, targets.offsets))
                )
            )
        self._tops.append(top.to(self._device))
        self.num_samples += len(top)
        if sum(waiting.numel() for waiting in self._tops) >= _BUFFERED:
            self._flush()

    def merge(self, other: ConfusionCounts) -> None:
        """Adds the counts of ``other``, for instance of another rank or shard."""
        for name in ("num_labels", "k", "kind"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"other must have {name}={mine!r}, got {theirs!r}")
        other._flush()
        self._flush()
        self.num_samples += other.num_samples
        if self._dense is None:
            self._pairs.add_run(*other._rows())
        else:
            self._widen()
            if other._dense is not None:
                self._dense += other._dense.to(self._device)
            else:
                offsets, columns, counts = map(torch.from_numpy, other._rows())
                rows = torch.arange(self.num_labels).repeat_interleave(offsets.diff())
                where = (rows * self.num_labels + columns).to(self._device)
                counts = counts.to(self._device, self._dense.dtype)
                self._dense.view(-1).index_add_(0, where, counts)

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Replaces the counts on every rank by their sum over the ranks; once, after counting.

        Does nothing where ``torch.distributed`` is not initialised.

        Args:
            group: the ranks, all by default; gloo or NCCL.

        Raises:
            ValueError: if the counts of the ranks have different settings.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        self._flush()
        settings = {name: getattr(self, name) for name in ("num_labels", "k", "kind")}
        mine = ({**settings, "dense": self._dense is not None}, self.num_samples)
        gathered = [mine] * dist.get_world_size(group)
        dist.all_gather_object(gathered, mine, group=group)
        for rank, (theirs, _) in enumerate(gathered):
            if theirs != mine[0]:
                raise ValueError(f"counts of rank {rank} must be {mine[0]}, got {theirs}")
        self.num_samples = sum(samples for _, samples in gathered)
        # NCCL carries only what lies on a GPU.
        onto_gpu = self._device.type == "cpu" and dist.get_backend(group) == "nccl"
        carrier = torch.device("cuda") if onto_gpu else self._device
        if self._dense is not None:
            self._widen()
            summed = self._dense.to(carrier)
            dist.all_reduce(summed, group=group)
            self._dense = summed.to(self._device)
        else:
            own = [torch.from_numpy(part).to(carrier) for part in self._rows()]
            for source in range(len(gathered)):
                if source == dist.get_rank(group):
                    _broadcast(own, source, group)
                else:
                    empty = [torch.empty_like(own[0]), own[1].new_empty(0), own[2].new_empty(0)]
                    run = _broadcast(empty, source, group)
                    self._pairs.add_run(*(part.cpu().numpy() for part in run))

    def matrix(self) -> csr_array:
        """The counts, ``[num_labels, num_labels]``, int64.

        Returns:
            Row ``i`` is the detected label; column ``j`` the annotated one, or the other detected
            one (then symmetric, the diagonal being how often a label was detected).
        """
        from scipy import sparse

        self._flush()
        offsets, columns, counts = self._rows()
        counted = sparse.csr_array((counts, columns, offsets), (self.num_labels, self.num_labels))
        if self.kind == "co_detection":
            counted = (counted + sparse.triu(counted, 1, format="csr").T).tocsr()
        return counted

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue counting, as tensors and numbers."""
        self._flush()
        state = {name: getattr(self, name) for name in ("num_labels", "k", "kind", "num_samples")}
        if self._dense is not None:
            return {**state, "dense": self._dense}
        names = ("offsets", "columns", "counts")
        return {
            **state,
            **dict(zip(names, map(torch.from_numpy, self._pairs.merged()), strict=True)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replaces all counts by those of a :meth:`state_dict` of the same settings."""
        for name in ("num_labels", "k", "kind"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"state must have {name}={getattr(self, name)!r}, got {state[name]!r}"
                )
        if ("dense" in state) != (self._dense is not None):
            raise ValueError("state must come from counts that were dense or sparse like these")
        self._tops, self._targets = [], []
        self.num_samples = state["num_samples"]
        if self._dense is not None:
            self._dense = state["dense"].to(self._device, copy=True)
        else:
            self._pairs = self._no_pairs()
            run = (state[name].cpu().numpy() for name in ("offsets", "columns", "counts"))
            self._pairs.add_run(*run)

    def _check_annotation(self, targets: SparseTargets) -> None:
        bad = ((targets.indices < 0) | (targets.indices >= self.num_labels)).nonzero()
        if len(bad):
            row = int(torch.searchsorted(targets.offsets, bad[0], right=True)) - 1
            raise ValueError(
                f"targets must hold labels from 0 to {self.num_labels - 1}, "
                f"got {int(targets.indices[bad[0]])} in row {row}"
            )

    def _flush(self) -> None:
        if not self._tops:
            return
        top = torch.cat(self._tops)
        targets = _concatenate(self._targets) if self._targets else None
        if self._dense is not None:
            self._widen()
            if targets is None:
                topk_co_detection_(self._dense, top)
            else:
                topk_confusion_(self._dense, top, targets.indices, targets.offsets)
        else:
            parts = (top,) if targets is None else (top, targets.indices, targets.offsets)
            add = "add_co_detection" if targets is None else "add_confusion"
            if isinstance(self._pairs, SortedPairs):
                getattr(self._pairs, add)(*parts)
            else:
                arrays = (part.numpy() for part in parts)
                getattr(self._pairs, add)(*arrays, torch.get_num_threads())
        self._tops, self._targets = [], []

    def _no_pairs(self) -> _C.PairCounts | SortedPairs:
        if self._device.type == "cpu":
            return _C.PairCounts(self.num_labels)
        return SortedPairs(self.num_labels, self._device)

    def _widen(self) -> None:
        """Keeps a cell, which gains at most 1 a sample, from passing 2^31 - 1."""
        if self._dense is not None and self.num_samples > _INT32_SAMPLES:
            self._dense = self._dense.to(torch.int64)

    def _rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What was counted, by rows: offsets ``[labels + 1]``, columns int32, counts int64."""
        if self._dense is None:
            return self._pairs.merged()
        # Rows in blocks, so that what nonzero() makes on the way stays small.
        columns, counts, sizes = [], [], [np.zeros(1, np.int64)]
        for block in self._dense.split(max(1, (1 << 24) // self.num_labels)):
            cells = block.cpu().numpy()
            rows, cols = cells.nonzero()
            columns.append(cols.astype(np.int32))
            counts.append(cells[rows, cols].astype(np.int64))
            sizes.append(np.bincount(rows, minlength=len(cells)))
        return np.concatenate(sizes).cumsum(), np.concatenate(columns), np.concatenate(counts)


def _broadcast(run: list[Tensor], source: int, group: dist.ProcessGroup | None) -> list[Tensor]:
    """The sparse counts of rank ``source``: offsets, columns, counts; ``run`` there."""
    offsets, *entries = run
    dist.broadcast(offsets, group_src=source, group=group)
    entries = [part.resize_(int(offsets[-1])) for part in entries]
    for part in entries:
        dist.broadcast(part, group_src=source, group=group)
    return [offsets, *entries]


def _concatenate(parts: list[SparseTargets]) -> SparseTargets:
    counts = torch.cat([part.counts for part in parts])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SparseTargets(torch.cat([part.indices for part in parts]), offsets)
