"""squeeze_excite in every kind of call: layouts, threads, compiled, in place."""

import re
import warnings

import pytest
import torch
import torch._inductor.config
from excitation import DTYPES, LAYOUTS, arguments, results
from torch._inductor.utils import run_and_get_code
from torch.library import opcheck
from torch.nn import functional as F

from fastheads.ops import squeeze_excite, squeeze_excite_, squeeze_excite_reference


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
def test_output_is_in_the_layout_of_x(layout, device):
    (x, *weights, residual), _ = arguments(
        (2, 6, 4, 3, 3), torch.float32, device, layout, residual=True
    )
    y = squeeze_excite(x, *weights, residual)
    assert y.stride() == x.stride()
    for other in LAYOUTS:
        moved = residual.contiguous(memory_format=other)
        assert torch.equal(squeeze_excite(x, *weights, moved), y)
    strided = torch.randn(2, 12, 4, 3, device=device)[:, ::2]
    y = squeeze_excite(strided, *weights)
    assert y.is_contiguous() and torch.equal(y, squeeze_excite(strided.contiguous(), *weights))


def test_convolution_weights(device):
    """The four-dimensional weights of 1 x 1 convolutions give the same, and so do gradients."""
    args, options = arguments((2, 6, 4, 3, 3), torch.float32, device)
    x, weight1, bias1, weight2, bias2 = args
    grad = torch.randn(2, 6, 4, 3, device=device)
    expected = results(squeeze_excite, args, options, grad)
    for layout in LAYOUTS:
        first, second = (
            w.detach()[:, :, None, None].to(memory_format=layout).requires_grad_()
            for w in (weight1, weight2)
        )
        found = results(squeeze_excite, [x, first, bias1, second, bias2], options, grad)
        assert found[2].shape == first.shape and found[4].shape == second.shape
        for got, wanted in zip(found, expected, strict=True):
            assert torch.equal(got.view_as(wanted), wanted)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_results_past_the_caches_are_those_through_them(dtype, layout):
    """What is written over x always goes through them; rows of 101 x 101 end within a vector."""
    for shape in ((4, 64, 112, 112, 8), (6, 48, 101, 101, 8)):
        args, _ = arguments(shape, dtype, torch.device("cpu"), layout, residual=True)
        x, *others = (t.detach() for t in args)
        y = squeeze_excite(x, *others, relu=True)
        assert y.nbytes > 2 << 20
        assert torch.equal(y, squeeze_excite_(x.clone(), *others, relu=True))


def test_does_not_depend_on_threads():
    threads = torch.get_num_threads()
    for shape in ((1, 70, 20, 20, 8), (3, 70, 20, 20, 8), (16, 70, 20, 20, 8), (600, 70, 2, 2, 9)):
        for layout in LAYOUTS:
            args, options = arguments(
                shape, torch.float32, torch.device("cpu"), layout, residual=True, relu=True
            )
            grad = torch.randn(shape[:4])
            try:
                torch.set_num_threads(1)
                one = results(squeeze_excite, args, options, grad)
                torch.set_num_threads(max(2, threads))
                more = results(squeeze_excite, args, options, grad)
            finally:
                torch.set_num_threads(threads)
            assert all(map(torch.equal, one, more))


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("shape", [(5, 480, 15, 15), (3, 200, 31, 31), (9, 4000, 3, 5)], ids=str)
def test_large_results_are_those_of_small_ones(shape, layout):
    """Written past the caches where they are aligned; in place and one by one they are not."""
    (x, *weights, residual), _ = arguments(
        (*shape, 8), torch.float32, torch.device("cpu"), layout, residual=True
    )
    with torch.no_grad():
        y = squeeze_excite(x, *weights, residual, relu=True)
        ones = zip(x.split(1), residual.split(1), strict=True)
        one_by_one = [squeeze_excite(a, *weights, b, relu=True) for a, b in ones]
        assert torch.equal(y, torch.cat(one_by_one))
        torch.testing.assert_close(y, squeeze_excite_reference(x, *weights, residual, relu=True))
        squeeze_excite_(x, *weights, residual, relu=True)
        assert torch.equal(x, y)


