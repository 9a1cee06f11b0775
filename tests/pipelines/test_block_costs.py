"""Multiply-adds of blocks, by hand and against the counter."""

import numpy as np
import pytest
import skipping
import torch

from fastheads.data import eval_transform
from fastheads.metrics import count_macs, count_parameters
from fastheads.models import imagenet_resnet
from fastheads.nn import gate_model, gated_blocks
from fastheads.pipelines.block_costs import block_costs, executed_macs
from fastheads.pipelines.open_gates import decide_on

IMAGES = eval_transform(skipping.pictures())


def test_blocks_by_hand():
    """12x12 pictures: 3x3 convolutions on 12x12, 6x6 and 3x3 pixels."""
    cost = block_costs(skipping.network(), IMAGES[:1])
    names = [f"stages.{place}" for place in ("0.0", "1.0", "1.1", "2.0", "2.1")]
    assert [block.name for block in cost.blocks] == names
    assert [block.macs for block in cost.blocks] == [
        9 * 144 * (8 * 8 + 8 * 8),
        9 * 36 * (8 * 16 + 16 * 16),
        9 * 36 * (16 * 16 + 16 * 16),
        9 * 9 * (16 * 16 + 16 * 16),
        9 * 9 * (16 * 16 + 16 * 16),
    ]
    assert [block.channels for block in cost.blocks] == [8, 8, 16, 16, 16]
    assert [block.downsampling for block in cost.blocks] == [False, True, False, True, False]
    assert [block.gate_macs for block in cost.blocks] == [4 * (8 + 2)] * 2 + [4 * (16 + 2)] * 3
    assert cost.unskippable_macs == 9 * 144 * 8 + 16 * 6  # stem and classifier
    assert cost.gate_parameters == 2 * (8 * 4 + 4 + 8 + 8 + 2) + 3 * (16 * 4 + 4 + 8 + 8 + 2)


@pytest.mark.parametrize("options", [{}, {"always_on": ["stages.1"]}, {"mode": "gather"}])
def test_executed_macs_are_those_that_are_counted(options):
    network = skipping.network(**options)
    cost = block_costs(network, IMAGES[:1])
    test = skipping.dataset([[0]] * 24)
    decisions = decide_on(network, test, eval_transform)
    assert decisions.names == tuple(block.name for block in cost.blocks if block.gated)
    assert 0 < decisions.open.mean() < 1
    found = executed_macs(cost, decisions.open)
    assert found.dtype == np.int64
    assert found.tolist() == [count_macs(network, image[None]) for image in IMAGES]


@pytest.mark.parametrize("image", [0, 5])
def test_costs_are_the_same_whatever_the_image_skips(image):
    network = skipping.network()
    assert block_costs(network, IMAGES[image : image + 1]) == block_costs(network, IMAGES[9:10])


def test_a_gated_network_is_the_plain_one_and_gates():
    plain, gated = skipping.network(gated=False), skipping.network()
    cost, with_gates = block_costs(plain, IMAGES[:1]), block_costs(gated, IMAGES[:1])
    assert with_gates.macs == cost.macs == cost.unskippable_macs == count_macs(plain, IMAGES[:1])
    assert with_gates.parameters == cost.parameters == count_parameters(plain)
    assert with_gates.parameters + with_gates.gate_parameters == count_parameters(gated)
    assert [block.macs for block in with_gates.blocks] == [block.macs for block in cost.blocks]
    assert cost.gate_macs == cost.gate_parameters == 0
    assert not any(block.gated for block in cost.blocks)


def test_resnet_50():
    """3.858 G multiply-adds, of which 0.480 G are outside of the blocks' branches."""
    network = imagenet_resnet(50).eval()
    gate_model(network)
    cost = block_costs(network, torch.zeros(1, 3, 224, 224))
    assert round(cost.macs / 1e9, 3) == 3.858 and round(cost.unskippable_macs / 1e9, 3) == 0.480
    assert (cost.parameters, cost.parameters + cost.gate_parameters) == (25_557_032, 25_768_264)


def test_nothing_is_changed():
    network = skipping.network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    block_costs(network, IMAGES[:1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert not any(block._forward_hooks for block in gated_blocks(network).values())


def test_describe():
    cost = block_costs(skipping.network(always_on=["stages.0"]), IMAGES[:1])
    found = cost.describe("small")
    assert found["name"] == "small" and found["macs"] == cost.macs
    assert [tuple(block.values()) for block in found["blocks"][:2]] == [
        ("stages.0.0", 165888, 8, False, False),
        ("stages.1.0", 124416, 8, True, True),
    ]
    assert list(found["blocks"][0]) == ["name", "macs", "channels", "downsampling", "gated"]
    assert set(found) == {
        "name", "blocks", "macs", "unskippable_macs", "parameters", "gate_parameters", "gate_macs"
    }  # fmt: skip


def test_rejects():
    cost = block_costs(skipping.network(), IMAGES[:1])
    with pytest.raises(ValueError, match=r"image must be \[1, C, H, W\], got \[2, 1, 12, 12\]"):
        block_costs(skipping.network(), IMAGES[:2])
    with pytest.raises(ValueError, match=r"open_gates must be \[images, 5\], got \[3, 4\]"):
        executed_macs(cost, np.ones((3, 4), bool))
