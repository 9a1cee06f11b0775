"""Tapping networks, ours and torchvision's, and what augmentation makes of them."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from fastheads.labels import Grouping
from fastheads.models import AugmentedNetwork, BaseConfig, BaseNetwork, Tap
from fastheads.nn import AugmentedClassifier, GroupHeads

LABELS = 10


def own():
    return BaseNetwork((3, 32, 32), LABELS, BaseConfig((4, 6), (9, 7)))


def resnet():
    return torchvision.models.resnet18(num_classes=LABELS)


def mobilenet():
    return torchvision.models.mobilenet_v3_small(num_classes=LABELS)


# network, feature layer, classifier, shape of the features of a picture of 32 by 32 pixels
NETWORKS = {
    "own": (own, "trunk", "classifier", (6, 8, 8)),
    "own, second layer": (own, "stack.2", "classifier", (9,)),
    "resnet18": (resnet, "layer3", "fc", (256, 2, 2)),
    "resnet18, pooled": (resnet, "avgpool", "fc", (512, 1, 1)),
    "mobilenet": (mobilenet, "features", "classifier.3", (576, 1, 1)),
    "mobilenet, inner": (mobilenet, "features.8", "classifier.3", (48, 2, 2)),
    # Layers whose output the next layer overwrites.
    "resnet18, before addition": (resnet, "layer3.1.bn2", "fc", (256, 2, 2)),
    "mobilenet, before activation": (mobilenet, "classifier.0", "classifier.3", (1024,)),
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def case(request):
    make, feature_layer, classifier, shape = request.param
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 32, 32))  # batch norm statistics that are not 0 and 1
    return model.eval(), feature_layer, classifier, shape


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def output_of(model, layer):
    """The output of a layer as it leaves it, by a hook that copies."""
    kept = []
    hook = model.get_submodule(layer).register_forward_hook(
        lambda module, args, output: kept.append(output.clone())
    )
    model(IMAGES)
    hook.remove()
    return kept[0]


def test_gives_features_and_hidden_units(case):
    model, feature_layer, classifier, shape = case
    features, hidden = Tap(model, feature_layer, classifier)(IMAGES)
    assert features.shape[1:] == shape
    assert torch.equal(features, output_of(model, feature_layer))
    assert torch.equal(model.get_submodule(classifier)(hidden), model(IMAGES))


def test_leaves_the_network_as_it_is(case):
    model, feature_layer, classifier, _ = case
    names = [name for name, _ in model.named_modules()]
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    tap = Tap(model, feature_layer, classifier).train().requires_grad_(False)
    tap(IMAGES)  # in training mode: batch norm statistics change
    with torch.no_grad():
        for parameter in tap.parameters():
            parameter.zero_()
    assert [name for name, _ in model.named_modules()] == names
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())


def test_leaves_the_classifier_out(case):
    model, feature_layer, classifier, _ = case
    inside = sum(p.numel() for p in Tap(model, feature_layer, classifier).parameters())
    last = sum(p.numel() for p in model.get_submodule(classifier).parameters())
    assert inside + last == sum(p.numel() for p in model.parameters())


def test_survives_copying_and_saving(case):
    model, feature_layer, classifier, _ = case
    tap = Tap(model, feature_layer, classifier)
    expected = tap(IMAGES)
    twin = copy.deepcopy(tap)
    fresh = Tap(copy.deepcopy(model), feature_layer, classifier).eval()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(tap.state_dict())
    for other in (twin, fresh):
        for got, wanted in zip(other(IMAGES), expected, strict=True):
            assert torch.equal(got, wanted)


def test_network_with_heads_that_say_nothing_is_the_network(case):
    model, feature_layer, classifier, shape = case
    heads = GroupHeads(shape, Grouping(np.arange(LABELS) % 3), [[5], [4], [6]])
    top = AugmentedClassifier(model.get_submodule(classifier), [heads])
    augmented = AugmentedNetwork(Tap(model, feature_layer, classifier), top).eval()
    for output in heads.outputs:
        nn.init.zeros_(output.weight)
    assert torch.equal(augmented(IMAGES), model(IMAGES))
    nn.init.normal_(heads.outputs[1].weight)
    changed = (augmented(IMAGES) != model(IMAGES)).any(0)
    assert set(changed.nonzero().flatten().tolist()) == {1, 4, 7}


def test_gradients_reach_both_paths():
    torch.manual_seed(0)
    model = own()
    heads = GroupHeads((6, 8, 8), Grouping(np.zeros(LABELS, int)), [[5]])
    nn.init.normal_(heads.outputs[0].weight)
    tap = Tap(model, "trunk", "classifier")
    network = AugmentedNetwork(tap, AugmentedClassifier(model.classifier, [heads]))
    network(IMAGES).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(("grid", "expected"), [(0, (256, 4, 4)), (1, (256, 1, 1)), (2, (256, 2, 2))])  # fmt: skip  # noqa: E501
def test_pools_to_a_grid(grid, expected):
    model = resnet().eval()
    images = torch.randn(2, 3, 64, 64)
    whole, _ = Tap(model, "layer3", "fc")(images)
    features, hidden = Tap(model, "layer3", "fc", grid)(images)
    assert features.shape[1:] == expected
    side = 4 // (grid or 4)
    blocks = whole.unflatten(2, (-1, side)).unflatten(4, (-1, side)).mean((3, 5))
    torch.testing.assert_close(features, blocks)
    torch.testing.assert_close(model.fc(hidden), model(images))


def test_grid_leaves_vectors_alone():
    model = own().eval()
    features, _ = Tap(model, "stack.2", "classifier", grid=1)(IMAGES)
    assert torch.equal(features, output_of(model, "stack.2"))


def test_holds_no_picture_after_a_pass():
    tap = Tap(own(), "trunk", "classifier")
    tap(IMAGES)
    assert all(getattr(module, "output", None) is None for module in tap.modules())


@pytest.mark.parametrize(
    ("feature_layer", "classifier", "message"),
    [
        ("layer5", "fc", "feature_layer must be the name of a layer of ResNet, got 'layer5'"),
        ("", "fc", "feature_layer must be the name of a layer of ResNet, got ''"),
        ("layer4", "head", "classifier must be the name of a layer of ResNet, got 'head'"),
        ("layer4", "avgpool", "classifier must be .* nn.Linear, got AdaptiveAvgPool2d 'avgpool'"),
        ("fc", "fc", "feature_layer must come before the classifier 'fc', got 'fc'"),
    ],
)
def test_names_of_layers(feature_layer, classifier, message):
    with pytest.raises(ValueError, match=message) as error:
        Tap(resnet(), feature_layer, classifier)
    assert "\n" not in str(error.value)


def test_feature_layer_around_the_classifier():
    message = "feature_layer must come before the classifier 'classifier.3', got 'classifier'"
    with pytest.raises(ValueError, match=message):
        Tap(mobilenet(), "classifier", "classifier.3")


def test_layer_that_does_not_run():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.spare, self.fc = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(x)

    with pytest.raises(ValueError, match="the layer Linear must run and give one tensor"):
        Tap(Spare(), "spare", "fc")(torch.randn(1, 4))
