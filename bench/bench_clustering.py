"""Spectral clustering of confusions against scikit-learn, which needs B = A^T A in memory.

Every contestant runs in a process of its own on the same planted counts; its peak resident memory
is the column ``bytes``, 1 minus the adjusted Rand index against the planted groups ``max_error``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

import fastheads

from .harness import append, device_name

GROUPS = 20
PEERS = ("scikit-learn arpack", "scikit-learn lobpcg")


def planted_counts(
    labels: int, per_row: int, groups: int = GROUPS, inside: float = 0.3, seed: int = 0
) -> tuple[sparse.csr_array, np.ndarray]:
    """Counts whose row i holds about ``per_row`` labels, the share ``inside`` from its own group.

    Returns:
        ``[labels, labels]`` int64 and the planted group of each label; groups are of unequal size.
    """
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 1.5, groups)
    truth = rng.choice(groups, labels, p=weights / weights.sum())
    members, sizes = np.argsort(truth, kind="stable"), np.bincount(truth, minlength=groups)
    first = np.cumsum(sizes) - sizes
    indices, counts = [], []
    for begin in range(0, labels, 4096):  # in blocks: a tenth of the memory
        group = truth[begin : begin + 4096, None]
        shape = group.size, per_row
        columns = members[first[group] + (rng.random(shape) * sizes[group]).astype(np.int64)]
        outside = rng.random(shape) >= inside
        columns[outside] = rng.integers(0, labels, outside.sum())
        columns.sort(axis=1)
        distinct = np.diff(columns, axis=1, prepend=-1) > 0
        indices.append(columns[distinct].astype(np.int32))
        counts.append(distinct.sum(axis=1))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32)
    columns = np.concatenate(indices)
    data = rng.geometric(0.5, columns.size)
    return sparse.csr_array((data, columns, indptr), shape=(labels, labels)), truth


def explicit_similarity(A: sparse.csr_array) -> np.ndarray:
    """B = A^T A without its diagonal, dense float64, by sparse products of 256 columns."""
    B = np.empty(A.shape)
    transposed = A.T.tocsr().astype(np.float64)
    A = A.astype(np.float64)
    for begin in range(0, A.shape[0], 256):
        (transposed[begin : begin + 256] @ A).toarray(out=B[begin : begin + 256])
    np.fill_diagonal(B, 0)
    return B


def cluster(provider: str, A: sparse.csr_array) -> np.ndarray:
    if provider == "fastheads":
        from fastheads.clustering import ConfusionClustering

        return ConfusionClustering(GROUPS, random_state=0).fit_predict(A)
    from sklearn.cluster import SpectralClustering

    peer = SpectralClustering(
        GROUPS, affinity="precomputed", eigen_solver=provider.split()[1], random_state=0
    )
    return peer.fit_predict(explicit_similarity(A))


def contestant(provider: str, folder: Path, repeats: int) -> None:
    """Runs in a process of its own; prints seconds, peak bytes and adjusted Rand index as JSON."""
    from sklearn.metrics import adjusted_rand_score

    A, truth = sparse.csr_array(sparse.load_npz(folder / "A.npz")), np.load(folder / "truth.npy")
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        groups = cluster(provider, A)
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([seconds, peak, float(adjusted_rand_score(truth, groups))]))


def measure(labels: int, per_row: int, peers: tuple[str, ...], repeats: int, threads: int) -> list:
    """One row of the table a contestant."""
    rows: list[dict] = []
    device = device_name(torch.device("cpu"))
    threading = {f"{k}_NUM_THREADS": str(threads) for k in ("OMP", "OPENBLAS", "MKL")}
    with tempfile.TemporaryDirectory() as folder:
        A, truth = planted_counts(labels, per_row)
        shape = f"{labels}x{labels} nnz={A.nnz} groups={GROUPS}"
        sparse.save_npz(Path(folder, "A.npz"), A, compressed=False)
        np.save(Path(folder, "truth.npy"), truth)
        del A, truth
        for provider in (*peers, "fastheads"):
            times = 1 if provider in PEERS and labels > 5_000 else repeats
            arguments = ["--contestant", provider, folder, str(times)]
            command = [sys.executable, "-m", __spec__.name, *arguments]
            output = subprocess.run(
                command, env=os.environ | threading, stdout=subprocess.PIPE, check=True, text=True
            ).stdout
            seconds, peak, agreement = json.loads(output.splitlines()[-1])
            q25, median, q75 = np.quantile(seconds, [0.25, 0.5, 0.75]) * 1e6
            print(f"{shape}  {provider:20} {median / 1e6:8.2f} s  {peak / 1e9:6.2f} GB  "
                  f"ARI {agreement:.4f}", flush=True)  # fmt: skip
            rows.append(
                {"op": "clustering", "pass": "fit", "shape": shape, "dtype": "int64",
                 "device": device, "threads": threads, "provider": provider,
                 "median_us": round(median), "q25_us": round(q25), "q75_us": round(q75),
                 "bytes": peak, "macs": "", "max_error": round(1 - agreement, 6),
                 "torch": torch.__version__, "version": fastheads.__version__,
                 "date": datetime.date.today().isoformat()}
            )  # fmt: skip
    best = min((row["median_us"] for row in rows if row["provider"] in PEERS), default=None)
    for row in rows:
        row["ratio_to_best_peer"] = "" if best is None else round(best / row["median_us"], 3)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measures, prints one line a contestant and appends to a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 labels only, in seconds")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="CSV to append to")
    parser.add_argument("--contestant", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.contestant:
        provider, folder, repeats = args.contestant
        contestant(provider, Path(folder), int(repeats))
        return
    cases = [(5_000, 100, PEERS), (20_000, 275, PEERS), (100_000, 275, ())]
    for labels, per_row, peers in [(2_000, 50, PEERS)] if args.quick else cases:
        rows = measure(labels, per_row, peers, args.repeats, args.threads)
        if args.out is not None:
            append(args.out, rows)


if __name__ == "__main__":
    main()
