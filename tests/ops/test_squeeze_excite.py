"""squeeze_excite against its reference in float64, literal numbers and every kind of input."""

import pytest
import torch
from excitation import DTYPES, LAYOUTS, arguments, results
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.ops import squeeze_excite, squeeze_excite_, squeeze_excite_reference

# N, C, H, W, R: one, primes, odd channels, groups of samples, many pixels, many channels.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 7, 5, 3, 3),
    (9, 33, 7, 7, 8),
    (3, 130, 1, 1, 17),
    (1, 67, 28, 28, 4),
    (1, 9, 112, 112, 2),
    (5, 1030, 7, 7, 28),
]
FORMS = [
    {},
    {"relu": True, "residual": True},
    {"inner": "silu", "gate": "hard_sigmoid", "residual": True},
    {"inner": "identity", "relu": True, "affine": True},
    {"gate": "hard_sigmoid", "relu": True, "residual": True, "affine": True, "bias": False},
    {"inner": "hard_swish", "gate": "hard_sigmoid"},
]


def in_float64(args: list[Tensor | None], options: dict[str, object]):
    def double(t):
        return t.detach().double().requires_grad_(t.requires_grad) if torch.is_tensor(t) else t

    return [double(t) for t in args], {key: double(value) for key, value in options.items()}


def assert_as_accurate(*form, **options) -> None:
    """At most twice as far from float64 as plain PyTorch, over four draws, and a rounding.

    A single draw may meet a lucky eager result. Gradients of weights are sums over pixels, of the
    first layer over channels as well: four roundings, or that of what they pass through on the way.
    """
    found, allowed, largest = [0.0] * 7, [0.0] * 7, [0.0] * 7
    for seed in range(4):
        args, keywords = arguments(*form, seed=seed, **options)
        exact_args, exact_keywords = in_float64(args, keywords)
        with torch.no_grad():
            y = squeeze_excite_reference(*exact_args, **(exact_keywords | {"relu": False}))
        x, eps = args[0], torch.finfo(args[0].dtype).eps
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed + 1)).to(x)
        grad *= y.abs() > 8 * eps * (1 + y.abs().max())  # there rounding decides the ReLU
        every = results(squeeze_excite_reference, exact_args, exact_keywords, grad)
        eager = results(squeeze_excite_reference, args, keywords, grad)
        ours = results(squeeze_excite, args, keywords, grad)
        for i, (mine, theirs, exact) in enumerate(zip(ours, eager, every, strict=True)):
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            found[i] = max(found[i], float((mine - exact).detach().abs().max()))
            allowed[i] = max(allowed[i], float((theirs - exact).detach().abs().max()))
            largest[i] = max(largest[i], float(exact.detach().abs().max()))
    terms = [0, 0, x.numel(), x.numel(), *[x.numel() / x.shape[1]] * 3]
    for error, eager_error, size, count in zip(found, allowed, largest, terms, strict=True):
        roundings = min(4 * size, max(size, count**0.5))
        assert error <= 2 * eager_error + max(eps, 1e-13) * roundings, (found, allowed, largest)


def test_squeeze_and_excitation_eq_2_to_4(device):
    """By hand: means 2 and -1, hidden 2 - (-1) = 3, logits 0 and 3 - 3 = 0, so s = 1/2."""
    x = torch.tensor([[[[1.0, 3.0]], [[-3.0, 1.0]]]], device=device)
    weight1 = torch.tensor([[1.0, -1.0]], device=device)
    weight2 = torch.tensor([[0.0], [1.0]], device=device)
    bias2 = torch.tensor([0.0, -3.0], device=device)
    y = squeeze_excite(x, weight1, None, weight2, bias2)
    assert y.tolist() == [[[[0.5, 1.5]], [[-1.5, 0.5]]]]
    residual = torch.ones_like(x)
    y = squeeze_excite(x, weight1, None, weight2, bias2, residual, relu=True)
    assert y.tolist() == [[[[1.5, 2.5]], [[0.0, 1.5]]]]


