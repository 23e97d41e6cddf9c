import numpy as np
import pytest

from detector.images import pixels
from detector.inference import attribution
from detector.model import export
from tests.conftest import draw

SIZE = 32
VIEWS = ["whole", "between", "native", "native"]


class Stub:
    """A detector whose logit is a known function of the preprocessed image."""

    batch = 64

    def __init__(self, logit, preprocessing="resize"):
        self.metadata = {"preprocessing": preprocessing, "image_size": SIZE, "views": VIEWS, "temperature": 1.0}
        self.logit, self.seen = logit, 0

    def logits(self, images):
        assert images.dtype == np.uint8 and len(images) <= self.batch
        self.seen += len(images)
        return np.array([self.logit(image.astype(np.float64)) for image in images])


def picture(seed, size=(SIZE, SIZE)):
    """A drawn image with fine grain: (h, w, 3) uint8."""
    grain = np.random.default_rng(seed).normal(0, 12, (size[1], size[0], 3))
    return np.clip(np.asarray(draw(seed, size), np.float64) + grain, 0, 255).astype(np.uint8)


def grain(image, part=np.s_[:, :]):
    """How much neighbours differ in a part of an image: any fill changes it."""
    return np.abs(np.diff(image[part], axis=0)).mean()


def two_sided(image):
    """Fake for the grain of the upper left quarter, Real for that of the lower right."""
    return grain(image, np.s_[:16, :16]) - grain(image, np.s_[16:, 16:]) + 0.5


# --- what the map says ---------------------------------------------------------------------------------------------------


def test_a_linear_score_is_found_with_its_size():
    worth = np.zeros((SIZE, SIZE))
    worth[4:14, 6:18] = 1 / 120
    detector = Stub(lambda image: float((worth * image[..., 0] / 255).sum() * 10 - 2))
    image = np.full((SIZE, SIZE, 3), 20, np.uint8)
    image[4:14, 6:18] = 235
    masked = attribution._baselines(image)
    heat = attribution.explain(detector, image)
    there = worth > 0
    # What the part costs when it alone is masked, with one fill or the other; the map says that of it by its own unit.
    drops = [detector.logit(image.astype(float)) - detector.logit(np.where(there[..., None], fill, image)) for fill in masked]
    predicted = (heat[there].mean() - heat[~there].mean()) * there.mean() * (1 - there.mean())
    assert predicted == pytest.approx(np.mean(drops), rel=0.35)
    assert np.corrcoef(heat.ravel(), there.ravel())[0, 1] > 0.8


def test_its_mean_is_the_margin_and_it_is_the_same_each_time():
    detector, image = Stub(two_sided), picture(1)
    heat = attribution.explain(detector, image)
    assert heat.mean() == pytest.approx(detector.logit(image.astype(np.float64)), abs=1e-4)
    assert detector.seen == attribution.SMALL_PASSES + 1
    attribution._design.cache_clear()
    assert np.array_equal(attribution.explain(detector, image), heat)


def test_a_score_that_hangs_on_nothing_in_the_image_gives_a_flat_map():
    heat = attribution.explain(Stub(lambda image: -3.0), picture(2))
    assert np.allclose(heat, -3, atol=1e-4)
    blank = np.full((40, 30, 3), 77, np.uint8)
    assert np.allclose(attribution.explain(Stub(lambda image: image.mean() / 10), blank), 7.7, atol=1e-4)
    random = np.random.default_rng(0)
    heat = attribution.explain(Stub(lambda image: random.normal()), picture(2))
    assert np.std(heat) < 1.5  # a fifth of noise: what masks do not predict is not drawn as if they did


# --- what it is worth on a detector --------------------------------------------------------------------------------------


def composites(number):
    """Images of which one quarter is noisy, as the Real ones that `trained` has seen are, and the rest smooth, or the reverse."""
    rng = np.random.default_rng(5)
    for i in range(number):
        image = np.asarray(draw(f"composite {i}"), np.float64)
        noisy = np.zeros((SIZE, SIZE, 1), bool)
        y, x = rng.integers(0, 17, 2)
        noisy[y : y + 16, x : x + 16] = True
        noise = rng.normal(0, 1, image.shape) * np.where(noisy ^ bool(i % 2), 24, 2)
        yield np.clip(image + noise, 0, 255).astype(np.uint8)


