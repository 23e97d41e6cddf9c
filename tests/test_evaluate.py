import csv
import hashlib
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
from detector.evaluation import dataset, intervals, plots
from detector.evaluation import metrics as functions_of_metrics
from detector.images import pixels
from detector.model import export, scores
from detector.model import file as model_file
from tests.conftest import ROOT

REPORT = {"metrics.json", "predictions.csv", "report.html"}


@pytest.fixture
def no_plots(monkeypatch):
    """Skip the plots, which take most of the time, in tests of something else."""
    monkeypatch.setattr(evaluate, "draw_plots", lambda *_: {})


@pytest.fixture(scope="module")
def other(trained, tmp_path_factory):
    """A second detector: the first one with half the weights in its last layer and another bias."""
    model, metadata = model_file.load(trained[0])
    path = tmp_path_factory.mktemp("other") / "other.h5"
    layer = model.layers[-1]
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel * 0.5, bias + np.array([0.5, 0.0])])
    model_file.save(model, path, metadata)
    return path


@pytest.fixture(scope="module")
def report(trained, other, small_data, tmp_path_factory):
    """A report with everything in it, on a copy of the data with three test images in train and a renamed train image in test."""
    data = tmp_path_factory.mktemp("evaluated") / "data"
    shutil.copytree(small_data, data, ignore=shutil.ignore_patterns(".decoded"))
    for i in range(3):
        shutil.copy(data / f"test/Real/{i}.png", data / f"train/Real/again_{i}.png")
    shutil.copy(data / "train/Fake/5.png", data / "test/Fake/renamed.png")
    folder = data.parent / "report"
    arguments = ["--data", data, "--split", "test", "validation", "--report", folder, "--damage", "--tiers"]
    arguments += ["--group-by", r"(\d)\.png", "--min-group", 2]
    evaluate.main(list(map(str, [trained[0], *arguments, "--versus", other])))
    return folder


def read(report):
    with (report / "predictions.csv").open(encoding="utf-8") as file:
        return json.loads((report / "metrics.json").read_text("utf-8")), list(csv.DictReader(file))


def scores_of(rows, split="test"):
    rows = [row for row in rows if row["path"].startswith(f"{split}/")]
    return np.array([row["label"] == "Fake" for row in rows]), np.array([float(row["p_fake"]) for row in rows]), rows


def test_metrics_are_those_of_the_predictions(report):
    metrics, rows = read(report)
    is_fake, p_fake, rows = scores_of(rows)
    raw = scores.p_fake_of(np.log(p_fake / (1 - p_fake)) * metrics["temperature"], 1.0)
    assert metrics["temperature"] != 1
    assert metrics["raw"]["log_loss"] == pytest.approx(sk.log_loss(is_fake, raw))
    assert metrics["n"] == len(rows) == 65
    assert metrics["accuracy"] == pytest.approx(((p_fake >= 0.5) == is_fake).mean())
    assert metrics["auc"] == pytest.approx(sk.roc_auc_score(is_fake, p_fake))
    assert metrics["auc"] > 0.9  # the set is made to be learned: the score points the right way
    assert metrics["splits"]["test"]["confusion"] == metrics["confusion"]
    assert metrics["splits"]["validation"]["n"] == 64
    assert set(metrics) >= {
        "n", "accuracy", "balanced_accuracy", "auc", "average_precision", "tpr_at_1pct_fpr", "ece", "confusion", "per_class",
    }  # fmt: skip
    low, high = metrics["intervals"]["auc"]
    assert low < metrics["auc"] <= high


def test_model_and_engine_are_recorded(report, trained):
    metrics, _ = read(report)
    metadata = model_file.read_metadata(trained[0])
    assert (metrics["tool"], metrics["engine"], metrics["device"]) == ("evaluate.py", "litert", "litert on cpu")
    assert (metrics["split"], list(metrics["splits"])) == ("test", ["test", "validation"])
    assert metrics["data"] == str(report.parent / "data")
    assert {"numpy", "scikit-learn", "ai-edge-litert", "opencv-python-headless"} <= set(metrics["versions"])
    assert (metrics["thresholds"], metrics["temperature"]) == (metadata["thresholds"], metadata["temperature"])
    assert metrics["model_sha256"] == hashlib.sha256(trained[0].read_bytes()).hexdigest()


