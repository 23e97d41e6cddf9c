import numpy as np
import pytest

from detector.images import pixels
from detector.training.augmentation import View


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
