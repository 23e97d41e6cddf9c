import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sk

import evaluate
from detector.evaluation import plots
from detector.model import export, scores
from detector.model import file as model_file
from tests.conftest import ROOT, draw

REPORT = {"metrics.json", "predictions.csv", "report.html"}


@pytest.fixture(scope="module")
def other(trained, tmp_path_factory):
    """A second detector: the first, its last layer half as certain and a little askew."""
    model, metadata = model_file.load(trained[0])
    path = tmp_path_factory.mktemp("other") / "other.h5"
    layer = model.layers[-1]
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel * 0.5, bias + np.array([0.5, 0.0])])
    model_file.save(model, path, metadata)
    return path


@pytest.fixture(scope="module")
def report(trained, other, small_data, tmp_path_factory):
    """A report with everything in it, on a copy of the data: three test images are also in train, one train image is renamed."""
    data = tmp_path_factory.mktemp("evaluated") / "data"
    shutil.copytree(small_data, data, ignore=shutil.ignore_patterns(".decoded"))
    for i in range(3):
        shutil.copy(data / f"test/Real/{i}.png", data / f"train/Real/again_{i}.png")
    shutil.copy(data / "train/Fake/5.png", data / "test/Fake/renamed.png")
    folder = data.parent / "report"
    arguments = ["--data", data, "--split", "test", "validation", "--report", folder, "--damage", "--group-by", r"(\d)\.png"]
    evaluate.main(list(map(str, [trained[0], *arguments, "--versus", other])))
    return folder


def read(report):
    with (report / "predictions.csv").open(encoding="utf-8") as file:
        return json.loads((report / "metrics.json").read_text("utf-8")), list(csv.DictReader(file))


def scores_of(rows, split="test"):
    rows = [row for row in rows if row["path"].startswith(f"{split}/")]
    return np.array([row["label"] == "Fake" for row in rows]), np.array([float(row["p_fake"]) for row in rows]), rows


def test_the_figures_are_those_of_the_predictions(report):
    figures, rows = read(report)
    is_fake, p_fake, rows = scores_of(rows)
    assert figures["n"] == len(rows) == 65
    assert figures["accuracy"] == pytest.approx(((p_fake >= 0.5) == is_fake).mean())
    assert figures["auc"] == pytest.approx(sk.roc_auc_score(is_fake, p_fake))
    assert figures["auc"] > 0.9  # the set is made to be learned: the score points the right way
    assert figures["splits"]["test"]["confusion"] == figures["confusion"]
    assert figures["splits"]["validation"]["n"] == 64
    assert set(figures) >= {
        "n", "accuracy", "balanced_accuracy", "auc", "average_precision", "tpr_at_1pct_fpr", "ece", "confusion", "per_class",
    }  # fmt: skip
    low, high = figures["intervals"]["auc"]
    assert low < figures["auc"] <= high


def test_what_is_written_down_of_model_and_engine(report, trained):
    import hashlib

    figures, _ = read(report)
    metadata = model_file.read_metadata(trained[0])
    assert (figures["tool"], figures["engine"], figures["device"]) == ("evaluate.py", "litert", "litert on cpu")
    assert (figures["split"], list(figures["splits"])) == ("test", ["test", "validation"])
    assert figures["data"] == str(report.parent / "data")
    assert {"numpy", "scikit-learn", "ai-edge-litert", "opencv-python-headless"} <= set(figures["versions"])
    assert (figures["thresholds"], figures["temperature"]) == (metadata["thresholds"], metadata["temperature"])
    assert figures["model_sha256"] == hashlib.sha256(trained[0].read_bytes()).hexdigest()


def test_all_that_is_written_down_is_documented(report):
    from detector.evaluation import intervals, metrics

    documented = (evaluate, metrics.classification_metrics, metrics.calibration, metrics.per_class, metrics.verdict_metrics,
                  intervals.compare)  # fmt: skip
    told = " ".join(some.__doc__ for some in documented)

    def names(some):
        for name, value in some.items():
            yield name
            of_a_name = name in ("splits", "damage", "versions", "per_class")  # {name of a split, damage ...: what follows}
            for one in (value.values() if of_a_name and value else [value[0] if isinstance(value, list) and value else value]):
                yield from names(one) if isinstance(one, dict) and name not in ("thresholds", "versions", "difference") else ()

    assert {name for name in names(read(report)[0]) if not re.search(rf"\b{name}\b", told)} == set()


