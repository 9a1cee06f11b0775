"""Frozen first layers read each picture once, and the update is that of the network as a whole."""

from dataclasses import replace

import patterns
import pytest
import torch
from patterns import UPDATE, mixed, multilabel_soft, network, same, state
from torch import nn

from fastheads.models import senet
from fastheads.pipelines.guards import GuardsConfig, replay_buffer
from fastheads.pipelines.later_layers import ReadPictures
from fastheads.pipelines.update import learn

FIRST = ("0", "1", "2")


def run(model, folder, guards, update=UPDATE, augment=None, **options):
    augment = augment or (lambda images, generator: patterns.normalize(images))
    data = options.pop("data", mixed())
    return learn(
        model, data, update, guards, multilabel_soft, folder=folder, augment=augment, **options
    )


@pytest.mark.parametrize("distillation", [0.0, 1.0])
def test_one_pass_is_the_update_of_the_whole_network(tmp_path, distillation):
    """Copies that are all alike: the same pictures in the same order, and the same gradients."""
    replay = replay_buffer(patterns.base(), 8, seed=0)
    guards = GuardsConfig(freeze=FIRST, distillation=distillation, replay=8, averaging=0.25)
    models = {passes: network() for passes in (0, 1)}
    for passes, model in models.items():
        run(model, tmp_path / str(passes), replace(guards, passes=passes), replay=replay)
    for key, value in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[key], value, rtol=1e-4, atol=1e-6)
    assert not same(state(network()), state(models[1]))
    assert not models[1].training


def test_layers_of_a_senet(tmp_path):
    """Channels-last planes come back as they were read; the first layers keep their bits."""

    def build():
        torch.manual_seed(0)
        return senet(18, 6, 1, blocks=(1, 1), width=8, small=True).eval()

    guards = GuardsConfig(freeze=("stem", "stages.0"), distillation=0.5)
    whole, later, before = build(), build(), state(build())
    run(whole, tmp_path / "whole", guards)
    run(later, tmp_path / "later", replace(guards, passes=1))
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(later.state_dict()[key], value, rtol=1e-3, atol=1e-5)
        assert torch.equal(before[key], state(later)[key]) == key.startswith(("stem", "stages.0"))


def test_pictures_are_read_once(tmp_path):
    """Two passes over 32 pictures in four epochs: 64 pictures are augmented, and 128 learned."""
    augmented = []

    def augment(images, generator):
        augmented.append((len(images), float(torch.rand((), generator=generator))))
        return patterns.normalize(images)

    guards = GuardsConfig(freeze=FIRST, passes=2)
    result = run(network(), tmp_path, guards, replace(UPDATE, epochs=4), augment)
    assert [count for count, _ in augmented] == [32, 32]
    assert augmented[0][1] != augmented[1][1]
    assert result.steps == 4 * 32 // 16
    assert len(result.history) == 2


class Stop(BaseException):
    """As KeyboardInterrupt, no Exception."""


def test_interrupted_it_goes_on_to_the_same_bits(tmp_path):
    def stop(step, loss):
        if step == 6:
            raise Stop

    guards = GuardsConfig(freeze=FIRST, passes=2, distillation=1.0)
    update = replace(UPDATE, epochs=4, checkpoint_seconds=0)
    whole, halved = network(), network()
    run(whole, tmp_path / "whole", guards, update)
    with pytest.raises(Stop):
        run(halved, tmp_path / "halved", guards, update, watch=stop)
    assert same(state(network()), state(halved))
    run(halved, tmp_path / "halved", guards, update)
    assert same(state(whole), state(halved))
    assert not list((tmp_path / "halved").glob("rows*"))


def test_rows_by_hand(tmp_path):
    """Row ``pass * N + picture``, of pictures as they are."""
    pictures = mixed(5)
    read = ReadPictures(
        lambda images: images.float().sum((1, 2, 3))[:, None], pictures, 2, None, 0, tmp_path,
        torch.device("cpu"),
    )  # fmt: skip
    assert len(read) == 10
    rows, targets = read.__getitems__([7, 2])
    total = float(pictures.images[2].astype("float64").sum())
    assert rows.tolist() == [[total], [total]]
    assert targets.tolist() == [[2, 3], [2, 3]]
    assert not list(tmp_path.iterdir())


def test_rejects(tmp_path):
    with pytest.raises(ValueError, match=r"freeze must name the first of the layers 0, 1, .*'1'"):
        run(network(), tmp_path, GuardsConfig(freeze=("1",), passes=1))
    with pytest.raises(ValueError, match=r"freeze must name the first .* got \[\]"):
        run(network(), tmp_path, GuardsConfig(passes=1))
    with pytest.raises(ValueError, match=r"freeze must name the first .* got"):
        run(network(), tmp_path, GuardsConfig(freeze=tuple("012345678"), passes=1))
    with pytest.raises(ValueError, match=r"epochs must be a multiple of guards.passes = 3, got 2"):
        run(network(), tmp_path, GuardsConfig(freeze=FIRST, passes=3))
    model = nn.ModuleList([network()])
    model.forward = model[0].forward
    with pytest.raises(ValueError, match=r"no chain of layers .* got ModuleList"):
        run(model, tmp_path, GuardsConfig(freeze=("0.0",), passes=1))
