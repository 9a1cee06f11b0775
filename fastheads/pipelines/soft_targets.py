"""Soft targets (paper 002, eq. 2) in files: written once, then memory-mapped.

Each file holds some rows in compressed sparse row form: ``offsets`` int64, ``labels`` int32 and
``probabilities`` float16, so 8 bytes a row and 6 an entry; dense float32 takes 4 a label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastheads.targets import SparseTargets
from fastheads.training.checkpoint import check_same, write_whole

INDEX = "index.json"
FILE_ROWS = 65_536  # of a file: 40 MB at 100 entries a row, and what a killed run loses at most


class SoftTargets:
    """Soft targets of many rows, read from memory-mapped files.

    Attributes:
        folder: where the files lie.
        num_rows: rows in all files.
        entries: labels with a probability, over all rows.
        top_k: the most labels of a row; above K where rows asked several teachers.
        nbytes: size of all files.
    """

    def __init__(self, folder: Path, files: list[dict[str, Any]]) -> None:
        """Maps ``files`` of the index in ``folder``; use :func:`open_soft_targets`."""
        self.folder, self.files = folder, files
        self.entries = sum(each["entries"] for each in files)
        self.top_k = max((each["top_k"] for each in files), default=0)
        self.nbytes = sum(each["bytes"] for each in files)
        self._parts = [_map(folder / each["name"]) for each in files]
        rows = torch.tensor([0, *(each["rows"] for each in files)])
        self._starts = rows.cumsum(0)
        self.num_rows = int(self._starts[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets the names of the files, and maps them itself."""
        return SoftTargets, (self.folder, self.files)

    @property
    def bytes_per_row(self) -> float:
        return self.nbytes / max(self.num_rows, 1)

    def dense_nbytes(self, num_labels: int) -> int:
        """What a float32 matrix of the same rows would take."""
        return 4 * num_labels * self.num_rows

    def summary(self, num_labels: int) -> str:
        """Rows, size, and size against dense float32, one line."""
        return (
            f"{self.num_rows:,} rows of up to {self.top_k} labels in {len(self._parts)} files: "
            f"{self.nbytes / 1e6:,.1f} MB, {self.bytes_per_row:,.0f} bytes a row against "
            f"{4 * num_labels:,} of dense float32"
        )

    def select(self, rows: Tensor) -> SparseTargets:
        """The soft targets of ``rows`` (``[n]``, int64, any order, repeats allowed), on the CPU."""
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < self.num_rows:
            raise IndexError(
                f"rows must be 0 to {self.num_rows - 1}, got {int(rows.min())} to {int(rows.max())}"
            )
        if not rows.numel():
            return SparseTargets(rows, torch.zeros(1, dtype=torch.int64), torch.empty(0))
        file_of = torch.bucketize(rows, self._starts[1:], right=True)
        taken = [
            _take(self._parts[file], rows[file_of == file] - self._starts[file])
            for file in file_of.unique().tolist()
        ]
        labels, values, counts = (torch.cat(parts) for parts in zip(*taken, strict=True))
        by_file = SparseTargets(labels.long(), _offsets(counts), values.float())
        return by_file.select(file_of.argsort(stable=True).argsort())


