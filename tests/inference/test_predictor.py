import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from detector.console import InputError
from detector.images import pixels
from detector.inference import Predictor, scoring, stability
from detector.inference.predictor import COLUMNS, about, claim, describe, error_row, find_images, provenance_to_show
from detector.model import export, scores
from detector.model import file as model_file
from detector.provenance.conclusion import UNSIGNED
from tests.conftest import draw
from tests.model.test_file import METADATA, bias_model

LARGE = {**METADATA, "training_range": {"shorter_side": [200, 2000], "aspect": [1.0, 2.0]}, "trained_on": "photographs"}


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained[0])


@pytest.fixture(scope="module")
def two(trained, tmp_path_factory):
    """(Predictor of `trained` and of one for large images that always finds a logit of 3, its path)."""
    path = tmp_path_factory.mktemp("large") / "large.h5"
    model_file.save(bias_model([4.0, 1.0]), path, LARGE)
    return Predictor([trained[0], path]), path


def refused(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        list(function(*arguments, **options))
    return str(caught.value)


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
    (pictures / "empty").mkdir()
    for name in ("p/x.jpg", "p/*.png", "p/a/*.txt", "p/empty"):
        assert refused(find_images, [name]).startswith(f"{name}: expected ")
    assert find_images(["none.png"], among_others=True) == ["none.png"]


def test_a_row_is_what_the_detector_says(predictor, small_data):
    path = small_data / "test" / "Fake" / "3.png"
    (row,) = predictor.predict([path], provenance=False)
    assert list(row) == COLUMNS
    score = next(scoring.score_files(predictor.detectors[0].open(), [path]))
    verdict = scores.verdict_of(score.p_fake, predictor.detectors[0].metadata["thresholds"])
    assert row == {
        **dict.fromkeys(COLUMNS), "path": str(path), "conclusion": verdict, "basis": "detector", "verdict": verdict,
        "p_fake": score.p_fake, "detector": "detector.h5", "width": 32, "height": 32, "gated": False,
    }  # fmt: skip


def test_paths_bytes_and_files_get_the_same_score_under_the_names_given(predictor, small_data, tmp_path):
    path = small_data / "test" / "Real" / "0.png"
    broken = tmp_path / "secret folder" / "upload"
    broken.parent.mkdir()
    broken.write_text("no image")
    sources = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), broken]
    rows = list(predictor.predict(sources, names=["a.png", "b.png", "c.png", "d.png", "e.png"]))
    assert [row["path"] for row in rows] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert len({row["p_fake"] for row in rows[:4]}) == 1 and rows[4]["p_fake"] is None
    assert rows[4]["error"].startswith("e.png: expected an image (JPEG,") and "secret" not in rows[4]["error"]
    assert [row["path"] for row in predictor.predict(sources[:3])] == [str(path), str(path), "the image"]


def test_threshold_takes_the_place_of_the_detectors_own_two(predictor, small_data):
    paths = sorted((small_data / "test").rglob("*.png"))
    rows = list(predictor.predict(paths))
    middle = sorted(row["p_fake"] for row in rows)[20]
    asked = list(predictor.predict(paths, threshold=middle))
    assert [row["p_fake"] for row in asked] == [row["p_fake"] for row in rows]
    assert [row["verdict"] for row in asked] == ["Fake" if row["p_fake"] >= middle else "Real" for row in rows]
    assert {row["verdict"] for row in predictor.predict(paths, threshold=0.0)} == {"Fake"}
    assert {row["verdict"] for row in predictor.predict(paths, threshold=1.0)} == {"Real"}


@pytest.mark.parametrize("size, colour, why", [
    ((320, 200), None, "it is 320 x 200 pixels; the detector is made for images with a shorter side of 32 pixels"),
    ((32, 64), None, "its sides are 2 to 1; the detector is made for images of 1 to 1"),
    ((32, 33), None, "its sides are 1.03 to 1; the detector is made for images of 1 to 1"),
    ((32, 32), (90, 91, 92), "it is blank: there is nothing in it to classify"),
    ((32, 32), (200, 10, 10), "it is blank: there is nothing in it to classify"),
])  # fmt: skip
def test_an_image_unlike_any_seen_is_uncertain_unless_forced(predictor, tmp_path, size, colour, why):
    path = tmp_path / "x.png"
    (draw(1, size) if colour is None else Image.new("RGB", size, colour)).save(path)
    for threshold in (None, 0.5):
        (row,) = predictor.predict([path], threshold=threshold)
        assert (row["verdict"], row["note"]) == ("uncertain", why) and 0 <= row["p_fake"] <= 1
        (forced,) = predictor.predict([path], threshold=threshold, force=True)
        assert (forced["note"], forced["p_fake"]) == (why, row["p_fake"])
    assert forced["verdict"] == ("Fake" if row["p_fake"] >= 0.5 else "Real")
    assert row["gated"] and forced["gated"]
    lines, forced_lines = describe(row, predictor), describe(forced, predictor, force=True)
    assert "P(Fake)" not in "".join(lines) and f"  Note: {why}. (--force predicts anyway.)" in lines
    assert "P(Fake)" in forced_lines[1] and f"  Note: {why}." in forced_lines


