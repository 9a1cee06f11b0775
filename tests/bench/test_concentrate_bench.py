"""`fastheads bench concentrate`: contestants of one function, and soft targets as meant."""

import numpy as np
import pytest
import torch
from fastheads_bench import bench_concentrate as bench
from fastheads_bench.harness import read

from fastheads.nn import SelfPacedLogits, fc_sc

LABELS = 700


def head_of(grouping, paced):
    pacing = SelfPacedLogits(grouping.sizes.tolist(), label_bias=-3.0) if paced else None
    head = fc_sc(bench.FEATURES, bench.TOP1, bench.TOP2, grouping, pacing=pacing)
    return head.double()


def test_soft_targets_are_the_labels_of_one_vertical():
    grouping = bench.verticals(LABELS)
    assert len(set(grouping.sizes)) > 10  # unequal
    targets = bench.soft_targets(grouping, 40)
    for labels in targets.tolist():
        assert labels == sorted(set(labels))
        (group,) = np.unique(grouping.group_of[labels])
        assert len(labels) == min(bench.K, grouping.sizes[group])
    assert targets.values.shape == targets.indices.shape


@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize("way", ["linears", "dense", "masked"])
def test_plain_heads_are_the_head(way, paced):
    grouping = bench.verticals(LABELS)
    head = head_of(grouping, paced)
    plain = bench.PlainHead(head, way)
    features = torch.randn(9, bench.FEATURES, dtype=torch.float64)
    targets = bench.soft_targets(grouping, 9)
    targets = targets._replace(values=targets.values.double())
    torch.testing.assert_close(plain.logits(features)[:, plain.position], head(features))
    losses = [head.loss, plain.loss, plain.sparse_loss]
    grads = []
    for module, loss in zip([head, plain, plain], losses, strict=True):
        module.zero_grad()
        loss(features, targets).backward()
        grads.append(module.top1.weight.grad.clone())
    for loss, grad in zip(losses[1:], grads[1:], strict=True):
        torch.testing.assert_close(loss(features, targets), head.loss(features, targets))
        torch.testing.assert_close(grad, grads[0])
    if way == "masked":  # what is between verticals cannot be trained
        (layer,) = plain.layers
        assert not layer.weight.grad[~plain.mask].any() and layer.weight.grad[plain.mask].any()


def test_writes_rows(tmp_path):
    out = tmp_path / "results.csv"
    bench.main(["--quick", "--threads", "1", "--out", str(out), "--parts", "soft_targets"])
    assert [(row["shape"], row["provider"]) for row in read(out)] == [
        ("top 100, 4437 labels [256]", "fastheads 577 B"),
        ("top 100, 4437 labels [256]", "dense, to_sparse 577 B"),
        ("top 100, 4437 labels [256]", "dense 17748 B"),
    ]


def test_student_and_specialists_know_the_same_labels():
    case = bench.inference(2, LABELS, torch.device("cpu"))
    sizes = []
    for name, call in case.providers.items():
        logits = call()
        assert logits.shape == (2, LABELS) and case.error(name, logits) <= case.tolerance
        sizes.append(float(name.split(" ")[-2]))
    assert sizes[1] > 10 * sizes[0]


def test_a_step_is_checked_and_says_what_it_holds(monkeypatch):
    """Without compiling: that is as checked, and takes a minute."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    case = bench.training(8, LABELS, True, torch.device("cpu"))
    sizes = {}
    for name, step in case.providers.items():
        assert case.error(name, step()) <= case.tolerance
        way, held = name.removesuffix(" MB").rsplit(" ", 1)
        sizes[way] = sum(map(int, held.split("+")))
    assert list(sizes) == [
        "fastheads", "dense", "masked", "linears", "compiled", "compiled, sparse",
    ]  # fmt: skip
    # Of one dense layer 20 times the weights of the last one, and no less of gradients.
    assert sizes["masked"] > sizes["dense"] > sizes["fastheads"] + 8