def hottest(values):
    """The fifth of the pixels with the highest values, (h, w) bool."""
    return values >= np.sort(values.ravel())[-values.size // 5]


def test_masking_the_hottest_fifth_moves_the_score_more_than_another_fifth(trained):
    detector, rng, moved = export.open_detector(trained[0]), np.random.default_rng(1), []
    for image in composites(16):
        logit, heat = detector.logits(image[None])[0], attribution.explain(detector, image)
        hot = hottest(np.sign(logit) * heat)
        edges = hottest(np.hypot(*np.gradient(image.astype(np.float64).mean(axis=2))))
        masks = np.stack([hot, edges, hottest(rng.random(heat.shape)), np.roll(hot, rng.integers(SIZE, size=2), axis=(0, 1))])
        mean = np.rint(image.mean(axis=(0, 1))).astype(np.uint8)  # no baseline of the map
        moved.append(np.sign(logit) * (logit - detector.logits(np.where(masks[..., None], mean, image))))
    hot, *others = np.mean(moved, axis=0)
    assert hot > max(others) + 0.3, np.mean(moved, axis=0)


# --- large images --------------------------------------------------------------------------------------------------------


def test_of_views_the_maps_are_averaged_where_they_overlap(monkeypatch):
    passes = []

    def flat(_detector, _image, each, _bar):  # so that the mean can be computed by hand
        passes.append(each)
        return np.zeros((1, 1))

    monkeypatch.setattr(attribution, "_differences", flat)
    monkeypatch.setattr(attribution, "SMALL_PASSES", 8)
    image = picture(4, (200, 100))
    detector = Stub(lambda view: view.mean(), "views")
    heat = attribution.explain(detector, image)
    logits = detector.logits(pixels.views(image, SIZE, VIEWS))
    whole, _, _, corner = pixels.input_boxes(100, 200, detector.metadata)
    assert heat[50, 100] == pytest.approx(logits[:3].mean(), abs=1e-4)  # in the middle: all but the second native view
    assert heat[whole[1], whole[0]] == pytest.approx(logits[0], abs=1e-4)
    assert heat[corner[1], corner[0]] == pytest.approx(logits[[0, 3]].mean() if corner[0] >= whole[0] else logits[3], abs=1e-4)
    assert heat[0, 0] == heat[-1, -1] == 0
    assert passes == [64] * 4  # fewer would leave most maps flat


def test_a_large_image_takes_little_more_memory_than_its_map():
    import tracemalloc

    image = np.zeros((3000, 4000, 3), np.uint8)
    image[::2] = 90
    tracemalloc.start()
    try:
        heat = attribution.explain(Stub(two_sided), image)
        _, peak = tracemalloc.get_traced_memory()
        assert peak < 3.5 * heat.nbytes + 40e6
        tracemalloc.reset_peak()
        attribution.overlay(image, heat)
        assert tracemalloc.get_traced_memory()[1] < 4 * heat.nbytes + 150e6
    finally:
        tracemalloc.stop()


# --- odd images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preprocessing", ["resize", "views"])
@pytest.mark.parametrize("height, width", [(1, 1), (2, 7), (10, 3000), (3000, 10), (33, 31)])
def test_any_shape(preprocessing, height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    heat = attribution.explain(Stub(two_sided, preprocessing), image)
    assert heat.shape == (height, width) and heat.dtype == np.float32 and np.isfinite(heat).all()
    shown = attribution.overlay(image, heat)
    assert shown.dtype == np.uint8 and shown.shape[2] == 3
    assert 512 <= max(shown.shape) <= 2048 + 400 and shown.shape[1] >= 512


# --- the picture ---------------------------------------------------------------------------------------------------------


def test_orange_is_fake_blue_is_real_and_nothing_is_grey():
    image = np.full((32, 32, 3), (90, 140, 60), np.uint8)
    heat = np.zeros((32, 32), np.float32)
    heat[:, :10], heat[:, 22:] = 9, -9
    shown = attribution.overlay(image, heat).astype(int)
    fake, neither, real = shown[250, 40], shown[250, 256], shown[250, 480]
    assert fake[0] > fake[1] > fake[2] + 60
    assert real[2] > real[1] > real[0] + 60
    assert np.ptp(neither) <= 1


def test_a_faint_map_stays_faint():
    image, heat = np.full((32, 32, 3), 128, np.uint8), np.full((32, 32), 0.02, np.float32)
    assert np.ptp(attribution.overlay(image, heat)[:512], axis=2).max() < 10


def test_small_images_are_enlarged_pixel_by_pixel_and_large_ones_reduced():
    image = np.random.default_rng(0).integers(0, 256, (32, 24, 3), np.uint8)
    shown = attribution.overlay(image, np.zeros((32, 24), np.float32))
    left = (shown.shape[1] - 24 * 16) // 2
    blocks = shown[:512, left : left + 384].reshape(32, 16, 24, 16, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert (shown[512:, :, :] == 255).any(axis=2).mean() > 0.5 and (shown[512:] < 100).any()  # the legend
    large = attribution.overlay(np.zeros((300, 5000, 3), np.uint8), np.zeros((300, 5000), np.float32))
    assert large.shape[1] == 2048
