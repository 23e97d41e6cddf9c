import numpy as np
import pytest

from detector.inference import stability


@pytest.mark.parametrize("verdict, copies, stable", [
    ("Fake", ["Fake"], True), ("Fake", ["uncertain"], True), ("Fake", ["Fake", "Real"], False), ("Real", ["Fake"], False),
    ("Real", [], True), ("uncertain", ["Fake", "Real"], True),
])  # fmt: skip
def test_only_the_opposite_verdict_of_a_copy_counts(verdict, copies, stable):
    assert stability.is_stable(verdict, copies) == stable


@pytest.mark.parametrize("size, expected", [
    ((32, 40), (32, 40)), ((2560, 100), (1280, 50)), ((1, 1), (1, 1)), ((3000, 1), (1280, 1)),
])  # fmt: skip
def test_a_copy_is_compressed_and_no_larger_than_a_messenger_sends_it(size, expected):
    image = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    copy = stability.resaved(image)
    assert copy.shape == (*expected[::-1], 3) and copy.dtype == np.uint8
    if size == expected and size != (1, 1):
        assert 5 < np.abs(copy.astype(int) - image).mean() < 100
