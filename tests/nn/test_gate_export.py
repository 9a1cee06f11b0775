"""Gated networks through torch.export and ONNX: the numbers of the eager network."""

import pytest
import torch
from gated_blocks import first_channel_gate
from torch import Tensor, nn

from fastheads.models import resnet
from fastheads.nn import GatedResidual, gate_model, gated_blocks, record_gates
from fastheads.nn.gate_export import ExportGate, conditional, export_onnx, masked

BATCH = torch.export.Dim("batch")


def network(**options: object) -> nn.Module:
    """Its two gates are open for half of the images."""
    torch.manual_seed(0)
    model = resnet((1, 2), (4, 8), num_labels=5, **options)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(std=0.1)
    gate_model(model, always_on=["stages.0.0"], mode="dense")
    with torch.no_grad(), record_gates(model.eval()) as record:
        for number, block in enumerate(gated_blocks(model).values()):
            nn.init.normal_(block.gate.fc2.weight, std=0.5)
            nn.init.normal_(block.gate.norm.running_mean, std=0.2)
            model(images(9))
            block.gate.fc2.bias[0] += record.probability[number].logit(1e-6).median()
    return model


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    scale = 4 * torch.rand(count, 1, 1, 1, generator=generator)
    return scale * torch.randn(count, 3, 9, 9, generator=generator)


def single_gate(branch: nn.Module, **options: object) -> nn.Sequential:
    block = GatedResidual(branch, first_channel_gate(1), **options)
    return nn.Sequential(block).eval()


@pytest.mark.parametrize("form", [masked, conditional])
def test_by_hand(form):
    """Eq. 5.3 with the branch -3 x: the mean of the first image opens the gate."""
    branch = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(branch.weight, -3.0)
    exported = form(single_gate(branch))
    with torch.no_grad():
        assert exported(torch.tensor([[[[-1.0, 3.0]]]])).tolist() == [[[[2.0, 0.0]]]]
        assert exported(torch.tensor([[[[-2.0, 2.0]]]])).tolist() == [[[[0.0, 2.0]]]]


@pytest.mark.parametrize("shape", [(5, 8, 3, 3), (5, 8)])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_gate(batch_norm, shape):
    torch.manual_seed(0)
    model = network()
    gate = next(iter(gated_blocks(model).values())).gate
    x = torch.randn(shape[0], gate.fc1.in_features, *shape[2:])
    with torch.no_grad():
        assert ExportGate(gate)(x).tolist() == (gate(x)[0] > 0).tolist()


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("shortcut", ["pad", "projection"])
def test_masked_is_the_network(preactivation, shortcut):
    model = network(preactivation=preactivation, shortcut=shortcut)
    x = images(12)
    with torch.no_grad():
        torch.testing.assert_close(masked(model)(x), model(x))
    kinds = {type(module).__name__ for module in masked(model).modules()}
    assert "GatedBlock" not in kinds and "Gate" not in kinds and gated_blocks(model)


def test_masked_leaves_out_what_is_not_a_number():
    """A closed branch has no say, whatever it gives."""
    branch = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(branch.weight, torch.inf)
    x = torch.tensor([-2.0, 2.0]).view(1, 1, 1, 2)
    with torch.no_grad():
        assert masked(single_gate(branch, relu=False))(x).tolist() == x.tolist()


def test_masked_exports_for_any_batch():
    model = network()
    exported = torch.export.export(
        masked(model), (images(3),), dynamic_shapes=({0: BATCH},)
    ).module()
    assert "fastheads" not in str(exported.graph)
    with torch.no_grad():
        for count in (1, 3, 17):
            torch.testing.assert_close(exported(images(count)), model(images(count)))


def test_conditional_exports_conditions():
    """As many as gates; open and closed ones give the eager numbers."""
    model = network()
    program = torch.export.export(conditional(model), (images(1),))
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.higher_order.cond) == len(gated_blocks(model)) == 2
    exported, decisions = program.module(), set()
    for block in gated_blocks(model).values():
        block.mode = "auto"
    with torch.no_grad():
        for x in images(30).split(1):
            torch.testing.assert_close(exported(x), model(x))
            decisions |= {
                (name, block.last_executed) for name, block in gated_blocks(model).items()
            }
    assert len(decisions) == 4  # each gate was open and closed


def test_conditional_is_the_network_eagerly():
    model = network()
    alone = conditional(model)
    with torch.no_grad():
        for x in images(8).split(1):
            torch.testing.assert_close(alone(x), model(x))
        with pytest.raises(ValueError, match="x must be a batch of one, got 2"):
            alone(images(2))


def test_model_is_unchanged():
    model = network().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for form in (masked, conditional):
        assert not form(model).training
    assert model.training and all(module.training for module in gated_blocks(model).values())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def run_onnx(path: object, x: Tensor) -> Tensor:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])


@pytest.mark.parametrize("example", [1, 2])
def test_onnx(example, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model, path = network(), tmp_path / "gated.onnx"
    export_onnx(model, path, images(example))
    with torch.no_grad():
        for count in (1, 2, 17):
            wanted = model(images(count))
            torch.testing.assert_close(run_onnx(path, images(count)), wanted, rtol=1e-4, atol=1e-5)


def test_onnx_that_skips(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model, path = network(), tmp_path / "skips.onnx"
    export_onnx(model, path, images(2), skip=True)
    assert [node.op_type for node in onnx.load(path).graph.node].count("If") == 2
    with torch.no_grad():
        for x in images(12).split(1):
            torch.testing.assert_close(run_onnx(path, x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_missing_packages(package, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == package else object()
    )
    with pytest.raises(ValueError, match=rf"needs the package {package}: .*fastheads\[export\]"):
        export_onnx(network(), tmp_path / "a.onnx", images(1))


@pytest.mark.parametrize("form", [masked, conditional])
def test_without_gates(form):
    with pytest.raises(ValueError, match="model must have gates, see gate_model, got none"):
        form(nn.Linear(2, 2))