def test_all_keys_are_documented(report):
    documented = (intervals.compare, functions_of_metrics.classification_metrics, functions_of_metrics.group_metrics)
    text = " ".join(some.__doc__ for some in documented) + (ROOT / "docs" / "evaluation.md").read_text("utf-8")

    def names(some):
        for name, value in some.items():
            yield name
            of_a_name = name in ("splits", "damage", "tiers", "per_class", "pooled", "verdict_counts")  # {name: what follows}
            if name == "unreadable_reasons":
                continue
            for one in value.values() if of_a_name and value else [value[0] if isinstance(value, list) and value else value]:
                yield from names(one) if isinstance(one, dict) and name not in ("thresholds", "versions", "difference") else ()

    assert {name for name in names(read(report)[0]) if not re.search(rf"\b{name}\b", text)} == set()


def test_leaks_are_counted_and_left_out_of_a_second_set_of_metrics(report):
    metrics, rows = read(report)
    assert metrics["splits"]["validation"]["without_leaks"] is None
    assert metrics["splits"]["validation"]["leaks"] == {"in_train": 0, "in_train_of_model": 0, "either": 0}
    assert metrics["splits"]["test"]["leaks"] == {"in_train": 4, "in_train_of_model": 1, "either": 4}
    leaked = {"test/Fake/renamed.png", *(f"test/Real/{i}.png" for i in range(3))}
    is_fake, p_fake, rows = scores_of(rows)
    clean = np.array([row["path"] not in leaked for row in rows])
    without = metrics["splits"]["test"]["without_leaks"]
    assert without["n"] == 61
    assert without["accuracy"] == pytest.approx(((p_fake >= 0.5) == is_fake)[clean].mean())
    assert without["auc"] == pytest.approx(sk.roc_auc_score(is_fake[clean], p_fake[clean]))
    assert without["intervals"]["auc"] != metrics["intervals"]["auc"]


def test_groups_are_sorted_by_accuracy_and_averaged(report):
    metrics, rows = read(report)
    groups, summary = (metrics["splits"]["test"][name] for name in ("groups", "group_summary"))
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
    assert summary["min_images"] == 2 and summary["pooled"]["Fake"] == {"groups": 1, "images": 1}
    assert summary["auc"]["mean"] == pytest.approx(np.mean([group["auc"] for group in groups if group["group"] != "(none)"]))
    alone = next(group for group in groups if group["group"] == "(none)")
    assert (alone["n"], alone["auc"]) == (1, None)  # a single Fake: its metrics of both classes are against all Real images
    which = ~is_fake | np.array([name == "(none)" for name in names])
    assert alone["against_all"]["auc"] == pytest.approx(sk.roc_auc_score(is_fake[which], p_fake[which]))
    assert alone["against_all"]["average_precision"] == pytest.approx(sk.average_precision_score(is_fake[which], p_fake[which]))
    assert set(alone["against_all"]) - {"intervals"} == set(alone["against_all"]["intervals"])


def p_fake_by_hand(model, report, rows, change=lambda image: image):
    """P(Fake) by a detector of the images in rows of predictions.csv, each changed by a function first."""
    detector = export.open_detector(model)
    images = [pixels.resize(change(pixels.read_image(report.parent / "data" / row["path"])), 32) for row in rows]
    return scores.p_fake_of(detector.logits(np.stack(images)), detector.metadata["temperature"])


def test_metrics_of_tiers_and_corruptions_are_those_of_the_changed_images(report, trained):
    metrics, rows = read(report)
    is_fake, p_fake, rows = scores_of(rows)
    of_split = metrics["splits"]["test"]
    functions = {**dataset.tier_functions(), **dataset.corruption_functions()}
    assert list(of_split["tiers"]) == ["as delivered", "web", "hard"]
    assert list(of_split["damage"]) == ["undamaged", *dataset.corruption_functions()]
    found = {**of_split["tiers"], **of_split["damage"]}
    for original in (found["as delivered"], found["undamaged"]):
        assert original == original | {name: metrics[name] for name in ("auc", "accuracy", "raw", "per_class", "intervals")}
        assert original["flip_rate"] == 0 and original["group_summary"] == of_split["group_summary"]
    assert found["hard"]["group_summary"]["auc"]["groups"] == 10
    for name in ("hard", "blur 2", "noise 0.05"):
        changed = p_fake_by_hand(trained[0], report, rows, functions[name])
        assert found[name]["brier"] == pytest.approx(sk.brier_score_loss(is_fake, changed), abs=1e-5)
        assert found[name]["confusion"][0][0] == (is_fake & (changed >= 0.5)).sum()
        assert found[name]["flip_rate"] == pytest.approx(np.mean((changed >= 0.5) != (p_fake >= 0.5)))


def test_against_another_model(report, other):
    metrics, rows = read(report)
    versus = metrics["splits"]["test"]["versus"]
    is_fake, p_fake, rows = scores_of(rows)
    p_other = p_fake_by_hand(other, report, rows)
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


