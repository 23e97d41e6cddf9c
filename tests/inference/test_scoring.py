import numpy as np
import pytest
from PIL import Image

from detector.images import pixels
from detector.inference import scoring
from detector.inference.scoring import score_files
from detector.model import export
from detector.model import file as model_file
from detector.model.runtime import BATCH, KerasDetector
from detector.model.scores import p_fake_of
from tests.conftest import draw


def test_the_score_of_a_file_does_not_depend_on_its_neighbours(trained, small_data, tmp_path):
    detector = export.open_detector(trained[0])
    paths = sorted((small_data / "test").rglob("*.png"))
    assert len(paths) < 2 * BATCH
    together = list(score_files(detector, paths * 3))
    alone = [next(score_files(detector, [path])) for path in paths]
    assert [score.source for score in together] == paths * 3
    assert np.abs([a.logit - b.logit for a, b in zip(alone, together[: len(paths)], strict=True)]).max() < 1e-4
    assert [score.p_fake for score in together[: len(paths)]] == [score.p_fake for score in together[-len(paths) :]]


def test_unreadable_and_blank_files_among_good_ones(trained, tmp_path):
    detector = export.open_detector(trained[0])
    good, text, cut, blank, gone = (tmp_path / name for name in ("good.png", "text.png", "cut.png", "blank.png", "gone.png"))
    draw(2).save(good)
    text.write_text("no image")
    cut.write_bytes(good.read_bytes()[:150])
    Image.new("RGB", (32, 32), (90, 90, 90)).save(blank)
    scores = list(score_files(detector, [text, good, cut, blank, gone]))
    assert [score.error is None for score in scores] == [False, True, False, True, False]
    assert [score.blank for score in scores] == [False, False, False, True, False]
    assert scores[0].error.startswith(f"{text}: expected an image (JPEG, PNG,")
    assert scores[4].error.startswith(f"{gone}: No such file or directory: ")
    assert scores[1].p_fake == next(score_files(detector, [good])).p_fake and (scores[1].width, scores[1].height) == (32, 32)
    assert [score.p_fake for score in score_files(detector, [text, gone])] == [None, None]
    assert list(score_files(detector, [])) == []


def test_damage_is_done_to_the_decoded_image_before_it_is_fitted(trained, tmp_path):
    detector = export.open_detector(trained[0])
    paths = [tmp_path / f"{i}.png" for i in range(11)]
    for i, path in enumerate(paths):
        draw(i, (70, 50)).save(path)
    paths.insert(3, tmp_path / "gone.png")
    seen = []

    def mirror(image):
        seen.append(image.shape)
        return image[:, ::-1]

    def darken(image):
        return image // 2

    scores = list(score_files(detector, paths, degradations=[mirror, darken]))
    assert scores[3].error and scores[3].degraded == ()
    assert seen == [(50, 70, 3)] * 11
    for path, score in zip(paths, scores, strict=True):
        if not score.error:
            image = pixels.read_image(path)
            fitted = np.stack([pixels.resize(one, 32) for one in (image, image[:, ::-1], image // 2)])
            assert (score.logit, *score.degraded) == pytest.approx(detector.logits(fitted), abs=1e-4)
            p_fake = p_fake_of(detector.logits(fitted[:1]), detector.metadata["temperature"])
            assert score.p_fake == pytest.approx(p_fake[0], abs=1e-6)


def test_copies_are_made_of_selected_images_alone_blank_ones_too(trained, tmp_path, monkeypatch):
    detector = export.open_detector(trained[0])
    paths, made = [tmp_path / f"{i}.png" for i in range(3)], []
    Image.new("RGB", (32, 32), (90, 90, 90)).save(paths[0])
    for i in (1, 2):
        draw(i, (32 + i, 32)).save(paths[i])

    def mirror(image):
        made.append(image.shape[1])
        if image.shape[1] == 40:
            raise ValueError("not this one")
        return image[:, ::-1]

    assert [len(score.degraded) for score in score_files(detector, paths, degradations=[mirror])] == [1, 1, 1]
    monkeypatch.setattr(scoring, "MAX_KEPT_BYTES", 0)  # then an image is decoded again for its copies
    made.clear()
    scores = list(score_files(detector, paths, degradations=[mirror], select=lambda score: score.width != 33))
    assert [len(score.degraded) for score in scores] == [1, 0, 1] and sorted(made) == [32, 34]
    draw(3, (40, 32)).save(paths[2])
    scores = list(score_files(detector, paths, degradations=[mirror]))
    assert [score.error for score in scores][:2] == [None, None] and "not this one" in scores[2].error


def test_no_more_images_are_held_than_are_worked_on(trained, small_data, monkeypatch):
    detector = export.open_detector(trained[0])
    path = next((small_data / "test").rglob("*.png"))
    decoded, read = [], pixels.read_image
    monkeypatch.setattr(pixels, "read_image", lambda source: decoded.append(source) or read(source))
    scores = score_files(detector, iter([path] * 20 * BATCH), threads=2)
    next(scores)
    assert len(decoded) <= 5 * BATCH
    assert 1 + sum(1 for _ in scores) == len(decoded) == 20 * BATCH


def test_many_images_get_the_scores_of_few(trained, small_data):
    """Of many each thread has an engine of its own, of few all threads share one."""
    detector = export.open_detector(trained[0])
    paths = sorted((small_data / "test").rglob("*.png"))
    times = -(-scoring.MANY_PER_THREAD * 2 * BATCH // len(paths))
    many = list(score_files(detector, paths * times, threads=2))
    assert sorted(detector._idle) == [2]
    few = list(score_files(detector, paths[:7], threads=2))
    assert sorted(detector._idle) == [1, 2]
    assert [score.source for score in many] == paths * times
    assert [score.p_fake for score in many[:7]] == pytest.approx([score.p_fake for score in few], abs=1e-6)


def test_each_image_goes_to_the_detector_that_is_chosen_for_it(trained, small_data, tmp_path):
    class Turned:
        metadata, batch = model_file.read_metadata(trained[0]), 5

        def logits(self, images, concurrency=1):
            return -detector.logits(images)

    detector, turned = export.open_detector(trained[0]), Turned()
    paths = sorted((small_data / "test").rglob("*.png"))[:8]
    for i in (1, 4, 5):
        draw(i, (33, 32)).save(tmp_path / f"{i}.png")
        paths[i] = tmp_path / f"{i}.png"
    scores = list(score_files(lambda width, height: turned if width > 32 else detector, paths, batch=5))
    alone = [next(score_files(detector, [path])) for path in paths]
    assert [score.detector is turned for score in scores] == [i in (1, 4, 5) for i in range(8)]
    expected = [-score.logit if i in (1, 4, 5) else score.logit for i, score in enumerate(alone)]
    assert [score.logit for score in scores] == pytest.approx(expected, abs=1e-5)


def test_keras_computes_in_float32_on_gpus_too(trained):
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(True)
    KerasDetector(trained[0])
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_views_are_pooled_with_their_weights():
    class Brightness:
        metadata, batch = {"preprocessing": "views", "view_weights": [1.0, 1.0, 0.5]}, 64

        def logits(self, images, concurrency=1):
            return images.mean(axis=(1, 2, 3))

    stack = [np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels]) for levels in ((10, 20, 40), (0, 0, 5))]
    assert scoring.pooled_logits(Brightness(), stack) == pytest.approx([50 / 2.5, 1.0])
