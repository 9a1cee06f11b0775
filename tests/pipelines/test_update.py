"""A network learns new pictures under guards, goes on where it was stopped, or is as it was."""

from dataclasses import replace

import patterns
import pytest
import torch
from patterns import UPDATE, mixed, multilabel_soft, network, same, state

from fastheads.pipelines.guards import GuardsConfig, distillation_loss, replay_buffer
from fastheads.pipelines.update import learn


def run(model, folder, guards=None, update=UPDATE, loss=multilabel_soft, data=None, **options):
    data = mixed() if data is None else data
    return learn(
        model, data, update, guards or GuardsConfig(), loss, folder=folder,
        augment=lambda images, generator: patterns.normalize(images), **options,
    )  # fmt: skip


def test_learns_new_pictures(tmp_path):
    model = network()
    data = mixed(64)
    result = run(model, tmp_path, update=replace(UPDATE, epochs=40, lr=0.2), data=data)
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]
    images, targets = data.__getitems__(list(range(64)))
    with torch.no_grad():
        best = model(patterns.normalize(images)).topk(2).indices.sort(1).values
    assert (best == targets.indices.view(64, 2)).float().mean() > 0.9
    assert not model.training


def test_same_bits_again_and_other_bits_for_another_seed(tmp_path):
    models = []
    for number, seed in enumerate((0, 0, 1)):
        models.append(network())
        run(models[-1], tmp_path / str(number), update=replace(UPDATE, seed=seed))
    assert same(state(models[0]), state(models[1]))
    assert not same(state(models[0]), state(models[2]))


def test_frozen_modules_keep_their_bits(tmp_path):
    """Weights and the statistics of norms, also after averaging; the rest moves."""
    model = network()
    before = state(model)
    run(model, tmp_path, GuardsConfig(freeze=("0", "1"), averaging=0.3))
    after = state(model)
    for name in before:
        held = name.startswith(("0.", "1.")) or name.endswith("num_batches_tracked")
        assert torch.equal(before[name], after[name]) == (held and name != "4.num_batches_tracked")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_frozen_norms_keep_statistics_and_weights(tmp_path):
    model = network()
    before = state(model)
    run(model, tmp_path, GuardsConfig(freeze_norms=True))
    after = state(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"0.weight", "3.weight", "8.weight", "8.bias"}


@pytest.mark.parametrize("rows, kept", [(1, True), (7, True), (8, False)])
def test_norms_stay_where_pictures_are_few(tmp_path, rows, kept):
    """Of one picture, a norm would take the mean of a plane as the mean of all pictures."""
    model = network()
    before = state(model)
    run(model, tmp_path, data=mixed(rows))
    after = state(model)
    assert torch.equal(before["1.running_mean"], after["1.running_mean"]) == kept
    assert torch.equal(before["4.weight"], after["4.weight"]) == kept
    assert not torch.equal(before["0.weight"], after["0.weight"])


def test_learning_rate_is_a_multiple(tmp_path):
    """Without momentum, one step of half the rate moves weights half as far."""
    one = replace(UPDATE, epochs=1, batch_size=32, momentum=0.0)
    whole, half, start = network(), network(), state(network())
    run(whole, tmp_path / "whole", update=one)
    run(half, tmp_path / "half", GuardsConfig(lr_factor=0.5), one)
    for name, parameter in half.named_parameters():
        expected = start[name] + (state(whole)[name] - start[name]) / 2
        torch.testing.assert_close(parameter.data, expected, rtol=1e-4, atol=1e-6)


def test_polyak_average_is_that_of_the_training(tmp_path):
    models = {name: network() for name in ("guard", "training", "last")}
    run(models["guard"], tmp_path / "guard", GuardsConfig(polyak=0.9))
    run(models["training"], tmp_path / "training", update=replace(UPDATE, polyak=0.9))
    run(models["last"], tmp_path / "last")
    assert same(state(models["guard"]), state(models["training"]))
    assert not same(state(models["guard"]), state(models["last"]))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_averaging(tmp_path, share):
    """(1 - a) after + a before, weights and statistics."""
    plain, averaged, before = network(), network(), state(network())
    run(plain, tmp_path / "plain")
    run(averaged, tmp_path / "averaged", GuardsConfig(averaging=share))
    after, got = state(plain), state(averaged)
    for name in before:
        if name.endswith("num_batches_tracked"):
            assert torch.equal(got[name], after[name])
        else:
            expected = (1 - share) * after[name].double() + share * before[name].double()
            torch.testing.assert_close(got[name], expected.float(), rtol=1e-6, atol=1e-7)
    if share == 1:
        assert torch.equal(got["8.weight"], before["8.weight"])


