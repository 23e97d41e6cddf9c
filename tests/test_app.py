import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app
import evaluate
from detector.images import pixels
from detector.inference import attribution
from detector.inference.predictor import default_models
from detector.model import export, scores
from detector.model import file as model_file
from detector.provenance.trust_list import trust_list_date
from detector.web import server
from tests.conftest import ROOT, draw
from tests.sample_files import PARAMETERS, SHOT, Workshop, drawn, with_text


@pytest.fixture
def model(trained):
    return ["--model", trained[0]]


def test_one_image_in_words(model, small_data, run, trained):
    path = small_data / "test" / "Fake" / "3.png"
    code, out, err = run(app.main, path, *model)
    assert (code, err) == (0, "")
    metadata = model_file.read_metadata(trained[0])
    p_fake = json.loads(run(app.main, path, *model, "--json")[1])[0]["p_fake"]
    verdict = scores.verdict_of(p_fake, metadata["thresholds"])
    first, second, third, *_, last = out.splitlines()
    assert first == f"{path}: {verdict}"
    assert second.startswith(f"  Detector detector.h5: {verdict}, P(Fake) = {p_fake:.4f}. Thresholds: Fake ≥ ")
    assert third == "  Provenance (independent of the score):"
    assert run(app.main, path, *model, "--no-provenance")[1].splitlines() == [first, second, last]
    assert last.startswith("Detector detector.h5: compact, trained on the images of data: 64 Fake and 64 Real images")


def test_json_of_a_folder_with_a_broken_file(model, tmp_path, run):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    draw(1).save(folder / "a.png")
    draw(2).save(folder / "deep" / "no suffix", "PNG")
    (folder / "broken.jpg").write_text("hello")
    (folder / "notes.txt").write_text("not an image, and not said to be one")
    code, out, err = run(app.main, folder, *model, "--json")
    rows = json.loads(out)
    assert [row["path"] for row in rows] == [str(folder / name) for name in ("a.png", "broken.jpg", "deep/no suffix")]
    assert [row["verdict"] is None for row in rows] == [False, True, False]
    assert rows[1]["p_fake"] is None
    assert rows[1]["error"].startswith(f"{folder / 'broken.jpg'}: expected an image (JPEG, PNG,")
    assert (code, err) == (1, "error: 1 of 3 images cannot be read; see the reasons above\n")


