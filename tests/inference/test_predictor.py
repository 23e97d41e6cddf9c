import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from detector.console import InputError
from detector.images import pixels
from detector.inference import predictor, scoring
from detector.inference.predictor import COLUMNS, Judge, about, describe, find_images
from detector.model import export, scores
from detector.model import file as model_file
from tests.conftest import draw
from tests.model.test_file import METADATA, bias_model

LARGE = {**METADATA, "training_range": {"shorter_side": [200, 2000], "aspect": [1.0, 2.0]}, "trained_on": "photographs"}


@pytest.fixture(scope="module")
def judge(trained):
    return Judge(trained[0])


@pytest.fixture(scope="module")
def two(trained, tmp_path_factory):
    """(Judge of `trained` and of one for large images that always finds a logit of 3, its path)."""
    path = tmp_path_factory.mktemp("large") / "large.h5"
    model_file.save(bias_model([4.0, 1.0]), path, LARGE)
    return Judge([trained[0], path]), path


def refused(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        list(function(*arguments, **options))
    return str(caught.value)


# --- which images ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(make_tree, tmp_path, monkeypatch):
    make_tree(tmp_path / "p", {"a": 2, "a/deep": 1, "b[1]": 1})
    (tmp_path / "p" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "p" / "phone").mkdir()
    (tmp_path / "p" / "phone" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "p"


@pytest.mark.parametrize("asked, found", [
    (["p"], ["a/0.jpg", "a/1.jpg", "a/deep/0.jpg", "b[1]/0.jpg", "phone/IMG_1.HEIC"]),
    (["p/a/*.jpg"], ["a/0.jpg", "a/1.jpg"]),
    (["p/a/*"], ["a/0.jpg", "a/1.jpg"]),
    (["p/**/0.jpg"], ["a/0.jpg", "a/deep/0.jpg", "b[1]/0.jpg"]),
    (["p/a/[1-9].jpg", "p/a/0.jpg"], ["a/1.jpg", "a/0.jpg"]),
    (["p/b[1]/0.jpg", "p/b[1]"], ["b[1]/0.jpg", "b[1]/0.jpg"]),
])  # fmt: skip
def test_files_folders_and_patterns(pictures, asked, found):
    assert find_images(asked) == [str(Path("p", path)) for path in found]


def test_nothing_of_that_name(pictures):
    assert refused(find_images, ["p/x.jpg"]) == "p/x.jpg: expected an image or a folder, found nothing of that name; check the path"
    assert refused(find_images, ["p/*.png"]) == "p/*.png: expected files that match, found nothing of that name; check the path"
    assert refused(find_images, ["p/a/*.txt"]) == (
        "p/a/*.txt: expected images, found none among what matches; give another pattern"
    )
    (pictures / "empty").mkdir()
    assert refused(find_images, ["p/empty"]) == "p/empty: expected images, found none in the folder; give another one"


# --- rows --------------------------------------------------------------------------------------------------------------


def test_a_row_is_what_the_detector_says(judge, small_data):
    path = small_data / "test" / "Fake" / "3.png"
    (row,) = judge.judge([path])
    assert list(row) == COLUMNS
    score = next(scoring.score_files(judge.detectors[0].open(), [path]))
    verdict = scores.verdict_of(score.p_fake, judge.detectors[0].metadata["thresholds"])
    assert row == {
        **dict.fromkeys(COLUMNS), "path": str(path), "verdict": verdict, "p_fake": score.p_fake, "detector": "detector.h5",
        "width": 32, "height": 32,
    }  # fmt: skip


def test_paths_bytes_and_files_get_the_same_score_under_the_names_given(judge, small_data, tmp_path):
    path = small_data / "test" / "Real" / "0.png"
    broken = tmp_path / "secret folder" / "upload"
    broken.parent.mkdir()
    broken.write_text("no image")
    sources = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), broken]
    rows = list(judge.judge(sources, names=["a.png", "b.png", "c.png", "d.png", "e.png"]))
    assert [row["path"] for row in rows] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert len({row["p_fake"] for row in rows[:4]}) == 1 and rows[4]["p_fake"] is None
    assert rows[4]["error"].startswith("e.png: expected an image (JPEG,") and "secret" not in rows[4]["error"]
    assert [row["path"] for row in judge.judge(sources[:3])] == [str(path), str(path), "the image"]


def test_threshold_takes_the_place_of_the_detectors_own_two(judge, small_data):
    paths = sorted((small_data / "test").rglob("*.png"))
    rows = list(judge.judge(paths))
    middle = sorted(row["p_fake"] for row in rows)[20]
    asked = list(judge.judge(paths, threshold=middle))
    assert [row["p_fake"] for row in asked] == [row["p_fake"] for row in rows]
    assert [row["verdict"] for row in asked] == ["Fake" if row["p_fake"] >= middle else "Real" for row in rows]
    assert {row["verdict"] for row in judge.judge(paths, threshold=0.0)} == {"Fake"}
    assert {row["verdict"] for row in judge.judge(paths, threshold=1.0)} == {"Real"}