def test_distillation_holds_outputs(tmp_path):
    """The outputs for labels that the new pictures do not carry stay nearer to those before."""
    data = mixed()
    images = patterns.normalize(data.__getitems__(list(range(len(data))))[0])
    moved = {}
    for weight in (0.0, 1.0):
        model = network()
        with torch.no_grad():
            start = model(images)
        guards = GuardsConfig(distillation=weight, freeze_norms=True)
        run(model, tmp_path / str(weight), guards, replace(UPDATE, epochs=10))
        with torch.no_grad():
            moved[weight] = distillation_loss(model(images), start, data.targets)
        assert set(state(model)) == set(state(network()))
    assert 0 < moved[1.0] < 0.6 * moved[0.0]


def test_replay_is_mixed_into_each_epoch(tmp_path):
    """40 pictures of which 8 are old ones; the labels of all of them are seen once an epoch."""
    seen = []

    def loss(logits, targets):
        seen.extend(map(tuple, targets.tolist()))
        return multilabel_soft(logits, targets)

    replay = replay_buffer(patterns.base(), 8, seed=0)
    result = run(network(), tmp_path, GuardsConfig(replay=8), replace(UPDATE, batch_size=20),
                 loss, replay=replay)  # fmt: skip
    assert result.steps == 4
    old = sorted(map(tuple, replay.targets.tolist()))
    for epoch in (seen[:40], seen[40:]):
        assert sorted(labels for labels in epoch if len(labels) == 1) == old


class Stop(BaseException):
    """As KeyboardInterrupt, no Exception."""


def test_interrupted_it_is_as_before_and_goes_on_to_the_same_bits(tmp_path):
    def stop(step, loss):
        if step == 6:
            raise Stop

    guards = GuardsConfig(distillation=1.0, averaging=0.25, freeze=("0",))
    update = replace(UPDATE, epochs=4, checkpoint_seconds=0)
    whole = network()
    run(whole, tmp_path / "whole", guards, update)
    model = network().train()
    model[3].requires_grad_(False)
    model[3].requires_grad_(True)
    before, asked = state(model), [p.requires_grad for p in model.parameters()]
    with pytest.raises(Stop):
        run(model, tmp_path / "halved", guards, update, watch=stop)
    assert same(before, state(model))
    assert model.training and all(module.training for module in model)
    assert asked == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    steps = []
    run(model, tmp_path / "halved", guards, update, watch=lambda step, loss: steps.append(step))
    assert steps == [6, 8]
    assert same(state(model), state(whole))


def test_a_loss_that_is_not_finite_leaves_it_as_before(tmp_path):
    model = network()
    before = state(model)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        run(model, tmp_path, loss=lambda logits, targets: logits.sum() * float("nan"))
    assert same(before, state(model))


def test_weights_that_are_not_finite_leave_it_as_before(tmp_path):
    """The last step may break what no later loss shows."""
    model = network()
    before = state(model)
    with pytest.raises(FloatingPointError, match=r"0\.weight is not finite after the update"):
        run(model, tmp_path, update=replace(UPDATE, epochs=1, batch_size=32, lr=1e39))
    assert same(before, state(model))


def test_folder_of_another_update(tmp_path):
    model = network()
    run(model, tmp_path)
    with pytest.raises(ValueError, match=r"work of another configuration \(weights before was"):
        run(model, tmp_path)
    with pytest.raises(ValueError, match=r"another configuration \(guards"):
        run(network(), tmp_path, GuardsConfig(averaging=0.5))
    other = patterns.dataset([[n % 6] for n in range(32)])
    with pytest.raises(ValueError, match=r"another configuration \(labels of the pictures was"):
        run(network(), tmp_path, data=other)


def test_rejects(tmp_path):
    with pytest.raises(ValueError, match=r"guards.replay = 8 asks for, got 0"):
        run(network(), tmp_path, GuardsConfig(replay=8))
    with pytest.raises(ValueError, match=r"guards.replay = 0 asks for, got 48"):
        run(network(), tmp_path, replay=patterns.base())
    with pytest.raises(ValueError, match="data must hold at least one picture, got none"):
        run(network(), tmp_path, data=mixed(0))
    with pytest.raises(ValueError, match=r"freeze must name modules .*'8'\], got 'stem'"):
        run(network(), tmp_path, GuardsConfig(freeze=("stem",)))
    with pytest.raises(ValueError, match="parameters must hold one that requires gradients"):
        run(network(), tmp_path, GuardsConfig(freeze=tuple("0123458")))
