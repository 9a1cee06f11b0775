"""Teachers, a specialist for each vertical, and what they say about a picture.

Gao, Guo, Li, Nevatia, "Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN",
2017, arXiv:1711.07607, section 3.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastheads.data import Normalize
from fastheads.hierarchy import Hierarchy
from fastheads.labels import Grouping, join_names
from fastheads.ops import topk_indices
from fastheads.targets import SparseTargets

BATCH = 128  # pictures at a time in a teacher


class Prepare(nn.Module):
    """From normalised pictures to those that a network of another kind takes.

    Args:
        size: height and width; ``None`` keeps them.
        channels: 3 repeats gray, 1 takes the luma of RGB.
        normalize: the normalisation that the network expects.
        from_normalize: the normalisation that the pictures come in.

    Shapes: ``[N, C, H, W]`` to ``[N, channels, size, size]``, floating.
    """

    def __init__(
        self, size: int | None, channels: int, normalize: Normalize, from_normalize: Normalize
    ) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        self.size, self.channels = size, channels
        self.normalize, self.from_normalize = normalize, from_normalize

    def forward(self, images: Tensor) -> Tensor:
        images = self.from_normalize.invert(images)
        if images.shape[1] == 3 and self.channels == 1:
            luma = images.new_tensor([0.2989, 0.587, 0.114]).view(-1, 1, 1)
            images = (images * luma).sum(1, keepdim=True)
        elif images.shape[1] != self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            size = [self.size, self.size]
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return self.normalize(255 * images)

    def extra_repr(self) -> str:
        return f"{self.size}, {self.channels}, {self.normalize}, {self.from_normalize}"


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network that knows the labels of one vertical.

    Attributes:
        name: of the vertical.
        network: from prepared pictures to logits ``[n, outputs]``.
        labels: ``[outputs]``, int64, the student's label of each output; -1 for an output that the
            student has no label for.
        prepare: from the run's normalised pictures to those of the network; ``None`` if they are
            the same.
    """

    name: str
    network: nn.Module
    labels: Tensor
    prepare: nn.Module | None = None


