import numpy as np
import pytest

from detector.images import corruptions


@pytest.fixture
def image():
    """Soft shapes with some fine grain, wider than high."""
    y, x = np.mgrid[0:48, 0:64]
    soft = np.stack([128 + 90 * np.sin(x / 6), 128 + 90 * np.cos(y / 5), 128 + 60 * np.sin((x + y) / 9)], axis=-1)
    return np.clip(soft + np.random.default_rng(0).normal(0, 6, soft.shape), 0, 255).astype(np.uint8)


def psnr(a, b):
    error = np.mean((a.astype(float) - b) ** 2)
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


def make(name, image, amount):
    function = getattr(corruptions, name)
    return function(image, amount, np.random.default_rng(0)) if name == "noise" else function(image, amount)


STRONGER = {  # from weak to strong
    "jpeg": [95, 75, 50, 30, 10],
    "webp": [95, 75, 50, 30, 5],
    "blur": [0.3, 0.6, 1, 2, 3],
    "noise": [0.01, 0.03, 0.06, 0.1, 0.3],
    "scale": [0.9, 0.75, 0.5, 0.25, 0.1],
}
kinds = pytest.mark.parametrize("name", STRONGER)


@kinds
def test_stronger_damage_is_further_from_the_original(name, image):
    likeness = [psnr(image, make(name, image, amount)) for amount in STRONGER[name]]
    assert likeness == sorted(likeness, reverse=True) and likeness[0] > likeness[-1] + 3


@kinds
@pytest.mark.parametrize("shape", [(32, 32, 3), (48, 64, 3), (1, 1, 3), (7, 300, 3)])
def test_the_same_call_gives_the_same_pixels_in_the_same_shape_and_leaves_its_input(name, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    part = np.pad(image, ((5, 3), (3, 5), (0, 0)))[5:-3, 3:-5]
    part.flags.writeable = False  # and not contiguous
    result = make(name, part, STRONGER[name][2])
    assert result.shape == shape and result.dtype == np.uint8 and np.array_equal(part, image)
    assert np.array_equal(result, make(name, image, STRONGER[name][2]))


def test_nothing_to_do_gives_the_same_pixels(image):
    assert np.array_equal(corruptions.blur(image, 0), image)
    assert np.array_equal(corruptions.scale(image, 1), image)
    assert np.ptp(corruptions.scale(image, 0.001), axis=(0, 1)).max() == 0  # one pixel at least
    assert np.array_equal(corruptions.noise(image, 0, np.random.default_rng(0)), image)


def test_noise_has_the_sigma_that_was_asked_for_and_stays_in_range():
    black, white = np.zeros((50, 50, 3), np.uint8), np.full((50, 50, 3), 255, np.uint8)
    assert corruptions.noise(black, 0.1, np.random.default_rng(0)).max() < 150
    assert corruptions.noise(white, 0.1, np.random.default_rng(0)).min() > 105
    grey = np.full((300, 300, 3), 128, np.uint8)
    added = corruptions.noise(grey, 0.05, np.random.default_rng(0)).astype(float) - 128
    assert added.mean() == pytest.approx(0, abs=0.1)
    assert added.std() == pytest.approx(np.hypot(0.05 * 255, 12**-0.5), rel=0.01)  # rounding adds 1/12 to the variance
    assert np.corrcoef(added[..., 0].ravel(), added[..., 1].ravel())[0, 1] == pytest.approx(0, abs=0.02)


def test_blur_has_the_sigma_that_was_asked_for():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, :] = 255
    profile = corruptions.blur(point, 3)[:, 20, 0].astype(float)
    sigma = np.sqrt((profile * (np.arange(41) - 20) ** 2).sum() / profile.sum())
    assert sigma == pytest.approx(3, rel=0.05)


