"""How sc_sigmoid_loss is called: gradients in part, repeats, compilers, autocast, rejections."""

import pytest
import torch
from gpu import is_gpu
from sc_layers import MODES, draw, gradients
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from fastheads.ops import (
    sc_sigmoid_loss,
    sc_sigmoid_loss_logits_,
)
from fastheads.targets import SparseTargets


def test_without_the_value(device):
    for mode in MODES.values():
        example = draw(**mode).to(torch.float32, device)
        loss, *grads = gradients(sc_sigmoid_loss, example)
        nothing, *same = gradients(sc_sigmoid_loss, example, with_loss=False)
        assert nothing == 0 and loss > 0
        assert all(torch.equal(a, b) for a, b in zip(grads, same, strict=True))


def test_without_gradients(device):
    example = draw(gamma="group").to(torch.float32, device)
    loss = sc_sigmoid_loss(*example[:6], **example.options)
    with torch.no_grad():
        assert torch.equal(sc_sigmoid_loss(*example[:6], **example.options), loss)


def test_some_gradients(device):
    """What is not asked for is not computed, and does not change what is."""
    example = draw(gamma="label", label_bias=True, generic=2).to(torch.float32, device)
    everything = gradients(sc_sigmoid_loss, example)[1:]
    for i, leaf in enumerate(example.leaves):
        for other in example.leaves:
            other.requires_grad_(other is leaf)
        loss = sc_sigmoid_loss(*example[:6], **example.options)
        (grad,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(grad, everything[i])


def test_backward_twice_and_scaled(device):
    example = draw(gamma="group", bias=True).to(torch.float32, device)
    loss = sc_sigmoid_loss(*example[:6], **example.options)
    first = torch.autograd.grad(loss, example.leaves, retain_graph=True)
    kept = [grad.clone() for grad in first]
    third = torch.autograd.grad(loss, example.leaves, loss.new_tensor(3.0))
    for a, b, c in zip(first, kept, third, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(c, 3 * b)


def test_same_bits_from_run_to_run_and_any_number_of_threads(device):
    example = draw([300, 5, 1000], rows=50, gamma="label", label_bias=True).to(
        torch.float32, device
    )
    logits = torch.randn(50, 1305, device=device)
    options = {name: example.options[name].detach() for name in ("gamma", "label_bias")}

    def run(threads):
        torch.set_num_threads(threads)
        found = logits.clone()
        loss = sc_sigmoid_loss_logits_(found, example.targets, example.out_offsets, **options)
        return loss, found

    for again in (run(1), run(3)):
        assert all(torch.equal(a, b) for a, b in zip(run(1), again, strict=True))
    torch.set_num_threads(2)
    runs = [gradients(sc_sigmoid_loss, example, scratch_bytes=40_000) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def op_arguments(example, needed):
    x, weight, bias, targets, own, out, options = example
    return (
        x, weight, bias, options["generic"], options["gamma"], options["label_bias"],
        options["label_weights"], *targets, own, out, True, True, 0.5, 2000, True, needed,
    )  # fmt: skip


def test_opcheck(device):
    op = torch.ops.fastheads.sc_sigmoid_loss.default
    example = draw(gamma="label", label_bias=True, generic=2).to(torch.float32, device)
    opcheck(op, op_arguments(example, [True] * 6))
    transposed = example._replace(x=example.x.detach().T.contiguous().T)
    opcheck(op, op_arguments(transposed, [False] + [True] * 5))
    native = torch.ops.fastheads.sc_sigmoid_loss_logits_.default
    indices, offsets, _ = example.targets
    logits = torch.randn(7, 363, device=device)
    groups = torch.tensor(example.out_offsets, device=device)
    for given_logits in (logits, torch.randn(7, 400, device=device)[:, :363]):
        arguments = (
            given_logits, indices, offsets, None, groups, 363, None, None, None, False, True, True,
            True, 0.5, False, True,
        )  # fmt: skip
        opcheck(native, arguments)


def test_compile(device):
    example = draw(gamma="group", label_bias=True).to(torch.float32, device)
    x, weight, bias, targets, own, out, options = example

    def loss(x, weight, bias):
        return 2 * sc_sigmoid_loss(x.sin(), weight, bias, targets, own, out, **options)

    compiled = torch.compile(loss, fullgraph=True)
    found, expected = (f(x, weight, bias) for f in (compiled, loss))
    torch.testing.assert_close(found, expected)
    grads = (torch.autograd.grad(value, example.leaves) for value in (found, expected))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype, device):
    example = draw(gamma="group", rows=5).to(torch.float32, device)
    with torch.autocast(device.type, dtype):
        loss = sc_sigmoid_loss(*example[:6], **example.options)
    rounded = example._replace(
        **{name: getattr(example, name).detach().to(dtype) for name in ("x", "weight", "bias")}
    )
    torch.testing.assert_close(loss, sc_sigmoid_loss(*rounded[:6], **example.options))
    grads = torch.autograd.grad(loss, example.leaves)
    assert {grad.dtype for grad in grads} == {torch.float32}


def test_strided_inputs(device):
    example = draw(gamma="group", generic=4).to(torch.float32, device)
    expected = gradients(sc_sigmoid_loss, example)
    generic = example.options["generic"].detach().T.contiguous().T.requires_grad_()
    apart = example._replace(
        x=example.x.detach().T.contiguous().T.requires_grad_(),
        weight=torch.stack([example.weight.detach()] * 2, 1)[:, 0].requires_grad_(),
        options={**example.options, "generic": generic},
    )
    for a, b in zip(gradients(sc_sigmoid_loss, apart), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_flops():
    example = draw(bias=False).to(torch.float32)
    for needed, factor in [((True, True), 3), ((False, True), 2), ((False, False), 1)]:
        for leaf, need in zip(example.leaves, needed, strict=True):
            leaf.requires_grad_(need)
        with FlopCounterMode(display=False) as counter:
            sc_sigmoid_loss(*example[:6])
        assert counter.get_total_flops() == 2 * factor * 7 * example.weight.numel()


@pytest.mark.parametrize(
    "rows, message",
    [
        ([[0], [2, 9, 9]], "distinct and ascend within a row, got 9 after 9 at 3 in row 1"),
        ([[0], [9, 2]], "distinct and ascend within a row, got 2 after 9 at 2 in row 1"),
        ([[0], [363]], "labels from 0 to 362, got 363 at 1 in row 1"),
        ([[-1], [3]], "labels from 0 to 362, got -1 at 0 in row 0"),
    ],
)
def test_rejects_targets(rows, message, device):
    """With their position on the CPU; CUDA does not wait for the device, and the loss is NaN."""
    indices = torch.tensor([label for row in rows for label in row])
    lengths = torch.tensor([0] + [len(row) for row in rows])
    targets = SparseTargets(indices, lengths.cumsum(0)).to(device)
    example = draw(rows=2).to(torch.float32, device)._replace(targets=targets)
    if is_gpu(device):
        assert sc_sigmoid_loss(*example[:6], **example.options).isnan()
        return
    with pytest.raises(RuntimeError) as error:
        sc_sigmoid_loss(*example[:6], **example.options)
    assert message in str(error.value)


def rejected():
    example = draw(gamma="group", generic=2, label_bias=True).to(torch.float32)
    x, weight, bias, targets, own, out, options = example
    yield dict(x=x[0]), "x must be a floating [B, K] matrix"
    yield dict(x=x.long()), "x must be a floating [B, K] matrix, got torch.int64"
    yield dict(weight=weight[1:]), f"weight must be [{len(weight)}], got [{len(weight) - 1}]"
    yield dict(weight=weight.double()), "weight must have dtype and device of x, torch.float32"
    yield dict(bias=bias[1:]), "bias must be [363], got [362]"
    yield dict(in_offsets=own[1:]), "in_offsets must have the 7 entries of out_offsets, got 6"
    yield dict(in_offsets=[*own[:-1], 99]), f"in_offsets must ascend from 0 to the {x.shape[1]}"
    yield dict(out_offsets=[1, *out[1:]]), "out_offsets must ascend from 0, got [1, 5"
    yield dict(targets=targets.select(torch.arange(3))), "one row for each of the 7 rows of x"
    entries, short = len(targets.indices), targets.offsets.clone()
    short[-1] -= 1
    text = f"offsets of targets must ascend from 0 to the {entries} entries of indices"
    yield dict(targets=targets._replace(offsets=short)), f"{text}, got 0 to {entries - 1}"
    yield dict(targets=targets._replace(offsets=short.clamp(min=1))), f"{text}, got 1 to"
    yield dict(generic=options["generic"][1:]), "generic must be [7, s], got [6, 2]"
    yield dict(gamma=torch.ones(5)), "gamma must be [6], one per group, or [363], one per label"
    yield dict(gamma_per_label=True), "gamma must be [363], one per label, got [6]"
    per_label = dict(gamma=torch.ones(363), gamma_per_label=False)
    yield per_label, "gamma must be [6], one per group, got [363]"
    yield dict(label_bias=torch.ones(5)), "label_bias must be [363], got [5]"
    yield dict(label_weights=torch.ones(5)), "label_weights must be [363], got [5]"
    yield dict(scratch_bytes=0), "scratch_bytes must be None or at least 1, got 0"
    yield dict(scratch_bytes=-5), "scratch_bytes must be None or at least 1, got -5"
    yield dict(reduction="max"), "reduction must be one of"


def test_rejects():
    example = draw(gamma="group", generic=2, label_bias=True).to(torch.float32)
    for changed, message in rejected():
        arguments = {**example._asdict(), **example.options, **changed}
        arguments.pop("options")
        with pytest.raises(ValueError) as error:
            sc_sigmoid_loss(**arguments)
        assert message in str(error.value), message


def test_offsets_that_leave_labels_out_of_given_logits():
    targets = SparseTargets(torch.tensor([1, 2]), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="ascend from 0 to the 2 entries of indices, got 0 to 1"):
        sc_sigmoid_loss_logits_(torch.zeros(2, 5), targets, [0, 2, 5])


def test_native_rejects():
    op, long = torch.ops.fastheads.sc_sigmoid_loss_logits_.default, torch.int64
    offsets, groups = torch.zeros(4, dtype=long), torch.tensor([0, 2, 5])
    right = dict(
        logits=torch.zeros(3, 5), indices=torch.zeros(0, dtype=long), offsets=offsets, values=None,
        out_offsets=groups, labels=5, gamma=None, label_bias=None, label_weights=None,
        gamma_per_label=False, normalize=True, with_loss=True, with_grad=True, scale=1.0,
        gamma_columns=False, bias_columns=False,
    )  # fmt: skip
    op(**right)
    wrong = [
        (dict(logits=torch.zeros(5)), "logits must be [B, N], got 1 dimensions"),
        (dict(logits=torch.zeros(3, 5, dtype=torch.int32)), "logits must be float32, float64"),
        (dict(logits=torch.zeros(5, 3).T), "logits must have rows of unit stride"),
        (dict(indices=torch.zeros(0)), "indices must be Long, got Float"),
        (dict(offsets=offsets[1:]), "offsets must be [4], got 1 dimensions of 3 entries"),
        (dict(offsets=offsets + 1), "offsets of targets must ascend from 0 to the 0 entries"),
        (dict(out_offsets=groups[:0]), "out_offsets must be [M + 1], got no entries"),
        (dict(out_offsets=groups[:2]), "out_offsets must span the 5 columns of logits, got 0 to 2"),
        (dict(out_offsets=groups.flip(0)), "out_offsets must ascend, got 2 after 5 at 1"),
        (dict(values=torch.zeros(2)), "values must be [0]"),
        (dict(gamma=torch.zeros(5)), "gamma must be [2], got 1 dimensions of 5 entries"),
        (dict(gamma=torch.zeros(2).double()), "gamma must be Float, got Double"),
        (dict(label_bias=torch.zeros(2)), "label_bias must be [5]"),
        (dict(label_weights=torch.zeros(2)), "label_weights must be [5]"),
        (dict(labels=4), "labels must be at least the 5 columns of logits, got 4"),
    ]
    for changed, message in wrong:
        with pytest.raises(RuntimeError) as error:
            op(**{**right, **changed})
        assert message in str(error.value), message
