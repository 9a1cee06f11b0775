"""A constant budget: exactly k open gates for each image, whatever mode the blocks are in."""

import copy
import json

import pytest
import torch
from gated_blocks import accept_all
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fastheads.models import resnet
from fastheads.nn import Gate, gate_model, gated_blocks, record_gates
from fastheads.nn.gate_budget import (
    BudgetThresholds,
    budget_table,
    clear_budget,
    fit_budget,
    use_budget,
)

SIZE = 8


def network(gates: int = 6) -> nn.Module:
    """Its gates want different rates, and differ from image to image."""
    torch.manual_seed(0)
    model = resnet((gates // 2, gates // 2), (4, 8), num_labels=5)
    gate_model(model, rate=0.5)
    for block in gated_blocks(model).values():
        nn.init.normal_(block.gate.fc2.weight, std=2.0)
        nn.init.normal_(block.gate.fc2.bias, std=0.5)
        nn.init.normal_(block.gate.norm.running_mean, std=0.1)
    return model.eval()


def images(count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(count, 1, 1, 1, generator=generator) * 3
    return torch.randn(count, 3, SIZE, SIZE, generator=generator) * scale


def test_thresholds_by_hand():
    """Two images, three gates."""
    probability = torch.tensor([[0.9, 0.2, 0.6], [0.5, 0.4, 0.8]])
    # From gate 0 on: .9 .8 .6 .5 .4 .2; from gate 1 on: .8 .6 .4 .2; one of the last one opens it.
    expected = [[1.0, 0.6, 0.4], [1.0, 0.4, -1.0], [1.0, -1.0, -1.0]]
    torch.testing.assert_close(budget_table(probability, 2), torch.tensor(expected))
    assert budget_table(probability, 0).tolist() == [[1.0]] * 3
    assert budget_table(probability, 3)[0].tolist()[3] == -1.0


class Said(Gate):
    """Gives the probabilities that it is told."""

    def __init__(self, probability: torch.Tensor) -> None:
        super().__init__(4)
        self.said = probability

    def forward(self, x, *, generator=None):
        return (self.said > 0.5).float(), self.said


def test_decisions_by_hand():
    """One of two: over the images, half of the probabilities exceed 0.4."""
    model = resnet((2,), (4,), num_labels=3).eval()
    gate_model(model)
    said = torch.tensor([[0.7, 0.9], [0.3, 0.1], [0.4, 1.0], [0.41, 0.0]])
    for gate, block in enumerate(gated_blocks(model).values()):
        block.gate = Said(said[:, gate]).eval()
    x = images(4)
    thresholds = fit_budget(model, [x], 1)
    # .4 is the fifth of 8 numbers in descending order.
    torch.testing.assert_close(thresholds.table, torch.tensor([[1.0, 0.4], [1.0, -1.0]]))
    with torch.no_grad(), use_budget(model, thresholds), record_gates(model) as record:
        model(x)
        assert [z.tolist() for z in record.z] == [[1, 0, 0, 1], [0, 1, 1, 0]]
        assert torch.equal(torch.stack(record.probability, 1), said)


@pytest.fixture(scope="module")
def shared():
    """One network, because its blocks time themselves once for each size of a batch."""
    return network()


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("k", [0, 1, 3, 5, 6])
def test_exactly_k_in_every_mode(shared, batch, k):
    x, results = images(batch), []
    thresholds = fit_budget(shared, [images(16, 2), images(8, 3)], k)
    with torch.no_grad(), use_budget(shared, thresholds):
        for mode in ("dense", "gather", "auto"):
            for block in gated_blocks(shared).values():
                block.mode = mode
            with record_gates(shared) as record:
                results.append(shared(x))
                assert record.layers().tolist() == [k] * batch
                rates = record.rates()
            assert torch.equal(results[0], results[-1])
    if 0 < k < 6 and batch > 1:  # not the same gates for all
        assert ((rates > 0) & (rates < 1)).any()


def test_single_images_are_decided_at_the_temperature_of_the_gates():
    """Thresholds are of probabilities, which at another temperature lie elsewhere."""
    model = network()
    for temperature in (0.3, 5.0):
        for block in gated_blocks(model).values():
            block.gate.temperature = temperature
        with torch.no_grad(), use_budget(model, fit_budget(model, [images(24, 2)], 3)):
            for x in images(12, 3).split(1):
                results = []
                for mode in ("dense", "auto"):
                    for block in gated_blocks(model).values():
                        block.mode = mode
                    results.append(model(x))
                assert torch.equal(*results)


@pytest.mark.parametrize("k", [0, 2, 6])
def test_single_images_are_decided_as_in_a_batch(shared, k):
    """Without an operator, which only some gates may need: both ways go on with what is left."""
    blocks = list(gated_blocks(shared).values())
    with torch.no_grad(), use_budget(shared, fit_budget(shared, [images(24, 2)], k)):
        for x in images(12, 3).split(1):
            y = shared(x)
            opened = [block.last_executed for block in blocks]
            with record_gates(shared) as record:
                expected = shared(x)
            assert opened == [int(z) for z in record.z]
            assert sum(opened) == k
            assert torch.equal(y, expected)
            called = blocks[3].gate.register_forward_hook(lambda *args: None)
            assert torch.equal(shared(x), expected)
            called.remove()


def test_gathered_images_are_those_of_the_budget():
    """Where every number of rows is allowed, as many rows run as gates are open."""
    model, x = network(), images(32)
    use_budget(model, fit_budget(model, [x], 3))
    for block in gated_blocks(model).values():
        block.mode = "gather"
        inner = block.forward

        def forward(x, *args, block=block, inner=inner, **kwargs):
            accept_all(block, x)
            return inner(x, *args, **kwargs)

        block.forward = forward
    with torch.no_grad():
        model(x)
    assert sum(block.last_executed for block in gated_blocks(model).values()) == 3 * 32


@given(
    st.integers(1, 7).flatmap(
        lambda gates: st.tuples(
            st.lists(
                st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=gates, max_size=gates),
                min_size=1,
                max_size=6,
            ),
            st.integers(0, gates),
        )
    )
)
def test_any_probabilities(case):
    """Ties and certainties too: k open, and on average about b of those that remain."""
    rows, k = case
    probability = torch.tensor(rows)
    images_, gates = probability.shape
    table = budget_table(probability, k)
    for gate in range(gates):
        for b in range(min(k, gates - gate) + 1):
            above = int((probability[:, gate:] > table[gate, b]).sum())
            assert above <= b * images_
    left = torch.full((images_,), k)
    for gate in range(gates):
        left -= (probability[:, gate] > table[gate][left]).long()
    assert left.tolist() == [0] * images_


def test_one_budget_at_a_time_and_none_after():
    model, x = network(), images(3)
    with torch.no_grad():
        free = model(x)
        thresholds = fit_budget(model, [x], 2)
        with use_budget(model, thresholds):
            assert not torch.equal(model(x), free)
            with pytest.raises(ValueError, match="has a budget already"):
                use_budget(model, thresholds)
        assert torch.equal(model(x), free)
        use_budget(model, thresholds)
        copied = copy.deepcopy(model)
        clear_budget(model)
        clear_budget(model)
        assert torch.equal(model(x), free)
        with record_gates(copied) as record:
            copied(x)
            assert record.layers().tolist() == [2] * 3


def test_fit_under_a_budget():
    """A second fit sees the features of the first one; k stays."""
    model, x = network(), images(16)
    first = fit_budget(model, [x], 3)
    with use_budget(model, first):
        second = fit_budget(model, [x], 3)
    assert not torch.equal(first.table, second.table)
    with torch.no_grad(), use_budget(model, second), record_gates(model) as record:
        model(x)
        assert record.layers().tolist() == [3] * 16


def test_json():
    model = network()
    thresholds = fit_budget(model, [images(8)], 4)
    again = BudgetThresholds.from_json(json.loads(json.dumps(thresholds.to_json())))
    assert again.names == thresholds.names and again.k == thresholds.k == 4
    assert torch.equal(again.table, thresholds.table)


def test_rejects():
    model, x = network(), images(2)
    thresholds = fit_budget(model, [x], 2)
    with pytest.raises(ValueError, match="k must be from 0 to the number of gates, 6, got 7"):
        fit_budget(model, [x], 7)
    with pytest.raises(ValueError, match="batches must hold images, got none"):
        fit_budget(model, [], 2)
    with pytest.raises(ValueError, match="model must have gates"):
        fit_budget(nn.Linear(2, 2), [x], 0)
    with pytest.raises(ValueError, match="thresholds must be for the gates of the model, 4 gates"):
        use_budget(network(4), thresholds)
    with pytest.raises(ValueError, match="model must be in evaluation mode"):
        fit_budget(network().train(), [x], 2)
    with pytest.raises(RuntimeError, match="a budget needs a model in evaluation mode"):
        use_budget(model, thresholds)
        model.train()(x)
    broken = network()
    next(iter(gated_blocks(broken).values())).gate.fc2.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"(?i)nan"):
        fit_budget(broken, [x], 2)
    with (
        torch.no_grad(),
        use_budget(broken, thresholds),
        pytest.raises(ValueError, match=r"(?i)nan"),
    ):
        broken(x)