def test_inner_and_gate_by_hand(device):
    """One channel of mean 1: silu(1) = sigmoid(1); hard_sigmoid(1) = 4/6; u = 2 x - 1."""
    x, one = torch.ones(1, 1, 1, 1, device=device), torch.ones(1, 1, device=device)
    for inner, gate, expected in [
        ("identity", "hard_sigmoid", 4 / 6),
        ("hard_swish", "hard_sigmoid", (4 / 6 + 3) / 6),
        ("relu", "sigmoid", 0.731058578630),
        ("silu", "hard_sigmoid", (0.731058578630 + 3) / 6),
    ]:
        y = squeeze_excite(x, one, None, one, None, inner=inner, gate=gate)
        assert y.item() == pytest.approx(expected, rel=1e-6)
    affine = {"scale": one[0] * 2, "shift": one[0] * -1}
    y = squeeze_excite(x * 2, one, None, one, None, gate="hard_sigmoid", **affine)
    assert y.item() == pytest.approx(3 * 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_accurate_as_eager(shape, layout, dtype, device):
    for form in FORMS:
        assert_as_accurate(shape, dtype, device, layout, **form)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
def test_many_samples_are_as_accurate_as_eager(layout, dtype, device):
    form = {"inner": "silu", "residual": True, "relu": True, "affine": True}
    assert_as_accurate((300, 24, 5, 5, 6), dtype, device, layout, **form)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_weights(dtype, device):
    wide = {"weight_dtype": torch.float32, "residual": True, "relu": True}
    assert_as_accurate((3, 40, 9, 9, 10), dtype, device, **wide)


@given(
    shape=st.tuples(
        *(st.integers(0, 5), st.integers(1, 70), st.integers(1, 12), st.integers(1, 12))
    ),
    hidden=st.integers(1, 20),
    layout=st.sampled_from(LAYOUTS),
    form=st.sampled_from(FORMS),
)
@settings(max_examples=40)
def test_equals_reference_on_any_shape(shape, hidden, layout, form):
    args, options = arguments((*shape, hidden), torch.float64, torch.device("cpu"), layout, **form)
    grad = torch.randn(shape, dtype=torch.float64)
    ours = results(squeeze_excite, args, options, grad)
    for mine, theirs in zip(
        ours, results(squeeze_excite_reference, args, options, grad), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
def test_gradcheck(layout, device):
    for form in FORMS:
        args, options = arguments((2, 5, 3, 2, 3), torch.float64, device, layout, **form)
        given = [i for i, t in enumerate(args) if t is not None]

        def call(*tensors: Tensor, args=args, given=given, options=options) -> Tensor:
            every = list(args)
            for i, t in zip(given, tensors, strict=True):
                every[i] = t
            return squeeze_excite(*every, **options)

        assert torch.autograd.gradcheck(call, [args[i] for i in given])


def test_opcheck(device):
    op = torch.ops.fastheads.squeeze_excite.default
    args, _ = arguments((2, 6, 4, 3, 3), torch.float32, device, residual=True)
    x, *weights, residual = args
    vector = torch.rand(6, device=device)
    for change in (
        lambda t: t,
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.transpose(2, 3),
        lambda t: t[:, :, ::2],
        lambda t: t.detach(),
    ):
        changed = change(x.detach()).requires_grad_(change(x).requires_grad)
        other = change(residual.detach()).requires_grad_()
        opcheck(op, (changed, *weights, other, None, None, 0, 0, True))
        opcheck(op, (changed, *weights, None, vector, vector, 1, 1, False))
    _, mean, s = op(x, *weights, None, None, None, 0, 0, False)
    y, w = torch.rand_like(x), [t.detach() for t in weights]
    for mask, stores in ((y, True), (None, True), (y, False), (None, False)):
        opcheck(
            torch.ops.fastheads.squeeze_excite_backward.default,
            (x.detach(), x.detach(), mask, mean, s, *w, vector, vector, stores, 1, 0),
        )


@pytest.mark.parametrize("needed", range(6))
def test_gradient_of_one_input_alone(needed, device):
    args, options = arguments((2, 6, 4, 3, 3), torch.float64, device, residual=True, relu=True)
    args = [t.detach().requires_grad_(i == needed) for i, t in enumerate(args)]
    (ours,), (theirs,) = (
        torch.autograd.grad(f(*args, **options).square().sum(), [args[needed]])
        for f in (squeeze_excite, squeeze_excite_reference)
    )
    torch.testing.assert_close(ours, theirs)


def test_residual_is_x(device):
    (x, *weights), _ = arguments((2, 6, 4, 3, 3), torch.float64, device)
    (ours,), (theirs,) = (
        torch.autograd.grad(f(x, *weights, x, relu=True).sum(), [x])
        for f in (squeeze_excite, squeeze_excite_reference)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (2, 8, 0, 4), (2, 0, 3, 3)])
def test_empty(shape, device):
    x = torch.empty(shape, device=device, requires_grad=True)
    weight = torch.ones(3, shape[1], device=device, requires_grad=True)
    y = squeeze_excite(x, weight, None, weight.T, None)
    assert y.shape == shape
    grad_x, grad_weight = torch.autograd.grad(y.sum(), [x, weight])
    assert grad_x.shape == shape and grad_weight.shape == weight.shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_as_eager(dtype, device):
    """A channel with NaN spoils its sample alone; a last ReLU keeps NaN; rounding makes no NaN."""
    args, _ = arguments((3, 20, 6, 6, 4), dtype, device)
    with torch.no_grad():
        args[0][1, 3, 2, 2] = torch.nan
        args[0][2, 5, 1, 1] = torch.finfo(dtype).max
        y = squeeze_excite(*args, relu=True)
        z = squeeze_excite_reference(*args, relu=True)
    assert torch.equal(y[:2].isnan(), z[:2].isnan()) and y[1].isnan().any()
    assert not y[0].isnan().any() and not y[2].isnan().any()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_pass_where_the_result_is_nan(dtype, layout, device):
    """As those of PyTorch's ReLU: what went wrong shows in the gradients too."""
    args, options = arguments((3, 40, 6, 6, 4), dtype, device, layout, residual=True, relu=True)
    places = [1, 2], [3, 39], [2, 5], [2, 5]
    with torch.no_grad():
        args[-1][places] = torch.nan
    grad = torch.randn(3, 40, 6, 6, device=device).to(dtype)
    of_residual = results(squeeze_excite, args, options, grad)[-1]
    assert torch.equal(of_residual[places], grad[places])
    # Without a gradient of the residual, maps are masked as they are read.
    args[-1] = args[-1].detach()
    ours, eager = (
        torch.autograd.grad(function(*args, **options), args[0], grad)[0][places]
        for function in (squeeze_excite, squeeze_excite_reference)
    )
    torch.testing.assert_close(ours, eager, rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_number_survives(dtype):
    """With s = 1 the maps go through unchanged, whatever their bits: loads and stores are exact."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    x = bits.view(dtype)
    x = x[x.abs() < 1e33].reshape(1, 1, 1, -1)  # so that the sum is finite
    none, high = torch.zeros(1, 1, dtype=dtype), torch.full((1,), 3.0, dtype=dtype)
    for form in (x, x.transpose(1, 3)):
        w = none.expand(1, form.shape[1])
        y = squeeze_excite(form, w, None, w.T, high.expand(form.shape[1]), gate="hard_sigmoid")
        assert torch.equal(y, form)


def test_flops(device):
    """N = 2, C = 6, R = 3: two layers of 18 forward, and five backward, 2 a multiply-add."""
    args, options = arguments((2, 6, 4, 3, 3), torch.float32, device)
    with FlopCounterMode(display=False) as forward:
        y = squeeze_excite(*args, **options)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert forward.get_total_flops() == 2 * 2 * 2 * 18
    with FlopCounterMode(display=False) as in_place, torch.no_grad():
        squeeze_excite_(*args, **options)
    assert in_place.get_total_flops() == forward.get_total_flops()
    assert backward.get_total_flops() == 2 * 5 * 2 * 18


def rejected(device):
    """Every check once: a call and a part of its sentence."""
    (x, w1, b1, w2, b2, r), _ = arguments((2, 6, 4, 3, 3), torch.float32, device, residual=True)
    every = {"x": x, "weight1": w1, "bias1": b1, "weight2": w2, "bias2": b2, "residual": r}
    every = {key: value.detach() for key, value in every.items()}
    zeros = torch.zeros(2, 6, device=device)
    op = torch.ops.fastheads.squeeze_excite
    backward = torch.ops.fastheads.squeeze_excite_backward

    def call(**changes):
        return lambda: squeeze_excite(**(every | changes))

    def back(grad=x, y=None, mean=zeros):
        return lambda: backward(grad, x, y, mean, mean, w1, b1, w2, b2, None, None, False, 0, 0)

    yield call(x=x[0]), "x must be [N, C, H, W], got 3 dimensions"
    yield call(x=x.int()), "x must be float32, float64, float16 or bfloat16, got Int"
    yield call(weight1=w1[:, :5]), "weight1 must be [3, 6], got"
    yield call(weight2=w2[:, :2]), "weight2 must be [6, 3], got"
    yield call(weight2=w2.bfloat16()), "weight2 must be Float as x, got BFloat16"
    yield call(bias1=b1[:2]), "bias1 must be [3], got"
    yield call(bias2=b2[None]), "bias2 must be [6], got 2 dimensions"
    yield call(bias2=b2.double()), "bias2 must be Float as x, got Double"
    yield call(residual=r[:1]), "residual must have the shape of x"
    yield call(residual=r.bfloat16()), "residual must be Float as x, got BFloat16"
    yield call(scale=b1.detach()), "scale must be [6], got"
    yield call(shift=b1.detach()), "shift must be [6], got"
    yield call(scale=b2), "scale must not need a gradient"
    yield call(shift=b2), "shift must not need a gradient"
    mixed = every | {"x": x.detach().bfloat16(), "residual": None, "weight2": w2.bfloat16()}
    yield lambda: squeeze_excite(**mixed), "weight2 must be Float as weight1, got BFloat16"
    yield lambda: op(x, b1, b1, w2, b2, None, None, None, 0, 0, False), "weight1 must be [R, C]"
    yield lambda: op(x, w1, b1, w2, b2, None, None, None, 4, 0, False), "inner must be 0 (relu)"
    yield lambda: op(x, w1, b1, w2, b2, None, None, None, 0, 2, False), "gate must be 0 (sigmoid)"
    yield back(grad=x[:1]), "grad must have the shape of x"
    yield back(y=x[:1]), "y must have the shape of x"
    yield back(mean=zeros.T), "mean must be [2, 6]"
    if device.type == "cuda":
        yield call(residual=r.cpu()), "residual must be on the device of x"
        yield call(bias1=b1.cpu()), "bias1 must be on the device of x"


def test_rejects(device):
    for call, message in rejected(device):
        with pytest.raises(RuntimeError) as error:
            call()
        assert message in str(error.value), message


def test_rejects_unknown_names(device):
    args, _ = arguments((1, 2, 1, 1, 1), torch.float32, device)
    with pytest.raises(ValueError, match="silu, identity, hard_swish, got 'gelu'"):
        squeeze_excite(*args, inner="gelu")
    with pytest.raises(ValueError, match="gate must be one of sigmoid, hard_sigmoid, got 'tanh'"):
        squeeze_excite(*args, gate="tanh")
