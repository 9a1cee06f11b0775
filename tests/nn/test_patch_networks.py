"""Whole networks of torchvision and timm, patched and not: the same outputs and gradients."""

import copy
import inspect
import warnings

import pytest
import timm
import torch
import torchvision.models
from patched import Calls, assert_same, lively, patched_copy
from timm.layers.squeeze_excite import SEModule
from timm.models import senet
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn
from torchvision.models.regnet import BlockParams
from torchvision.ops import SqueezeExcitation

from fastheads.nn import patch, unpatch

SE_CLASSES = (SEModule, SqueezeExcite, senet.SEModule, SqueezeExcitation)

# The smallest of each family: SE modules, and blocks whose whole end is one operator.
TIMM = {
    "seresnet18": (8, 8),
    "seresnext26d_32x4d": (8, 8),
    "seresnet33ts": (10, 0),
    "legacy_seresnet18": (8, 8),
    "legacy_seresnext26_32x4d": (8, 8),
    "resnetrs50": (16, 16),
    "efficientnet_b0": (16, 0),
    "tf_efficientnetv2_b0": (16, 0),
    "tinynet_e": (10, 0),
    "mixnet_s": (13, 0),
    "semnasnet_050": (8, 0),
    "mobilenetv3_small_050": (9, 0),
    "tf_mobilenetv3_small_075": (9, 0),
    "hardcorenas_a": (8, 0),
    "lcnet_050": (2, 0),
    "lcnetv2_base": (6, 0),
    "regnety_002": (13, 0),
    "ghostnet_050": (7, 0),
    "repghostnet_050": (7, 0),
    "tresnet_m": (18, 0),
    "test_byobnet": (4, 0),
    "test_nfnet": (4, 0),
    "mobileone_s4": (12, 0),
    "efficientvit_m0": (2, 0),
    "repvit_m0_9": (10, 0),
    "fastvit_t8": (1, 0),
}
# Not replaced: how many modules, and why.
TIMM_LEFT = {
    "rexnet_100": (13, "BatchNorm2d between its layers"),
    "ese_vovnet19b_slim_dw": (4, "it has one layer, not two"),
    "skresnet18": (0, ""),
    "ecaresnet26t": (0, ""),
}
TORCHVISION = {
    "mobilenet_v3_small": 9,
    "mobilenet_v3_large": 8,
    "efficientnet_b0": 16,
    "efficientnet_v2_s": 30,
    "regnet_y_400mf": 16,
}
TORCHVISION_LARGER = {
    **{f"efficientnet_b{i}": n for i, n in enumerate((23, 23, 26, 32, 39, 45, 55), start=1)},
    **{"efficientnet_v2_m": 44, "efficientnet_v2_l": 61},
    **{f"regnet_y_{s}": n for s, n in {"800mf": 14, "1_6gf": 27, "3_2gf": 21, "8gf": 17}.items()},
    **{"regnet_y_16gf": 18, "regnet_y_32gf": 20, "regnet_y_128gf": 27},
    **{"maxvit_t": 11, "fasterrcnn_mobilenet_v3_large_320_fpn": 8},
}
# Around a MobileNetV3 of 8 SE modules; the part that takes images and returns maps by name.
TORCHVISION_MAPS = {
    "lraspp_mobilenet_v3_large": "",
    "deeplabv3_mobilenet_v3_large": "",
    "ssdlite320_mobilenet_v3_large": "backbone",
    "fasterrcnn_mobilenet_v3_large_fpn": "backbone",
}
TORCHVISION_LEFT = {"quantized_mobilenet_v3_large": (8, "its class is unknown")}
INITIALIZERS = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]


def compare(model, replaced, tails=0):
    """In inference, where norms are folded, and in training with all gradients."""
    lively(model)
    assert sum(isinstance(m, SE_CLASSES) for m in model.modules()) == replaced
    other, report = patched_copy(model)
    assert (len(report.replaced), len(report.tails), report.skipped) == (replaced, tails, [])
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    with Calls() as calls:
        assert_same(model.eval(), other.eval(), x)
    assert calls.fused == replaced
    assert_same(model.train(), other.train(), x, backward=True)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    compare(timm.create_model(name, num_classes=5), *TIMM[name])


