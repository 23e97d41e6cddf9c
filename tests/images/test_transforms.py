import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.images.transforms import affine, random_affines


@pytest.fixture
def image():
    """A smooth picture without symmetry, wider than high."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([x * 6, y * 10, 128 + 100 * np.sin(x / 5 + y / 7)], axis=-1).astype(np.uint8)


def spot(x, y, size=33):
    image = np.zeros((size, size, 3), np.uint8)
    image[y, x] = 255
    return image


def where(image):
    """Centre of mass as (x, y)."""
    weights = image[..., 0].astype(float)
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    return (x * weights).sum() / weights.sum(), (y * weights).sum() / weights.sum()


def random_affine(image, rng, *arguments, **strengths):
    return next(random_affines(image, rng, 1, *arguments, **strengths))


def test_nothing_to_do_and_a_mirror_image_are_exact(image):
    assert np.array_equal(affine(image), image)
    assert np.array_equal(random_affine(image, np.random.default_rng(0), 0, 0, 0, 0, flip=False), image)
    assert np.array_equal(affine(image, mirrored=True), image[:, ::-1])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"right": 4}, (24, 10)),
        ({"down": 4}, (20, 14)),
        ({"angle": 90}, (10, 12)),
        ({"wide": 0.5}, (24, 10)),
        ({"tall": 2}, (20, 13)),
        ({"mirrored": True}, (12, 10)),
        ({"slant": np.arcsin(0.5), "tall": 1 / np.cos(np.arcsin(0.5))}, (20 - 6 * np.tan(np.arcsin(0.5)), 10)),
    ],
)
def test_where_a_spot_goes(arguments, expected):
    assert where(affine(spot(20, 10), **arguments)) == pytest.approx(expected, abs=0.35)


def test_agrees_with_scipy_on_what_is_between_pixels_and_beyond_the_edge(image):
    ndimage = pytest.importorskip("scipy.ndimage")
    angle, right, down, slant, wide, tall = 17.0, 5.3, -3.1, 0.15, 1.18, 0.86
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[cos, -sin], [sin, cos]])
    matrix = turn @ [[1, -np.sin(slant)], [0, np.cos(slant)]] @ np.diag([wide, tall])
    centre = np.array([39, 23]) / 2
    offset = centre - turn @ [right, down] - matrix @ centre
    flip = [1, 0]  # x, y to row, column
    expected = [
        ndimage.affine_transform(channel.astype(float), matrix[flip][:, flip], offset[flip], order=1, mode="nearest")
        for channel in np.moveaxis(image, -1, 0)
    ]
    difference = affine(image, angle, right, down, slant, wide, tall) - np.stack(expected, axis=-1)
    assert np.abs(difference).max() <= 1


parameters = st.fixed_dictionaries(
    {
        "angle": st.floats(-180, 180), "right": st.floats(-60, 60), "down": st.floats(-60, 60), "slant": st.floats(-1, 1),
        "wide": st.floats(0.1, 2), "tall": st.floats(0.1, 2), "mirrored": st.booleans(),
    }
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(parameters, st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_no_new_levels_appear(arguments, height, width, seed):
    low, high = np.sort(np.random.default_rng(seed).integers(0, 256, 2))
    image = np.random.default_rng(seed).integers(low, high + 1, (height, width, 3), dtype=np.uint8)
    result = affine(image, **arguments)
    assert result.shape == image.shape and result.dtype == np.uint8
    assert (result.min(axis=(0, 1)) >= image.min(axis=(0, 1))).all() and (result.max(axis=(0, 1)) <= image.max(axis=(0, 1))).all()


def test_random_amounts_fill_their_ranges_evenly():
    image, rng = spot(16, 16), np.random.default_rng(0)
    only_shift = dict(rotation=0, shear=0, zoom=0, flip=False)
    places = np.array([where(random_affine(image, rng, shift=0.2, **only_shift)) for _ in range(500)]) - 16
    assert np.abs(places.mean(0)).max() < 0.6  # evenly to both sides
    assert np.abs(places).max() == round(0.2 * 33)
    assert (places == places.astype(int)).all()  # whole pixels
    mirrored = sum(where(random_affine(spot(4, 16), rng, 0, 0, 0, 0))[0] > 16 for _ in range(400))
    assert 150 < mirrored < 250
