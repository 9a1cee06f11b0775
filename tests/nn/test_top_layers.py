"""The four heads of paper 002: costs, wiring and loss."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from top_layers import IN_ORDER, PACINGS, features_of, groupings, head_of, kinds
from torch import nn

from fastheads.labels import Grouping
from fastheads.losses import sigmoid_cross_entropy
from fastheads.metrics.cost import count_macs, count_parameters
from fastheads.nn import SCLinear, SelfPacedLogits, TopLayers, decompositions, fc_fc, fc_sc, sc_sc
from fastheads.targets import SparseTargets


def explicit(head, features, group_of):
    """Figure 3, one label at a time: label, its units of the second layer, theirs of the first."""
    first = F.relu(features @ head.top1.weight.T + head.top1.bias)
    groups = max(group_of) + 1
    if isinstance(head.top2, SCLinear):
        shares = first.split(head.top2.in_sizes, 1)
        weights = zip(shares, head.top2.group_weights(), strict=True)
        second = torch.cat([x @ w.T for x, w in weights], 1) + head.top2.bias
    else:
        second = first @ head.top2.weight.T + head.top2.bias
    second = F.relu(second)
    shared, own = second[:, : head.logits.generic], second[:, head.logits.generic :]
    columns = []
    for label, g in enumerate(group_of):
        read = own if head.logits.shared_input else own.chunk(groups, 1)[g]
        among = [other for other, of in enumerate(group_of) if of == g].index(label)
        row = head.logits.group_weights()[g][among]
        position = sum(of < g for of in group_of) + among
        columns.append(torch.cat([shared, read], 1) @ row + head.logits.bias[position])
    return torch.stack(columns, 1)


@kinds
@groupings
def test_wiring(kind, group_of):
    head = head_of(kind, group_of)
    torch.testing.assert_close(head(features_of()), explicit(head, features_of(), group_of))


@kinds
@groupings
@pytest.mark.parametrize("pacing", PACINGS)
def test_group_order(kind, group_of, pacing):
    head = head_of(kind, group_of, PACINGS[pacing])
    grouped = head.grouped(features_of())
    order = Grouping(np.array(group_of)).permutation
    assert torch.equal(grouped, head(features_of())[:, torch.from_numpy(order)])
    if pacing != "none":
        plain = copy.deepcopy(head)
        plain.pacing = None
        assert torch.equal(grouped, head.pacing(plain.grouped(features_of())))


# Section 3.2 at the sizes of section 4.1: 100,000 labels in 20 verticals, 9,216 features.
PAPER = {
    "FC4096-FC512": (fc_fc, 4096, {}, 91_045_888),
    "FC4096-SC512": (fc_sc, 4096, {}, 130_891_776),
    "SC512-SC512": (sc_sc, 512, {}, 150_814_720),
    "FC4096-SC(512,128)": (fc_sc, 4096, {"generic": 128}, 120_930_304),
    "FC4096-SC(512,256)": (fc_sc, 4096, {"generic": 256}, 110_968_832),
    "FC4096-SC(512,384)": (fc_sc, 4096, {"generic": 384}, 101_007_360),
    "FC4096-SC(512,512)": (fc_sc, 4096, {"generic": 512}, 91_045_888),
}


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("zipf", [False, True])
def test_parameters_of_the_paper(name, zipf):
    """They do not depend on how the labels are shared out."""
    make, top1, options, expected = PAPER[name]
    groups = np.arange(20)
    if zipf:
        weights = 1 / np.arange(1, 21)
        groups = np.random.default_rng(0).choice(20, 99_980, p=weights / weights.sum())
        grouping = Grouping(np.append(np.arange(20), groups))
    else:
        grouping = Grouping(np.repeat(groups, 5000))
    head = make(9216, top1, 512, grouping, bias=False, device="meta", **options)
    assert head.macs == head.num_parameters == expected
    biased = make(9216, top1, 512, grouping, device="meta", **options)
    units = biased.top1.out_features + biased.top2.out_features
    assert (biased.macs, biased.num_parameters) == (expected, expected + units + 100_000)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    base=st.integers(1, 9),
    s1=st.integers(1, 9),
    s2=st.integers(1, 9),
    data=st.data(),
)
def test_formulas_of_section_3_2(sizes, base, s1, s2, data):
    x = data.draw(st.integers(0, s2))
    grouping = Grouping(np.repeat(np.arange(len(sizes)), sizes))
    n, m = sum(sizes), len(sizes)
    for make, options, expected in (
        (fc_fc, {}, s2 * n + s2 * s1 + s1 * base),
        (fc_sc, {}, s2 * n + m * s2 * s1 + s1 * base),
        (sc_sc, {}, s2 * n + m * s2 * s1 + m * s1 * base),
        (fc_sc, {"generic": x}, s2 * n + m * (s2 - x) * s1 + x * s1 + s1 * base),
    ):
        head = make(base, s1, s2, grouping, device="meta", **options)
        assert head.macs == expected
        assert head.num_parameters == count_parameters(head)


@kinds
def test_macs_are_those_executed(kind):
    head = head_of(kind)
    assert count_macs(head, features_of(1)) == head.macs


TARGETS = SparseTargets.from_lists([[0, 3, 8], [], [7, 2], [5], list(range(9)), [1]])
SOFT = TARGETS._replace(values=torch.linspace(0.1, 0.9, len(TARGETS.indices), dtype=torch.float64))


def dense_loss(head, targets, weights, reduction):
    """Eq. 2 from all logits, in the order of the labels."""
    logits = head(features_of())
    dense = torch.zeros_like(logits)
    values = 1.0 if targets.values is None else targets.values
    dense[targets.row_indices(), targets.indices] = values
    terms = F.binary_cross_entropy_with_logits(logits, dense, weights, reduction="none")
    rows = terms.sum(1)
    return {"sum": rows.sum(), "mean_rows": rows.mean(), "mean": terms.mean()}[reduction]


@kinds
@groupings
@pytest.mark.parametrize("pacing", PACINGS)
@pytest.mark.parametrize("soft", [False, True])
def test_loss(kind, group_of, pacing, soft):
    head, targets = head_of(kind, group_of, PACINGS[pacing]), SOFT if soft else TARGETS
    weights = torch.tensor([1, 0, 2, 1, 1, 0.5, 1, 0, 3], dtype=torch.float64) if soft else None
    for reduction in ("sum", "mean_rows", "mean"):
        loss = head.loss(features_of(), targets, label_weights=weights, reduction=reduction)
        expected = dense_loss(head, targets, weights, reduction)
        torch.testing.assert_close(loss, expected)
        parameters = list(head.parameters())
        for got, wanted in zip(
            torch.autograd.grad(loss, parameters),
            torch.autograd.grad(expected, parameters),
            strict=True,
        ):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("pacing", ["group", "label"])
def test_loss_with_as_many_groups_as_labels(pacing):
    """The shape of gamma does not tell its level; one of the two groups has no labels."""
    grouping = Grouping(np.array([0, 0]), ("two", "none"))
    paced = SelfPacedLogits([2, 0], std=0.3, dtype=torch.float64, **PACINGS[pacing])
    head = fc_sc(5, 4, 3, grouping, pacing=paced, dtype=torch.float64)
    targets = SparseTargets.from_lists([[0], [1], [], [0, 1], [0], [1]])
    expected = sigmoid_cross_entropy(head(features_of()), targets)
    torch.testing.assert_close(head.loss(features_of(), targets), expected)


@kinds
@pytest.mark.parametrize("pacing", ["none", "label"])
def test_no_rows(kind, pacing):
    head = head_of(kind, pacing=PACINGS[pacing])
    assert head(features_of(0)).shape == (0, 9)
    loss = head.loss(features_of(0), SparseTargets.from_lists([]))
    loss.backward()
    assert loss == 0 and not any(p.grad.any() for p in head.parameters() if p.grad is not None)


def test_loss_is_that_of_given_logits():
    head = head_of("fc_sc")
    expected = sigmoid_cross_entropy(head(features_of()), SOFT)
    torch.testing.assert_close(head.loss(features_of(), SOFT), expected)


def test_targets_in_group_order():
    """Labels by position: 1, 4, 8 | 0, 5 | 2, 3, 6, 7."""
    head = head_of("fc_sc")
    targets = SparseTargets.from_lists([[0, 1, 2], [], [8, 7, 4]])
    targets = targets._replace(values=torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    grouped = head.group_targets(targets)
    assert grouped.tolist() == [[0, 3, 5], [], [1, 2, 8]]
    assert torch.equal(grouped.values, torch.tensor([0.2, 0.1, 0.3, 0.4, 0.6, 0.5]))
    assert head_of("fc_sc", IN_ORDER).group_targets(targets) is targets


@groupings
@pytest.mark.parametrize("label", [-1, 9])
def test_unknown_labels_are_rejected(group_of, label):
    head = head_of("fc_sc", group_of)
    targets = SparseTargets(torch.tensor([3, label, 2]), torch.tensor([0, 2, 3]))
    with pytest.raises(ValueError, match=rf"labels 0 to 8, got {label} at position 1 of indices"):
        head.loss(features_of(2), targets)


def test_value_every_third_call():
    every, plain = head_of("fc_sc", pacing={}, loss_every=3), head_of("fc_sc", pacing={})
    values = []
    for step in range(7):
        features = features_of() + step
        loss, expected = every.loss(features, TARGETS), plain.loss(features, TARGETS)
        values.append(expected.item())
        assert loss.item() == pytest.approx(values[step // 3 * 3])
        loss.backward()
        expected.backward()
        for got, wanted in zip(every.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(got.grad, wanted.grad)
        with torch.no_grad():  # always computed, and no call that counts
            known = every.loss(features_of() - 1, TARGETS)
            assert known.item() == pytest.approx(plain.loss(features_of() - 1, TARGETS).item())


@kinds
def test_learns(kind):
    head = head_of(kind, pacing={"label_bias": -3.0}, dtype=torch.float32)
    optimizer = torch.optim.Adagrad(head.parameters(), lr=0.1)
    features = features_of().float()
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = head.loss(features, TARGETS)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@kinds
def test_autocast(kind):
    head = head_of(kind, pacing={"label_bias": -1.0}, dtype=torch.float32)
    features = features_of().float()
    with torch.autocast("cpu", torch.bfloat16):
        logits, loss = head(features), head.loss(features, TARGETS)
    torch.testing.assert_close(logits.float(), head(features), rtol=0, atol=0.1)
    torch.testing.assert_close(loss, head.loss(features, TARGETS), rtol=0.02, atol=0)
    parameters = list(head.parameters())
    got = torch.autograd.grad(loss, parameters)
    wanted = torch.autograd.grad(head.loss(features, TARGETS), parameters)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0.03 * b.abs().max().item() + 0.01)


@kinds
def test_devices_agree(kind, device):
    head = head_of(kind, pacing={"label_bias": -1.0})
    moved, features = copy.deepcopy(head).to(device), features_of().to(device)
    torch.testing.assert_close(moved(features).cpu(), head(features_of()))
    losses = moved.loss(features, SOFT.to(device)), head.loss(features_of(), SOFT)
    torch.testing.assert_close(losses[0].cpu(), losses[1])
    for loss in losses:
        loss.backward()
    for got, expected in zip(moved.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(got.grad.cpu(), expected.grad)


def test_state_dict():
    head = head_of("fc_sc", pacing={"label_bias": -6.0})
    assert list(head.state_dict()) == [
        *(f"{layer}.{part}" for layer in ("top1", "top2", "logits") for part in ("weight", "bias")),
        "pacing.gamma",
        "pacing.label_bias",
    ]
    again = head_of("fc_sc", pacing={"label_bias": 0.0})
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(features_of()), head(features_of()))


def test_bias_of_logits_starts_at():
    head = head_of("sc_sc", initial_bias=-6.0)
    assert torch.equal(head.logits.bias.detach(), torch.full((9,), -6.0, dtype=torch.float64))


@kinds
def test_copies(kind):
    head = head_of(kind, pacing={}, loss_every=2)
    head.loss(features_of(), TARGETS).backward()
    for copied in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(copied(features_of()), head(features_of()))
        assert copied.loss(features_of(), TARGETS).item() == pytest.approx(
            dense_loss(head, TARGETS, None, "mean_rows").item()
        )
    half = copy.deepcopy(head).half()
    torch.testing.assert_close(
        half(features_of().half()).double(), head(features_of()), rtol=0, atol=0.02
    )


@kinds
@groupings
def test_compiles_whole(kind, group_of):
    head = head_of(kind, group_of, {"label_bias": -1.0})
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features_of()), head(features_of()))


@pytest.mark.slow
def test_compiles_to_machine_code():
    """By the default backend, which generates C++."""
    torch._dynamo.reset()  # other heads count as recompilations of the same code
    head = head_of("fc_sc, generic", pacing={"label_bias": -1.0})
    logits = torch.compile(head, fullgraph=True)(features_of())
    torch.testing.assert_close(logits, head(features_of()))


def test_loss_compiles_whole():
    head = head_of("fc_sc, generic", pacing={})
    loss = torch.compile(head.loss, fullgraph=True, backend="aot_eager")(features_of(), SOFT)
    torch.testing.assert_close(loss, head.loss(features_of(), SOFT))
    loss.backward()
    got = [p.grad.clone() for p in head.parameters()]
    head.zero_grad()
    head.loss(features_of(), SOFT).backward()
    for compiled, parameter in zip(got, head.parameters(), strict=True):
        torch.testing.assert_close(compiled, parameter.grad)


@kinds
def test_exports(kind):
    head = head_of(kind, pacing={})
    program = torch.export.export(head, (features_of(),)).run_decompositions(decompositions())
    assert "fastheads" not in program.graph_module.code
    torch.testing.assert_close(program.module()(features_of()), head(features_of()))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: head_of("fc_sc", [0, -1, 1]), "every label .* got 1 labels in none"),
        (lambda: head_of("fc_fc", []), "got no group"),
        (lambda: fc_sc(5, 4, 3, Grouping(np.zeros(2)), generic=4), "0 to top2, 3, got 4"),
        (lambda: head_of("fc_sc", loss_every=0), "loss_every must be at least 1, got 0"),
        (
            lambda: head_of("fc_sc", bias=False, initial_bias=-6.0),
            "initial_bias must be None for logits without bias",
        ),
        (
            lambda: fc_sc(5, 4, 3, Grouping(np.zeros(2)), pacing=SelfPacedLogits([3])),
            "pacing must have out_sizes of the grouping",
        ),
        (
            lambda: TopLayers(
                nn.Linear(2, 2), nn.Linear(2, 2), SCLinear(2, [3]), Grouping(np.zeros(2))
            ),
            "logits must have out_sizes of the grouping",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@kinds
@groupings
@pytest.mark.parametrize("bias", [True, False])
def test_the_same_in_layers_of_torch(kind, group_of, bias):
    head, features = head_of(kind, group_of, bias=bias).eval(), features_of()
    dense = head.to_dense()
    assert {type(layer) for layer in dense} == {nn.Linear, nn.ReLU} and not dense.training
    torch.testing.assert_close(dense(features), head(features))
    before = head(features)
    with torch.no_grad():
        for parameter in dense.parameters():  # copies
            parameter.zero_()
    assert torch.equal(head(features), before)


def test_pacing_is_no_layer_of_torch():
    with pytest.raises(ValueError, match="to_dense needs a head without pacing"):
        head_of("fc_sc", pacing={}).to_dense()
