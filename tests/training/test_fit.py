import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import CONFIG, LABELS, Blobs, accuracy, network
from torch import nn

from fastheads.losses import softmax_cross_entropy
from fastheads.training import TrainConfig, fit, load_weights, save_weights

PLAIN = TrainConfig(
    epochs=3, batch_size=20, lr=0.05, optimizer="sgd", accelerator="cpu", threads=1, log_every=5
)


def run(folder, config, model=None, data=None, **options):
    model = network() if model is None else model
    data = Blobs(100) if data is None else data
    return model, fit(
        model, data, softmax_cross_entropy, config, folder=folder, quiet=True, **options
    )


def linear(inputs=8, outputs=LABELS):
    model = nn.Linear(inputs, outputs)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def test_learns(tmp_path):
    data = Blobs(200)
    _, result = run(tmp_path, replace(CONFIG, epochs=10), data=data, validate=accuracy(data))
    assert result.metrics["top1"] > 0.95
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adagrad"])
def test_equals_a_bare_loop(tmp_path, optimizer):
    config = replace(
        PLAIN, optimizer=optimizer, schedule="step", gamma=0.5, step_epochs=1, weight_decay=0.1
    )
    model, result = run(tmp_path, config, linear())

    data, bare = Blobs(100), linear()
    groups = [{"params": [bare.weight], "weight_decay": 0.1}, {"params": [bare.bias]}]
    make = {
        "sgd": lambda: torch.optim.SGD(groups, 0.05, 0.9),
        "adamw": lambda: torch.optim.AdamW(groups, 0.05, weight_decay=0.0),
        "adagrad": lambda: torch.optim.Adagrad(groups, 0.05),
    }
    steps = make[optimizer]()
    for epoch in range(3):
        seed = int(np.random.SeedSequence((0, epoch)).generate_state(1)[0])
        order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
        losses = []
        for rows in order.split(20):
            inputs, targets = data.__getitems__(rows.tolist())
            for group in steps.param_groups:
                group["lr"] = 0.05 * 0.5**epoch
            loss = softmax_cross_entropy(bare(inputs), targets)
            steps.zero_grad()
            loss.backward()
            steps.step()
            losses.append(loss.item())
        assert result.history[epoch]["train_loss"] == pytest.approx(sum(losses) / 5, rel=1e-5)
    torch.testing.assert_close(model.weight, bare.weight)
    torch.testing.assert_close(model.bias, bare.bias)
    assert [row["lr"] for row in result.curve] == [0.05, 0.025, 0.0125]


