"""What gates decide, recorded; and decided in their place."""

import pytest
import torch
from residual_networks import images, short, small
from torch import nn

from fastheads.nn import force_gates, gate_model, gated_blocks, record_gates


def gated(**options):
    model = small(**options)
    torch.manual_seed(0)
    gate_model(model)
    for block in gated_blocks(model).values():  # gates that tell images apart
        nn.init.normal_(block.gate.fc2.weight)
        nn.init.zeros_(block.gate.fc2.bias)
    return model


@pytest.mark.parametrize("training", [True, False])
def test_what_the_gates_return(training):
    model = gated(blocks=(2, 2)).train(training)
    returned = []
    for block in gated_blocks(model).values():
        block.gate.register_forward_hook(lambda m, x, y: returned.append(y))
    with record_gates(model) as record:
        for _ in range(2):
            returned.clear()
            model(images())
            assert record.names == list(gated_blocks(model))
            for i, (z, probability) in enumerate(returned):
                assert record.z[i] is z and record.probability[i] is probability
            z = torch.stack([z for z, _ in returned])
            assert torch.equal(record.layers(), z.sum(0)) and record.layers().shape == (4,)
            assert torch.equal(record.rates(), z.mean(1)) and record.rates().shape == (4,)
    assert 0 < z.mean() < 1


def test_gradients_flow():
    """Through z to the gates: equation 5.8 needs them."""
    model = gated().train()
    with record_gates(model) as record:
        model(images())
        (record.rates() - 0.7).square().sum().backward()
    for block in gated_blocks(model).values():
        assert float(block.gate.fc2.bias.grad.abs().max()) > 0


def test_stays_after_it_is_closed():
    model = gated().eval()
    with record_gates(model) as record:
        model(images())
        before = record.layers()
    model(images(count=7))
    assert torch.equal(record.layers(), before)
    assert all(b.decision is None and not b.recording for b in gated_blocks(model).values())


def test_within_another():
    model = gated().eval()
    with record_gates(model) as outer:
        with record_gates(model) as inner:
            model(images(count=2))
        model(images(count=3))
        assert len(inner.layers()) == 2 and len(outer.layers()) == 3


def test_closed_after_an_exception():
    model = gated()
    with pytest.raises(KeyError), record_gates(model), force_gates(model, 1.0):
        raise KeyError
    for block in gated_blocks(model).values():
        assert not block.recording and block.forced is None


def test_nothing_recorded():
    model = gated()
    with record_gates(model) as record, pytest.raises(ValueError, match=r"gate of stages.0.0 must"):
        record.layers()
    with pytest.raises(ValueError, match="got no forward"):
        _ = record.z


def test_nan_logits():
    model = gated()
    model.stages[0][1].gate.fc2.weight.data[1, 3] = float("nan")
    for training in (True, False):
        with record_gates(model.train(training)) as record:
            model(images())
        for method in (record.rates, record.layers):
            with pytest.raises(ValueError, match=r"logits of the gate of stages.0.1 are NaN"):
                method()


@pytest.mark.parametrize("mode", ["auto", "dense", "gather"])
@pytest.mark.parametrize("training", [True, False])
def test_forced(mode, training):
    """Table 5.1, the `*` variant: y = act(y + rate f(y)), and gates are not asked."""
    model = gated().train(training)
    for block in gated_blocks(model).values():
        block.mode = mode
    x, z = images(), {"stages.0.0": 0.25, "stages.0.1": 1, "stages.1.0": 0.0}
    seen = []
    for block in gated_blocks(model).values():
        block.register_forward_hook(lambda m, x, y: seen.append((m, x[0], y)))
        block.gate.register_forward_hook(lambda m, x, y: pytest.fail("asked"))
    with torch.no_grad(), force_gates(model, z), record_gates(model) as record:
        model.train(False)
        model(x)
    for (block, x, y), value in zip(seen, z.values(), strict=True):
        shortcut = x if block.shortcut is None else block.shortcut(x)
        torch.testing.assert_close(y, (shortcut + value * block.branch(x)).relu())
    assert torch.equal(record.rates(), torch.tensor(list(z.values())))
    assert [b.mode for b in gated_blocks(model).values()] == [mode] * 3


def test_forced_for_each_image():
    model, x = gated().eval(), images()
    values = torch.tensor([1.0, 0.0, 0.5, 1.0])
    with torch.no_grad():
        with force_gates(model, dict.fromkeys(gated_blocks(model), values)):
            together = model(x)
        for i, value in enumerate(values):
            with force_gates(model, value.item()):
                torch.testing.assert_close(model(x[i : i + 1])[0], together[i])


def test_forced_within_another():
    model = gated().eval()
    with record_gates(model) as record, force_gates(model, 1.0):
        with force_gates(model, 0.0):
            model(images())
            assert record.rates().tolist() == [0, 0, 0]
        model(images())
        assert record.rates().tolist() == [1, 1, 1]


def test_rejects():
    plain = short("torchvision resnet18")
    for context in (record_gates, lambda m: force_gates(m, 1.0)):
        with pytest.raises(ValueError, match="must have gates, got ResNet"), context(plain):
            pass
    with (
        pytest.raises(ValueError, match=r"each of stages.0.0, stages.0.1, stages.1.0, got a"),
        force_gates(gated(), {"a": 1.0}),
    ):
        pass


def test_compile():
    """One graph in training; what is recorded and forced later is seen by it too."""
    torch._dynamo.reset()
    model, x = gated(blocks=(1,), widths=(4,)).train(), images()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x)
    with record_gates(compiled) as record:
        for _ in range(2):
            model.zero_grad()
            (compiled(x).sum() + record.rates().sum()).backward()
        assert float(model.stages[0][0].gate.fc1.weight.grad.abs().max()) > 0
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        compiled(x)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    with force_gates(model, 0.25), record_gates(model) as record:
        torch.testing.assert_close(compiled(x), model(x))
        assert record.rates().tolist() == [0.25]
