import numpy as np
import pytest

from detector.training.config import parse
from detector.training.schedules import Phase, make_schedule, plan_phases


def rates(*options, epochs=4, steps=10, head_only=False):
    schedule = make_schedule(Phase(0, epochs, 1e-2, 1e-4, head_only), parse(["--architecture", "compact", *options]), steps)
    return np.array([float(schedule(step)) for step in range(epochs * steps + 1)])


def test_polynomial_rates_follow_the_formula():
    assert rates("--power", "3") == pytest.approx((1e-2 - 1e-4) * (1 - np.arange(41) / 40) ** 3 + 1e-4, rel=1e-5)


def test_cosine_rates_rise_in_the_warm_up_and_fall_to_the_end():
    found = rates("--schedule", "cosine", "--warmup-epochs", "0.5")
    assert found[:6] == pytest.approx(np.arange(6) * 2e-3, abs=1e-8)
    wave = (1 + np.cos(np.pi * np.arange(36) / 35)) / 2
    assert found[5:] == pytest.approx(1e-4 + (1e-2 - 1e-4) * wave, rel=1e-4)
    assert rates("--schedule", "cosine")[0] == pytest.approx(1e-2)
    assert rates("--schedule", "cosine", head_only=True) == pytest.approx(rates(head_only=True))


def test_the_head_comes_first():
    config = parse(["--architecture", "mobilenetv2", "--epochs", "3", "--head-epochs", "2", "--learning-rate", "5e-4"])
    assert plan_phases(config) == [Phase(0, 2, 1e-3, 1e-3, head_only=True), Phase(2, 5, 5e-4, 1e-5)]
    assert plan_phases(parse(["--architecture", "compact", "--epochs", "0"])) == []
