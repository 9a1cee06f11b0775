"""squeeze_excite on CUDA: its two launches against each other, and against other calls."""

import pytest
import torch
from gpu import GPU
from torch import Tensor

from fastheads.ops import squeeze_excite, squeeze_excite_reference

pytestmark = pytest.mark.cuda
LAYOUTS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# N, C, H, W, R: one element, no whole vectors, many small samples, channels across items, ResNet
# stages, one pixel, a plane of several items, more samples than a grid has rows.
SHAPES = [
    (1, 1, 1, 1, 1),
    (3, 33, 5, 3, 7),
    (67, 40, 7, 7, 5),
    (2, 1030, 14, 14, 130),
    (5, 256, 56, 56, 16),
    (37, 512, 1, 1, 33),
    (2, 3, 113, 211, 2),
    (70_001, 8, 1, 3, 2),
]


def forward_inputs(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: torch.memory_format,
    *,
    device: torch.device = GPU,
) -> list[Tensor]:
    """x, weight1, bias1, weight2, bias2, residual, scale, shift."""
    *map_shape, hidden = shape
    channels = shape[1]
    generator = torch.Generator(device).manual_seed(sum(shape))

    def normal(*size: int, factor: float = 1.0) -> Tensor:
        return (torch.randn(size, generator=generator, device=device) * factor).to(dtype)

    x, residual = (normal(*map_shape).contiguous(memory_format=layout) for _ in range(2))
    weight1 = normal(hidden, channels, factor=channels**-0.5)
    weight2 = normal(channels, hidden, factor=hidden**-0.5)
    vectors = normal(hidden), normal(channels), normal(channels), normal(channels)
    return [x, weight1, vectors[0], weight2, vectors[1], residual, vectors[2], vectors[3]]


def forward(inputs: list[Tensor], ticketed: bool, *, relu: bool = True) -> tuple[Tensor, ...]:
    return torch.ops.fastheads._squeeze_excite_launched.default(*inputs, 1, 0, relu, ticketed)


def backward(
    grad: Tensor, inputs: list[Tensor], outputs: tuple[Tensor, ...], ticketed: bool, *, masked: bool
) -> tuple[Tensor, ...]:
    x, weight1, bias1, weight2, _, _, scale, shift = inputs
    y, mean, s = outputs
    return torch.ops.fastheads._squeeze_excite_backward_launched.default(
        *(grad, x, y, mean, s, weight1, bias1, weight2, scale, shift, masked, 1, 0, ticketed)
    )