def test_each_image_goes_to_the_detector_made_for_its_size(two, small_data, tmp_path):
    predictor, _ = two
    small = small_data / "test" / "Real" / "0.png"
    photo, poster = tmp_path / "photo.png", tmp_path / "poster.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)).save(photo)
    draw(2, (60, 60)).save(tmp_path / "nearer to 32.png")
    draw(3, (2100, 2400)).save(poster)
    rows = list(predictor.predict([small, photo, tmp_path / "nearer to 32.png", poster]))
    assert [row["detector"] for row in rows] == ["detector.h5", "large.h5", "detector.h5", "large.h5"]
    assert [row["verdict"] for row in rows][1:] == ["uncertain"] * 3  # 0.8176 is below 0.9; the others are unlike any seen
    assert [row["note"] is None for row in rows] == [True, True, False, False]
    assert rows[1]["p_fake"] == pytest.approx(1 / (1 + np.exp(-1.5)), abs=1e-6) and rows[1]["note"] is None
    assert describe(rows[1], predictor)[1].startswith("  Detector large.h5: uncertain, P(Fake) = 0.8176. Thresholds: Fake ≥ 0.9")
    assert about(predictor.detectors[1]).startswith("Detector large.h5: compact, trained on photographs;")
    (named,) = predictor.predict([small], detector="large.h5")
    assert (named["detector"], named["verdict"]) == ("large.h5", "uncertain")
    assert refused(predictor.predict, [small], detector="x.h5") == "x.h5: expected one of the detectors detector.h5, large.h5"


def test_the_most_special_of_several_detectors_is_taken():
    seen = [{"shorter_side": side, "aspect": [1.0, 3.0]} for side in ([1, 4000], [200, 600], [32, 32])]
    predictor = Predictor([])
    predictor.detectors = [type("C", (), {"metadata": {"training_range": one}}) for one in seen]
    sizes = [(300, 400), (32, 32), (100, 90), (5000, 5000), (300, 3000)]
    assert [predictor.detectors.index(predictor.choose(*size)) for size in sizes] == [1, 2, 0, 0, 1]


def test_a_detector_is_opened_when_it_is_needed_and_fails_once(trained, small_data, tmp_path, monkeypatch):
    path = tmp_path / "large.h5"
    model_file.save(bias_model([4.0, 1.0]), path, LARGE)
    opened, really = [], export.open_detector

    def opening(path, threads=None):
        opened.append(path)
        if path.name == "large.h5":
            raise InputError("it cannot be exported")
        return really(path, threads)

    monkeypatch.setattr(export, "open_detector", opening)
    predictor = Predictor([trained[0], path])
    assert opened == []
    small, photo = small_data / "test" / "Real" / "0.png", tmp_path / "photo.png"
    draw(1, (400, 300)).save(photo)
    list(predictor.predict([small]))
    list(predictor.predict([small]))
    assert opened == [trained[0]]
    for _ in range(2):
        assert refused(predictor.predict, [photo] * 9) == "it cannot be exported"
    assert opened == [trained[0], path]


def test_threads_may_judge_at_once(two, small_data):
    paths = sorted((small_data / "test").rglob("*.png"))
    alone = list(two[0].predict(paths))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda _: list(two[0].predict(paths)), range(16)))
    for rows in together:
        assert [{**row, "p_fake": None} for row in rows] == [{**row, "p_fake": None} for row in alone]
        assert [row["p_fake"] for row in rows] == pytest.approx([row["p_fake"] for row in alone], abs=1e-6)


def test_a_verdict_that_degraded_copies_contradict_is_uncertain(predictor, small_data, tmp_path, monkeypatch):
    rows = list(predictor.predict(sorted((small_data / "test").rglob("*.png"))))
    images = {verdict: next(row for row in rows if row["verdict"] == verdict)["path"] for verdict in ("Fake", "Real")}
    for verdict, other in (("Fake", "Real"), ("Real", "Fake")):
        opposite = pixels.read_image(images[other])
        monkeypatch.setattr(stability, "CHECKS", (lambda image: image, lambda image, opposite=opposite: opposite))
        (row,) = predictor.predict([images[verdict]])
        before = next(one for one in rows if one["path"] == images[verdict])
        assert (row["verdict"], row["conclusion"], row["note"]) == ("uncertain", "uncertain", stability.UNSTABLE)
        assert row["p_fake"] == pytest.approx(before["p_fake"], abs=1e-6) and not row["gated"]
        (asked,) = predictor.predict([images[verdict]], threshold=0.5)
        assert asked["verdict"] == verdict  # whoever sets a threshold decides alone
        monkeypatch.setattr(stability, "CHECKS", (lambda image: image,))
        assert next(predictor.predict([images[verdict]]))["verdict"] == verdict
    images = {verdict: pixels.read_image(path) for verdict, path in images.items()}
    monkeypatch.setattr(stability, "CHECKS", (lambda image: images["Fake"], lambda image: images["Real"]))
    Image.fromarray(images["Fake"]).resize((64, 64)).save(tmp_path / "x.png")
    (forced,) = predictor.predict([tmp_path / "x.png"], force=True)  # checked as well
    assert (forced["verdict"], forced["gated"]) == ("uncertain", True) and forced["note"].endswith(stability.UNSTABLE)