def write_soft_targets(
    folder: Path,
    batches: Callable[[int], Iterable[SparseTargets]],
    identity: Mapping[str, Any],
    total_rows: int,
    *,
    file_rows: int = FILE_ROWS,
    quiet: bool = False,
) -> SoftTargets:
    """Writes soft targets, or the rest of them where an earlier call was stopped.

    A run that was killed any number of times leaves the same files as one that was not.

    Args:
        folder: of the files and their ``index.json``.
        batches: ``batches(row)`` gives the soft targets from ``row`` on, batch after batch; ``row``
            is always where a batch began, if the batches are always the same.
        identity: what the soft targets depend on, as JSON: teachers, data, augmentation, seed.
        total_rows: of all batches.
        file_rows: a file is closed after the batch that reaches so many rows.
        quiet: shows nothing.

    Raises:
        ValueError: if ``folder`` holds soft targets of another identity, or files that are
            truncated or changed; or if the batches hold other than ``total_rows`` rows.
    """
    folder = Path(folder)
    wanted = {**_plain(identity), "rows": total_rows}
    files = _read(folder, wanted) if (folder / INDEX).exists() else []
    done = sum(each["rows"] for each in files)
    with Progress(transient=True, disable=quiet) as progress:
        task = progress.add_task("soft targets", total=total_rows, completed=done)
        pending: list[SparseTargets] = []
        for batch in batches(done) if done < total_rows else ():
            pending.append(batch)
            rows = sum(each.num_rows for each in pending)
            progress.update(task, completed=done + rows)
            if done + rows > total_rows:
                raise ValueError(f"batches must hold {total_rows} rows, got more")
            if rows < file_rows and done + rows < total_rows:
                continue
            files.append(_write(folder, f"{len(files):05d}.safetensors", pending))
            _write_index(folder, {"identity": wanted, "files": files})
            done, pending = done + rows, []
            if done == total_rows:
                break
    if done < total_rows:
        raise ValueError(f"batches must hold {total_rows} rows, got {done}")
    return SoftTargets(folder, files)


def open_soft_targets(folder: Path, identity: Mapping[str, Any]) -> SoftTargets:
    """Opens what :func:`write_soft_targets` has finished; every file is read once to be checked.

    Raises:
        ValueError: if there is none, if it is not finished, if it is of another identity, or if a
            file is missing, truncated or changed.
    """
    folder = Path(folder)
    if not (folder / INDEX).exists():
        raise ValueError(f"soft targets must lie in a folder with {INDEX}, got {folder} without it")
    total = _index(folder)["identity"]["rows"]
    files = _read(folder, {**_plain(identity), "rows": total})
    done = sum(each["rows"] for each in files)
    if done < total:
        raise ValueError(f"soft targets in {folder} must be finished, got {done} of {total} rows")
    return SoftTargets(folder, files)


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(identity), default=str))


def _index(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / INDEX).read_text())
    except ValueError:
        raise ValueError(
            f"{folder / INDEX} is damaged: delete {folder}, and it is computed anew"
        ) from None


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    text = json.dumps(index, indent=1)
    write_whole(folder / INDEX, lambda partial: partial.write_text(text))


def _read(folder: Path, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """The files of the index, once they are known to be whole and of this identity."""
    index = _index(folder)
    check_same(folder, index["identity"], identity)
    for each in index["files"]:
        path = folder / each["name"]
        size = path.stat().st_size if path.exists() else 0
        found = ""
        if size != each["bytes"]:
            found = f"has {size} bytes in place of {each['bytes']}"
        elif _digest(path) != each["sha256"]:
            found = "does not have the checksum of its index"
        if found:
            raise ValueError(f"{path} {found}: delete {folder}, and it is computed anew")
    return index["files"]


def _write(folder: Path, name: str, batches: list[SparseTargets]) -> dict[str, Any]:
    """Writes one file; returns its entry in the index."""
    values = []
    for batch in batches:
        if batch.values is None:
            raise ValueError("batches must have values, the probabilities, got None")
        values.append(batch.values)
    counts = torch.cat([batch.counts for batch in batches])
    tensors = {
        "offsets": _offsets(counts),
        "labels": torch.cat([batch.indices for batch in batches]).int(),
        "probabilities": torch.cat(values).half(),
    }
    write_whole(folder / name, lambda partial: save_file(tensors, partial))
    return {
        "name": name,
        "rows": counts.numel(),
        "entries": tensors["labels"].numel(),
        "top_k": int(counts.max()),
        "bytes": (folder / name).stat().st_size,
        "sha256": _digest(folder / name),
    }


def _take(part: SparseTargets, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, probabilities and counts of some rows of a file, without reading the others."""
    assert part.values is not None
    first = part.offsets[rows]
    counts = part.offsets[rows + 1] - first
    shift = (first - _offsets(counts)[:-1]).repeat_interleave(counts)
    entries = torch.arange(shift.numel()) + shift
    return part.indices[entries], part.values[entries], counts


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _map(path: Path) -> SparseTargets:
    with safe_open(path, "pt") as file:  # tensors of the mapped file, not copies
        return SparseTargets(*(file.get_tensor(n) for n in ("labels", "offsets", "probabilities")))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