def test_plots_are_drawn_for_each_split(report):
    names = {path.name for path in report.glob("*.png")}
    kinds = (*plots.NAMES, "corruptions", "mistakes_real_called_fake", "mistakes_fake_called_real")
    assert names <= {f"{kind}_{split}.png" for kind in kinds for split in ("test", "validation")}
    assert names >= {f"{kind}_{split}.png" for kind in (*plots.NAMES, "corruptions") for split in ("test", "validation")}
    assert {path.name for path in report.iterdir()} - names == REPORT | {"changed.csv"}


def test_the_page_is_complete_and_self_contained(report):
    page = (report / "report.html").read_text("utf-8")
    metrics, _ = read(report)
    body = page.split("<body>")[1]
    assert body.index(metrics["headline"][0]) < body.index("<h1>")
    assert metrics["headline"][0].startswith("On 33 Fake and 32 Real test images, detector.h5 has an accuracy of ")
    assert page.count("data:image/png;base64,") == len(list(report.glob("*.png")))
    assert not re.search(r"""(src|href)=(?!"data:)|url\(|<script|@import""", page)
    expected = (
        "4 images also in the train folder",
        "without train images",
        "Corrupted images, validation",
        "Groups, test",
        "McNemar",
    )
    assert [line for line in expected if line not in page] == []


def test_a_folder_tree_without_splits_and_of_another_size(trained, tmp_path, run, make_tree, no_plots):
    data = make_tree(tmp_path / "photos", {"real_images": 3, "AI": 4}, size=(60, 40))
    code, out, _ = run(evaluate.main, trained[0], "--data", data, "--report", tmp_path / "r")
    metrics, rows = read(tmp_path / "r")
    assert (code, metrics["split"], metrics["n"], metrics["splits"]["all"]["out_of_range"]) == (0, "all", 7, 7)
    assert metrics["splits"]["all"]["unlike_seen"] == 7
    assert {row["path"].split("/")[0]: row["label"] for row in rows} == {"AI": "Fake", "real_images": "Real"}
    assert "warning: all: 7 images outside the training range of sizes and shapes; app.py answers uncertain for these\n" in out
    assert metrics["splits"]["all"]["leaks"] == {"in_train": None, "in_train_of_model": 0, "either": 0}


def test_the_keras_engine_gives_the_same_scores(report, trained, tmp_path, run, no_plots):
    command = (evaluate.main, trained[0], "--data", report.parent / "data", "--report", tmp_path / "r", "--engine", "keras")
    assert run(*command)[0] == 0
    metrics, rows = read(tmp_path / "r")
    assert metrics["engine"] == "keras" and re.fullmatch(r"(tensorflow|jax) on \w+", metrics["device"])
    assert scores_of(rows)[1] == pytest.approx(scores_of(read(report)[1])[1], abs=1e-4)


def test_a_report_is_not_overwritten(report, trained, small_data, run, tmp_path, no_plots):
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "metrics.json.part").touch()  # as if killed at the very end
    before = (folder / "metrics.json").read_bytes()
    arguments = (evaluate.main, trained[0], "--data", small_data, "--report", folder)
    assert run(*arguments) == (1, "", f"error: {folder}: found a metrics.json already; give another --report, or --overwrite\n")
    assert (folder / "metrics.json").read_bytes() == before
    code, out, _ = run(*arguments, "--overwrite")
    assert code == 0 and out.endswith(f"report: {folder}/report.html, {folder}/metrics.json\n".replace("/", os.sep))
    left = {path.name for path in folder.iterdir()}
    assert not any(name.startswith("corruptions") or name.endswith("_validation.png") or name == "changed.csv" for name in left)
    assert (folder / "notes.txt").read_text() == "mine" and left >= REPORT


def test_an_interrupted_report_is_replaced(report, trained, small_data, tmp_path, run, monkeypatch, no_plots):
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    with monkeypatch.context() as patch:
        patch.setattr("detector.reports.evaluation_page.render_page", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(evaluate.main, trained[0], "--data", small_data, "--report", folder, "--overwrite")[0] == 1
    assert not (folder / "metrics.json").exists() and not (folder / "report.html").exists()
    assert run(evaluate.main, trained[0], "--data", small_data, "--report", folder)[0] == 0
    assert (folder / "metrics.json").exists() and not list(folder.glob("*.part"))


def test_folders_that_cannot_hold_a_report_are_refused_before_scoring(trained, small_data, tmp_path, run, monkeypatch):
    mine, file, inside = tmp_path / "mine", tmp_path / "file", small_data / "test" / "report"
    mine.mkdir()
    (mine / "predictions.csv").write_text("mine")
    file.write_text("")
    for folder in (mine, file, inside):
        code, out, err = run(evaluate.main, trained[0], "--data", small_data, "--report", folder)
        assert (code, out) == (1, "") and err.startswith(f"error: {folder}: ") and "--report" in err and err.count("\n") == 1
    assert (mine / "predictions.csv").read_text() == "mine" and not inside.exists()
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK and path == tmp_path))
    code, out, err = run(evaluate.main, "d.h5", "--data", tmp_path / "data", "--report", tmp_path / "new" / "report")
    assert (code, out) == (1, "") and err.startswith(f"error: {tmp_path}: expected a folder that can be written to")
    assert not (tmp_path / "new").exists()