def test_the_first_line_gives_every_headline_figure_without_leaks(report):
    figures, _ = read(report)
    clean = figures["splits"]["test"]["without_leaks"]
    assert figures["headline"][0].endswith(
        f" Without the 4 of them that stand in a train set: accuracy {100 * clean['accuracy']:.2f} %, AUC {clean['auc']:.4f}, "
        f"Real called Fake {100 * clean['real_called_fake']:.2f} %, uncertain {100 * clean['uncertain_share']:.2f} %."
    )
    assert "Without" not in figures["headline"][1]


def test_what_the_other_model_was_trained_on_is_told(report):
    from detector.reports import evaluation_page

    figures, _ = read(report)
    figures["splits"]["test"]["versus"] |= {"model": "other.h5", "in_train_of_other": 1}
    line = "test: 1 image among those other.h5 was trained on: its figures flatter it"
    assert ("warning", line) in evaluation_page.notes(figures)


def test_raw_figures_are_those_without_the_temperature(report):
    figures, rows = read(report)
    is_fake, p_fake, _ = scores_of(rows)
    raw = scores.p_fake_of(np.log(p_fake / (1 - p_fake)) * figures["temperature"], 1.0)
    assert figures["temperature"] != 1
    assert figures["raw"]["brier"] == pytest.approx(sk.brier_score_loss(is_fake, raw))
    assert figures["raw"]["log_loss"] == pytest.approx(sk.log_loss(is_fake, raw))


def test_verdicts_follow_the_thresholds_of_the_model(report, trained):
    _, rows = read(report)
    limits = model_file.read_metadata(trained[0])["thresholds"]
    for row in rows:
        p = float(row["p_fake"])
        assert row["verdict"] == ("Fake" if p >= limits["fake"] else "Real" if p <= limits["real"] else "uncertain")


def test_the_scores_are_the_apps(report, trained, run):
    import app

    _, rows = read(report)
    data = report.parent / "data"
    code, out, _ = run(app.main, data / "test", "--model", trained[0], "--json")
    judged = {row["path"]: row for row in json.loads(out)}
    assert code == 0
    assert len(judged) == 65
    for row in scores_of(rows)[2]:
        same = judged[str(data / row["path"])]
        assert same["p_fake"] == pytest.approx(float(row["p_fake"]), abs=1e-6)
        assert same["verdict"] == row["verdict"]


def test_leaks_are_counted_and_the_figures_given_without_them(report):
    figures, rows = read(report)
    assert figures["splits"]["validation"]["without_leaks"] is None
    assert figures["splits"]["validation"]["leaks"] == {"in_train": 0, "in_train_of_model": 0, "either": 0}
    assert figures["splits"]["test"]["leaks"] == {"in_train": 4, "in_train_of_model": 1, "either": 4}
    leaked = {"test/Fake/renamed.png", *(f"test/Real/{i}.png" for i in range(3))}
    is_fake, p_fake, rows = scores_of(rows)
    clean = np.array([row["path"] not in leaked for row in rows])
    without = figures["splits"]["test"]["without_leaks"]
    assert without["n"] == 61
    assert without["accuracy"] == pytest.approx(((p_fake >= 0.5) == is_fake)[clean].mean())
    assert without["auc"] == pytest.approx(sk.roc_auc_score(is_fake[clean], p_fake[clean]))
    assert without["intervals"]["auc"] != figures["intervals"]["auc"]


def test_groups_are_measured_each_by_itself_the_worst_first(report):
    figures, rows = read(report)
    groups = figures["splits"]["test"]["groups"]
    is_fake, p_fake, rows = scores_of(rows)
    names = [found[1] if (found := re.search(r"(\d)\.png", row["path"])) else "(none)" for row in rows]
    assert sorted(group["group"] for group in groups) == sorted(set(names))
    assert [group["accuracy"] for group in groups] == sorted(group["accuracy"] for group in groups)
    assert groups[0]["accuracy"] < groups[-1]["accuracy"]
    for group in groups:
        of = np.array([name == group["group"] for name in names])
        assert group["n"] == of.sum()
        assert group["accuracy"] == pytest.approx(((p_fake >= 0.5) == is_fake)[of].mean())
        assert (group["against_all"] is None) == (group["group"] != "(none)")
    alone = next(group for group in groups if group["group"] == "(none)")
    assert (alone["n"], alone["auc"]) == (1, None)  # a single Fake: its figures of both classes are against all Real images
    which = ~is_fake | np.array([name == "(none)" for name in names])
    assert alone["against_all"]["auc"] == pytest.approx(sk.roc_auc_score(is_fake[which], p_fake[which]))
    assert alone["against_all"]["average_precision"] == pytest.approx(sk.average_precision_score(is_fake[which], p_fake[which]))
    assert set(alone["against_all"]["intervals"]) == set(evaluate.AGAINST_ALL)
    page = (report / "report.html").read_text("utf-8")
    assert f"<td>{alone['against_all']['auc']:.4f}*<td>" in page
    assert "<p>* of a group of one class: against all images of the other class." in page