def test_compile(device):
    args, options = arguments((2, 6, 4, 3, 3), torch.float32, device, residual=True, relu=True)
    grad = torch.randn(2, 6, 4, 3, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(squeeze_excite, fullgraph=True, backend="aot_eager")
        ours = results(compiled, args, options, grad)
    for mine, theirs in zip(ours, results(squeeze_excite, args, options, grad), strict=True):
        assert torch.equal(mine, theirs)


def test_inference_and_autocast(device):
    args, options = arguments(
        (2, 6, 4, 3, 3), torch.bfloat16, device, weight_dtype=torch.float32, residual=True
    )
    y = squeeze_excite(*args, **options)
    with torch.inference_mode():
        assert torch.equal(squeeze_excite(*args, **options), y)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(squeeze_excite(*args, **options), y)


@pytest.mark.gpu
def test_side_stream():
    args, options = arguments((8, 64, 28, 28, 8), torch.float32, torch.device("cuda"), relu=True)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        x = args[0].clone().neg_()
        y = squeeze_excite(x, *args[1:], **options)
        squeeze_excite_(x, *args[1:], **options)
    stream.synchronize()
    torch.testing.assert_close(y, squeeze_excite_reference(-args[0], *args[1:], **options))
    assert torch.equal(x, y)


@pytest.mark.gpu
def test_cuda_graph():
    args, options = arguments((8, 64, 28, 28, 8), torch.float32, torch.device("cuda"), relu=True)
    x, *weights = args
    with torch.no_grad():
        squeeze_excite(*args, **options)
        squeeze_excite_(x.clone(), *weights, **options)
        graph, kept = torch.cuda.CUDAGraph(), x.clone()
        with torch.cuda.graph(graph):
            y = squeeze_excite(*args, **options)
            squeeze_excite_(kept, *weights, **options)
        x.neg_()
        kept.copy_(x)
        graph.replay()
        torch.cuda.synchronize()
        torch.testing.assert_close(y, squeeze_excite_reference(*args, **options))
        assert torch.equal(kept, y)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("batch", [1, 9])
def test_in_place_is_the_same(batch, layout, device):
    for form in ({"relu": True, "residual": True}, {"affine": True, "gate": "hard_sigmoid"}):
        args, options = arguments((batch, 70, 20, 20, 8), torch.float32, device, layout, **form)
        with torch.no_grad():
            y = squeeze_excite(*args, **options)
            assert squeeze_excite_(*args, **options) is args[0]
        assert torch.equal(args[0], y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("affine", [True, False])
def test_in_place_with_the_statistics_of_a_norm(affine, dtype, device):
    """Against float64: u = scale * (x - running_mean) / sqrt(running_var + eps) + shift."""
    args, options = arguments(
        (3, 70, 9, 8, 8), dtype, device, affine=affine, residual=True, relu=True
    )
    mean, var = torch.randn(70, device=device), 0.1 + torch.rand(70, device=device)
    exact_args = [t.detach().double() for t in args]
    scale, shift = (options.get(name) for name in ("scale", "shift"))
    wide = (None if t is None else t.double() for t in (scale, shift))
    u = F.batch_norm(exact_args[0], mean.double(), var.double(), *wide, eps=0.3)
    exact = squeeze_excite_reference(u, *exact_args[1:], relu=True)
    statistics = {"running_mean": mean.to(_wide(dtype)), "running_var": var.to(_wide(dtype))}
    with torch.no_grad():
        squeeze_excite_(*args, **options, **statistics, eps=0.3)
    tolerance = 20 * max(torch.finfo(dtype).eps, 1e-12)
    torch.testing.assert_close(args[0].double(), exact, rtol=tolerance, atol=tolerance)


def _wide(dtype):
    return torch.promote_types(dtype, torch.float32)


def test_in_place_with_itself_as_residual(device):
    (x, *weights), _ = arguments((2, 70, 5, 5, 8), torch.float32, device)
    with torch.no_grad():
        y = squeeze_excite(x, *weights, x)
        assert torch.equal(squeeze_excite_(x, *weights, x), y)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
def test_in_place_with_a_residual_across_it(layout, device):
    """Part of it would be read after it has been written."""
    (memory, *weights), _ = arguments((4, 6, 3, 3, 3), torch.float32, device, layout)
    with torch.no_grad():
        kept, x = memory.clone(), memory[1:3]
        for residual in (memory[:2], memory[2:]):
            with pytest.raises(RuntimeError, match="residual must not overlap x, except as a whol"):
                squeeze_excite_(x, *weights, residual)
        assert torch.equal(memory, kept)
        y = squeeze_excite(memory[:2], *weights, memory[2:])
        assert torch.equal(squeeze_excite_(memory[:2], *weights, memory[2:]), y)  # side by side
        x, y = memory[2:], squeeze_excite(kept[2:], *weights, kept[2:].mT)
        assert torch.equal(squeeze_excite_(x, *weights, x.mT), y)  # other strides: copied first


def test_in_place_rejects(device):
    args, _ = arguments((2, 6, 4, 3, 3), torch.float32, device)
    with pytest.raises(RuntimeError, match="no input must require a gradient, since x is overwri"):
        squeeze_excite_(*args)
    with torch.no_grad(), pytest.raises(RuntimeError, match="x must be contiguous or channels-las"):
        squeeze_excite_(args[0][:, :, ::2], *args[1:])
    six = torch.ones(6, device=device)
    for statistics, message in (
        ({"running_mean": six}, "running_mean and running_var must both be given, got one"),
        ({"running_mean": six[:5], "running_var": six}, r"running_mean must be \[6\], got"),
        (
            {"running_mean": six, "running_var": six.int()},
            "running_var must be Float as x, got Int",
        ),
    ):
        with torch.no_grad(), pytest.raises(RuntimeError, match=message):
            squeeze_excite_(*args, **statistics)


def test_opcheck_in_place(device):
    args, _ = arguments((2, 6, 4, 3, 3), torch.float32, device, residual=True)
    x, *weights, residual = (t.detach() for t in args)
    vector = torch.rand(6, device=device)
    for layout in LAYOUTS:
        laid = x.contiguous(memory_format=layout)
        opcheck(
            torch.ops.fastheads.squeeze_excite_.default,
            (laid, *weights, residual, vector, vector, 0, 0, True, vector, vector, 0.1),
        )


def test_compiler_chooses_the_layout():
    """Between convolutions, which inductor computes channels-last, nothing goes back and forth."""
    (x, *weights), _ = arguments((2, 32, 8, 8, 4), torch.float32, torch.device("cpu"))
    kernel = torch.randn(32, 32, 1, 1)

    def network(x):
        out = squeeze_excite(F.conv2d(x, kernel), *weights, relu=True)
        return F.conv2d(squeeze_excite_(F.conv2d(out, kernel), *weights, out), kernel)

    # The cache on disk does not tell code of other tags apart.
    fresh = torch._inductor.config.patch(force_disable_caches=True)
    with torch.no_grad(), fresh, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y, (code,) = run_and_get_code(torch.compile(network, fullgraph=True), x)
        torch.testing.assert_close(y, network(x), rtol=1e-4, atol=1e-4)
    assert len(re.findall(r"(?m)^ [^#]*ops\.fastheads\.squeeze_excite", code)) == 2
    conversions = re.findall(r"(?m)^ +cpp_fused\w+\(", code)
    assert len(conversions) == 2, "x to channels-last and y back"
