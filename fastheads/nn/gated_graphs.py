"""GatedGraphs: a gated block on CUDA as captured graphs, one for each number of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastheads.nn.gated_cost import bucket_sizes, gather_rows, padded
from fastheads.nn.gated_residual import GatedResidual
from fastheads.ops import active_samples


def supports_conditional_nodes() -> bool:
    """Whether PyTorch can capture a graph node that the device itself decides to run."""
    captures = hasattr(torch.cuda.CUDAGraph, "begin_capture_to_if_node")  # from PyTorch 2.13
    cuda = tuple(map(int, (torch.version.cuda or "0.0").split(".")[:2]))
    return captures and torch.version.hip is None and cuda >= (12, 4)


class GatedGraphs:
    """Replays a :class:`GatedResidual` for batches of one shape on CUDA, without gradients.

    The gate is one graph; for each bucket a graph gathers that many rows, open gates first, runs
    the branch and adds the rows of open gates. The host waits for the gate alone, through one
    pinned number and an event, and launches the smallest bucket that holds all open gates. A batch
    of one is a single graph whose branch is a conditional node, where PyTorch has them: nothing
    waits.

    Weights are read where they lie, but the norm of the gate is folded once: make new graphs after
    training. A library may choose another order of summation for another number of rows; for the
    bits of the dense pass, give ``block.calibrate(x).buckets``.

    Args:
        block: in evaluation mode, on CUDA.
        x: ``[N, C, H, W]``, a batch of the shape, dtype and layout to capture.
        buckets: numbers of rows, ascending, the last one N; at most 16 by default.
        conditional: use a conditional node; by default for a batch of one if there are any.

    Attributes:
        x: the static input: what writes into it saves a copy.
        last_executed: rows of the bucket that ran last; ``None`` where the device decides.

    Raises:
        ValueError: if ``x`` is not on CUDA, the block is in training mode, or ``buckets`` or
            ``conditional`` do not fit the batch.
    """

    def __init__(
        self,
        block: GatedResidual,
        x: Tensor,
        *,
        buckets: Sequence[int] | None = None,
        conditional: bool | None = None,
    ) -> None:
        sizes = bucket_sizes(len(x)) if buckets is None else list(buckets)
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != len(x):
            raise ValueError(f"buckets must ascend from 1 or more to {len(x)}, got {sizes}")
        if conditional and (len(x) != 1 or not supports_conditional_nodes()):
            raise ValueError(
                "conditional needs a batch of one and PyTorch 2.13 with CUDA 12.4, "
                f"got a batch of {len(x)} and PyTorch {torch.__version__}"
            )
        if not x.is_cuda:
            raise ValueError(f"x must be on CUDA, got {x.device}")
        if block.training:
            raise ValueError("block must be in evaluation mode, got training mode")
        if conditional is None:
            conditional = len(x) == 1 and supports_conditional_nodes()
        self.block, self.gate, self.buckets = block, block.gate.fold(), sizes
        self.last_executed: int | None = None
        with torch.no_grad(), torch.cuda.device(x.device):
            self.x = torch.empty_like(x).copy_(x)
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            self._warm_up()
            self._bodies: dict[int, torch.cuda.CUDAGraph] = {}
            if conditional:
                self._head = self._capture(self._conditional)
                return
            # Bodies share the memory of the head: one replay follows another, and what the head
            # leaves to the body is held by this object.
            self._head = self._capture(self._decide)
            for rows in [0, *sizes] if block.rectifies_skipped else sizes:
                self._bodies[rows] = self._capture(self._run, rows)
            self._open_gates = torch.empty(1, dtype=torch.int64, pin_memory=True)
            self._decided = torch.cuda.Event()

    def __call__(self, x: Tensor) -> Tensor:
        """Runs the block; the result is overwritten by the next call."""
        if x.shape != self.x.shape or x.dtype != self.x.dtype or x.device != self.x.device:
            raise ValueError(
                f"x must be {tuple(self.x.shape)} {self.x.dtype} on {self.x.device}, "
                f"got {tuple(x.shape)} {x.dtype} on {x.device}"
            )
        with torch.no_grad(), torch.cuda.device(self.x.device):
            if x is not self.x:
                self.x.copy_(x)
            self._head.replay()
            if self._bodies:
                self._open_gates.copy_(self.count, non_blocking=True)
                self._decided.record()
                self._decided.synchronize()
                self.last_executed = padded(int(self._open_gates), self.buckets)
                if self.last_executed in self._bodies:
                    self._bodies[self.last_executed].replay()
        return self.y

    def _decide(self) -> None:
        self.z, self.probability = self.gate(self.x)
        self.active, self.count = active_samples(self.z)
        self.y = self.x if self.block.shortcut is None else self.block.shortcut(self.x)

    def _run(self, rows: int) -> None:
        if rows:
            part = gather_rows(self.x, self.active[:rows])
            self.block.add_branch(self.y, part, self.active, self.count)
        self.block.finish(self.y)

    def _conditional(self) -> None:
        self._decide()
        graph = torch.cuda.CUDAGraph.get_currently_capturing_graph()
        graph.begin_capture_to_if_node(self.z[0] > 0)
        try:
            self.block.add_branch(self.y, self.x, self.active, self.count)
        finally:
            graph.end_capture_to_conditional_node()
        self.block.finish(self.y)

    def _warm_up(self) -> None:
        # Libraries set themselves up at their first call, which must not be captured.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._decide()
            for rows in self.buckets:
                self._run(rows)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _capture(self, body: Callable[..., None], *args: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            body(*args)
        return graph