def test_damage_changes_the_scores_and_comes_out_the_same_again(report, trained, run, tmp_path):
    figures, _ = read(report)
    damage = figures["splits"]["test"]["damage"]
    assert next(iter(damage)) == "undamaged" and len(damage) == 14
    assert damage["undamaged"]["accuracy"] == figures["accuracy"]
    assert damage["blur 3"]["auc"] < figures["auc"] - 0.2  # grain is what tells this set's classes apart
    assert damage["flip"]["auc"] > 0.9
    assert all({"auc", "ece", "raw", "per_class", "intervals"} <= set(row) for row in damage.values())
    code, _, _ = run(evaluate.main, trained[0], "--data", report.parent / "data", "--report", tmp_path / "r", "--damage")
    again, _ = read(tmp_path / "r")
    assert code == 0 and again["splits"]["test"]["damage"] == damage


def test_damaged_figures_are_those_of_the_damaged_images(report, trained):
    from detector.evaluation import dataset, metrics
    from detector.images import pixels

    figures, rows = read(report)
    is_fake, _, rows = scores_of(rows)
    detector = export.open_detector(trained[0])
    for name in ("blur 2", "noise 0.05"):
        way = dataset.damages()[name]
        images = np.stack([pixels.resize(way(pixels.read_image(report.parent / "data" / row["path"])), 32) for row in rows])
        p_expected = scores.p_fake_of(detector.logits(images), detector.metadata["temperature"])
        expected = metrics.classification_metrics(is_fake, p_expected, detector.metadata["thresholds"])
        found = figures["splits"]["test"]["damage"][name]
        assert found["brier"] == pytest.approx(expected["brier"], abs=1e-5)
        assert found["confusion"] == expected["confusion"]


def test_against_another_model(report, other):
    figures, rows = read(report)
    versus = figures["splits"]["test"]["versus"]
    is_fake, p_fake, rows = scores_of(rows)
    theirs = export.open_detector(other)
    from detector.images import pixels

    images = np.stack([pixels.read_resized(report.parent / "data" / row["path"], 32) for row in rows])
    p_other = scores.p_fake_of(theirs.logits(images), theirs.metadata["temperature"])
    right, other_right = (p_fake >= 0.5) == is_fake, (p_other >= 0.5) == is_fake
    assert versus["model"] == str(other) and versus["in_train_of_other"] is None
    assert versus["difference"]["accuracy"] == pytest.approx(right.mean() - other_right.mean())
    assert versus["difference"]["auc"] == pytest.approx(sk.roc_auc_score(is_fake, p_fake) - sk.roc_auc_score(is_fake, p_other))
    assert versus["figures"]["brier"] == pytest.approx(sk.brier_score_loss(is_fake, p_other), abs=1e-5)
    with (report / "changed.csv").open(encoding="utf-8") as file:
        changed = {row["path"]: row for row in csv.DictReader(file) if row["path"].startswith("test/")}
    assert set(changed) == {row["path"] for row, a, b in zip(rows, right, other_right, strict=True) if a != b} != set()
    for row, a, p in zip(rows, right, p_other, strict=True):
        if row["path"] in changed:
            assert changed[row["path"]]["right"] == ("this" if a else "other")
            assert float(changed[row["path"]]["p_fake_other"]) == pytest.approx(p, abs=1e-5)
    test = versus["mcnemar"]
    assert test["only_this_right"] + test["only_other_right"] == len(changed)


