import math

import pytest
import torch
from jsonargparse import ArgumentParser, set_parsing_settings

from fastheads.training import TrainConfig
from fastheads.training.config import check_training, lr_factor


def factors(steps_per_epoch=10, **settings):
    config = TrainConfig(**{"epochs": 10, **settings})
    total = config.epochs * steps_per_epoch
    return [lr_factor(config, step, steps_per_epoch) for step in range(total)]


def test_one_cycle():
    f = factors(schedule="one_cycle")
    assert f[0] == pytest.approx(1 / 25)
    assert f[15] == pytest.approx((1 + 1 / 25) / 2)
    assert f[30] == pytest.approx(1.0)
    assert f[65] == pytest.approx(0.5)
    assert 0 < f[-1] < 0.01
    assert f[:31] == sorted(f[:31]) and f[30:] == sorted(f[30:], reverse=True)


def test_cosine_with_warmup():
    f = factors(schedule="cosine", warmup=20)
    assert f[0] == pytest.approx(0.05) and f[19] == 1.0 and f[20] == 1.0
    assert f[60] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert 0 < f[-1] < 0.01


def test_step():
    """Four per cent less every eight epochs."""
    f = factors(schedule="step", gamma=0.96, step_epochs=8, epochs=20)
    assert f[79] == 1.0 and f[80] == 0.96 and f[160] == pytest.approx(0.96**2)


def test_milestones():
    """The recipe of CIFAR: a tenth after 150 and after 250 of 350 epochs."""
    settings = {"schedule": "step", "gamma": 0.1, "milestones": (150, 250), "epochs": 350}
    f = factors(2, **settings)
    assert f[299] == 1.0 and f[300] == 0.1 and f[499] == 0.1
    assert f[500] == f[-1] == pytest.approx(0.01)


def test_constant():
    assert factors(schedule="constant", warmup=2)[:3] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "constant"])
def test_a_single_step(schedule):
    (factor,) = factors(1, schedule=schedule, epochs=1)
    assert 0 < factor <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 2}, "top.patience must be None, as this training validates on nothing"),
        ({"accelerator": "cuda"}, "top.accelerator must be cpu or auto, as PyTorch finds no GPU"),
    ],
)
def test_trainings_that_cannot_be_run(monkeypatch, settings, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        check_training(trunk=TrainConfig(), top=TrainConfig(**settings))


def test_command_line_help_explains_every_field():
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser()
    parser.add_class_arguments(TrainConfig, "train")
    text = " ".join(parser.format_help().split())
    assert "Rows in a step, over all devices together" in text
    config = parser.parse_args(["--train.lr", "0.1", "--train.polyak", "0.99"])
    assert TrainConfig(**config.train.as_dict()) == TrainConfig(lr=0.1, polyak=0.99)
