"""Residual networks of torchvision and timm for the tests, and what they compute."""

import timm
import torch
import torchvision.models
from timm.models.resnetv2 import ResNetV2
from torch import nn

from fastheads.models import resnet, senet

# Of the whole networks: residual blocks, and how many of them are not understood.
WHOLE = {
    "torchvision resnet18": (8, 0),
    "torchvision resnet34": (16, 0),
    "torchvision resnet50": (16, 0),
    "torchvision resnet101": (33, 0),
    "torchvision resnext50_32x4d": (16, 0),
    "torchvision wide_resnet50_2": (16, 0),
    "timm resnet18": (8, 0),
    "timm resnet50": (16, 0),
    "timm resnet26d": (8, 0),
    "timm seresnet50": (16, 0),
    "timm resnetblur18": (8, 0),
    "timm legacy_seresnet18": (8, 0),
    "timm legacy_seresnet50": (16, 0),
    "torchvision mobilenet_v2": (10, 0),
    "torchvision mobilenet_v3_small": (6, 0),
    "torchvision efficientnet_b0": (9, 0),
    "torchvision efficientnet_v2_s": (35, 0),
    "timm skresnet50": (16, 0),
    "timm regnety_002": (13, 0),
    "timm tf_efficientnetv2_b0": (15, 0),
    "timm mobilenetv3_small_050": (7, 0),
    "timm tf_mixnet_s": (11, 6),  # these begin with several convolutions side by side
    "timm resnetv2_18": (8, 0),
    "timm resnetv2_50": (16, 0),
    "timm resnetv2_50x1_bit": (16, 0),
}
# The same, with a block or two in each stage so that tests take no time.
SHORT = {
    "torchvision resnet18": lambda: torchvision_resnet("BasicBlock"),
    "torchvision resnet50": lambda: torchvision_resnet("Bottleneck"),
    "torchvision resnext50_32x4d": lambda: torchvision_resnet(
        "Bottleneck", groups=32, width_per_group=4
    ),
    "torchvision wide_resnet50_2": lambda: torchvision_resnet("Bottleneck", width_per_group=128),
    "timm resnet18": lambda: timm_resnet("resnet18"),
    "timm resnet50": lambda: timm_resnet("resnet50"),
    "timm resnet50 with drop path": lambda: timm_resnet("resnet50", drop_path_rate=0.3),
    "timm resnet26d": lambda: timm_resnet("resnet26d"),
    "timm seresnet50": lambda: timm_resnet("seresnet50"),
    "timm resnetblur18": lambda: timm_resnet("resnetblur18"),
    "timm legacy_seresnet18": lambda: timm_resnet("legacy_seresnet18"),
    "timm legacy_seresnet50": lambda: timm_resnet("legacy_seresnet50"),
    "timm skresnet50": lambda: timm_resnet("skresnet50"),
    "timm regnety_002": lambda: timm.create_model("regnety_002", num_classes=10),
    "timm mobilenetv3_small_050": lambda: timm.create_model(
        "mobilenetv3_small_050", num_classes=10
    ),
    "torchvision mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "torchvision regnet_y_400mf": lambda: torchvision.models.regnet_y_400mf(num_classes=10),
    "timm resnetv2_18": lambda: timm_resnet("resnetv2_18"),
    "timm resnetv2_50": lambda: timm_resnet("resnetv2_50"),
    "timm resnetv2_50x1_bit": lambda: ResNetV2(layers=(1, 2, 1, 1), num_classes=10),
    "resnet": lambda: resnet((2, 2, 1), (4, 8, 12), num_labels=10),
    "resnet pre-activation": lambda: resnet(
        (2, 2, 1), (4, 8, 12), num_labels=10, preactivation=True
    ),
    "resnet projection": lambda: resnet(
        (2, 2, 1), (4, 8, 12), num_labels=10, shortcut="projection"
    ),
    "senet": lambda: senet(18, 10, blocks=(1, 2, 1), width=8, small=True),
    "senet of three layers": lambda: senet(50, 10, blocks=(1, 2), width=4, expansion=2, small=True),
}


def torchvision_resnet(block, **options):
    models = torchvision.models.resnet
    return models.ResNet(getattr(models, block), [1, 2, 1, 1], num_classes=10, **options)


def timm_resnet(name, **options):
    return timm.create_model(name, layers=(1, 2, 1, 1), num_classes=10, **options)


def whole(name):
    """On the meta device: nothing is computed."""
    library, name = name.split()
    with torch.device("meta"):
        if library == "timm":
            return timm.create_model(name)
        return getattr(torchvision.models, name)()


def short(name):
    torch.manual_seed(0)
    return lively(SHORT[name]())


def lively(model):
    """Lets all branches count; libraries start the last norms of some at 0."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.0, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)
    return model


def small(**options):
    torch.manual_seed(0)
    options = {"blocks": (2, 1), "widths": (4, 6), "num_labels": 3, **options}
    return lively(resnet(**options))


def images(size=8, count=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=generator, dtype=dtype)


def identity(model):
    """Every object that a model is made of, and what it holds."""
    modules = [(name, id(m), type(m), {**vars(m)}) for name, m in model.named_modules()]
    return (
        modules,
        [(name, id(p)) for name, p in model.named_parameters()],
        list(model.state_dict()),
    )
