import io

import numpy as np

from detector import model_file, pixels
from detector.scoring import BATCH, score_files
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
