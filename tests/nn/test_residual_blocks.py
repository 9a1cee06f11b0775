"""Residual blocks are found in known networks, and others are refused with a reason."""

import pytest
import timm
import torch
import torchvision.models
from residual_networks import SHORT, WHOLE, images, short, small, whole
from timm.models.resnet import BasicBlock
from torch import nn

from fastheads.models import Residual, vgg15
from fastheads.nn import (
    gate_model,
    plain_layers,
    require_residual_blocks,
    residual_blocks,
    set_module,
    switched,
)


@pytest.mark.parametrize("name", WHOLE)
def test_all_blocks_are_seen(name):
    found, unknown = residual_blocks(whole(name))
    assert (len(found) + len(unknown), len(unknown)) == WHOLE[name]
    for entry in unknown:
        assert entry.note == "its first layer is more than one convolution"


@pytest.mark.parametrize("name", SHORT)
def test_blocks_compute_what_their_modules_do(name):
    model = short(name).eval()
    found, _ = residual_blocks(model)
    order, inputs = [], {}

    def keep(module, x, y):
        order.append(module)
        inputs[module] = x[0], y

    for block in found:
        block.module.register_forward_hook(keep)
    with torch.inference_mode():
        model(images(32, 1))
        assert order == [block.module for block in found]
        for block in found:
            x, y = inputs[block.module]
            assert block.downsampling == (x.shape != y.shape)
            assert not block.nonnegative or float(x.min()) >= 0
            if block.before is not None:
                x = block.before(x)
            shortcut = x if block.shortcut is None else block.shortcut(x)
            f = block.branch(x)
            assert torch.equal((shortcut + f).relu() if block.relu else shortcut + f, y)
            assert block.channels == x.shape[1]
            own = {id(p) for p in block.module.parameters()}
            assert {id(p) for p in block.branch.parameters()} <= own


def test_what_is_known_of_signs():
    """Behind the ReLU of the stem and of every block; not without an activation behind the sum."""
    for name in ("torchvision resnet18", "timm seresnet50", "resnet"):
        assert all(block.nonnegative for block in residual_blocks(short(name))[0])
    assert not any(
        block.nonnegative for block in residual_blocks(short("resnet pre-activation"))[0]
    )
    model = small()
    model.stem[2] = nn.Identity()
    assert [b.nonnegative for b in residual_blocks(model)[0]] == [False, True, True]


def test_order_of_the_calls_decides():
    """A network with a forward of its own may run its stages in any order."""

    class Reversed(torchvision.models.ResNet):
        def forward(self, x):
            return self.layer1(self.layer2(x))

    model = Reversed(torchvision.models.resnet.BasicBlock, [2, 2, 1, 1])
    blocks = residual_blocks(model)[0]
    assert [b.name for b in blocks if b.nonnegative] == ["layer1.1", "layer2.1"]


def test_a_projection_behind_the_pre_activation():
    blocks, _ = residual_blocks(short("timm resnetv2_50"))
    assert [block.before is not None for block in blocks] == [True, True, False, True, True]
    assert blocks[0].before is blocks[0].module.norm1
    assert "norm1" not in blocks[0].branch._modules
    assert "norm1" in blocks[2].branch._modules


def test_layers_have_their_names():
    block = residual_blocks(short("torchvision resnet50"))[0][0]
    names = list(block.branch._modules)
    assert names == ["conv1", "bn1", "relu", "conv2", "bn2", "relu_2", "conv3", "bn3"]
    assert block.branch.relu is block.branch.relu_2 is block.module.relu


def reasons(model):
    found, unknown = residual_blocks(model)
    assert not found
    return [entry.note for entry in unknown]


def test_another_activation():
    model = nn.Sequential(BasicBlock(4, 4, act_layer=nn.SiLU))
    assert reasons(model) == ["its activation is SiLU"]


def test_no_activation():
    block = BasicBlock(4, 4)
    block.act2 = nn.Identity()
    ((found,), _) = residual_blocks(nn.Sequential(block))
    assert not found.relu


def test_another_forward():
    class Scaled(BasicBlock):
        def forward(self, x):
            return 2 * super().forward(x)

    assert reasons(nn.Sequential(Scaled(4, 4))) == []  # a name that says nothing

    class ScaledBottleneck(Scaled):
        pass

    assert reasons(nn.Sequential(ScaledBottleneck(4, 4))) == ["its class is unknown"]