def assert_same_bits(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.stride() == other.stride()
        assert torch.equal(mine, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_launch_gives_the_bits_of_one_for_each_stage(shape, layout, dtype):
    inputs = forward_inputs(shape, dtype, layout)
    staged = forward(inputs, ticketed=False)
    assert_same_bits(forward(inputs, ticketed=True), staged)
    grad = torch.randn_like(inputs[0])
    for masked in (False, True):
        gradients = [backward(grad, inputs, staged, t, masked=masked) for t in (True, False)]
        assert_same_bits(*gradients)


def test_many_launches_in_a_row_start_from_zeroed_counters():
    inputs = forward_inputs((33, 64, 14, 14, 8), torch.bfloat16, torch.channels_last)
    expected = forward(inputs, ticketed=False)
    for _ in range(200):
        outputs = forward(inputs, ticketed=True)
    assert_same_bits(outputs, expected)


@pytest.mark.gpu
def test_launches_on_two_streams_share_nothing():
    inputs = forward_inputs((64, 128, 28, 28, 8), torch.float16, torch.contiguous_format)
    expected = forward(inputs, ticketed=False)
    streams = [torch.cuda.Stream() for _ in range(2)]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    outputs = []
    for _ in range(20):
        for stream in streams:
            with torch.cuda.stream(stream):
                outputs.append(forward(inputs, ticketed=True))
    torch.cuda.synchronize()
    for each in outputs:
        assert_same_bits(each, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("ticketed", [False, True])
def test_in_a_graph_replayed_with_other_inputs(ticketed):
    inputs = forward_inputs((9, 48, 14, 14, 6), torch.float32, torch.contiguous_format)
    grad = torch.randn_like(inputs[0])
    graph = torch.cuda.CUDAGraph()
    forward(inputs, ticketed)  # loads the kernels, which a capture must not
    backward(grad, inputs, forward(inputs, ticketed), ticketed, masked=True)
    with torch.cuda.graph(graph):
        outputs = forward(inputs, ticketed)
        gradients = backward(grad, inputs, outputs, ticketed, masked=True)
    for _ in range(3):
        inputs[0].normal_()
        graph.replay()
        expected = forward(inputs, ticketed=False)
        assert_same_bits(outputs, expected)
        assert_same_bits(gradients, backward(grad, inputs, expected, False, masked=True))


@pytest.mark.parametrize("ticketed", [False, True])
def test_a_sample_does_not_depend_on_its_batch(ticketed):
    inputs = forward_inputs((21, 72, 9, 9, 9), torch.float32, torch.channels_last)
    whole = forward(inputs, ticketed)
    for n in (0, 7, 20):
        alone = list(inputs)
        alone[0], alone[5] = (
            inputs[i][n : n + 1].contiguous(memory_format=torch.channels_last) for i in (0, 5)
        )
        for one, every in zip(forward(alone, ticketed), whole, strict=True):
            assert torch.equal(one, every[n : n + 1])


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
def test_unaligned_maps(layout):
    """Maps that begin 2 bytes after a multiple of 16 take the path without vectors."""
    shape = (3, 16, 12, 12, 4)
    inputs = forward_inputs(shape, torch.float16, layout)
    memory = inputs[0].new_empty(inputs[0].numel() + 1)
    x = memory[1:].as_strided(inputs[0].shape, inputs[0].stride()).copy_(inputs[0])
    assert x.data_ptr() % 16 == 2
    y, *_ = forward([x, *inputs[1:]], ticketed=True)
    aligned, *_ = forward(inputs, ticketed=True)
    torch.testing.assert_close(y, aligned)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_device_of_x():
    inputs = forward_inputs((2, 24, 7, 7, 3), torch.float32, torch.contiguous_format)
    expected, *_ = forward(inputs, ticketed=True)
    elsewhere = [t.to("cuda:1") for t in inputs]
    with torch.cuda.device(0):
        for ticketed in (False, True):
            y, *_ = forward(elsewhere, ticketed)
            assert y.device == torch.device("cuda:1") and torch.equal(y.cpu(), expected.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("ticketed", [False, True])
def test_more_than_2_31_elements(layout, ticketed):
    """Two samples, each beyond 32-bit offsets by itself; their ends as in a small map."""
    channels, size = 8, 16_400
    needed = 2 * channels * size * size * 2 * 3.5  # x in two layouts, y
    if torch.cuda.get_device_properties(0).total_memory < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB")
    x = torch.zeros(2, channels, size, size, dtype=torch.float16, device="cuda")
    x = x.contiguous(memory_format=layout)
    x[:, :, -1, -1] = 2048.0 * torch.arange(1, 1 + channels, dtype=torch.float16, device="cuda")
    weight = torch.eye(channels, dtype=torch.float32, device="cuda")
    bias = torch.linspace(-2, 2, channels, device="cuda")
    y, mean, s = forward([x, weight, None, weight, bias, None, None, None], ticketed, relu=False)
    expected = x[0, :, -1, -1].double() / size**2
    torch.testing.assert_close(mean, expected.float().expand_as(mean))
    assert torch.equal(y[:, :, -1, -1], (s * x[:, :, -1, -1]).half())
    assert not y[:, :, 0, 0].any() and torch.equal(y[0], y[1])


def test_against_the_reference_in_float64():
    """By the public function too, so that the two launches are not wrong alike."""
    inputs = forward_inputs((6, 96, 14, 14, 12), torch.float32, torch.channels_last)
    exact = squeeze_excite_reference(
        *(t.double() for t in inputs[:6]),
        scale=inputs[6].double(),
        shift=inputs[7].double(),
        inner="silu",
        relu=True,
    )
    y = squeeze_excite(
        *inputs[:6], scale=inputs[6], shift=inputs[7], inner="silu", gate="sigmoid", relu=True
    )
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5)
    for ticketed in (False, True):
        assert torch.equal(forward(inputs, ticketed)[0], y)
