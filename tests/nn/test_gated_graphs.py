"""Captured graphs of a gated block: what is chosen on the host, and on CUDA the same results."""

import pytest
import torch
from torch import Tensor, nn

from fastheads.nn import Gate, GatedGraphs, GatedResidual
from fastheads.nn.gated_cost import gather_rows, padded
from fastheads.nn.gated_graphs import supports_conditional_nodes
from fastheads.ops import active_samples


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def block_on(device: torch.device, **options: object) -> GatedResidual:
    """Gates open where channel 0 has a mean of at least a half."""
    torch.manual_seed(0)
    gate = Gate(8, 1, batch_norm=False)
    with torch.no_grad():
        for p in gate.parameters():
            p.zero_()
        gate.fc1.weight[0, 0] = gate.fc2.weight[1, 0] = 1
        gate.fc2.bias[0] = 0.5
    branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return GatedResidual(branch, gate, **options).eval().to(device)


def batch(open_gates: list[int], device: torch.device) -> Tensor:
    x = torch.rand(len(open_gates), 8, 5, 5)
    x[:, 0] = torch.tensor(open_gates, dtype=torch.float32)[:, None, None]
    return x.to(device)


@pytest.mark.parametrize(
    ("active", "rows"), [(0, 0), (1, 2), (2, 2), (3, 5), (5, 5), (6, 7), (7, 7)]
)
def test_padded(active, rows):
    assert padded(active, [2, 5, 7]) == rows


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rows", [2, 4, 6])
def test_padding_changes_no_sample(device, rows, layout):
    """A bucket's rows beyond the open gates are computed and dropped, without the host's help."""
    block = block_on(device)
    x = batch([0, 1, 0, 0, 1, 0], device).to(memory_format=layout)
    with torch.no_grad():
        active, count = active_samples(block.gate(x)[0])
        y = x.clone()
        block.add_branch(y, gather_rows(x, active[:rows]), active, count)
        expected = x.clone()
        expected[[1, 4]] = (x + block.branch(x)).relu()[[1, 4]]
    torch.testing.assert_close(y, expected)
    assert torch.equal(y[[0, 2, 3, 5]], x[[0, 2, 3, 5]])


@pytest.mark.parametrize(
    ("version", "hip", "supported"),
    [("13.2", None, True), ("12.4", None, True), ("12.3", None, False), (None, "6.0", False)],
)
def test_capability(monkeypatch, version, hip, supported):
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.version, "hip", hip)
    captures = hasattr(torch.cuda.CUDAGraph, "begin_capture_to_if_node")
    assert supports_conditional_nodes() == (supported and captures)
    monkeypatch.delattr(torch._C._CUDAGraph, "begin_capture_to_if_node", raising=False)
    assert not supports_conditional_nodes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": []}, r"buckets must ascend from 1 or more to 3, got \[\]"),
        ({"buckets": [2, 1, 3]}, r"buckets must ascend .* got \[2, 1, 3\]"),
        ({"buckets": [0, 3]}, r"buckets must ascend .* got \[0, 3\]"),
        ({"buckets": [1, 2]}, r"buckets must ascend .* got \[1, 2\]"),
        ({"conditional": True}, "conditional needs a batch of one .* got a batch of 3"),
        ({}, "x must be on CUDA, got cpu"),
    ],
)
def test_rejects(options, message):
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match=message):
        GatedGraphs(block_on(cpu), batch([0, 1, 0], cpu), **options)


# On CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("shortcut", [None, nn.Conv2d(8, 8, 1)])
def test_graphs_are_the_block(shortcut, nonnegative, layout):
    device = torch.device("cuda")
    block = block_on(device, shortcut=shortcut, nonnegative=nonnegative, mode="dense").to(device)
    shape = batch([1] * 9, device).to(memory_format=layout)
    graphs = GatedGraphs(block, shape, buckets=[2, 5, 9])
    for open_gates in ([0] * 9, [1] * 9, [0, 1] * 4 + [0], [1] + [0] * 8, [1] * 6 + [0] * 3):
        x = batch(open_gates, device).to(memory_format=layout)
        if not nonnegative:
            x -= 0.1
        kept = x.clone()
        with torch.no_grad():
            expected = block(x)
        torch.testing.assert_close(graphs(x), expected)
        assert torch.equal(x, kept)
        assert graphs.last_executed == padded(sum(open_gates), [2, 5, 9])
    with pytest.raises(ValueError, match="x must be"):
        graphs(x[:3])
    block.train()
    with pytest.raises(ValueError, match="block must be in evaluation mode"):
        GatedGraphs(block, shape)


@pytest.mark.cuda
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_batch_of_one(nonnegative, conditional):
    if conditional and not supports_conditional_nodes():
        pytest.skip("needs conditional nodes")
    device = torch.device("cuda")
    block = block_on(device, nonnegative=nonnegative, mode="dense")
    graphs = GatedGraphs(block, batch([1], device), conditional=conditional)
    for open_gate in (0, 1, 1, 0):
        x = batch([open_gate], device)
        with torch.no_grad():
            torch.testing.assert_close(graphs(x), block(x))
    assert graphs.last_executed == (None if conditional else 0)


@pytest.mark.cuda
def test_side_stream():
    device = torch.device("cuda")
    block = block_on(device, mode="dense")
    graphs = GatedGraphs(block, batch([1] * 4, device))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        x = batch([0, 1, 1, 0], device)
        torch.testing.assert_close(graphs(x), block(x))