def test_provenance_decides_the_conclusion_and_never_the_verdict(predictor, tmp_path):
    plain, declared, broken = tmp_path / "plain.png", tmp_path / "declared.png", tmp_path / "broken.png"
    draw(1).save(plain)
    note = PngImagePlugin.PngInfo()
    note.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler, Seed: 7, Model: m")
    draw(1).save(declared, pnginfo=note)
    broken.write_bytes(b"no image")
    rows = list(predictor.predict([plain, declared, broken]))
    assert json.loads(json.dumps(rows)) == rows
    assert rows[0]["p_fake"] == rows[1]["p_fake"] and rows[0]["verdict"] == rows[1]["verdict"] == rows[0]["conclusion"]
    assert [(row["conclusion"], row["basis"]) for row in rows[1:]] == [("AI-generated", UNSIGNED), (None, None)]
    (alone,) = predictor.predict([declared], provenance=False)
    assert (alone["conclusion"], alone["provenance"]) == (alone["verdict"], None)
    lines = describe(rows[1], predictor)
    assert lines[0] == f"{declared}: AI-generated" and UNSIGNED in lines[1] and "Stable Diffusion web UI" in "".join(lines)


def test_control_characters_of_an_error_are_escaped(predictor):
    row = error_row("a.png", "a\x1b[31m.png: broken")
    assert describe(row, predictor) == ["unreadable: a\\x1b[31m.png: broken"]


def test_the_texts_of_a_strangers_detector_are_cut_and_harmless(predictor):
    metadata = {**predictor.detectors[0].metadata, "architecture": "\x1b]0;x\x07", "trained_on": "\x1b[2J" + "x" * 10**6}
    line = about(type("D", (), {"metadata": metadata, "path": Path("\x1b.h5")}))
    assert line.startswith("Detector \\x1b.h5: \\x1b]0;x\\x07, trained on \\x1b[2Jxxx") and len(line) < 1000


@pytest.mark.parametrize("provenance, words", [
    ({"says": "nothing", "signed": False}, "none"),
    ({"says": "edited", "signed": False, "has_c2pa": False}, "edited, not signed"),
    ({"says": "edited", "signed": False, "has_c2pa": True}, "edited, signature not valid or not checked"),
    ({"says": "camera", "signed": True, "c2pa": {"trusted": False}}, "taken with a camera, signed, signer not verified"),
    ({"says": "made by AI", "signed": True, "c2pa": {"trusted": True}}, "made by AI, signed"),
])  # fmt: skip
def test_a_claim_tells_whether_anybody_vouches_for_it(provenance, words):
    assert claim(provenance) == words


def test_an_image_of_poor_quality_is_gated_like_one_out_of_range(two, tmp_path):
    predictor, _ = two
    enlarged = tmp_path / "enlarged.png"
    small = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 60, 3), np.uint8))
    small.resize((480, 480), Image.Resampling.BICUBIC).save(enlarged)
    (row,) = predictor.predict([enlarged])
    assert (row["gated"], row["verdict"]) == (True, "uncertain") and "enlarged" in row["note"]
    assert next(predictor.predict([enlarged], force=True, threshold=0))["verdict"] == "Fake"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    draw(0).save(tmp_path / "a.jpg")
    assert set(find_images([str(tmp_path / "*"), str(tmp_path)])) == {str(tmp_path / "a.jpg")}


def test_a_missing_file_does_not_cost_the_others_their_result(predictor, tmp_path):
    draw(0).save(tmp_path / "a.png")
    there, missing = predictor.predict(find_images([tmp_path / "a.png", tmp_path / "b.png"]))
    assert there["error"] is None and "b.png" in missing["error"]


def test_of_an_unreadable_image_only_provenance_that_was_found_is_shown():
    found, nothing = {"says": "camera"}, {"says": "nothing"}
    assert provenance_to_show({"error": "damaged", "provenance": nothing}) is None
    assert provenance_to_show({"error": "damaged", "provenance": found}) is found
    assert provenance_to_show({"error": None, "provenance": nothing}) is nothing
    assert provenance_to_show({"error": None, "provenance": None}) is None
