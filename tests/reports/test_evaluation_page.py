"""The tables and sentences of an evaluation's report, and its page."""

import numpy as np
import pytest

from detector.evaluation.intervals import metrics_with_intervals
from detector.evaluation.metrics import group_metrics
from detector.reports import evaluation_page as page

LIMITS = {"fake": 0.8, "real": 0.2}
ABSENT = dict.fromkeys(("leaks", "without_leaks", "groups", "group_summary", "tiers", "damage", "versus"))


@pytest.fixture(scope="module")
def metrics():
    """Metrics of two groups, one of them of Fake images only, in three tiers."""
    groups, is_fake = np.repeat(["a", "<b>"], [60, 30]), np.arange(90) >= 30
    p_fake = np.where(is_fake, 0.7, 0.1) + np.arange(90) / 400
    found = metrics_with_intervals(is_fake, p_fake, LIMITS, p_fake)
    parts = [(name, is_fake[groups == name], p_fake[groups == name]) for name in ("a", "<b>")]
    rows = [{"group": name, **metrics_with_intervals(truth, p, LIMITS, p), "against_all": None} for name, truth, p in parts]
    rows[1]["against_all"] = {"auc": 0.9876, "intervals": {"auc": [0.9, 1.0]}}
    summary = group_metrics(groups, is_fake, p_fake, LIMITS, min_images=30)
    tiers = {name: {**found, "flip_rate": 0.125, "group_summary": summary} for name in ("as delivered", "web")}
    return ABSENT | found | {
        "groups": rows, "group_summary": summary, "tiers": tiers, "out_of_range": 3, "unlike_seen": 3, "unreadable": 1,
        "unreadable_files": ["x/<c>.jpg: expected a whole image, found a damaged one"],
    }  # fmt: skip


def report_of(**splits):
    return {
        "splits": splits, "headline": [f"headline of {split}" for split in splits], "model": "m/d.h5", "model_sha256": "0",
        "data": "d", "device": "litert on cpu", "temperature": 1.0, "thresholds": LIMITS, "versions": {"numpy": "2"},
    }  # fmt: skip


def test_groups_of_one_class_have_starred_metrics_and_counts(metrics):
    groups, summary, tiers, by_tier = page.tables("test", metrics)
    row = dict(zip(groups["header"], groups["rows"][1], strict=True))
    assert (row["groups of test"], row["AUC"], row["false positives"]) == ("<b>", "0.9876*", "none")
    assert row["fakes caught"].endswith("(30/30)") and groups["note"] == page.AGAINST_ALL
    assert [row[0] for row in summary["rows"]] == [page.SUMMARY[name] for name in page.SUMMARY if metrics["group_summary"][name]]
    auc = dict(zip(summary["header"], summary["rows"][0], strict=True))
    assert (auc["groups"], auc["worst group"]) == ("1", "a")
    assert tiers["header"][-1] == "flips" and tiers["rows"][0][-1] == "0.1250"
    assert [row[0] for row in by_tier["rows"]] == ["as delivered", "web"]


def test_warnings(metrics):
    leaky = metrics | {"leaks": {"in_train": 2, "in_train_of_model": None, "either": 2}}
    leaky |= {"versus": {"model": "other.h5", "in_train_of_other": 1}}
    lines = page.notes(report_of(test=leaky, validation=metrics))
    warnings = [line for kind, line in lines if kind == "warning"]
    assert "test: 2 images also in the train folder, byte for byte" in warnings
    assert "test: 1 image among the train images of other.h5: its metrics are too optimistic" in warnings
    assert any("no digests of its train images" in line for line in warnings)
    assert any(line.startswith("test: 3 images outside the training range") for line in warnings)
    assert any(line.startswith("validation: if the model was calibrated on these") for line in warnings)
    clean = page.notes(report_of(test=metrics | {"leaks": {"in_train": 0, "in_train_of_model": 0, "either": 0}}))
    assert [kind for kind, _ in clean].count("clean") == 2


def test_the_headline_states_the_metrics_without_leaks(metrics):
    leaky = metrics | {"without_leaks": metrics, "leaks": {"either": 4}}
    line = page.headline("d.h5", "test", leaky)
    assert line.startswith("On 60 Fake and 30 Real test images, d.h5 has an accuracy of 100.00 % (")
    assert "Without the 4 images that are also train images: accuracy 100.00 %" in line
    assert "Without" not in page.headline("d.h5", "all", metrics)


def test_the_page_is_complete_and_escaped(metrics, tmp_path):
    (tmp_path / "roc_test.png").write_bytes(b"1")
    text = page.render_page(report_of(test=metrics), tmp_path, {"test": {"roc_test.png": "roc, <test>"}})
    assert "headline of test" in text and 'src="data:image/png;base64,MQ=="' in text
    assert "<b>" not in text.replace("<b class=", "") and "&lt;b&gt;" in text and "&lt;c&gt;" in text and "&lt;test&gt;" in text
    for title in ("Groups, test", "Macro average over groups, test", "Delivery tiers, test", "Not scored, test: 1 image"):
        assert f"<h2>{title}</h2>" in text