class Teachers:
    """One teacher a vertical, which together give the soft targets of any picture (eq. 2).

    The networks are put into eval mode, onto ``device``.

    Args:
        teachers: one for each group, in the order of ``grouping``.
        grouping: the verticals of the labels; F_map of the paper.
        top_k: K, the most probable labels of a teacher that are kept; all of them for a vertical
            that has fewer.
        hierarchy: what its labels stand above, teachers need not know; otherwise a teacher must
            know every label of its vertical.
        device: that the networks run on; by default the GPU, if there is one.

    Raises:
        ValueError: if teachers and verticals do not match, or ``top_k`` is above the labels of
            the largest vertical.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        grouping: Grouping,
        top_k: int = 100,
        hierarchy: Hierarchy | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        names = [teacher.name for teacher in teachers]
        for name, vertical in zip(names, grouping.names, strict=False):
            if name != vertical:
                raise ValueError(
                    f"teachers must be in the order of the verticals, got {name!r} for {vertical!r}"
                )
        if len(names) != grouping.num_groups:
            raise ValueError(
                f"teachers must be one for each of the {grouping.num_groups} verticals, "
                f"got {len(names)}"
            )
        if not 1 <= top_k <= grouping.sizes.max(initial=0):
            raise ValueError(
                f"top_k must be 1 to the {grouping.sizes.max(initial=0)} labels of the largest "
                f"vertical, got {top_k}"
            )
        optional = hierarchy.ancestors.indices.unique() if hierarchy else torch.empty(0)
        for group, teacher in enumerate(teachers):
            _check_labels(teacher, group, grouping, set(optional.tolist()))
        self.teachers, self.grouping, self.top_k = tuple(teachers), grouping, top_k
        gpu = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device or gpu)
        for teacher in self.teachers:
            teacher.network.eval().to(self.device)
            if teacher.prepare is not None:
                teacher.prepare.to(self.device)
        self.group_of = torch.from_numpy(grouping.group_of)

    @torch.no_grad()
    def __call__(self, images: Tensor, targets: SparseTargets) -> SparseTargets:
        """Soft targets: for each vertical that a row has a label in, its teacher's top K labels.

        Args:
            images: ``[n, C, H, W]``, floating, normalised as the run does.
            targets: the labels that the rows are annotated with; those in no vertical ask nobody.

        Returns:
            Labels ascending in each row, and their probabilities, float32, on the CPU.
        """
        keys, values = [], []
        for teacher, rows, logits in self.asked(images, targets):
            known = (teacher.labels >= 0).nonzero().squeeze(1)
            if len(known) < len(teacher.labels):
                logits = logits.index_select(1, known.to(logits.device))
            best = topk_indices(logits, min(self.top_k, known.numel()))
            values.append(logits.gather(1, best).sigmoid().cpu().flatten())
            labels = teacher.labels[known][best.cpu()]
            keys.append((rows[:, None] * self.grouping.num_labels + labels).flatten())
        key = torch.cat([torch.empty(0, dtype=torch.int64), *keys])
        key, order = key.sort()
        counts = torch.bincount(key // self.grouping.num_labels, minlength=targets.num_rows)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        probabilities = torch.cat([torch.empty(0), *values])[order]
        return SparseTargets(key % self.grouping.num_labels, offsets, probabilities)

    def mass_kept(self, images: Tensor, targets: SparseTargets) -> float:
        """The share of all probabilities for labels of the student that the top K hold."""
        with torch.no_grad():
            whole = sum(
                float(logits[:, (teacher.labels >= 0).to(logits.device)].sigmoid().sum())
                for teacher, _, logits in self.asked(images, targets)
            )
        values = self(images, targets).values
        return float("nan") if values is None or not whole else float(values.sum()) / whole

    @cached_property
    def fingerprint(self) -> str:
        """Differs where the soft targets of any picture might: weights, labels, verticals, K."""
        found = hashlib.sha256(f"{self.top_k} {self.grouping.names}".encode())
        found.update(self.grouping.group_of.tobytes())
        for teacher in self.teachers:
            found.update(f"{type(teacher.network).__qualname__} {teacher.prepare}".encode())
            found.update(teacher.labels.numpy().tobytes())
            for key, tensor in teacher.network.state_dict().items():
                found.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                found.update(flat.view(torch.uint8).numpy().data)
        return found.hexdigest()

    def asked(
        self, images: Tensor, targets: SparseTargets
    ) -> Iterator[tuple[Teacher, Tensor, Tensor]]:
        """Each teacher that is asked, the rows that ask it, and its float32 logits of them."""
        targets = targets.to("cpu")
        group, row = self.group_of[targets.indices], targets.row_indices()
        for number, teacher in enumerate(self.teachers):
            rows = row[group == number].unique()
            if not rows.numel():
                continue
            parts = []
            for some in rows.split(BATCH):
                inputs = images[some.to(images.device)].to(self.device)
                if teacher.prepare is not None:
                    inputs = teacher.prepare(inputs)
                parts.append(teacher.network(inputs).float())
            logits = torch.cat(parts)
            if logits.shape[1:] != teacher.labels.shape:
                raise ValueError(
                    f"teacher {teacher.name!r} must give {teacher.labels.numel()} logits, one for "
                    f"each of its labels, got {list(logits.shape[1:])}"
                )
            yield teacher, rows, logits


def _check_labels(teacher: Teacher, group: int, grouping: Grouping, optional: set[int]) -> None:
    """Raises ValueError unless the teacher's labels are those of its vertical."""
    labels = [label for label in teacher.labels.tolist() if label >= 0]
    members = set(grouping.members(group).tolist())
    foreign = [label for label in labels if label not in members]
    missing = sorted(members - set(labels) - optional)
    problem = ""
    if foreign:
        problem = f"labels of its vertical only, got label {foreign[0]} from elsewhere"
    elif len(set(labels)) < len(labels):
        problem = "one output for a label, got several"
    elif missing:
        shown = join_names([str(label) for label in missing])
        problem = f"all {len(members)} labels of its vertical, got no output for {shown}"
    if problem:
        raise ValueError(f"teacher {teacher.name!r} must have {problem}")