def test_unreadable_images_are_counted_listed_and_not_scored(trained, small_data, tmp_path, run, no_plots):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    broken = [data / "test" / name for name in ("Fake/1.png", "Real/0.png", "Real/1.png")]
    for path in broken[:2]:
        path.write_bytes(path.read_bytes()[:100])
    broken[2].write_text("no image")
    code, out, err = run(evaluate.main, trained[0], "--data", data, "--report", tmp_path / "report")
    assert (code, err) == (0, "")
    metrics, rows = read(tmp_path / "report")
    of_split = metrics["splits"]["test"]
    assert (metrics["n"], of_split["unreadable"], len(rows)) == (61, 3, 61)
    assert [line.split(": ")[0] for line in of_split["unreadable_files"]] == list(map(str, broken))
    assert sorted(of_split["unreadable_reasons"].values()) == [1, 2]
    truncated = max(of_split["unreadable_reasons"], key=of_split["unreadable_reasons"].get)
    assert f"not scored (test), {truncated}: 2 images (test/Fake/1.png, test/Real/0.png)\n" in out
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "<h2>Not scored, test: 3 images</h2>" in page and all(str(path) in page for path in broken)


def test_bad_input_is_one_line(trained, small_data, tmp_path, run):
    def refused(model, data, path, *more):
        code, _, err = run(evaluate.main, model, "--data", data, "--report", tmp_path / "r", *more)
        assert code == 1 and err.startswith(f"error: {path}: expected ") and err.count("\n") == 1

    refused(tmp_path / "no.h5", small_data, tmp_path / "no.h5")
    refused(tmp_path / "no.h5", small_data, tmp_path / "no.h5", "--engine", "keras")
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    shutil.rmtree(data / "test" / "Real")
    refused(trained[0], data, data / "test")
    (data / "test" / "Real").mkdir()
    (data / "test" / "Real" / "0.jpg").write_text("no image")
    refused(trained[0], data, data / "test/Real/0.jpg")
    (data / "Other").mkdir()
    refused(trained[0], data, data)
    assert not (tmp_path / "r").exists()


def test_keras_is_not_imported_for_the_default_engine(trained, small_data, tmp_path):
    blocked = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None"
    program = f"{blocked}; import evaluate; evaluate.main(sys.argv[1:])"
    command = [sys.executable, "-c", program, str(trained[0]), "--data", str(small_data), "--report", str(tmp_path / "r")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_worst_mistakes_come_first_and_are_of_one_kind():
    is_fake = np.array([True, True, True, False, False, False])
    p_fake = np.array([0.4, 0.1, 0.9, 0.5, 0.7, 0.2])
    paths = ["x/0.png", "x/abcdefghijklmnopqrstuvwxyz.jpeg", *(f"x/{i}.png" for i in range(2, 6))]
    items = [dataset.Item(path, bool(fake), None) for path, fake in zip(paths, is_fake, strict=True)]
    scored = evaluate.Scored(items, is_fake, p_fake, None, 0, [])
    cut = "abcdefghi…vwxyz.jpeg"  # a long name without its middle
    assert evaluate.worst_mistakes(scored, of_fake=True) == [(paths[1], f"0.1000\n{cut}"), (paths[0], "0.4000\n0.png")]
    assert evaluate.worst_mistakes(scored, of_fake=False) == [("x/4.png", "0.7000\n4.png"), ("x/3.png", "0.5000\n3.png")]


def test_train_is_not_compared_with_itself(trained, small_data, tmp_path, run, no_plots):
    code, out, _ = run(evaluate.main, trained[0], "--data", small_data, "--split", "train", "--report", tmp_path / "r")
    of_split = read(tmp_path / "r")[0]["splits"]["train"]
    assert (code, of_split["leaks"], of_split["without_leaks"]) == (0, None, None)
    assert "train folder" not in out
