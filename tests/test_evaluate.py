import csv
import json
import shutil

import numpy as np
import pytest
from sklearn import metrics as sk

import evaluate
from detector import model_file


@pytest.fixture(scope="module")
def report(trained, small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "report"
    evaluate.main([str(trained[0]), "--data", str(small_data), "--split", "test", "validation", "--report", str(folder)])
    return folder


def read(report):
    with (report / "predictions.csv").open(encoding="utf-8") as file:
        return json.loads((report / "metrics.json").read_text("utf-8")), list(csv.DictReader(file))


def test_the_figures_are_those_of_the_predictions(report):
    figures, rows = read(report)
    rows = [row for row in rows if row["path"].startswith("test/")]
    is_fake = np.array([row["label"] == "Fake" for row in rows])
    p_fake = np.array([float(row["p_fake"]) for row in rows])
    assert figures["n"] == len(rows) == 64
    assert figures["accuracy"] == pytest.approx(((p_fake >= 0.5) == is_fake).mean())
    assert figures["auc"] == pytest.approx(sk.roc_auc_score(is_fake, p_fake))
    assert figures["auc"] > 0.9  # the set is made to be learned: the score points the right way
    assert figures["splits"]["test"]["confusion"] == figures["confusion"]
    assert figures["splits"]["validation"]["n"] == 64
    assert set(figures) >= {
        "n", "accuracy", "balanced_accuracy", "auc", "average_precision", "tpr_at_1pct_fpr", "ece", "confusion", "per_class",
    }  # fmt: skip


def test_verdicts_follow_the_thresholds_of_the_model(report, trained):
    _, rows = read(report)
    limits = model_file.read_facts(trained[0])["thresholds"]
    for row in rows:
        p = float(row["p_fake"])
        assert row["verdict"] == ("Fake" if p >= limits["fake"] else "Real" if p <= limits["real"] else "uncertain")


def test_the_scores_are_the_apps(report, trained, small_data, run):
    import app

    _, rows = read(report)
    code, out, _ = run(app.main, small_data / "test", "--model", trained[0], "--json")
    judged = {row["path"]: row for row in json.loads(out)}
    assert code == 0
    assert len(judged) == 64
    for row in rows:
        if row["path"].startswith("test/"):
            same = judged[str(small_data / row["path"])]
            assert same["p_fake"] == pytest.approx(float(row["p_fake"]), abs=1e-6)
            assert same["verdict"] == row["verdict"]


def test_pictures_are_drawn_for_each_split(report):
    names = {path.name for path in report.glob("*.png")}
    kinds = ("confusion", "roc", "precision_recall", "reliability", "scores")
    assert names == {f"{kind}_{split}.png" for kind in kinds for split in ("test", "validation")}


def test_a_report_is_not_overwritten(report, trained, small_data, run):
    before = (report / "metrics.json").read_bytes()
    arguments = (evaluate.main, trained[0], "--data", small_data, "--report", report)
    assert run(*arguments) == (1, "", f"error: {report}: a report is there already; give another --report, or --overwrite\n")
    assert (report / "metrics.json").read_bytes() == before
    code, out, _ = run(*arguments, "--overwrite")
    assert code == 0 and out.endswith(f"report written to {report}\n")


def test_unreadable_images_are_counted_and_not_scored(trained, small_data, tmp_path, run):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    broken = data / "test" / "Real" / "0.png"
    broken.write_bytes(broken.read_bytes()[:100])
    code, out, err = run(evaluate.main, trained[0], "--data", data, "--report", tmp_path / "report")
    assert (code, err) == (0, "")
    assert f"not scored: {broken}: expected a whole image" in out
    assert "1 image of test could not be read and were not scored" in out
    figures = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert (figures["n"], figures["splits"]["test"]["unreadable"]) == (63, 1)


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
        1, "", f"error: {data / 'test/Real'}: expected images of class Real, found no such folder; run data_split.py first\n"
    )  # fmt: skip
    (data / "test" / "Real").mkdir()
    (data / "test" / "Real" / "0.jpg").write_text("no image")
    code, _, err = run(evaluate.main, trained[0], "--data", data, *report)
    assert (code, err) == (1, f"error: {data / 'test/Real'}: expected images that can be read, found none; run data_audit.py\n")
    (data / "Other").mkdir()
    code, _, err = run(evaluate.main, trained[0], "--data", data, *report)
    assert code == 1 and err.startswith(f"error: {data}: expected the folders train, validation, test, found also Other;")
    assert not (tmp_path / "r").exists()