@pytest.mark.parametrize("size, colour, why", [
    ((320, 200), None, "it is 320 x 200 pixels; the detector is made for images with a shorter side of 32 pixels"),
    ((32, 64), None, "its sides are 2 to 1; the detector is made for images of 1 to 1"),
    ((32, 33), None, "its sides are 1.03 to 1; the detector is made for images of 1 to 1"),
    ((32, 32), (90, 91, 92), "it is blank: there is nothing in it to classify"),
    ((32, 32), (200, 10, 10), "it is blank: there is nothing in it to classify"),
])  # fmt: skip
def test_an_image_unlike_any_seen_is_uncertain_unless_forced(judge, tmp_path, size, colour, why):
    from PIL import Image

    path = tmp_path / "x.png"
    (draw(1, size) if colour is None else Image.new("RGB", size, colour)).save(path)
    for threshold in (None, 0.5):
        (row,) = judge.judge([path], threshold=threshold)
        assert (row["verdict"], row["note"]) == ("uncertain", why) and 0 <= row["p_fake"] <= 1
        (forced,) = judge.judge([path], threshold=threshold, force=True)
        assert (forced["note"], forced["p_fake"]) == (why, row["p_fake"])
    assert forced["verdict"] == ("Fake" if row["p_fake"] >= 0.5 else "Real")
    assert describe(row, judge)[1:] == [f"  {why}. (With --force it is judged all the same.)"]
    assert describe(forced, judge, force=True)[1] == f"  Do not rely on it: {why}."


def test_each_image_goes_to_the_detector_made_for_its_size(two, small_data, tmp_path):
    judge, _ = two
    small = small_data / "test" / "Real" / "0.png"
    photo, poster = tmp_path / "photo.png", tmp_path / "poster.png"
    draw(1, (400, 300)).save(photo)
    draw(2, (60, 60)).save(tmp_path / "nearer to 32.png")
    draw(3, (2100, 2400)).save(poster)
    rows = list(judge.judge([small, photo, tmp_path / "nearer to 32.png", poster]))
    assert [row["detector"] for row in rows] == ["detector.h5", "large.h5", "detector.h5", "large.h5"]
    assert [row["verdict"] for row in rows][1:] == ["uncertain"] * 3  # 0.8176 is below 0.9; the others are unlike any seen
    assert [row["note"] is None for row in rows] == [True, True, False, False]
    assert rows[1]["p_fake"] == pytest.approx(1 / (1 + np.exp(-1.5)), abs=1e-6) and rows[1]["note"] is None
    assert "  Judged by large.h5." in describe(rows[1], judge)
    (named,) = judge.judge([small], detector="large.h5")
    assert (named["detector"], named["verdict"]) == ("large.h5", "uncertain")
    assert refused(judge.judge, [small], detector="x.h5") == "x.h5: expected one of the detectors detector.h5, large.h5"


def test_the_most_special_of_several_detectors_is_taken():
    seen = [{"shorter_side": side, "aspect": [1.0, 3.0]} for side in ([1, 4000], [200, 600], [32, 32])]
    judge = Judge([])
    judge.detectors = [type("C", (), {"metadata": {"training_range": one}}) for one in seen]
    sizes = [(300, 400), (32, 32), (100, 90), (5000, 5000), (300, 3000)]
    assert [judge.detectors.index(judge.choose(*size)) for size in sizes] == [1, 2, 0, 0, 1]


def test_detectors_of_the_same_name_are_told_apart(trained, tmp_path):
    other = tmp_path / "detector.h5"
    other.write_bytes(trained[0].read_bytes())
    assert [one.name for one in Judge([trained[0], other]).detectors] == [str(trained[0]), str(other)]


def test_a_detector_is_opened_when_it_is_needed_and_fails_once(trained, small_data, tmp_path, monkeypatch):
    path = tmp_path / "large.h5"
    model_file.save(bias_model([4.0, 1.0]), path, LARGE)
    opened, really = [], export.open_detector

    def opening(path, threads=None):
        opened.append(path)
        if path.name == "large.h5":
            raise InputError("it does not compile")
        return really(path, threads)

    monkeypatch.setattr(export, "open_detector", opening)
    judge = Judge([trained[0], path])
    assert opened == []
    small, photo = small_data / "test" / "Real" / "0.png", tmp_path / "photo.png"
    draw(1, (400, 300)).save(photo)
    list(judge.judge([small]))
    list(judge.judge([small]))
    assert opened == [trained[0]]
    for _ in range(2):
        assert refused(judge.judge, [photo] * 9) == "it does not compile"
    assert opened == [trained[0], path]


