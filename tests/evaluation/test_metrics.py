import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from detector.evaluation import metrics
from detector.evaluation.metrics import classification_metrics, group_metrics

LIMITS = {"fake": 0.8, "real": 0.2}


def test_ten_cases_by_hand():
    is_fake = [True, True, True, True, True, False, False, False, False, False]
    p_fake = [0.95, 0.85, 0.7, 0.5, 0.1, 0.9, 0.4, 0.3, 0.2, 0.05]
    found = classification_metrics(is_fake, p_fake, LIMITS)
    assert found["n"] == 10
    assert found["confusion"] == [[4, 1], [1, 4]]
    assert found["accuracy"] == found["balanced_accuracy"] == 0.8
    assert found["per_class"]["Fake"] == {"precision": 0.8, "recall": 0.8, "f1": pytest.approx(0.8)}
    # 25 pairs of a Fake and a Real; the Fake scores lower in 0.85, 0.7, 0.5 against 0.9 and in 0.1 against 0.9, 0.4, 0.3, 0.2.
    assert found["auc"] == pytest.approx(18 / 25)
    assert found["tpr_at_1pct_fpr"] == 0.2
    # Certain: 0.95, 0.85, 0.9 (Fake) and 0.1, 0.2, 0.05 (Real); 0.9 and 0.1 are wrong.
    assert found["verdict_counts"] == {
        "Fake": {"Fake": 2, "uncertain": 2, "Real": 1}, "Real": {"Fake": 1, "uncertain": 2, "Real": 2},
    }  # fmt: skip
    assert found["abstention_rate"] == found["uncertain_share"] == pytest.approx(0.4)
    assert found["selective_accuracy"] == found["accuracy_when_certain"] == pytest.approx(4 / 6)
    assert found["fakes_caught"] == 0.4
    assert found["real_called_fake"] == 0.2
    assert found["fake_called_real"] == 0.2


@pytest.mark.parametrize("seed, decimals", [(0, 1), (1, 2), (2, 9)])
def test_metrics_are_those_of_scikit_learn(seed, decimals):
    rng = np.random.default_rng(seed)
    is_fake = rng.random(300) < 0.3
    p_fake = np.round(np.clip(rng.normal(0.3 + 0.4 * is_fake, 0.25), 0, 1), decimals)  # with one decimal, many ties
    found, said = classification_metrics(is_fake, p_fake, LIMITS), p_fake >= 0.5
    false_positive, true_positive, _ = sk.roc_curve(is_fake, p_fake, drop_intermediate=False)
    mean, fraction, count = metrics.reliability(is_fake, p_fake)
    assert found == found | {
        "accuracy": pytest.approx(sk.accuracy_score(is_fake, said)),
        "balanced_accuracy": pytest.approx(sk.balanced_accuracy_score(is_fake, said)),
        "auc": pytest.approx(sk.roc_auc_score(is_fake, p_fake)),
        "average_precision": pytest.approx(sk.average_precision_score(is_fake, p_fake)),
        "tpr_at_1pct_fpr": pytest.approx(true_positive[false_positive <= 0.01].max()),
        "tpr_at_5pct_fpr": pytest.approx(true_positive[false_positive <= 0.05].max()),
        "brier": pytest.approx(sk.brier_score_loss(is_fake, p_fake)),
        "log_loss": pytest.approx(sk.log_loss(is_fake, p_fake)),
        "ece": pytest.approx(np.average(np.abs(mean - fraction), weights=count)),
        "confusion": sk.confusion_matrix(~is_fake, ~said).tolist(),
    }
    for name, truth, positive in (("Fake", is_fake, said), ("Real", ~is_fake, ~said)):
        expected = sk.precision_recall_fscore_support(truth, positive, average="binary")[:3]
        assert [*found["per_class"][name].values()] == pytest.approx(expected)


def test_calibration_by_hand_and_before_calibration():
    is_fake, p_fake = [True, False, True, False], [0.8, 0.4, 0.6, 0.2]
    found = classification_metrics(is_fake, p_fake, LIMITS, p_raw=[1.0, 0.5, 0.5, 0.0])
    assert found["brier"] == pytest.approx((0.04 + 0.16 + 0.16 + 0.04) / 4)
    assert found["log_loss"] == pytest.approx(-(2 * np.log(0.8) + 2 * np.log(0.6)) / 4)
    assert found["ece"] == pytest.approx((0.2 + 0.4 + 0.4 + 0.2) / 4)  # each image has a bin of its own
    assert found["raw"]["brier"] == pytest.approx((0 + 0.25 + 0.25 + 0) / 4)
    assert found["raw"]["log_loss"] == pytest.approx(np.log(2) / 2)
    assert found["raw"]["ece"] == 0.0  # the scores of 0.5 share a bin, and half of them are Fake
    assert "raw" not in classification_metrics(is_fake, p_fake, LIMITS)


