"""What sc_sigmoid_loss holds at a time, and that it trains in several processes."""

import multiprocessing
import socket

import pytest
import torch
from allocations import peak_bytes
from sc_layers import draw
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastheads.ops import sc_sigmoid_loss, sc_sigmoid_loss_reference
from fastheads.ops.sc_sigmoid_chunks import chunks


def backward(function, example, **more):
    def call():
        loss = function(*example[:6], **example.options, **more)
        return torch.autograd.grad(loss, example.leaves)

    return call


def test_the_peak_is_seen():
    assert peak_bytes(lambda: torch.empty(1 << 20).exp()) == 2 * 4 << 20


@pytest.mark.parametrize("rows", [64, 200])
@pytest.mark.parametrize("sizes", [[1000] * 20, [15_000, 3000, 1999, 1]], ids=["equal", "large"])
def test_scratch_stays_within_its_budget(sizes, rows):
    budget = 1 << 20
    options = dict(gamma="label", label_bias=True)
    example = draw(sizes, rows, width=4, **options).to(torch.float32)
    call = backward(sc_sigmoid_loss, example, scratch_bytes=budget)
    call()  # constants that stay
    gradients = sum(leaf.nbytes for leaf in example.leaves)
    extra = peak_bytes(call) - gradients
    logits = 4 * rows * sum(sizes)
    assert extra <= 1.1 * budget < logits / 3
    eager = peak_bytes(backward(sc_sigmoid_loss_reference, example)) - gradients
    assert eager > 3 * logits


@pytest.mark.parametrize("rows", [100, 400])
def test_scratch_of_half_precision(rows):
    """Beside the budget gradients are float32 while chunks add to them: of one group's weight too.

    The logits of 100 rows take less than such sums, and are not divided.
    """
    budget, sizes, width = 1 << 20, [16_000, 3000, 999, 1], 64
    example = draw(sizes, rows, gamma="group", label_bias=True, width=width, shared_input=True)
    example = example.to(torch.bfloat16)
    call = backward(sc_sigmoid_loss, example, scratch_bytes=budget)
    call()
    extra = peak_bytes(call) - sum(leaf.nbytes for leaf in example.leaves)
    wide = 4 * sum(leaf.numel() for leaf in example.leaves if leaf is not example.weight)
    weight, logits = 4 * sizes[0] * width, 2 * rows * sizes[0]
    assert extra <= 1.1 * budget + wide + min(weight, logits)


@pytest.mark.gpu
def test_scratch_stays_within_its_budget_on_cuda():
    budget, rows = 32 << 20, 256
    example = draw([5000] * 20, rows, gamma="group", label_bias=True, width=32)
    example = example.to(torch.float32, torch.device("cuda"))
    call = backward(sc_sigmoid_loss, example, scratch_bytes=budget)
    call()
    gradients = sum(leaf.nbytes for leaf in example.leaves)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    assert torch.cuda.max_memory_allocated() - before - gradients <= 1.1 * budget


def test_chunks_cover_everything_once():
    out = [0, 3, 3, 10, 500, 501, 501]
    for budget in (1, 500, 5000, 1 << 20):
        cells = set()
        for chunk in chunks(out, 40, 4, 8, budget):
            assert chunk.labels == slice(out[chunk.groups.start], out[chunk.groups.stop])
            for row in range(chunk.rows.start, chunk.rows.stop):
                for group in range(chunk.groups.start, chunk.groups.stop):
                    assert (row, group) not in cells
                    cells.add((row, group))
        assert len(cells) == 40 * 6
    assert len(chunks(out, 40, 4, 8, 1 << 20)) == 1
    assert chunks(out, 0, 4, 8, 1) == []
    # The group of 490 labels: sums of more than its 40 x 4 bytes a label do not pay.
    plans = (chunks(out, 40, 4, 8, 500, [size] * 6) for size in (159, 160))
    assert [max(chunk.shape[0] for chunk in p if chunk.shape[1] == 490) for p in plans] == [1, 40]


class Head(nn.Module):
    """A layer of groups whose loss is computed where it is."""

    def __init__(self):
        super().__init__()
        example = draw([30, 1, 12], gamma="group", label_bias=True, width=3).to(torch.float32)
        self.weight, self.bias = nn.Parameter(example.weight), nn.Parameter(example.bias)
        self.gamma = nn.Parameter(example.options["gamma"])
        self.label_bias = nn.Parameter(example.options["label_bias"])
        self.own, self.out = example.in_offsets, example.out_offsets

    def forward(self, x, targets):
        return sc_sigmoid_loss(
            x, self.weight, self.bias, targets, self.own, self.out,
            gamma=self.gamma, label_bias=self.label_bias, scratch_bytes=2000,
        )  # fmt: skip


def batch():
    example = draw([30, 1, 12], rows=8, width=3, seed=5).to(torch.float32)
    return example.x.detach(), example.targets


def train(model, x, targets):
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x, targets).backward()
        optimizer.step()


def share(rank, port, results):
    torch.set_num_threads(1)
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    x, targets = batch()
    rows = torch.arange(4) + 4 * rank
    model = DistributedDataParallel(Head())
    train(model, x[rows], targets.select(rows))
    results.put([p.detach().numpy().copy() for p in model.module.parameters()])
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=share, args=(rank, port, results)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    alone = Head()
    train(alone, *batch())
    for of_two in found:
        for a, b in zip(of_two, alone.parameters(), strict=True):
            torch.testing.assert_close(torch.from_numpy(a), b.detach())


@pytest.mark.gpu
def test_side_stream():
    example = draw([500, 30, 1200], rows=64, gamma="label", label_bias=True)
    example = example.to(torch.float32, torch.device("cuda"))
    expected = backward(sc_sigmoid_loss, example)()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        found = backward(sc_sigmoid_loss, example)()
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.gpu
def test_cuda_graph():
    example = draw([500, 30, 1200], rows=64, gamma="group", label_bias=True)
    example = example.to(torch.float32, torch.device("cuda"))
    call = backward(sc_sigmoid_loss, example)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()
    with torch.no_grad():
        example.x.neg_()
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(found, call(), strict=True):
        torch.testing.assert_close(a, b)
