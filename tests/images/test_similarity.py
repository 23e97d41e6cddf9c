"""The perceptual hash and the search for close hashes: exact against brute force, flat where everything is alike."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from detector.images import corruptions, similarity


def picture(seed, size=64):
    blocks = np.random.default_rng(seed).integers(40, 200, (6, 6, 3), np.uint8)  # brighter, nothing is clipped
    return Image.fromarray(blocks).resize((size, size), Image.Resampling.BICUBIC)


def hash_of(image):
    return similarity.perceptual_hashes([similarity.grey_thumbnail(np.asarray(image))])[0]


CHANGES = {
    "quality 50": lambda image: Image.fromarray(corruptions.jpeg(np.asarray(image), 50)),
    "half the size": lambda image: image.resize((32, 32), Image.Resampling.BICUBIC),
    "twice the size": lambda image: image.resize((128, 128), Image.Resampling.BICUBIC),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_small_changes_keep_the_hash_and_the_likeness(change):
    for seed in range(20):
        before, after = picture(seed), CHANGES[change](picture(seed))
        assert np.bitwise_count(hash_of(before) ^ hash_of(after)) <= similarity.MAX_BITS
        thumbnails = np.array([similarity.colour_thumbnail(np.asarray(image)) for image in (before, after)])
        assert similarity.likeness(thumbnails, np.array([0]), np.array([1]))[0] > 0.94


def test_different_pictures_are_far_apart():
    hashes = [hash_of(picture(seed)) for seed in range(100)]
    assert len(similarity.close_pairs(hashes)) == 0
    thumbnails = np.array([similarity.colour_thumbnail(np.asarray(picture(seed))) for seed in range(100)])
    assert similarity.likeness(thumbnails, np.arange(99), np.arange(1, 100)).max() < 0.8


def test_another_colour_of_the_same_shape_and_blank_images_are_like_nothing():
    blank = np.zeros((2, 16, 16, 3), np.uint8)
    assert similarity.likeness(blank, np.array([0]), np.array([1]))[0] == 0
    red, blue = np.zeros((2, 16, 16, 3), np.uint8)
    red[4:12, 4:12, 0] = blue[4:12, 4:12, 2] = 255
    assert abs(similarity.likeness(np.array([red, blue]), np.array([0]), np.array([1]))[0]) < 0.01


def test_close_pairs_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 1 << 63, 300, np.uint64)
    hashes = np.concatenate([seeds] + [seeds ^ flips(rng, len(seeds)) for _ in range(4)])
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = np.argwhere(np.triu(apart <= similarity.MAX_BITS, 1))
    assert len(expected) and np.array_equal(similarity.close_pairs(hashes), expected)


def flips(rng, number, most=9):
    """Return masks with up to `most` bits set."""
    masks = np.zeros(number, np.uint64)
    for _ in range(most):
        masks |= np.uint64(1) << rng.integers(0, 64, number, np.uint64) * rng.integers(0, 2, number, np.uint64)
    return masks


def test_no_images_and_too_many_pairs():
    assert similarity.close_pairs([]).shape == (0, 2)
    assert similarity.likeness(np.empty((0, 16, 16, 3), np.uint8), np.array([], int), np.array([], int)).shape == (0,)
    assert len(similarity.close_pairs(np.zeros(1000, np.uint64), most=5000)) == 5000
