"""The benchmark that compares the scores of one file in all ways: its images, and that it tells a difference."""

import math

import pytest

from benchmarks import agreement
from detector.model import backend
from detector.model import file as model_file
from tests.conftest import draw
from tests.model.test_file import METADATA, bias_model


@pytest.fixture
def converted(tmp_path):
    (tmp_path / "from").mkdir()
    for i in range(40):
        draw(i, (60, 40)).save(tmp_path / "from" / f"{i:02}.png")
    return agreement.convert(tmp_path / "from", 28, 30, tmp_path / "to")


def test_a_missing_score_counts_as_the_largest_difference():
    assert agreement.largest([0.5, 0.25], [0.5, 0.5]) == 0.25
    assert agreement.largest([0.5, None], [0.5, None]) == agreement.largest([], []) == math.inf


def test_what_keras_says_otherwise_is_told(converted, tmp_path, monkeypatch):
    path = tmp_path / "small.h5"
    model_file.save(bias_model([1.5, 0.5]), path, METADATA)
    assert max(agreement.from_keras(path, converted)) < 1e-6
    margins = backend.keras_logits
    monkeypatch.setattr(backend, "keras_logits", lambda *given: margins(*given) + 0.5)
    assert agreement.from_keras(path, converted) == pytest.approx((0.5, 1 / (1 + math.exp(-1.5)) - 1 / (1 + math.exp(-1))))
