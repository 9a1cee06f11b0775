"""SelfPacedLogits: the equations of the paper, its five variants, and logits without direction."""

import copy
import math
import pickle
import re

import pytest
import torch
from torch import nn

from fastheads.losses import self_paced_sigmoid_cross_entropy, sigmoid_cross_entropy
from fastheads.nn import SelfPacedLogits
from fastheads.targets import SparseTargets

SIZES = [3, 1, 0, 4]


def module_of(dtype=torch.float64, **options):
    torch.manual_seed(0)
    return SelfPacedLogits(SIZES, dtype=dtype, **options)


def logits_of(rows=5):
    return torch.randn(
        rows, sum(SIZES), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


def test_by_hand():
    """Eq. 3-4: (3, 4) has norm 5."""
    pace = SelfPacedLogits([2, 1], init=10, std=0, label_bias=-6)
    z = pace(torch.tensor([[3.0, 4.0, -7.0]]))
    torch.testing.assert_close(z, torch.tensor([[6.0 - 6, 8.0 - 6, -10.0 - 6]]))


@pytest.mark.parametrize("label_bias", [None, -6.0])
@pytest.mark.parametrize("level", ["group", "label"])
def test_equations_3_and_4(level, label_bias):
    pace, logits = module_of(level=level, label_bias=label_bias, std=0.5), logits_of()
    gammas = iter(pace.gamma.tolist())
    parts = []
    for part in logits.split(SIZES, 1):
        gamma = next(gammas) if level == "group" else [next(gammas) for _ in part[0]]
        normal = part / part.square().sum(1, keepdim=True).sqrt()
        parts.append(normal * (gamma if level == "group" else torch.tensor(gamma)))
    expected = torch.cat(parts, 1) + (label_bias or 0)
    torch.testing.assert_close(pace(logits), expected)


def test_equation_5():
    """The diagonal of the Jacobian: gamma (1 / n - x_i^2 / n^3)."""
    pace = SelfPacedLogits([6], init=2.5, std=0, dtype=torch.float64)
    x = logits_of(1)[:, :6]
    jacobian = torch.autograd.functional.jacobian(lambda t: pace(t[None])[0], x[0])
    norm = x.norm()
    torch.testing.assert_close(jacobian.diagonal(), 2.5 * (1 / norm - x[0] ** 2 / norm**3))


def test_equation_6():
    """Normalising shrinks the gradient by sqrt(N); gamma = sqrt(N) restores it."""
    torch.manual_seed(0)
    for size in (100, 10_000):
        x = torch.randn(50, size, dtype=torch.float64)
        for init, expected in ((1.0, 1 / math.sqrt(size)), ("sqrt", 1.0)):
            pace = SelfPacedLogits([size], init=init, std=0, dtype=torch.float64)
            logit = x.clone().requires_grad_()
            pace(logit)[:, 0].sum().backward()
            assert logit.grad[:, 0].mean().item() == pytest.approx(expected, rel=0.05)


# Section 4.1, evaluation of self-paced learning: (1) to (5).
VARIANTS = [
    ("group", False, "sqrt"),
    ("group", True, 10),
    ("label", True, 10),
    ("group", True, "sqrt"),
    ("label", True, "sqrt"),
]


@pytest.mark.parametrize("level, trainable, init", VARIANTS)
def test_variants(level, trainable, init):
    sizes = [4, 10_000, 900]
    torch.manual_seed(0)
    pace = SelfPacedLogits(sizes, level, trainable, init)
    assert isinstance(pace.gamma, nn.Parameter) == trainable
    assert len(list(pace.parameters())) == trainable and list(pace.state_dict()) == ["gamma"]
    mean = torch.tensor([2.0, 100.0, 30.0]) if init == "sqrt" else torch.full((3,), 10.0)
    if level == "label":
        mean = mean.repeat_interleave(torch.tensor(sizes))
    assert pace.gamma.shape == mean.shape
    apart = pace.gamma.detach() - mean
    assert 0 < apart.abs().max() < 6e-3
    if level == "label":
        assert apart.std().item() == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("level", ["group", "label"])
def test_log_is_the_same_function(level):
    torch.manual_seed(1)
    label_bias = torch.randn(sum(SIZES), dtype=torch.float64)
    options = {"level": level, "label_bias": label_bias, "std": 0.1, "init": 2}
    pace, log = module_of(**options), module_of(**options, log=True)
    assert {name for name, _ in log.named_parameters()} == {"log_gamma", "label_bias"}
    assert torch.equal(log.label_bias, label_bias)
    torch.testing.assert_close(log.factors, pace.gamma)
    torch.testing.assert_close(log(logits_of()), pace(logits_of()))
    log.reset_parameters()
    assert torch.equal(log.label_bias, label_bias)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.Adagrad])
