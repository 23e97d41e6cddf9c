import numpy as np
import pytest
from PIL import Image

from detector.images import corruptions
from detector.images.quality import blockiness, dominant_fraction, quality_problem, step_ratio

NOISE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
GREY = np.full((96, 96, 3), 90, np.uint8)


def resized(image, size, how):
    return np.asarray(Image.fromarray(image).resize((size, size), how))


def test_steps_of_noise_do_not_add_up_and_those_of_enlargements_do():
    assert step_ratio(NOISE) == pytest.approx(1, abs=0.03)
    for how in (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        assert step_ratio(resized(NOISE, 768, how)) == pytest.approx(0.5, abs=0.03)


def test_step_ratio_of_a_ramp_is_a_half():
    ramp = np.repeat(np.arange(0, 192, 2, dtype=np.uint8)[None, :, None], 96, axis=0).repeat(3, axis=2)
    assert step_ratio(ramp) == 0.5


@pytest.mark.parametrize("offset", [0, 3])
def test_blocks_are_found_wherever_they_begin(offset):
    smooth = resized(NOISE[:6, :6], 256, Image.Resampling.BICUBIC)
    assert blockiness(corruptions.jpeg(smooth, 3)[offset:, offset:]) > 3 > 1.5 > blockiness(smooth)
    assert blockiness(NOISE) == pytest.approx(1.05, abs=0.05)
    assert blockiness(np.kron(NOISE[:12, :12], np.ones((8, 8, 1), np.uint8))[offset:]) == np.inf


def test_dominant_fraction():
    assert dominant_fraction(GREY) == 1
    assert dominant_fraction(NOISE) < 0.1
    half = GREY.copy()
    half[:, :48] = NOISE[:, :48]
    assert dominant_fraction(half) == pytest.approx(0.5, abs=0.05)


def test_images_without_steps_or_of_a_pixel():
    for image in (GREY, GREY[:1, :1], GREY[:1], GREY[:, :2]):
        assert np.isnan(step_ratio(image)) and np.isnan(blockiness(image)) and dominant_fraction(image) == 1


def test_of_a_large_image_the_middle_counts():
    large = np.zeros((1200, 1300, 3), np.uint8)
    large[88:1112, 138:1162] = 7
    assert dominant_fraction(large) == 1


def test_problems():
    photograph = resized(NOISE[:6, :6], 256, Image.Resampling.BICUBIC).astype(int)
    noise = np.random.default_rng(1).integers(-9, 10, photograph.shape)
    photograph = np.clip(photograph + noise, 0, 255).astype(np.uint8)
    text = np.full((256, 256, 3), 255, np.uint8)
    text[::16, ::3] = 0
    assert quality_problem(photograph) is None and quality_problem(GREY) is None
    small = resized(photograph, 64, Image.Resampling.BICUBIC)
    assert quality_problem(resized(small, 512, Image.Resampling.BICUBIC)) == "it looks like a small image that was enlarged"
    assert "compressed" in quality_problem(corruptions.jpeg(photograph, 5))
    assert "chart" in quality_problem(text) and "chart" in quality_problem(resized(GREY, 128, Image.Resampling.NEAREST))


def test_a_dark_photograph_is_not_drawn():
    noise = np.random.default_rng(2).normal(12, 1.5, (256, 256, 1)).round().astype(np.uint8)
    night = np.repeat(noise, 3, axis=2)
    night[100:120, 100:120] = 230  # a lamp
    assert dominant_fraction(night) > 0.8 and quality_problem(night) is None