def test_metrics_of_a_single_class():
    found = classification_metrics([False, False, False], [0.9, 0.4, 0.1], LIMITS)
    assert (found["n"], found["confusion"]) == (3, [[0, 0], [1, 2]])
    assert found["accuracy"] == found["per_class"]["Real"]["recall"] == pytest.approx(2 / 3)
    for name in ("balanced_accuracy", "auc", "average_precision", "tpr_at_1pct_fpr", "tpr_at_5pct_fpr", "fakes_caught"):
        assert found[name] is None, name
    assert found["per_class"]["Fake"] == {"precision": None, "recall": None, "f1": None}
    assert found["per_class"]["Real"]["precision"] is found["per_class"]["Real"]["f1"] is None
    assert found["real_called_fake"] == found["abstention_rate"] == pytest.approx(1 / 3)
    assert found["selective_accuracy"] == 0.5
    assert found["brier"] == pytest.approx((0.81 + 0.16 + 0.01) / 3)
    assert found["log_loss"] == pytest.approx(-(np.log(0.1) + np.log(0.6) + np.log(0.9)) / 3)


def test_no_images():
    found = classification_metrics([], [], LIMITS, [])
    assert found.pop("n") == 0 and found.pop("confusion") == [[0, 0], [0, 0]]
    assert found.pop("verdict_counts")["Real"] == {"Fake": 0, "uncertain": 0, "Real": 0}
    numbers = [*found.pop("per_class").values(), found.pop("raw"), found]
    assert {value for some in numbers for value in some.values()} == {None}


def test_a_class_that_is_never_predicted():
    found = classification_metrics([True, True, False], [0.1, 0.2, 0.3], LIMITS)
    assert found["per_class"]["Fake"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert found["per_class"]["Real"] == {"precision": pytest.approx(1 / 3), "recall": 1.0, "f1": 0.5}
    assert found["auc"] == 0.0


def test_all_uncertain():
    found = classification_metrics([True, False], [0.6, 0.4], LIMITS)
    assert (found["abstention_rate"], found["selective_accuracy"], found["real_called_fake"]) == (1.0, None, 0.0)


def test_bins_have_as_many_images_each_and_the_highest_scores_are_last():
    mean, fraction, count = metrics.reliability(np.arange(45) % 3 == 0, np.arange(45) / 45)
    assert count.tolist() == [3] * 15 and fraction == pytest.approx([1 / 3] * 15)
    assert mean == pytest.approx(np.arange(1, 45, 3) / 45)


def test_no_threshold_splits_a_tie():
    is_fake = [True, True, False, False]
    assert classification_metrics(is_fake, [0.9, 0.5, 0.5, 0.1], LIMITS)["tpr_at_1pct_fpr"] == 0.5
    found = classification_metrics(is_fake, [0.5] * 4, LIMITS)
    assert (found["tpr_at_1pct_fpr"], found["auc"], found["average_precision"], found["ece"]) == (0.0, 0.5, 0.5, 0.0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]) | st.floats(0, 1)), min_size=1, max_size=60))
def test_calibration_error_never_exceeds_the_root_of_the_brier_score(cases):
    found = classification_metrics([fake for fake, _ in cases], [p for _, p in cases], LIMITS)
    assert found["ece"] <= np.sqrt(found["brier"]) + 1e-12


# --- groups --------------------------------------------------------------------------------------------------------------
def test_macro_averages_over_groups_by_hand():
    rows = [  # group, is_fake, p_fake, number of images
        ("a", True, 0.9, 3), ("a", False, 0.1, 3),  # perfect
        ("b", True, 0.9, 3), ("b", False, 0.85, 1), ("b", False, 0.6, 3),  # one false positive of four, three uncertain
        ("generator", True, 0.1, 4),  # one class: all missed
        ("few", True, 0.9, 2), ("few", False, 0.9, 1), ("fewer", False, 0.1, 1),  # below the minimum: pooled
    ]  # fmt: skip
    groups = np.concatenate([[name] * number for name, _, _, number in rows])
    is_fake, p_fake = (np.concatenate([[row[i]] * row[3] for row in rows]) for i in (1, 2))
    found = group_metrics(groups, is_fake, p_fake, LIMITS, min_images=3)
    assert found["pooled"] == {"Fake": {"groups": 1, "images": 2}, "Real": {"groups": 2, "images": 2}}
    assert found["auc"] == {"mean": 1.0, "std": 0.0, "min": 1.0, "max": 1.0, "worst": "a", "groups": 2}
    assert found["balanced_accuracy"] == {"mean": 0.75, "std": 0.25, "min": 0.5, "max": 1.0, "worst": "b", "groups": 2}
    assert found["real_called_fake"] == {
        "mean": pytest.approx((0 + 0.25 + 0.5) / 3), "std": pytest.approx(np.std([0, 0.25, 0.5])), "min": 0.0, "max": 0.5,
        "worst": "(small groups, Real)", "groups": 3, "errors": 1, "images": 2,
    }  # fmt: skip
    caught = found["fakes_caught"]
    assert (caught["mean"], caught["worst"], caught["errors"], caught["images"]) == (0.75, "generator", 4, 4)
    assert found["abstention_rate"]["mean"] == pytest.approx((0 + 3 / 7 + 0 + 0 + 0) / 5)
    assert found["selective_accuracy"]["groups"] == 5


def test_groups_of_one_class_have_no_auc():
    found = group_metrics(["a", "a", "b"], [True, True, False], [0.9, 0.4, 0.1], LIMITS, min_images=1)
    assert found["auc"] is found["balanced_accuracy"] is None
    assert (found["fakes_caught"]["mean"], found["real_called_fake"]["mean"]) == (0.5, 0.0)
    assert group_metrics([], [], [], LIMITS)["accuracy"] is None
