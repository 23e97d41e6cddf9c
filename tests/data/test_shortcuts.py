"""File features, the classifier on them, and its interval."""

import numpy as np
import pytest
from PIL import PngImagePlugin

from detector.data import shortcuts
from detector.images.pixels import read_image
from tests.sample_files import encoded, exif


def saved(kind, **options):
    return encoded(np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8), kind, **options)


@pytest.fixture
def features_of(tmp_path):
    def measure(data):
        (tmp_path / "image").write_bytes(data)
        features = shortcuts.file_features(tmp_path / "image", read_image(data))
        return {name: shortcuts.feature(features, name) for name in shortcuts.FEATURES}

    return measure


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
def test_jpeg_tables_are_read_as_a_quality(features_of, quality):
    features = features_of(saved("JPEG", quality=quality, subsampling=2, progressive=True))
    assert features["JPEG quality"] == pytest.approx(quality, abs=1)
    assert features["JPEG chroma quality"] == pytest.approx(quality, abs=1)
    assert (features["JPEG subsampling"], features["JPEG progressive"], features["format"]) == ("4:2:0", 1, "JPEG")


def test_features_of_a_png(features_of):
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat")
    data = saved("PNG", pnginfo=text, dpi=(72, 72))
    features = features_of(data)
    assert (features["width"], features["height"], features["aspect"]) == (40, 20, 2)
    assert (features["bytes"], features["bytes per pixel"]) == (len(data), pytest.approx(len(data) / 800))
    assert (features["format"], features["colour mode"], features["other text"], features["EXIF"]) == ("PNG", "RGB", 1, 0)
    assert features["density"] == pytest.approx(72, abs=0.1)
    assert features["JPEG quality"] == shortcuts.ABSENT and features["JPEG subsampling"] is None


def test_metadata_is_noticed(features_of):
    features = features_of(saved("JPEG", exif=exif({0x010F: "camera"}), icc_profile=b"profile", comment="made by hand"))
    assert (features["EXIF"], features["ICC profile"], features["other text"]) == (1, 1, 1)


@pytest.fixture(autouse=True)
def small_forests(monkeypatch):
    monkeypatch.setattr(shortcuts, "FOLDS", 2)
    monkeypatch.setattr(shortcuts, "REPEATS", 1)


def made_up(number, shift):
    """Return features of `number` files of each class: only 'bytes' differs, by `shift` standard deviations."""
    rng = np.random.default_rng(0)
    features = np.ones((2 * number, len(shortcuts.FEATURES)), np.float32)
    is_fake = np.arange(2 * number) % 2 == 0
    features[:, list(shortcuts.FEATURES).index("bytes")] = rng.normal(size=2 * number) + shift * is_fake
    return features, is_fake, np.arange(2 * number)


def test_a_planted_feature_is_named_and_measured():
    found = shortcuts.metadata_baseline(*made_up(1000, 1.5))
    assert found["facts"][0]["fact"] == "bytes" and found["facts"][0]["drop"] > 0.2
    assert found["auc"] == pytest.approx(0.856, abs=0.05), "two normal distributions 1.5 apart: Phi(1.5 / sqrt 2)"
    assert found["interval"][0] < found["auc"] < found["interval"][1]
    assert all(row["drop"] == 0 and row["alone"] == 0.5 for row in found["facts"][1:])


def test_chance_stays_chance_and_the_same_chance():
    found = shortcuts.metadata_baseline(*made_up(400, 0))
    assert found["interval"][0] < 0.55 and found["interval"][1] > 0.45
    assert shortcuts.metadata_baseline(*made_up(400, 0)) == found


def test_too_few_different_images_give_no_answer():
    features, is_fake, groups = made_up(40, 3)
    assert shortcuts.metadata_baseline(features[:58], is_fake[:58], groups[:58]) is None
    assert shortcuts.metadata_baseline(features, is_fake, groups % 10) is None


def test_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, inside = 0.7602, 0  # Phi(1 / sqrt 2)
    for _ in range(300):
        is_fake = np.arange(120) % 3 == 0
        _, low, high = shortcuts.auc_interval(is_fake, rng.normal(size=120) + is_fake)
        inside += low <= truth <= high
    assert 0.91 <= inside / 300 <= 0.98


def test_auc_counts_ties_half():
    is_fake = np.array([True, True, False, False])
    assert shortcuts.auc(is_fake, np.array([[3, 2, 1, 0], [1, 1, 1, 1], [0, 1, 2, 3], [2, 1, 1, 0]])).tolist() == [1, 0.5, 0, 0.875]
    assert shortcuts.auc_interval(is_fake, np.array([2, 1, 1, 0]))[0] == 0.875