def test_csv_of_many(model, small_data, tmp_path, run):
    table = tmp_path / "verdicts.csv"
    code, out, _ = run(app.main, small_data / "validation", *model, "--csv", table)
    assert (code, out) == (0, f"64 rows written to {table}\n")
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64 and {row["verdict"] for row in rows} <= {"Fake", "Real", "uncertain"}
    assert list(rows[0]) == [  # new columns come last
        "path", "verdict", "p_fake", "detector", "width", "height", "note", "provenance", "error", "conclusion", "basis", "gated"
    ]  # fmt: skip
    assert json.loads(rows[0]["provenance"])["says"] == "nothing" and rows[0]["basis"] == "detector"
    assert all(0 <= float(row["p_fake"]) <= 1 for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == ["verdicts.csv"]
    photo = small_data / "test" / "Real" / "0.png"
    before = photo.read_bytes()
    code, _, err = run(app.main, photo, *model, "--csv", photo)
    assert code == 1 and err.startswith(f"error: {photo}: ") and "--overwrite" in err
    assert photo.read_bytes() == before
    assert run(app.main, photo, *model, "--csv", table, "--overwrite")[0] == 0
    nowhere = tmp_path / "nowhere" / "v.csv"
    assert run(app.main, photo, *model, "--csv", nowhere)[2].startswith(f"error: {nowhere}: expected a folder to write to")


def test_many_images_are_a_line_each_with_counts(model, small_data, tmp_path, run):
    photo, broken = tmp_path / "photo.jpg", tmp_path / "broken.jpg"
    declared = tmp_path / "declared.png"
    draw(5, (640, 427)).save(photo)
    broken.write_text("no image")
    declared.write_bytes(with_text(parameters=PARAMETERS))
    sources = [small_data / "test", photo, broken, declared]
    code, out, err = run(app.main, *sources, *model)
    lines = out.splitlines()
    assert (code, err.startswith("error: 1 of 67 images")) == (1, True)
    why = "it is 640 x 427 pixels; the detector is made for images with a shorter side of 32 pixels"
    assert lines[64] == f"uncertain                {photo}  ({why})"
    assert lines[65].startswith("unreadable ") and str(broken) in lines[65]
    assert lines[66].startswith(f"AI-generated             {declared}  [declared by the file, unsigned]")
    counts = dict(reversed(part.split(" ", 1)) for part in lines[67].split(", "))
    assert counts["AI-generated"] == counts["unreadable"] == "1" and sum(map(int, counts.values())) == 67
    assert lines[68].startswith("Detector detector.h5")
    forced = run(app.main, *sources, *model, "--force")[1].splitlines()[64]
    assert forced.split()[1].startswith(("0.", "1.")) and f"({why})" in forced


def test_no_bar_in_the_midst_of_lines_on_a_terminal(model, small_data, tmp_path, run, monkeypatch):
    bars = []
    monkeypatch.setattr(app, "progress", lambda rows, total: bars.append(total) or rows)
    for terminal, options, expected in ((True, [], []), (False, [], [64]), (True, ["--csv", tmp_path / "t.csv"], [64])):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        assert run(app.main, small_data / "test", *model, *options)[0] == 0 and bars == expected
        bars.clear()


def test_a_name_that_begins_with_a_dash(model, tmp_path, run, monkeypatch):
    draw(1).save(tmp_path / "-x.png")
    monkeypatch.chdir(tmp_path)
    code, out, err = run(app.main, *model, "--json", "--", "-x.png")
    assert (code, err) == (0, "") and [row["path"] for row in json.loads(out)] == ["-x.png"]


def test_bad_input_is_one_line(model, tmp_path, run):
    nothing, empty, image = tmp_path / "nothing.jpg", tmp_path / "empty", tmp_path / "image.png"
    empty.mkdir()
    draw(1).save(image)
    for path, *options in ([nothing, *model], [empty, *model], [image, "--model", image]):
        code, out, err = run(app.main, path, *options)
        assert (code, out) == (1, "") and err.startswith(f"error: {path}: expected ") and err.count("\n") == 1


def test_the_shipped_detector_judges_without_tensorflow_and_keras(tmp_path):
    draw(7).save(tmp_path / "small.png")
    program = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'h5py', 'sklearn', 'scipy', 'matplotlib', 'fastapi', 'jinja2', 'cv2'):\n"
        "    sys.modules[name] = None\n"
        "import app; app.main([sys.argv[1], '--example', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "small.png")], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert [row["verdict"] in {"Fake", "Real", "uncertain"} for row in rows] == [True, True]
    assert rows[1]["path"] == str(app.EXAMPLE)


def test_what_ships_is_compiled_from_the_h5_beside_it():
    shipped = sorted(export.SHIPPED.glob("*.h5"))
    assert shipped and shipped == default_models()
    for path in shipped:
        metadata, flatbuffer = export._shipped(path)
        assert metadata == model_file.read_metadata(path)
        assert flatbuffer.is_file()
        assert sum(file.stat().st_size for file in export.SHIPPED.glob(f"{path.stem}.*")) <= 40e6


# --- what is asked for -------------------------------------------------------------------------------------------------