def test_pictures_are_drawn_for_each_split(report):
    names = {path.name for path in report.glob("*.png")}
    kinds = (*plots.NAMES, "damage", "mistakes_real_called_fake", "mistakes_fake_called_real")
    assert names <= {f"{kind}_{split}.png" for kind in kinds for split in ("test", "validation")}
    assert names >= {f"{kind}_{split}.png" for kind in (*plots.NAMES, "damage") for split in ("test", "validation")}
    assert {path.name for path in report.iterdir()} - names == REPORT | {"changed.csv"}


def test_the_page_holds_everything_and_needs_nothing(report):
    page = (report / "report.html").read_text("utf-8")
    figures, _ = read(report)
    body = page.split("<body>")[1]
    assert body.index(figures["headline"][0]) < body.index("<h1>")
    assert figures["headline"][0].startswith("On 33 Fake and 32 Real test images, detector.h5 has an accuracy of ")
    assert page.count("data:image/png;base64,") == len(list(report.glob("*.png")))
    assert not re.search(r"""(src|href)=(?!"data:)|url\(|<script|@import""", page)
    told = "4 images also in the train folder", "without train images", "Damaged images, validation", "Groups, test", "McNemar", (
        "validation: temperature and thresholds were fitted on the validation split of the model&#x27;s training; "
        "where it is this one, the figures flatter the model"
    )  # fmt: skip
    assert [line for line in told if line not in page] == []


def test_names_become_harmless_text_on_the_page(trained, tmp_path, run, make_tree):
    data = make_tree(tmp_path / "data", {"Fake": 3, "Real": 3})
    (data / "Fake" / "<img src=x>.jpg").write_text("no image")
    shutil.copy(data / "Fake" / "0.jpg", data / "Fake" / "<u>.jpg")
    assert run(evaluate.main, trained[0], "--data", data, "--report", tmp_path / "r", "--group-by", "(<u>)")[0] == 0
    page = (tmp_path / "r" / "report.html").read_text("utf-8")
    assert "<img src=x>" not in page and "&lt;img src=x&gt;.jpg" in page
    assert "<u>" not in page and "<td>&lt;u&gt;<td>1<td>" in page


def test_a_folder_tree_without_splits_and_of_another_size(trained, tmp_path, run, make_tree):
    data = make_tree(tmp_path / "photos", {"real_images": 3, "AI": 4}, size=(60, 40))
    code, out, _ = run(evaluate.main, trained[0], "--data", data, "--report", tmp_path / "r")
    figures, rows = read(tmp_path / "r")
    assert (code, figures["split"], figures["n"], figures["splits"]["all"]["unlike_seen"]) == (0, "all", 7, 7)
    assert {row["path"].split("/")[0]: row["label"] for row in rows} == {"AI": "Fake", "real_images": "Real"}
    assert "warning: all: 7 images unlike any that the model has seen; app.py says uncertain to these\n" in out
    assert figures["splits"]["all"]["leaks"] == {"in_train": None, "in_train_of_model": 0, "either": 0}


def test_keras_is_named_and_agrees(report, trained, tmp_path, run):
    command = (evaluate.main, trained[0], "--data", report.parent / "data", "--report", tmp_path / "r", "--engine", "keras")
    assert run(*command)[0] == 0
    figures, rows = read(tmp_path / "r")
    assert figures["engine"] == "keras" and re.fullmatch(r"(tensorflow|jax) on \w+", figures["device"])
    assert scores_of(rows)[1] == pytest.approx(scores_of(read(report)[1])[1], abs=1e-4)


def test_a_report_is_not_overwritten(report, trained, small_data, run, tmp_path):
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    (folder / "notes.txt").write_text("mine")
    before = (folder / "metrics.json").read_bytes()
    arguments = (evaluate.main, trained[0], "--data", small_data, "--report", folder)
    assert run(*arguments) == (1, "", f"error: {folder}: a report is there already; give another --report, or --overwrite\n")
    assert (folder / "metrics.json").read_bytes() == before
    code, out, _ = run(*arguments, "--overwrite")
    assert code == 0 and out.endswith(f"report: {folder}/report.html, {folder}/metrics.json\n".replace("/", os.sep))
    left = {path.name for path in folder.iterdir()}
    assert not any(name.startswith("damage") or name.endswith("_validation.png") or name == "changed.csv" for name in left)
    assert (folder / "notes.txt").read_text() == "mine" and left >= REPORT


