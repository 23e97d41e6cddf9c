import io

import numpy as np
import pytest

from detector import model_file, pixels
from detector.scoring import BATCH, KerasDetector, score_files
from tests.conftest import draw


def test_the_score_of_a_file_does_not_depend_on_its_neighbours(trained, small_data, tmp_path):
    detector = model_file.open_detector(trained[0])
    paths = sorted((small_data / "test").rglob("*.png"))
    assert len(paths) < 2 * BATCH
    together = list(score_files(detector, paths * 3))
    alone = [next(score_files(detector, [path])) for path in paths]
    assert [score.source for score in together] == paths * 3
    assert np.abs([a.margin - b.margin for a, b in zip(alone, together[: len(paths)], strict=True)]).max() < 1e-4
    assert [score.p_fake for score in together[: len(paths)]] == [score.p_fake for score in together[-len(paths) :]]


def test_a_score_is_that_of_the_decoded_and_fitted_image(trained, tmp_path):
    detector = model_file.open_detector(trained[0])
    path = tmp_path / "large.png"
    draw(1, (70, 50)).save(path)
    score = next(score_files(detector, [path]))
    fitted = pixels.fit(pixels.read_image(path), 32)
    assert (score.width, score.height, score.blank, score.error) == (70, 50, False, None)
    assert score.p_fake == detector.p_fake(fitted[None])[0]
    assert next(score_files(detector, [io.BytesIO(path.read_bytes())])).p_fake == score.p_fake


def test_unreadable_and_blank_files_among_good_ones(trained, tmp_path):
    from PIL import Image

    detector = model_file.open_detector(trained[0])
    good, text, cut, blank, gone = (tmp_path / name for name in ("good.png", "text.png", "cut.png", "blank.png", "gone.png"))
    draw(2).save(good)
    text.write_text("no image")
    cut.write_bytes(good.read_bytes()[:150])
    Image.new("RGB", (32, 32), (90, 90, 90)).save(blank)
    scores = list(score_files(detector, [text, good, cut, blank, gone]))
    assert [score.error is None for score in scores] == [False, True, False, True, False]
    assert [score.blank for score in scores] == [False, False, False, True, False]
    assert scores[0].error.startswith(f"{text}: expected an image (JPEG, PNG,")
    assert scores[4].error == f"{gone}: expected an image, found nothing of that name; check the path"
    assert scores[1].p_fake == next(score_files(detector, [good])).p_fake


def test_nothing_but_unreadable_files(trained, tmp_path):
    detector = model_file.open_detector(trained[0])
    assert [score.p_fake for score in score_files(detector, [tmp_path / "a", tmp_path / "b"])] == [None, None]
    assert list(score_files(detector, [])) == []


def test_damage_is_done_to_the_decoded_image_before_it_is_fitted(trained, tmp_path):
    detector = model_file.open_detector(trained[0])
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

    scores = list(score_files(detector, paths, damages=[mirror, darken]))
    assert scores[3].error and scores[3].damaged == ()
    assert seen == [(50, 70, 3)] * 11
    for path, score in zip(paths, scores, strict=True):
        if not score.error:
            image = pixels.read_image(path)
            fitted = np.stack([pixels.fit(one, 32) for one in (image, image[:, ::-1], image // 2)])
            assert (score.margin, *score.damaged) == pytest.approx(detector.margins(fitted), abs=1e-4)
            assert score.p_fake == pytest.approx(detector.p_fake(fitted[:1])[0], abs=1e-6)


def test_an_image_is_decoded_once_for_all_damages(trained, small_data, monkeypatch):
    detector = model_file.open_detector(trained[0])
    paths = sorted((small_data / "test").rglob("*.png"))[:30]
    opened = []
    read = pixels.read_image
    monkeypatch.setattr(pixels, "read_image", lambda source: opened.append(source) or read(source))
    list(score_files(detector, paths, damages=[lambda image: image] * 5))
    assert sorted(opened) == paths


def test_no_more_images_are_held_than_are_worked_on(trained, small_data):
    detector = model_file.open_detector(trained[0])
    path = next((small_data / "test").rglob("*.png"))
    given = 0

    def sources():
        nonlocal given
        for _ in range(20 * BATCH):
            given += 1
            yield path

    scores = score_files(detector, sources(), threads=2)
    next(scores)
    assert given <= 5 * BATCH
    assert 1 + sum(1 for _ in scores) == given == 20 * BATCH


def test_keras_gives_the_same_scores(trained, small_data, tmp_path):
    gone = tmp_path / "gone.png"
    paths = [*sorted((small_data / "test").rglob("*.png"))[:70], gone]
    keras = KerasDetector(trained[0])
    assert keras.device.startswith(f"{model_file.import_keras().backend.backend()} on ")
    assert (keras.size, keras.facts) == (32, model_file.read_facts(trained[0]))
    by_keras, by_litert = (list(score_files(detector, paths)) for detector in (keras, model_file.open_detector(trained[0])))
    assert by_keras[-1].error == by_litert[-1].error
    assert [a.p_fake for a in by_keras[:-1]] == pytest.approx([b.p_fake for b in by_litert[:-1]], abs=1e-4)
    assert len({score.margin for score in by_keras}) > 60
    assert keras.margins(np.zeros((BATCH + 3, 32, 32, 3), np.uint8)).shape == (BATCH + 3,)