def test_a_name_that_says_too_much():
    class ResidualStage(nn.Sequential):
        pass

    ((found,), unknown) = residual_blocks(nn.Sequential(ResidualStage(BasicBlock(4, 4))))
    assert found.name == "0.0" and unknown == []


def test_a_release_that_reads_more(monkeypatch):
    def forward(self, x):
        return self.act2(self.conv1(x) + self.gamma)

    monkeypatch.setattr(BasicBlock, "forward", forward)
    assert reasons(nn.Sequential(BasicBlock(4, 4))) == ["its forward is not the known one"]


def test_a_forward_of_its_own():
    block = BasicBlock(4, 4)
    block.forward = block.conv1.forward
    assert reasons(nn.Sequential(block)) == ["it has a forward of its own"]


def test_one_block_in_two_places():
    block = Residual(nn.Conv2d(4, 4, 3, padding=1))
    model = nn.Sequential(block, nn.ReLU(), block)
    assert reasons(model) == ["it stands in several places"] * 2


def test_no_convolution():
    assert reasons(nn.Sequential(Residual(nn.Linear(4, 4)))) == [
        "there is no convolution in its branch"
    ]


@pytest.mark.parametrize(
    "branch",
    [
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.AvgPool2d(2)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d((1, 2))),
    ],
)
def test_a_branch_that_changes_the_shape(branch):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Residual(branch))
    with pytest.raises(ValueError, match="block 1 cannot be skipped: its branch changes the shape"):
        require_residual_blocks(model)


def test_no_residual_blocks():
    with pytest.raises(ValueError, match=r"that are known, got VGG without any$"):
        require_residual_blocks(vgg15(3, width=4))
    with pytest.raises(ValueError, match=r"MNASNet without any \(layers.8.0: its class is unknown"):
        require_residual_blocks(whole("torchvision mnasnet0_5"))
    with pytest.raises(ValueError, match="without any"):
        require_residual_blocks(small().stages[0][0])  # a block by itself has no place


@pytest.mark.parametrize(
    "convert",
    [
        lambda model: torch.jit.trace(model, images()),
        torch.jit.script,
        torch.fx.symbolic_trace,
        lambda model: torch.export.export(model, (images(),)).module(),
        lambda model: nn.Sequential(torch.jit.trace(model, images())),
    ],
    ids=["trace", "script", "fx", "export", "within"],
)
@pytest.mark.filterwarnings("ignore")
def test_traced(convert):
    block = torchvision.models.resnet.BasicBlock(3, 3)
    model = convert(nn.Sequential(block).eval())
    with pytest.raises(ValueError, match="before tracing, scripting or export, got a"):
        require_residual_blocks(model)


def test_blocks_that_were_replaced():
    model = small()
    with switched(model), pytest.raises(ValueError, match=r"\(stages.0.0: it has a switch\)"):
        require_residual_blocks(model)
    gate_model(model)
    with pytest.raises(ValueError, match=r"\(stages.0.0: it has a gate\)"):
        require_residual_blocks(model)


def test_plain_layers():
    layers = plain_layers(vgg15(3, width=4))
    assert len(layers) == 13 and all(layer.plain and not layer.downsampling for layer in layers)
    assert all(layer.branch is layer.module for layer in layers)


def test_plain_layers_of_torchvision():
    with torch.device("meta"):
        model = torchvision.models.vgg16_bn()
    layers = plain_layers(model)
    # Of 13 convolutions five change the number of channels.
    assert [layer.name for layer in layers] == [
        f"features.{i}" for i in (3, 10, 17, 20, 27, 30, 34, 37, 40)
    ]
    for layer in layers:
        assert [type(m) for m in layer.branch] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
        assert layer.branch[0] is layer.module
        absorbed = [model.get_submodule(name) for name in layer.absorbed]
        assert absorbed == list(layer.branch)[1:]


@pytest.mark.parametrize("build", [torchvision.models.vgg11, timm.models.mobilenetv3_small_050])
def test_no_plain_layers(build):
    with torch.device("meta"):
        model = build()
    with pytest.raises(ValueError, match="convolution, batch norm and ReLU that keep"):
        plain_layers(model)


def test_set_module():
    model, new = small(), nn.Identity()
    before = list(dict(model.named_modules()))
    set_module(model, "stages.0.1", new)
    assert model.stages[0][1] is new
    assert [n for n in before if not n.startswith("stages.0.1.")] == list(
        dict(model.named_modules())
    )
    with pytest.raises(ValueError, match="within the model, got ''"):
        set_module(model, "", new)
