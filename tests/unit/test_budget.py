"""How long a run lasts, and its learning rate against the formula."""

import math

import pytest

from diffdx.config import TrainConfig
from diffdx.errors import ConfigError
from diffdx.training.budget import Budget, learning_rate


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "none"),
        ({"steps": 5, "minutes": 1.0}, "steps and minutes"),
        ({"steps": 5, "images_seen": 64, "minutes": 1.0}, "steps and images_seen and minutes"),
    ],
)
def test_exactly_one_budget_must_be_given(given, found):
    with pytest.raises(ConfigError, match=f"exactly one .*; found {found}"):
        Budget.of(TrainConfig(**given))


def test_each_budget_is_spent_in_its_own_unit():
    steps = Budget.of(TrainConfig(steps=20))
    assert [steps.fraction(step, 1e9) for step in (0, 5, 20, 21)] == [0, 0.25, 1, 1]
    images = Budget.of(TrainConfig(images_seen=640, batch_size=32))
    assert images == steps
    minutes = Budget.of(TrainConfig(minutes=2.0))
    assert [minutes.fraction(10**9, seconds) for seconds in (0.0, 30.0, 120.0, 500.0)] == [
        0,
        0.25,
        1,
        1,
    ]


def test_fewer_images_than_a_batch_are_one_step():
    assert Budget.of(TrainConfig(images_seen=5, batch_size=32)).steps == 1


def test_the_learning_rate_follows_warmup_times_cosine():
    config = TrainConfig(steps=1000, learning_rate=2e-3, warmup_steps=100)
    budget = Budget.of(config)
    for step in range(0, 1000, 7):
        fraction = budget.fraction(step, 0.0)
        expected = 2e-3 * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / 1000)) / 2
        assert learning_rate(config, step, fraction) == pytest.approx(expected, rel=1e-12)
    assert learning_rate(config, 1000, 1.0) == pytest.approx(0, abs=1e-18)


def test_without_decay_and_warmup_the_rate_is_constant():
    config = TrainConfig(steps=10, learning_rate=1e-3, warmup_steps=0, learning_rate_decay="none")
    assert {learning_rate(config, step, step / 10) for step in range(10)} == {1e-3}