def test_random_degradation_is_seeded_and_probability_is_the_chance_of_each():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    first, again, other = (corruptions.random_degradation(image, np.random.default_rng(seed), 1) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    rng = np.random.default_rng(0)
    assert np.array_equal(corruptions.random_degradation(image, rng, 0), image)
    untouched = sum(np.array_equal(corruptions.random_degradation(image, rng, 0.5), image) for _ in range(800))
    assert 30 < untouched < 75  # 1 / 16 of them


@pytest.mark.parametrize("seed", range(20))
def test_amounts_stay_in_their_ranges_and_follow_their_order(seed, image, monkeypatch):
    done = []
    monkeypatch.setattr(corruptions, "blur", lambda image, sigma: done.append(("blur", 0 <= sigma <= 2)) or image)
    monkeypatch.setattr(corruptions, "scale", lambda image, factor: done.append(("scale", 0.5 <= factor <= 1)) or image)
    monkeypatch.setattr(corruptions, "noise", lambda image, sigma, rng: done.append(("noise", 0 <= sigma <= 0.02)) or image)
    monkeypatch.setattr(corruptions, "jpeg", lambda image, quality: done.append(("jpeg", quality in (93, 94, 95))) or image)
    corruptions.random_degradation(image, np.random.default_rng(seed), 1, max_blur=2, min_scale=0.5, max_noise=0.02, min_quality=93)
    assert done == [("blur", True), ("scale", True), ("noise", True), ("jpeg", True)]


def test_random_sharing_is_seeded_and_never_enlarges():
    photo = np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8)
    first, again = (corruptions.random_sharing(photo, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(first, again) and first.dtype == np.uint8
    shapes = [corruptions.random_sharing(photo, np.random.default_rng(seed)).shape for seed in range(60)]
    assert all(height <= 300 and width <= 420 for height, width, _ in shapes)
    shorter = np.array([height for height, _, _ in shapes])
    assert (shorter == 300).any() and 150 <= shorter.min() < 180  # untouched, and scaled by about a half
    assert all(abs(width / height - 1.4) < 0.02 for height, width, _ in shapes)


def test_random_sharing_draws_both_formats_all_filters_and_the_qualities(monkeypatch):
    drawn, save, resize = [], corruptions.Image.Image.save, corruptions.Image.Image.resize

    def spy_save(self, file, kind, **options):
        drawn.append((kind, options["quality"], options.get("subsampling")))
        return save(self, file, kind, **options)

    filters = set()
    monkeypatch.setattr(corruptions.Image.Image, "save", spy_save)
    monkeypatch.setattr(corruptions.Image.Image, "resize", lambda self, size, kind: filters.add(kind) or resize(self, size, kind))
    photo = np.full((30, 3000, 3), 90, np.uint8)
    longest = [corruptions.random_sharing(photo, np.random.default_rng(seed)).shape[1] for seed in range(300)]
    assert max(longest) <= 2048 and len(filters) == 5
    kinds = [kind for kind, _, _ in drawn]
    assert 300 < len(drawn) < 420 and 50 < kinds.count("WEBP") < 100  # one or two encodings of each
    assert min(quality for _, quality, _ in drawn) >= 40 and max(quality for _, quality, _ in drawn) <= 97
    assert {subsampling for kind, _, subsampling in drawn if kind == "JPEG"} == {0, 2}


def test_delivery_shrinks_the_longer_side_and_encodes_as_jpeg(image):
    small = corruptions.deliver(image, 32, 80)
    assert (small.shape, small.dtype) == ((24, 32, 3), np.uint8)
    assert (corruptions.deliver(image, 64, 40) == corruptions.jpeg(image, 40)).all()
    assert corruptions.deliver(np.zeros((2000, 1, 3), np.uint8), 100, 80).shape == (100, 1, 3)


def test_images_too_long_to_encode_are_returned_unchanged():
    long = np.zeros((1, corruptions.LONGEST_JPEG + 1, 3), np.uint8)
    assert corruptions.jpeg(long, 50) is long and corruptions.webp(long, 50) is long
    assert corruptions.jpeg(long[:, :-1], 50).shape == (1, corruptions.LONGEST_JPEG, 3)
    assert corruptions.webp(long[:, : corruptions.LONGEST_WEBP], 50).shape == (1, corruptions.LONGEST_WEBP, 3)
