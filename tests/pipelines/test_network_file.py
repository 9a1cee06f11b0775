"""Networks written into a run folder and read back."""

import numpy as np
import pytest
import torch
from torch import nn

from fastheads.data import Augmentation, Normalize
from fastheads.labels import Grouping, LabelSpace
from fastheads.models import AugmentedNetwork, BaseConfig, BaseNetwork, Tap
from fastheads.nn import AugmentedClassifier, GroupHeads
from fastheads.pipelines.network_file import load_network, save_network

BASE = BaseConfig((4, 6), (9, 7))
LABELS = LabelSpace(tuple("αβγδεζ"), {"script": ("Greek",) * 6})
AUGMENTATION = Augmentation(normalize=Normalize((0.2,), (0.7,)))


def base():
    network = BaseNetwork((1, 16, 16), 6, BASE)
    network.train()(torch.randn(8, 1, 16, 16))  # batch norm statistics that are not 0 and 1
    return network.eval()


def augmented(rounds, conv_channels):
    network = base()
    groupings = [Grouping(np.array([1, -1, 0, 1, 0, 2]), ("a", "b", "ç")), Grouping(np.arange(6) % 2)]  # fmt: skip  # noqa: E501
    heads = [
        GroupHeads((6, 4, 4), g, [[3 + n, 2] for n in range(g.num_groups)], conv_channels)
        for g in groupings[:rounds]
    ]
    for each in heads:
        for output in each.outputs:
            nn.init.normal_(output.weight)
    top = AugmentedClassifier(nn.Linear(7, 6), heads)
    return AugmentedNetwork(Tap(network, "trunk", "classifier"), top).eval()


@pytest.mark.parametrize(
    "make",
    [base, *(lambda r=r, c=c: augmented(r, c) for r in (1, 2) for c in (0, 2))],
    ids=["base", "heads", "heads, convolved", "two rounds", "two rounds, convolved"],
)
def test_round_trip(tmp_path, make):
    torch.manual_seed(0)
    network = make()
    images = torch.randn(5, 1, 16, 16)
    expected = network(images)
    save_network(tmp_path, network, LABELS, (1, 16, 16), BASE, AUGMENTATION)
    again, label_space, image_shape, normalize = load_network(tmp_path)
    assert torch.equal(again(images), expected)
    assert type(again) is type(network) and not again.training
    assert label_space == LABELS
    assert image_shape == (1, 16, 16)
    assert normalize == AUGMENTATION.normalize
    if isinstance(network, AugmentedNetwork):
        for ours, theirs in zip(network.top.heads, again.top.heads, strict=True):
            assert np.array_equal(ours.grouping.group_of, theirs.grouping.group_of)
            assert ours.grouping.names == theirs.grouping.names
            assert ours.widths == theirs.widths
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "labels.json",
        "model.safetensors",
        "network.json",
    ]


@pytest.mark.parametrize("missing", ["network.json", "labels.json", "model.safetensors"])
def test_unfinished_run(tmp_path, missing):
    save_network(tmp_path, base(), LABELS, (1, 16, 16), BASE, AUGMENTATION)
    (tmp_path / missing).unlink()
    message = f"run must be a folder of a finished run, got .* without {missing}"
    with pytest.raises(ValueError, match=message):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("network.json", b"{}"),
        ("network.json", b"[]"),
        ("network.json", b'{"base'),
        ("labels.json", b"{}"),
        ("labels.json", b"[]"),
        ("labels.json", b'{"names": ['),
        ("model.safetensors", b""),
        ("model.safetensors", None),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content):
    save_network(tmp_path, base(), LABELS, (1, 16, 16), BASE, AUGMENTATION)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match=rf"got {tmp_path} whose {name} is damaged or of another"):
        load_network(tmp_path)


def test_labels_of_another_network(tmp_path):
    save_network(tmp_path, base(), LABELS, (1, 16, 16), BASE, AUGMENTATION)
    LabelSpace(LABELS.names[:-1]).save(tmp_path / "labels.json")
    with pytest.raises(ValueError, match=r"whose model.safetensors is damaged or of another"):
        load_network(tmp_path)
