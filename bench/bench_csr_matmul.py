"""csr_matmul: a matrix of confusions times a block of vectors, as a block eigensolver asks for it.

The labels of every row are drawn by Zipf's law with exponent 0.7. SciPy runs on one thread whatever
``--threads`` says; ``bytes`` count the matrix once, ``x`` and ``y`` once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from fastheads.ops import csr_matmul

from .harness import OURS, Case, parser, run


def confusions(labels: int, drawn: int, seed: int = 0) -> sparse.csr_array:
    """``[labels, labels]`` float32 counts: ``drawn`` labels a row, those drawn twice only once."""
    rng = np.random.default_rng(seed)
    order, weight = rng.permutation(labels), np.cumsum(np.arange(1.0, labels + 1) ** -0.7)
    columns, lengths = [], []
    for begin in range(0, labels, 4096):  # in blocks: a tenth of the memory
        draws = rng.random((min(4096, labels - begin), drawn)) * weight[-1]
        rows = np.sort(order[np.searchsorted(weight, draws, side="right")], axis=1)
        distinct = np.diff(rows, axis=1, prepend=-1) > 0
        columns.append(rows[distinct].astype(np.int32))
        lengths.append(distinct.sum(axis=1))
    indices = np.concatenate(columns)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int32)
    return sparse.csr_array(
        (rng.geometric(0.5, indices.size).astype(np.float32), indices, indptr), (labels, labels)
    )


def case(labels: int, drawn: int, width: int, dtype: torch.dtype, device: torch.device) -> Case:
    host = confusions(labels, drawn)
    x = torch.randn(labels, width, dtype=dtype)
    exact = torch.from_numpy(host.astype(np.float64) @ x.double().numpy())
    host = host.astype(x.numpy().dtype)
    parts = [torch.from_numpy(a).to(device) for a in (host.indptr, host.indices, host.data)]
    block = x.to(device)
    matrix = torch.sparse_csr_tensor(*parts, size=host.shape)

    def error(name: str, y: Tensor | np.ndarray) -> float:
        return float((torch.as_tensor(y).cpu() - exact).abs().max() / exact.abs().max())

    providers: dict[str, Any] = {
        OURS: lambda: csr_matmul(*parts, block),
        "torch.sparse CSR": lambda: matrix @ block,
    }
    if device.type == "cpu":
        providers["scipy csr @ dense"] = lambda: host @ x.numpy()
    item = x.element_size()
    moved = host.nnz * (item + 4) + 4 * len(parts[0]) + 2 * item * labels * width
    name = str(dtype).removeprefix("torch.")
    shape = f"{labels}x{labels} nnz={host.nnz} B={width}"
    tolerance = 64 * torch.finfo(dtype).eps
    macs = host.nnz * width
    return Case("csr_matmul", shape, name, device, providers, error, moved, macs, tolerance)


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    if quick:
        yield case(20_000, 250, 32, torch.float32, device)
        return
    yield case(20_000, 850, 32, torch.float32, device)
    for width in (8, 32, 64):
        yield case(100_000, 290, width, torch.float32, device)
    yield case(20_000, 850, 32, torch.float64, device)


def main(argv: list[str] | None = None) -> None:
    options = parser("A sparse matrix times a block of vectors, against its peers.").parse_args(
        argv
    )
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    run(cases(device, options.quick), options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