def test_an_interrupted_report_does_not_look_finished_and_is_replaced(report, trained, small_data, tmp_path, run, monkeypatch):
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    with monkeypatch.context() as patch:
        patch.setattr("detector.reports.evaluation_page.render", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(evaluate.main, trained[0], "--data", small_data, "--report", folder, "--overwrite")[0] == 1
    assert not (folder / "metrics.json").exists() and not (folder / "report.html").exists()
    assert run(evaluate.main, trained[0], "--data", small_data, "--report", folder)[0] == 0
    assert (folder / "metrics.json").exists() and not list(folder.glob("*.part"))


def test_a_file_of_another_is_not_overwritten(trained, small_data, tmp_path, run):
    (tmp_path / "predictions.csv").write_text("mine")
    assert run(evaluate.main, trained[0], "--data", small_data, "--report", tmp_path) == (
        1, "", f"error: {tmp_path}: found a predictions.csv that belongs to no report; give another --report, or --overwrite\n"
    )  # fmt: skip
    assert (tmp_path / "predictions.csv").read_text() == "mine"


def test_where_a_report_cannot_go(trained, small_data, tmp_path, run):
    inside = small_data / "test" / "report"
    assert run(evaluate.main, trained[0], "--data", small_data, "--report", inside) == (
        1, "", f"error: {inside}: expected a folder outside of {small_data}, which is only read; choose another with --report\n"
    )  # fmt: skip
    file = tmp_path / "file"
    file.write_text("")
    assert run(evaluate.main, trained[0], "--data", small_data, "--report", file) == (
        1, "", f"error: {file}: expected a folder for the report, found a file; choose another with --report\n"
    )  # fmt: skip


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_scored(tmp_path, run, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK and path == tmp_path))
    assert run(evaluate.main, "d.h5", "--data", tmp_path / "data", "--report", tmp_path / "new" / "report") == (
        1, "", f"error: {tmp_path}: expected a folder that can be written to; choose another with --report\n"
    )  # fmt: skip
    assert not (tmp_path / "new").exists()


def test_unreadable_images_are_counted_listed_and_not_scored(trained, small_data, tmp_path, run):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    broken = data / "test" / "Real" / "0.png"
    broken.write_bytes(broken.read_bytes()[:100])
    code, out, err = run(evaluate.main, trained[0], "--data", data, "--report", tmp_path / "report")
    assert (code, err) == (0, "")
    assert f"not scored: {broken}: expected a whole image" in out
    assert "warning: test: 1 image could not be read and was not scored\n" in out
    figures, rows = read(tmp_path / "report")
    of_split = figures["splits"]["test"]
    assert (figures["n"], of_split["unreadable"], len(rows)) == (63, 1, 63)
    assert of_split["unreadable_files"][0].startswith(f"{broken}: expected a whole image")
    assert str(broken) in (tmp_path / "report" / "report.html").read_text("utf-8")


def test_bad_input_is_one_line(trained, small_data, tmp_path, run):
    report = ["--report", tmp_path / "r"]
    code, out, err = run(evaluate.main, tmp_path / "no.h5", "--data", small_data, *report)
    assert (code, out) == (1, "")
    assert err == (
        f"error: {tmp_path / 'no.h5'}: expected a model file (.h5), found nothing of that name; train one with model_training.py "
        "or check the path\n"
    )
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    shutil.rmtree(data / "test" / "Real")
    assert run(evaluate.main, trained[0], "--data", data, *report) == (
        1, "", f"error: {data / 'test'}: expected folders of both classes, found none for Real; add it\n"
    )  # fmt: skip
    (data / "test" / "Real").mkdir()
    (data / "test" / "Real" / "0.jpg").write_text("no image")
    code, _, err = run(evaluate.main, trained[0], "--data", data, *report)
    assert (code, err) == (
        1, f"error: {data / 'test/Real/0.jpg'}: expected images of class Real that can be read, found none; run data_audit.py\n"
    )  # fmt: skip
    (data / "Other").mkdir()
    code, _, err = run(evaluate.main, trained[0], "--data", data, *report)
    assert code == 1 and err.startswith(f"error: {data}: expected train, validation and test folders only, found also Other;")
    assert not (tmp_path / "r").exists()