def test_standard_input(model, small_data, run, monkeypatch):
    path = small_data / "test" / "Real" / "1.png"
    expected = json.loads(run(app.main, path, *model, "--json")[1])[0]

    def give(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    give(path.read_bytes())
    code, out, err = run(app.main, "-", *model, "--json")
    assert (code, err, json.loads(out)) == (0, "", [{**expected, "path": "-"}])
    give(b"no image")
    code, out, _ = run(app.main, "-", *model, "--json")
    assert code == 1 and json.loads(out)[0]["error"].startswith("-: expected an image (JPEG,")


def test_threshold(model, small_data, run):
    path = small_data / "test" / "Fake" / "3.png"
    first, second = run(app.main, path, *model, "--threshold", 0)[1].splitlines()[:2]
    assert first == f"{path}: Fake" and second.endswith("Threshold: Fake ≥ 0, otherwise Real.")
    code, _, err = run(app.main, path, *model, "--threshold", "2")
    assert code == 2 and "--threshold" in err


def test_exit_code_of_fail_on(model, small_data, tmp_path, run):
    small, odd, broken = small_data / "test" / "Fake" / "3.png", tmp_path / "odd.png", tmp_path / "broken.png"
    declared = tmp_path / "declared.png"
    declared.write_bytes(with_text(parameters=PARAMETERS))
    draw(1, (99, 99)).save(odd)
    broken.write_text("no image")
    as_fake, as_real = (small, *model, "--threshold", 0), (small, *model, "--threshold", 1)
    cases = {
        (*as_fake, "--fail-on", "fake"): 3, (*as_fake, "--fail-on", "uncertain"): 3, as_fake: 0,
        (*as_real, "--fail-on", "fake"): 0, (*as_real, "--fail-on", "uncertain"): 0,
        (odd, *model, "--fail-on", "fake"): 0, (odd, *model, "--fail-on", "uncertain"): 3,
        (*as_fake, broken, "--fail-on", "fake"): 1, (*as_fake, "--fail-on", "ai"): 3, (*as_real, "--fail-on", "ai"): 0,
        (declared, *model, "--fail-on", "ai"): 3, (declared, *model, "--fail-on", "fake"): 0,
        (declared, *model, "--no-provenance", "--fail-on", "ai"): 0,
    }  # fmt: skip
    assert {case: run(app.main, *case, "--json")[0] for case in cases} == cases


@pytest.fixture
def own_configuration(tmp_path, monkeypatch):
    """Keep remembered trust lists out of the user's configuration."""
    for name in ("XDG_CONFIG_HOME", "LOCALAPPDATA", "HOME") if sys.platform == "darwin" else ("XDG_CONFIG_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "configuration"))


def test_a_trust_list_is_remembered(model, tmp_path, run, own_configuration):
    workshop, image = Workshop(tmp_path), tmp_path / "signed.png"
    image.write_bytes(workshop.sign(drawn(), SHOT))

    def read(*options):
        (row,) = json.loads(run(app.main, image, *model, "--json", "--threshold", 1, *options)[1])
        return row["provenance"]["c2pa"]["trusted"], row["conclusion"], row["basis"].split("(")[1], row["p_fake"]

    report = tmp_path / "report.html"
    *before, p_fake = read()
    *given, p_fake_given = read("--trust-list", workshop.root)
    assert (before, given) == ([False, "camera original", "signer not verified)"], [True, "camera original", "trusted)"])
    assert p_fake == p_fake_given and read() == (*given, p_fake)  # remembered
    run(app.main, image, *model, "--report", report)
    assert trust_list_date(workshop.root) in report.read_text("utf-8")
    assert read("--trust-list", "none")[:-1] == read()[:-1] == tuple(before)  # forgotten
    (row,) = json.loads(run(app.main, image, *model, "--json", "--threshold", 0)[1])  # the image is too small for the detector
    assert (row["gated"], row["verdict"], row["conclusion"], row["basis"]) == (True, "uncertain", "uncertain", "detector")
    nothing = tmp_path / "nothing.pem"
    code, _, err = run(app.main, image, *model, "--trust-list", nothing)
    assert code == 1 and err.startswith(f"error: {nothing}: expected a trust list")
    code, _, err = run(app.main, image, *model, "--trust-list", workshop.root, "--no-provenance")
    assert code == 2 and "--trust-list" in err


def test_report(model, small_data, tmp_path, run):
    report, photo = tmp_path / "report.html", small_data / "test" / "Real" / "0.png"
    assert run(app.main, photo, *model, "--report", report, "--json")[0] == 0
    assert str(photo) in report.read_text("utf-8")
    assert run(app.main, photo, *model, "--report", report)[0] == 1


def test_version(run):
    assert run(app.main, "--version") == (0, f"{Path(sys.argv[0]).name} {app.__version__}\n", "")


def test_explain_writes_the_picture_of_the_heat_map(model, tmp_path, run):
    path, out = tmp_path / "a.png", tmp_path / "out.png"
    draw(1, (48, 32)).save(path)
    assert run(app.main, path, *model, "--explain", out)[0] == 0
    image = pixels.read_image(path)
    expected = attribution.overlay(image, attribution.explain(export.open_detector(model[1]), image))
    with Image.open(out) as picture:
        assert picture.format == "PNG" and np.array_equal(np.asarray(picture), expected)
    before = out.read_bytes()
    assert run(app.main, path, *model, "--explain", out)[0] == 1
    assert run(app.main, path, *model, "--explain", out, "--overwrite")[0] == 0 and out.read_bytes() == before
    assert "expected one image, found 2" in run(app.main, path, path, *model, "--explain", tmp_path / "two.png")[2]
    assert run(app.main, path, *model, "--explain", tmp_path / "out.jpg")[0] == 2
    path.write_text("no image")
    assert run(app.main, path, *model, "--explain", tmp_path / "none.png")[0] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "out.png"]


def test_options_that_need_an_image(model, run):
    for option in (["--json"], ["--csv", "x.csv"], ["--explain", "x.png"], ["--fail-on", "fake"], ["--report", "x.html"]):
        code, _, err = run(app.main, *model, *option)
        assert code == 2 and err.endswith(f"error: {option[0]} needs an IMAGE or a FOLDER\n")


def test_without_images_the_page_is_opened(model, trained, run, monkeypatch):
    given = []
    monkeypatch.setattr(server, "serve", lambda *arguments: given.extend(arguments))
    assert run(app.main, *model, *model, "--host", "0.0.0.0", "--port", 1234)[0] == 0
    assert [one.path for one in given[0].detectors] == [trained[0]] * 2 and given[1:] == ["0.0.0.0", 1234]


def test_the_scores_are_those_of_evaluate(model, trained, tmp_path, run):
    """Of images of several formats, modes and sizes."""
    thresholds = model_file.read_metadata(trained[0])["thresholds"]
    for i, (kind, mode, size) in enumerate([
        ("jpg", "RGB", (32, 32)), ("png", "RGBA", (50, 40)), ("webp", "RGB", (32, 32)), ("bmp", "RGB", (32, 32)),
        ("gif", "P", (32, 32)), ("tiff", "L", (64, 64)), ("jpg", "CMYK", (320, 200)), ("png", "L", (31, 33)),
    ]):  # fmt: skip
        folder = tmp_path / "data" / ("Fake" if i % 2 else "Real")
        folder.mkdir(parents=True, exist_ok=True)
        draw(i, size, mode).save(folder / f"{i}.{kind}")
    run(evaluate.main, trained[0], "--data", tmp_path / "data", "--report", tmp_path / "report")
    with (tmp_path / "report" / "predictions.csv").open(encoding="utf-8") as file:
        evaluated = {str(tmp_path / "data" / row["path"]): row for row in csv.DictReader(file)}
    rows = json.loads(run(app.main, tmp_path / "data", *model, "--json", "--force")[1])
    assert {row["path"] for row in rows} == evaluated.keys() and len(rows) == 8
    for row in rows:
        assert row["p_fake"] == pytest.approx(float(evaluated[row["path"]]["p_fake"]), abs=1e-6)
        assert evaluated[row["path"]]["verdict"] == scores.verdict_of(row["p_fake"], thresholds)