def test_step_of_log_is_a_share_of_gamma(optimizer):
    """Of gamma itself a step is the learning rate, whatever gamma is."""
    logits = torch.arange(1.0, 10_001)[None]
    for log in (False, True):
        pace = SelfPacedLogits([100, 9900], std=0, log=log)
        start = pace.factors.detach().clone()
        step = optimizer(pace.parameters(), lr=0.1)
        (-pace(logits).sum()).backward()
        step.step()
        moved = pace.factors.log() - start.log() if log else pace.factors - start
        torch.testing.assert_close(moved, torch.full((2,), 0.1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("level", ["group", "label"])
def test_logits_of_zero(level):
    """No direction: z is the bias, and nothing flows back, to gamma neither."""
    pace = module_of(level=level, label_bias=-6)
    logits = logits_of(2)
    logits[0, :3] = 0
    logits.requires_grad_()
    z = pace(logits)
    assert torch.equal(z[0, :3].detach(), torch.full((3,), -6.0, dtype=torch.float64))
    z[0].sum().backward()
    assert torch.equal(logits.grad[0, :3], torch.zeros(3, dtype=torch.float64))
    assert logits.grad[0, 4:].abs().max() > 0 and not pace.gamma.grad.isnan().any()
    assert pace.gamma.grad[0] == 0


@pytest.mark.parametrize("level", ["group", "label"])
def test_gradcheck(level):
    pace, logits = module_of(level=level, label_bias=0.5), logits_of(3).requires_grad_()

    def function(logits, gamma, bias):
        values = {"gamma": gamma, "label_bias": bias}
        return torch.func.functional_call(pace, values, (logits,))

    assert torch.autograd.gradcheck(function, (logits, pace.gamma, pace.label_bias))


def test_gradcheck_of_log():
    pace, logits = module_of(log=True), logits_of(3).requires_grad_()

    def function(logits, log_gamma):
        return torch.func.functional_call(pace, {"log_gamma": log_gamma}, (logits,))

    assert torch.autograd.gradcheck(function, (logits, pace.log_gamma))


def test_size_of_logits_does_not_matter():
    pace, logits = module_of(), logits_of()
    torch.testing.assert_close(pace(1e-9 * logits), pace(1e9 * logits))


@pytest.mark.parametrize("scale", [1e-35, 1e-30, 1e-20, 1.0, 1e19, 1e30, 1e37])
def test_extreme_logits_in_float32(scale):
    """Squares beyond float32: z and its gradients, and the operator that has the loss at once."""
    pace = SelfPacedLogits(SIZES, init=2, std=0.5, label_bias=-1.0)
    logits = (logits_of().clamp(-3, 3) * scale).float().requires_grad_()
    exact = logits.detach().double().requires_grad_()
    z, right = pace(logits), copy.deepcopy(pace).double()(exact)
    torch.testing.assert_close(z.double(), right, rtol=1e-6, atol=1e-6)
    y = torch.randn(z.shape, dtype=torch.float64)
    found, expected = (
        torch.autograd.grad((out * y).sum(), of)[0].double() * scale
        for out, of in ((z, logits), (right, exact))
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    targets = SparseTargets.from_lists([[0, 5]] * 5)
    options = {"gamma": pace.gamma, "label_bias": pace.label_bias}
    loss = self_paced_sigmoid_cross_entropy(logits, targets, pace.out_offsets, **options)
    torch.testing.assert_close(loss, sigmoid_cross_entropy(z, targets))


def test_logits_below_the_smallest_number_have_no_direction():
    """As the operator has it: z is the bias, and nothing flows back."""
    pace = SelfPacedLogits([3, 2], label_bias=-6)
    logits = torch.full((1, 5), 1e-39)
    logits[0, 3:] = 1.0
    logits.requires_grad_()
    z = pace(logits)
    assert (z[0, :3] == -6).all() and (z[0, 3:] > -6).all()
    z.sum().backward()
    assert not logits.grad[0, :3].any() and logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_do_not_overflow(dtype):
    pace = SelfPacedLogits([1000], std=0, dtype=dtype)
    z = pace(torch.full((2, 1000), 60_000.0, dtype=dtype))
    assert z.dtype == dtype
    torch.testing.assert_close(z, torch.ones_like(z), rtol=0.01, atol=0)


@pytest.mark.parametrize("level", ["group", "label"])
def test_part_is_columns_of_the_whole(level):
    pace, logits = module_of(level=level, label_bias=-1, std=1), logits_of()
    with torch.no_grad():
        pace.label_bias.normal_()
    for first, last in ((0, 1), (1, 4), (2, 3)):
        columns = slice(sum(SIZES[:first]), sum(SIZES[:last]))
        assert torch.equal(pace.part(logits[:, columns], first, last), pace(logits)[:, columns])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("level", ["group", "label"])
def test_part_in_place(level, dtype):
    pace, logits = module_of(level=level, label_bias=-1, std=1), logits_of().to(dtype)
    for first, last in ((0, 4), (1, 4), (2, 3)):
        part = logits[:, sum(SIZES[:first]) : sum(SIZES[:last])].clone()
        expected = pace.part(part, first, last)
        found = pace.part_(part, first, last)
        assert found is part and torch.equal(part, expected) and not found.requires_grad


def test_copies():
    pace = module_of(level="label", label_bias=-6, std=1)
    assert list(pace.state_dict()) == ["gamma", "label_bias"]
    again = module_of(level="label", label_bias=0)
    again.load_state_dict(pace.state_dict())
    for copied in (again, copy.deepcopy(pace), pickle.loads(pickle.dumps(pace))):
        assert torch.equal(copied(logits_of()), pace(logits_of()))


@pytest.mark.parametrize("log", [False, True])
def test_compiles_whole(log):
    pace, logits = module_of(label_bias=-6, log=log), logits_of()
    compiled = torch.compile(pace, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits), pace(logits))


def test_errors():
    for options, message in (
        ({"level": "class"}, "level must be group or label, got 'class'"),
        ({"init": "root"}, "init must be sqrt or a number, got 'root'"),
        ({"log": True, "init": -1.0}, "starts above 0, got trainable True and init -1.0"),
        ({"log": True, "trainable": False}, "got trainable False and init 'sqrt'"),
        ({"label_bias": torch.zeros(3)}, r"label_bias must be a number or \[2\], got \[3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            SelfPacedLogits([2], **options)
    for shape in ((1, 7), (8,), (2, 8, 5), (2, 5, 8), ()):
        message = rf"^logits must be \[N, 8\], got {re.escape(str(list(shape)))}$"
        with pytest.raises(ValueError, match=message):
            module_of()(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"^out_sizes\[1\] must be a whole number, got 2.7$"):
        SelfPacedLogits([1, 2.7])