def test_hard_swish_inside():
    """Training alone: in inference these weights magnify any rounding a hundred thousand times."""
    model = lively(timm.create_model("fbnetv3_b", num_classes=5)).train()
    other, report = patched_copy(model)
    assert (len(report.replaced), report.skipped) == (18, [])
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    with Calls() as calls:
        assert_same(model, other, x, backward=True)
    assert calls.fused == 18


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    compare(torchvision.models.get_model(name, num_classes=5), TORCHVISION[name])


class OneTensor(nn.Module):
    """A network whose maps are one tensor, as :func:`assert_same` wants it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return torch.cat([y.flatten(1) for y in self.network(x).values()], dim=1)


@pytest.mark.parametrize("name", TORCHVISION_MAPS)
def test_torchvision_networks_of_maps(name):
    """In inference alone; by itself the same MobileNetV3 is trained too."""
    whole = torchvision.models.get_model(name, weights_backbone=None, num_classes=5)
    model = lively(OneTensor(whole.get_submodule(TORCHVISION_MAPS[name]))).eval()
    other, report = patched_copy(model)
    assert (len(report.replaced), report.skipped) == (8, [])
    with Calls() as calls:
        assert_same(model, other, torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert calls.fused == 8


def without_weights(name):
    """The network on the meta device; the widths of RegNets are computed with tensors.

    Numbers for initial weights would be drawn there too, which takes most of the time.
    """
    builder = torchvision.models.get_model_builder(name)
    parameters = inspect.signature(builder).parameters
    options = {"weights_backbone": None} if "weights_backbone" in parameters else {}
    widths = BlockParams.from_init_params

    def from_init_params(*args, **kwargs):
        with torch.device("cpu"):
            return widths(*args, **kwargs)

    with pytest.MonkeyPatch.context() as context, torch.device("meta"):
        context.setattr(BlockParams, "from_init_params", from_init_params)
        for initializer in INITIALIZERS:
            context.setattr(nn.init, initializer, lambda tensor, *_, **__: tensor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of initial weights that will change
            return builder(**options)


@pytest.mark.parametrize("name", TORCHVISION_LARGER)
def test_modules_of_larger_torchvision_networks(name):
    """The weights of the whole networks would take gigabytes: one SE module of each width."""
    model = without_weights(name)
    report = patch(model)
    assert len(report.replaced) == TORCHVISION_LARGER[name] and not report.skipped
    for entry in {entry.note: entry for entry in report.replaced}.values():
        module = copy.deepcopy(model.get_submodule(entry.name)).to_empty(device="cpu").double()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
        original = copy.deepcopy(module)
        unpatch(original)
        x = torch.randn(2, module.fc1.in_channels, 3, 2, dtype=torch.float64)
        assert_same(original, module, x, backward=True)


@pytest.mark.parametrize("name", [*TIMM_LEFT, *TORCHVISION_LEFT])
def test_left_alone(name):
    model = timm.create_model(name) if name in TIMM_LEFT else without_weights(name)
    classes = [type(module) for module in model.modules()]
    report = patch(model)
    number, reason = {**TIMM_LEFT, **TORCHVISION_LEFT}[name]
    assert not report.replaced and not report.tails
    assert [entry.note for entry in report.skipped] == [reason] * number
    assert [type(module) for module in model.modules()] == classes


def test_every_torchvision_network_with_se_is_here():
    """All but the quantized ones, which repeat others with classes that stay as they are."""
    here = {*TORCHVISION, *TORCHVISION_LARGER, *TORCHVISION_MAPS}
    others = {*torchvision.models.list_models(exclude="quantized_*")} - here
    assert not [name for name in others if has_se(without_weights(name))]


def has_se(model):
    return any(isinstance(module, SqueezeExcitation) for module in model.modules())
