import numpy as np
import pytest

from detector.images import corruptions, pixels
from detector.training.augmentation import Augmentation, View, make_augmentation
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


def config(*options):
    return parse(["--architecture", "compact", "--image-size", "16", *options])


def test_an_augmentation_follows_the_options():
    assert make_augmentation(config()) is None
    given = ["--flip", "--shift", "0.1", "--degradation", "0.3", "--max-blur", "2", "--min-jpeg", "40"]
    found = make_augmentation(config(*given))
    assert found.flip and found.geometry == {"rotation": 0, "shift": 0.1, "shear": 0, "zoom": 0} and found.view is None
    assert found.degradation == {"probability": 0.3, "max_blur": 2, "min_scale": 0.25, "max_noise": 0.1, "min_quality": 40}
    views = make_augmentation(config("--preprocessing", "views", "--photo-degradation", "0.7"))
    assert (views.view, views.photo) == (View(16), 0.7)


def test_the_photo_degradation_is_applied_to_whole_images_with_its_probability(monkeypatch):
    sizes = []
    monkeypatch.setattr(corruptions, "random_sharing", lambda image, rng: sizes.append(image.shape) or image)
    image = np.asarray(draw("photo", (90, 70)))
    for seed in range(200):
        assert Augmentation(view=View(16), photo=0.5)(image, np.random.default_rng(seed)).shape == (16, 16, 3)
    assert 75 < len(sizes) < 125 and set(sizes) == {(70, 90, 3)}