def test_threads_may_judge_at_once(two, small_data):
    paths = sorted((small_data / "test").rglob("*.png"))
    alone = list(two[0].judge(paths))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda _: list(two[0].judge(paths)), range(16)))
    for rows in together:
        assert [{**row, "p_fake": None} for row in rows] == [{**row, "p_fake": None} for row in alone]
        assert [row["p_fake"] for row in rows] == pytest.approx([row["p_fake"] for row in alone], abs=1e-6)


def test_a_score_does_not_depend_on_format_order_or_company(judge, small_data, tmp_path):
    pixels_of = [pixels.read_image(path) for path in sorted((small_data / "test").rglob("*.png"))[:6]]
    paths = []
    from PIL import Image

    for i, image in enumerate(pixels_of):
        for kind in ("png", "bmp", "tiff", "webp"):
            paths.append(tmp_path / f"{i}.{kind}")
            Image.fromarray(image).save(paths[-1], **({"lossless": True} if kind == "webp" else {}))
    rows = list(judge.judge(paths))
    alone = [next(judge.judge([path]))["p_fake"] for path in paths]
    assert [row["p_fake"] for row in rows] == pytest.approx(alone, abs=1e-6)
    assert np.ptp(np.array(alone).reshape(6, 4), axis=1).max() < 1e-6


# --- words -------------------------------------------------------------------------------------------------------------


def test_in_words(judge, small_data):
    path = small_data / "test" / "Fake" / "3.png"
    (row,) = judge.judge([path])
    limits = judge.detectors[0].metadata["thresholds"]
    assert describe(row, judge) == [
        f"{path}: {row['verdict']}, P(Fake) = {row['p_fake']:.4f}",
        f"  Fake is said from {limits['fake']:.4f} on, Real up to {limits['real']:.4f}, uncertain between them.",
    ]
    assert describe(row, judge, threshold=0.25)[1] == "  Fake is said from 0.25 on, Real below it, as it was asked for."
    assert about(judge.detectors[0]).startswith("detector: compact (detector.h5), trained on the images of data: 64 Fake")
    assert about(judge.detectors[0]) == about(judge.detectors[0].open())
    row["error"] = "a\x1b[31m.png: broken"
    assert describe(row, judge) == ["not judged: a\\x1b[31m.png: broken"]


def test_the_texts_of_a_strangers_detector_are_cut_and_harmless(judge):
    metadata = {**judge.detectors[0].metadata, "architecture": "\x1b]0;x\x07", "trained_on": "\x1b[2J" + "x" * 10**6}
    line = about(type("D", (), {"metadata": metadata, "path": Path("\x1b.h5")}))
    assert line.startswith("detector: \\x1b]0;x\\x07 (\\x1b.h5), trained on \\x1b[2Jxxx") and len(line) < 1000


def test_what_a_file_says_of_itself_stands_last_and_apart(judge, tmp_path):
    from PIL import PngImagePlugin

    plain, noted = tmp_path / "plain.png", tmp_path / "noted.png"
    note = PngImagePlugin.PngInfo()
    note.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler, Seed: 7, Model: m")
    draw(1).save(plain)
    draw(1).save(noted, pnginfo=note)
    rows = list(judge.judge([plain, noted], provenance=True))
    assert rows[0]["p_fake"] == rows[1]["p_fake"]
    assert json.loads(json.dumps(rows)) == rows
    said = [describe(row, judge) for row in rows]
    assert [lines[2] for lines in said] == ["  What the file says of itself, apart from the score:"] * 2
    assert "Stable Diffusion web UI" in said[1][3] and "proves nothing" in said[0][3]
    assert [row["provenance"] for row in judge.judge([plain])] == [None]
    signed = {**rows[1], "provenance": {**rows[1]["provenance"], "signed": True, "says": "made by AI"}}
    assert describe(signed, judge)[3] == (
        "    A valid signature says: made by AI. It is stronger evidence than the score, as far as its signer can be trusted."
    )


def test_each_size_is_looked_up_once(two, small_data, tmp_path, monkeypatch):
    judge, _ = two
    draw(1, (400, 300)).save(tmp_path / "photo.png")
    asked = []
    choose = judge.choose
    monkeypatch.setattr(judge, "choose", lambda *size: asked.append(size) or choose(*size))
    paths = sorted((small_data / "test").rglob("*.png"))
    names = [row["detector"] for row in judge.judge([*paths, tmp_path / "photo.png", *paths])]
    assert names == ["detector.h5"] * 64 + ["large.h5"] + ["detector.h5"] * 64
    assert set(asked) == {(32, 32), (400, 300)} and len(asked) <= 2 * 4  # threads that ask at once may look it up again


def test_what_ships_is_the_default():
    assert predictor.default_models() == sorted(export.SHIPPED.glob("*.h5"))
