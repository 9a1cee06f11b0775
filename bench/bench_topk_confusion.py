"""topk_confusion: top-K of wide rows, and exact counts of which labels meet.

Peers are given the better end: their indices and matrices are built outside the time, and outputs
exist beforehand wherever the peer can write into them (SciPy and coalesce cannot).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastheads import _C
from fastheads.ops import topk_co_detection_, topk_confusion_, topk_indices

from .harness import OURS, Case, parser, run

K = 100


def topk_case(rows: int, labels: int, dtype: torch.dtype, device: torch.device) -> Case:
    scores = torch.randn(rows, labels, device=device).to(dtype)
    best = scores.topk(K, dim=1).values.double()
    values = torch.empty(rows, K, dtype=dtype, device=device)
    indices = torch.empty(rows, K, dtype=torch.int64, device=device)
    outputs = (values, indices)
    providers: dict[str, Callable[[], Any]] = {
        OURS: lambda: topk_indices(scores, K),
        "torch.topk": lambda: torch.topk(scores, K, dim=1, sorted=False, out=outputs)[1],
    }
    if device.type == "cpu" and dtype == torch.float32:
        array = scores.numpy()
        providers["np.argpartition"] = lambda: torch.from_numpy(
            np.argpartition(array, labels - K, axis=1)[:, labels - K :]
        )

    def error(name: str, top: Tensor) -> float:
        found = scores.gather(1, top).double().sort(dim=1, descending=True).values
        return float((found - best).abs().max())

    moved = rows * (labels * scores.element_size() + K * 8)
    name = str(dtype).removeprefix("torch.")
    return Case("topk_indices", f"[{rows}, {labels}] k={K}", name, device, providers, error, moved)


def distinct_top(rows: int, labels: int, device: torch.device) -> Tensor:
    """K distinct labels a row, the r-th most frequent label with weight 1 / sqrt(r)."""
    weights = torch.arange(1, labels + 1).rsqrt()[torch.randperm(labels)]
    chunks = [
        topk_indices(weights / torch.empty(len(part), labels).exponential_(), K)
        for part in torch.arange(rows).split(256)
    ]
    return torch.cat(chunks).to(device)


def pairs_of(top: Tensor, labels: int) -> Tensor:
    """The cells ``i * labels + j`` that each row of ``top`` adds to."""
    return (top[:, :, None] * labels + top[:, None, :]).flatten()


def sparse_rows(top: Tensor, labels: int) -> Any:
    from scipy import sparse

    rows = len(top)
    entries = (np.ones(rows * K, np.int32), top.cpu().numpy().ravel(), np.arange(rows + 1) * K)
    return sparse.csr_array(entries, (rows, labels))


def co_detection_case(rows: int, labels: int, device: torch.device, coalesce: bool) -> Case:
    from scipy import sparse

    top = distinct_top(rows, labels, device)
    x = sparse_rows(top, labels)
    xt = x.T.tocsr()
    exact = (xt @ x).tocoo()
    upper = sparse.triu(exact).tocoo()
    cells = pairs_of(top, labels)
    ones = torch.ones_like(cells, dtype=torch.int32)
    counts, flat = (torch.zeros(labels, labels, dtype=torch.int32, device=device) for _ in range(2))
    providers: dict[str, Callable[[], Any]] = {
        OURS: lambda: topk_co_detection_(counts, top),
        "scatter_add_": lambda: flat.view(-1).scatter_add_(0, cells, ones),
    }
    if device.type == "cpu":
        providers["scipy X^T X"] = lambda: xt @ x
    elif labels <= 12_000:
        hot = torch.zeros(rows, labels, dtype=torch.int8, device=device)
        providers["_int_mm multi-hot"] = lambda: torch._int_mm(
            hot.zero_().scatter_(1, top, 1).T.contiguous(), hot
        )
    if coalesce:
        size = (labels * labels,)
        providers["torch coalesce"] = lambda: torch.sparse_coo_tensor(
            cells[None], ones, size
        ).coalesce()

    def error(name: str, result: Any) -> float:
        if name in (OURS, "scatter_add_"):
            wanted, counted = (upper, counts) if name == OURS else (exact, flat)
            where = [torch.from_numpy(c.astype(np.int64)).to(device) for c in wanted.coords]
            found = counted[where[0], where[1]].cpu().numpy()
            stray = abs(int(counted.sum()) - int(wanted.data.sum()))
            return max(float(np.abs(found - wanted.data).max()), stray)
        if name == "scipy X^T X":
            return float(abs(result - exact.tocsr()).max())
        values = result.flatten() if "int_mm" in name else result.values()
        return abs(int(values.sum()) - int(exact.data.sum()))

    def reset() -> None:
        counts.zero_(), flat.zero_()

    moved = rows * K * 8 + 8 * upper.nnz
    shape = f"[{rows}, {K}] of {labels}"
    increments = rows * K * (K + 1) // 2
    return Case(
        *("topk_co_detection_", shape, "int32", device, providers, error, moved, increments),
        reset=reset,
    )


def sparse_case(rows: int, labels: int, coalesce: bool) -> Case:
    top = distinct_top(rows, labels, torch.device("cpu"))
    x = sparse_rows(top, labels)
    xt = x.T.tocsr()
    exact = xt @ x
    array = top.numpy()

    def ours() -> Any:
        pairs = _C.PairCounts(labels)
        pairs.add_co_detection(array, torch.get_num_threads())
        return pairs

    def error(name: str, result: Any) -> float:
        from scipy import sparse

        if name == OURS:
            offsets, columns, counts = result.merged()
            found = sparse.csr_array((counts, columns, offsets), (labels, labels))
            return float(abs(found - sparse.triu(exact)).max())
        if name == "scipy X^T X":
            return float(abs(result - exact).max())
        return abs(int(result.values().sum()) - int(exact.sum()))

    providers: dict[str, Callable[[], Any]] = {OURS: ours, "scipy X^T X": lambda: xt @ x}
    if coalesce:
        cells = pairs_of(top, labels)[None]
        ones = torch.ones(cells.numel(), dtype=torch.int32)
        size = (labels * labels,)
        providers["torch coalesce"] = lambda: torch.sparse_coo_tensor(cells, ones, size).coalesce()
    moved = rows * K * 8 + 12 * ((exact.nnz + labels) // 2)
    shape, increments = f"[{rows}, {K}] of {labels}", rows * K * (K + 1) // 2
    device = torch.device("cpu")
    return Case("PairCounts", shape, "int64", device, providers, error, moved, increments)


def confusion_case(rows: int, labels: int, device: torch.device) -> Case:
    top = distinct_top(rows, labels, device)
    indices = torch.randint(labels, (rows,), device=device)
    offsets = torch.arange(rows + 1, device=device)
    cells = (top * labels + indices[:, None]).flatten()
    ones = torch.ones_like(cells, dtype=torch.int32)
    counts, flat = (torch.zeros(labels, labels, dtype=torch.int32, device=device) for _ in range(2))
    providers: dict[str, Callable[[], Any]] = {
        OURS: lambda: topk_confusion_(counts, top, indices, offsets),
        "scatter_add_": lambda: flat.view(-1).scatter_add_(0, cells, ones),
    }

    def error(name: str, _: Any) -> float:
        counted = counts if name == OURS else flat
        distinct, times = cells.unique(return_counts=True)
        stray = abs(int(counted.sum()) - cells.numel())
        return max(float((counted.view(-1)[distinct] - times).abs().max()), stray)

    def reset() -> None:
        counts.zero_(), flat.zero_()

    shape, moved = f"[{rows}, {K}] of {labels}", rows * (K + 1) * 8 + 8 * cells.numel()
    return Case(
        *("topk_confusion_", shape, "int32", device, providers, error, moved, cells.numel()),
        reset=reset,
    )


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    for rows in (32, 256) if quick else (32, 64, 128, 256):
        yield topk_case(rows, 100_000, torch.float32, device)
    yield topk_case(256, 100_000, torch.bfloat16, device)
    yield topk_case(8, 1_000_000, torch.float32, device)
    yield topk_case(4096, 1000, torch.float32, device)
    yield confusion_case(4096, 20_000, device)
    yield co_detection_case(1024, 1000, device, coalesce=not quick)
    yield co_detection_case(1024, 20_000, device, coalesce=not quick)
    yield co_detection_case(4096, 20_000, device, coalesce=False)
    if device.type == "cuda":  # on the other side of what decides between bits and atomics
        yield co_detection_case(1024, 10_000, device, coalesce=False)
    else:
        yield sparse_case(512 if quick else 2048, 100_000, coalesce=False)


def main(argv: list[str] | None = None) -> None:
    options = parser("Top-K of wide rows and exact pair counts against their peers.").parse_args(
        argv
    )
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    run(cases(device, options.quick), options.out, device=device, quick=options.quick)


if __name__ == "__main__":
    main()