def test_a_model_without_facts(small_data, tmp_path, run):
    from tests.model.test_file import bias_model

    path = tmp_path / "foreign.h5"
    bias_model([1.0, 0.0]).save(path)
    for engine in ("litert", "keras"):
        code, out, err = run(evaluate.main, path, "--data", small_data, "--report", tmp_path / "r", "--engine", engine)
        assert (code, out) == (1, "")
        assert err == (
            f"error: {path}: expected a detector that model_training.py saved, found a Keras model without a detector's metadata; "
            "train it with model_training.py\n"
        )


def test_keras_is_not_imported_for_the_default_engine(trained, small_data, tmp_path):
    blocked = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None"
    program = f"{blocked}; import evaluate; evaluate.main(sys.argv[1:])"
    command = [sys.executable, "-c", program, str(trained[0]), "--data", str(small_data), "--report", str(tmp_path / "r")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_colours_of_the_classes_differ_in_grey_print():
    from matplotlib.colors import to_rgb

    grey = [np.dot(to_rgb(colour), [0.299, 0.587, 0.114]) for colour in (plots.FAKE, plots.REAL, "white")]
    assert min(abs(np.diff([grey[0], grey[1]])), abs(np.diff([grey[0], grey[2]]))) > 0.25


def test_a_contact_sheet_takes_images_of_any_shape(tmp_path):
    for name, size in (("wide.png", (300, 20)), ("high.png", (10, 90)), ("small.png", (4, 4))):
        draw(name, size).save(tmp_path / name)
    plots.draw_sheet(tmp_path / "sheet.png", tmp_path, "three", [(name, name) for name in ("wide.png", "high.png", "small.png")])
    from PIL import Image

    assert Image.open(tmp_path / "sheet.png").size == (9 * 130, 130 * 2)


def test_a_contact_sheet_takes_names_of_any_kind(tmp_path):
    import warnings

    draw("a.png", (40, 40)).save(tmp_path / "a.png")
    names = ["$\\frac$.jpg", "a$x_$b$.jpg", "<img src=x>", "\u65e5\u672c\u8a9e.jpg", "100%.jpg"]  # the first: a broken formula
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.draw_sheet(tmp_path / "sheet.png", tmp_path, "five", [("a.png", name) for name in names])
    assert (tmp_path / "sheet.png").exists()


def test_a_bin_without_a_fake_is_not_known_to_have_none():
    from matplotlib.figure import Figure

    is_fake, p_fake = np.arange(60) >= 30, np.repeat([0.0, 1.0], 30)
    axes = Figure().subplots()
    plots._reliability(axes, is_fake, p_fake, {"ece": 0.0, "intervals": {"ece": [0.0, 0.0]}})
    bars = axes.containers[0][2][0].get_segments()
    limit = 1 - 0.025 ** (1 / 30)  # Clopper and Pearson's
    assert np.array(bars)[:, :, 1] == pytest.approx(np.array([[0, limit], [1 - limit, 1]]))


def test_the_worst_mistakes_come_first_and_are_of_one_kind():
    from detector.evaluation.dataset import Item

    is_fake = np.array([True, True, True, False, False, False])
    p_fake = np.array([0.4, 0.1, 0.9, 0.5, 0.7, 0.2])
    items = [Item(f"x/{i}.png", bool(fake), None) for i, fake in enumerate(is_fake)]
    scored = evaluate.Scored(items, is_fake, p_fake, None, 0, [])
    assert evaluate.worst_mistakes(scored, of_fake=True) == [("x/1.png", "0.1000\n1.png"), ("x/0.png", "0.4000\n0.png")]
    assert evaluate.worst_mistakes(scored, of_fake=False) == [("x/4.png", "0.7000\n4.png"), ("x/3.png", "0.5000\n3.png")]


def test_train_is_not_held_against_itself(trained, small_data, tmp_path, run):
    code, out, _ = run(evaluate.main, trained[0], "--data", small_data, "--split", "train", "--report", tmp_path / "r")
    of_split = read(tmp_path / "r")[0]["splits"]["train"]
    assert (code, of_split["leaks"], of_split["without_leaks"]) == (0, None, None)
    assert "train folder" not in out


def test_long_names_are_cut_in_the_middle():
    assert evaluate.short_name("test/Fake/short.png") == "short.png"
    assert evaluate.short_name("x/abcdefghijklmnopqrstuvwxyz.jpeg") == "abcdefghi…vwxyz.jpeg"