class WithLoss(nn.Module):
    """A model that gives its loss, and never its outputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs, targets):
        return softmax_cross_entropy(self.model(inputs), targets)


def test_a_model_may_give_its_loss_itself(tmp_path):
    model, expected = run(tmp_path / "outputs", PLAIN, linear())
    own = WithLoss(linear())
    result = fit(own, Blobs(100), None, PLAIN, folder=tmp_path / "loss", quiet=True)
    assert [row["loss"] for row in result.curve] == [row["loss"] for row in expected.curve]
    assert torch.equal(own.model.weight, model.weight)


def test_same_seed_same_bits_other_seed_others(tmp_path):
    weights = [
        run(tmp_path / str(i), replace(CONFIG, seed=seed, patience=None))[0][0].weight
        for i, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_polyak_average(tmp_path):
    """The weights that are left are the recursion over the weights after each step."""
    seen = []

    def loss(outputs, targets):
        seen.append(model.weight.detach().clone())  # before the step
        return softmax_cross_entropy(outputs, targets)

    model, last = linear(), []

    def validate(average):
        last.append(average.weight.clone())
        seen_last.append(model.weight.clone())
        return {"x": 0.0}

    seen_last = []
    config = replace(PLAIN, epochs=1, polyak=0.4)
    fit(model, Blobs(100), loss, config, folder=tmp_path, validate=validate, quiet=True)
    after = [*seen[1:], seen_last[0]]
    expected = after[0]
    for n, weight in enumerate(after[1:], 1):
        d = min(0.4, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * weight
    assert len(after) == 5
    torch.testing.assert_close(last[0], expected)
    assert torch.equal(model.weight, last[0])
    assert not torch.equal(model.weight, after[-1])


def test_early_stop_keeps_the_best(tmp_path):
    values = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    weights = []

    def validate(model):
        weights.append(model.weight.clone())
        return {"other": 0.0, "score": next(values)}

    config = replace(PLAIN, epochs=5, patience=2, monitor="score")
    model, result = run(tmp_path, config, linear(), validate=validate)
    assert result.stopped_early and len(result.history) == 4
    assert result.metrics == {"other": 0.0, "score": 0.5}
    assert torch.equal(model.weight, weights[1])


def test_trains_only_what_requires_gradients(tmp_path):
    model = network()
    model[0].requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run(tmp_path, PLAIN, model, frozen=[model[1]])
    after = model.state_dict()
    for key in ("0.weight", "0.bias", "1.running_mean", "1.num_batches_tracked"):
        assert torch.equal(before[key], after[key]), key
    assert not torch.equal(before["4.weight"], after["4.weight"])
    assert not torch.equal(before["1.weight"], after["1.weight"])
    assert not model.training


def test_parameter_groups_keep_their_own_rate(tmp_path):
    model = network()
    before = model[4].weight.clone(), model[0].weight.clone()
    groups = [{"params": [model[0].weight]}, {"params": [model[4].weight], "lr": 0.0}]
    run(tmp_path, PLAIN, model, parameters=groups)
    assert torch.equal(before[0], model[4].weight)
    assert not torch.equal(before[1], model[0].weight)


def test_bfloat16(tmp_path):
    data, dtypes = Blobs(100), []
    config = replace(PLAIN, precision="bf16-mixed", optimizer="adamw", lr=0.02, epochs=6)
    model = network()
    model[0].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    model, result = run(tmp_path, config, model, data, validate=accuracy(data))
    assert set(dtypes) == {torch.bfloat16}
    assert model[0].weight.dtype == torch.float32
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]


def test_stops_at_a_loss_that_is_not_finite(tmp_path):
    def loss(outputs, targets):
        loss.steps += 1
        value = softmax_cross_entropy(outputs, targets)
        return value / 0 if loss.steps == 8 else value

    loss.steps = 0
    config = replace(PLAIN, schedule="constant")
    with pytest.raises(FloatingPointError, match=r"inf at step 8 with learning rate 0\.05"):
        fit(linear(), Blobs(100), loss, config, folder=tmp_path, quiet=True)
    # What was stored is the end of the first epoch, and finite.
    model, result = run(tmp_path, config, linear())
    assert result.steps == 15
    assert math.isfinite(model.weight.sum().item())


def test_logs(tmp_path):
    data = Blobs(100)
    _, result = run(tmp_path, PLAIN, data=data, validate=accuracy(data))
    rows = list(csv.DictReader((tmp_path / "log" / "metrics.csv").open()))
    assert [float(row["loss"]) for row in rows if row["loss"]] == [r["loss"] for r in result.curve]
    assert [float(r["top1"]) for r in rows if r["top1"]] == [r["top1"] for r in result.history]
    assert [row["step"] for row in result.curve] == [5, 10, 15]
    assert any(file.name.startswith("events") for file in (tmp_path / "log").iterdir())


def test_watch_sees_every_point_of_the_curve(tmp_path):
    seen = []
    _, result = run(tmp_path, PLAIN, watch=lambda step, loss: seen.append((step, loss)))
    assert seen == [(point["step"], point["loss"]) for point in result.curve]
    assert seen[-1][0] == result.steps


def test_lines_without_a_terminal(tmp_path, capsys):
    fit(linear(), Blobs(40), softmax_cross_entropy, PLAIN, folder=tmp_path, name="base, seed 0")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("base, seed 0  6/6  epoch 3  train_loss")


def test_batch_larger_than_the_data(tmp_path):
    _, result = run(tmp_path, replace(PLAIN, batch_size=1000), linear(), Blobs(30))
    assert result.steps == 3


def test_weights_as_safetensors(tmp_path):
    model, other = network(), network()
    nn.init.zeros_(other[0].weight)
    save_weights(model, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "epochs must be above 0, got 0"),
        ({"lr": float("nan")}, "lr must be above 0, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"polyak": 1.0}, "polyak must be between 0 and 1, got 1.0"),
        ({"devices": 3, "batch_size": 16}, "batch_size must be a multiple of the 3 devices"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0, got 0.0"),
        ({"gamma": -1.0}, "gamma must be above 0, got -1.0"),
        ({"milestones": (2, -1)}, "milestones must be at least 0, got -1"),
        ({"momentum": -1.0}, "momentum must be at least 0 and below 1, got -1.0"),
        ({"momentum": 2.0}, "momentum must be at least 0 and below 1, got 2.0"),
        ({"seed": 2**63}, "seed must be at least 0 .*, got 9223372036854775808"),
        ({"accelerator": "tpu"}, "accelerator must be cpu, cuda or auto, got 'tpu'"),
    ],
)
def test_config_rejects(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_rejects(tmp_path):
    with pytest.raises(ValueError, match="parameters must hold one that requires gradients"):
        run(tmp_path, PLAIN, linear().requires_grad_(False))
    with pytest.raises(ValueError, match="validate must be given for patience"):
        run(tmp_path, replace(PLAIN, patience=1))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"accelerator must be cpu or auto, .* got 'cuda'"):
            run(tmp_path, replace(PLAIN, accelerator="cuda"))
    with pytest.raises(ValueError, match=r"monitor must be one of.*'top1'.*got 'map'"):
        config = replace(PLAIN, patience=1, monitor="map")
        run(tmp_path, config, validate=accuracy(Blobs(100)))


def test_augments_anew_each_step(tmp_path):
    draws = []

    def augment(inputs, generator):
        draws.append(torch.rand((), generator=generator).item())
        return inputs

    run(tmp_path / "a", PLAIN, augment=augment)
    run(tmp_path / "b", PLAIN, augment=augment)
    assert len(set(draws[:15])) == 15
    assert draws[:15] == draws[15:]
