import numpy as np
import pytest

from detector.images import corruptions, pixels
from detector.training.augmentation import Augmentation, Crop, View, make_augmentation
from detector.training.config import parse
from tests.conftest import draw


@pytest.mark.parametrize("height, width", [(90, 200), (20, 31), (32, 32)])
def test_random_views_are_of_the_kinds_of_prediction(height, width, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    boxes, cut = [], pixels.cut
    monkeypatch.setattr(pixels, "cut", lambda source, box, size: boxes.append(box) or cut(source, box, size))
    found = [View(32)(image, np.random.default_rng(i)) for i in range(60)]
    assert all(one.shape == (32, 32, 3) and one.dtype == np.uint8 for one in found)
    assert all(left >= 0 and top >= 0 and right <= width + 1e-9 and bottom <= height + 1e-9 for left, top, right, bottom in boxes)
    sides = np.array([right - left for left, _, right, _ in boxes])
    whole = min(height, width) * 7 / 8
    assert sides.min() >= min(32, whole) - 1e-9 and sides.max() == pytest.approx(whole)
    if whole > 32:
        assert (sides == 32).sum() > 10 and ((sides > 33) & (sides < whole - 1)).sum() > 10
    assert len(set(boxes)) > 20 and np.array_equal(View(32)(image, np.random.default_rng(7)), found[7])


def test_augmentation_moves_flips_and_damages_by_its_generator():
    image = np.asarray(draw("a"))
    assert (Augmentation()(image, np.random.default_rng(0)) == image).all()
    flips = [Augmentation(flip=True)(image, np.random.default_rng(seed)) for seed in range(40)]
    mirrored = sum((one == image[:, ::-1]).all() for one in flips)
    assert 10 < mirrored < 30 and all((one == image).all() or (one == image[:, ::-1]).all() for one in flips)
    both = Augmentation(geometry={"rotation": 0.0, "shift": 0.1, "shear": 0.0, "zoom": 0.0}, degradation={"probability": 1.0})
    one, again, other = (both(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == again).all() and (one != other).any() and one.dtype == np.uint8 and one.shape == image.shape


def test_a_crop_shows_the_images_own_pixels():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    places = {square.tobytes(): (top, left) for top in range(25) for left in range(45)
              for square in [image[top : top + 16, left : left + 16]]}  # fmt: skip
    rng = np.random.default_rng(1)
    found = [places[Crop(16)(image, rng).tobytes()] for _ in range(2000)]
    assert {top for top, _ in found} == set(range(25)) and {left for _, left in found} == set(range(45))


def test_a_crop_is_resized_by_a_factor_of_the_range():
    row = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    rng = np.random.default_rng(0)
    spans = [int(np.ptp(Crop(32, 0.5, 2.0)(row, rng)[16, 4:-4, 0].astype(int))) / 23 for _ in range(400)]  # columns a pixel
    assert 0.45 < min(spans) < 0.6 and 1.8 < max(spans) < 2.1
    assert 0.4 < np.mean(np.array(spans) < 1) < 0.6  # as often enlarged as reduced
    same = [Crop(32, 0.5, 2.0)(row, np.random.default_rng(7)) for _ in range(2)]
    assert (same[0] == same[1]).all()


def test_of_an_image_smaller_than_the_square_all_of_its_shorter_side_is_shown():
    image = np.asarray(draw("small", (20, 12)))
    assert Crop(32, 0.5, 0.5)(image, np.random.default_rng(0)).shape == (32, 32, 3)
    one = Crop(32)(image[:12, :12], np.random.default_rng(0))
    assert (one == pixels.patches(image[:12, :12], 32, 9)[0]).all()


def test_a_crop_is_damaged_after_it_was_cut():
    image = np.asarray(draw("large", (90, 70)))
    both = Augmentation(flip=True, crop=Crop(32, 0.5, 1.5), degradation={"probability": 1.0})
    one, again, other = (both(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (32, 32, 3) and (one == again).all() and (one != other).any()


def config(*options):
    return parse(["--architecture", "compact", "--image-size", "16", *options])


def test_an_augmentation_follows_the_options():
    assert make_augmentation(config()) is None
    given = ["--flip", "--shift", "0.1", "--degradation", "0.3", "--max-blur", "2", "--min-jpeg", "40"]
    found = make_augmentation(config(*given))
    assert found.flip and found.geometry == {"rotation": 0, "shift": 0.1, "shear": 0, "zoom": 0} and found.crop is None
    assert found.degradation == {"probability": 0.3, "max_blur": 2, "min_scale": 0.25, "max_noise": 0.1, "min_quality": 40}
    assert make_augmentation(config("--preprocessing", "patches", "--resize-range", "0.5", "2")).crop == Crop(16, 0.5, 2)
    views = make_augmentation(config("--preprocessing", "views", "--photo-degradation", "0.7"))
    assert (views.crop, views.photo) == (View(16), 0.7)


def test_the_photo_degradation_is_applied_to_whole_images_with_its_probability(monkeypatch):
    sizes = []
    monkeypatch.setattr(corruptions, "random_sharing", lambda image, rng: sizes.append(image.shape) or image)
    image = np.asarray(draw("photo", (90, 70)))
    for seed in range(200):
        assert Augmentation(crop=Crop(16), photo=0.5)(image, np.random.default_rng(seed)).shape == (16, 16, 3)
    assert 75 < len(sizes) < 125 and set(sizes) == {(70, 90, 3)}
