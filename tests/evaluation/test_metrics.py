import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from detector.evaluation import metrics

LIMITS = {"fake": 0.8, "real": 0.2}


def test_ten_cases_by_hand():
    is_fake = [True, True, True, True, True, False, False, False, False, False]
    p_fake = [0.95, 0.85, 0.7, 0.5, 0.1, 0.9, 0.4, 0.3, 0.2, 0.05]
    found = metrics.figures(is_fake, p_fake, LIMITS)
    assert found["n"] == 10
    assert found["confusion"] == [[4, 1], [1, 4]]
    assert found["accuracy"] == found["balanced_accuracy"] == 0.8
    assert found["per_class"]["Fake"] == {"precision": 0.8, "recall": 0.8, "f1": pytest.approx(0.8)}
    # 25 pairs of a Fake and a Real; the Fake scores lower in 0.85, 0.7, 0.5 against 0.9 and in 0.1 against 0.9, 0.4, 0.3, 0.2.
    assert found["auc"] == pytest.approx(18 / 25)
    assert found["tpr_at_1pct_fpr"] == 0.2
    # Certain: 0.95, 0.85, 0.9 (Fake) and 0.1, 0.2, 0.05 (Real); 0.9 and 0.1 are wrong.
    assert found["uncertain_share"] == pytest.approx(0.4)
    assert found["accuracy_when_certain"] == pytest.approx(4 / 6)
    assert found["real_called_fake"] == 0.2
    assert found["fake_called_real"] == 0.2


def test_figures_follow_the_class_and_not_the_order():
    rng = np.random.default_rng(0)
    is_fake = rng.random(300) < 0.3
    p_fake = np.round(np.clip(rng.normal(0.3 + 0.4 * is_fake, 0.25), 0, 1), 1)  # many ties
    found = metrics.figures(is_fake, p_fake, LIMITS)
    said = p_fake >= 0.5
    assert found["auc"] == pytest.approx(sk.roc_auc_score(is_fake, p_fake))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(is_fake, p_fake))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(is_fake, p_fake))
    assert found["per_class"]["Real"]["recall"] == pytest.approx((~said[~is_fake]).mean())
    assert found["per_class"]["Real"]["precision"] == pytest.approx((~is_fake[~said]).mean())
    assert sum(map(sum, found["confusion"])) == 300
    assert found["confusion"][1][0] == int((said & ~is_fake).sum())


def test_calibration_by_hand_and_before_calibration():
    is_fake, p_fake = [True, False, True, False], [0.8, 0.4, 0.6, 0.2]
    found = metrics.figures(is_fake, p_fake, LIMITS, p_raw=[1.0, 0.5, 0.5, 0.0])
    assert found["brier"] == pytest.approx((0.04 + 0.16 + 0.16 + 0.04) / 4)
    assert found["log_loss"] == pytest.approx(-(2 * np.log(0.8) + 2 * np.log(0.6)) / 4)
    assert found["ece"] == pytest.approx((0.2 + 0.4 + 0.4 + 0.2) / 4)  # each image has a bin of its own
    assert found["raw"]["brier"] == pytest.approx((0 + 0.25 + 0.25 + 0) / 4)
    assert found["raw"]["log_loss"] == pytest.approx(np.log(2) / 2)
    assert found["raw"]["ece"] == 0.0  # those of 0.5 share one, and half of them are Fake
    assert "raw" not in metrics.figures(is_fake, p_fake, LIMITS)


def test_one_class_has_only_the_figures_that_exist():
    found = metrics.figures([False, False, False], [0.9, 0.4, 0.1], LIMITS)
    assert (found["n"], found["confusion"]) == (3, [[0, 0], [1, 2]])
    assert found["accuracy"] == found["per_class"]["Real"]["recall"] == pytest.approx(2 / 3)
    for name in ("balanced_accuracy", "auc", "average_precision", "tpr_at_1pct_fpr", "tpr_at_5pct_fpr", "fake_called_real"):
        assert found[name] is None, name
    assert found["per_class"]["Fake"] == {"precision": None, "recall": None, "f1": None}
    assert found["per_class"]["Real"]["precision"] is found["per_class"]["Real"]["f1"] is None
    assert found["real_called_fake"] == found["uncertain_share"] == pytest.approx(1 / 3)
    assert found["accuracy_when_certain"] == 0.5
    assert found["brier"] == pytest.approx((0.81 + 0.16 + 0.01) / 3)
    assert found["log_loss"] == pytest.approx(-(np.log(0.1) + np.log(0.6) + np.log(0.9)) / 3)


def test_no_image_has_no_figures():
    found = metrics.figures([], [], LIMITS, [])
    assert found.pop("n") == 0 and found.pop("confusion") == [[0, 0], [0, 0]]
    numbers = [*found.pop("per_class").values(), found.pop("raw"), found]
    assert {value for some in numbers for value in some.values()} == {None}


def test_a_class_that_is_never_said():
    found = metrics.figures([True, True, False], [0.1, 0.2, 0.3], LIMITS)
    assert found["per_class"]["Fake"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert found["per_class"]["Real"] == {"precision": pytest.approx(1 / 3), "recall": 1.0, "f1": 0.5}
    assert found["auc"] == 0.0


def test_all_uncertain():
    found = metrics.figures([True, False], [0.6, 0.4], LIMITS)
    assert (found["uncertain_share"], found["accuracy_when_certain"], found["real_called_fake"]) == (1.0, None, 0.0)


def test_bins_have_as_many_images_each_and_the_highest_scores_are_last():
    is_fake, p_fake = np.arange(30) % 3 == 0, np.arange(30) / 30
    mean, share, count = metrics.reliability(is_fake, p_fake, bins=10)
    assert count.tolist() == [3] * 10
    assert mean == pytest.approx(np.arange(30).reshape(10, 3).mean(axis=1) / 30)
    assert share == pytest.approx([1 / 3] * 10)


def test_tpr_at_fpr_takes_no_threshold_that_splits_a_tie():
    is_fake = [True, True, False, False]
    assert metrics.tpr_at_fpr(is_fake, [0.9, 0.5, 0.5, 0.1], 0.01) == 0.5
    assert metrics.tpr_at_fpr(is_fake, [0.5, 0.5, 0.5, 0.5], 0.01) == 0.0


def test_calibration_error_of_a_calibrated_and_of_a_hopeless_model():
    rng = np.random.default_rng(1)
    p_fake = rng.random(200_000)
    assert metrics.expected_calibration_error(rng.random(200_000) < p_fake, p_fake) < 0.01
    assert metrics.expected_calibration_error([False] * 50, [1.0] * 50) == 1.0


def test_calibration_error_does_not_depend_on_the_order_of_ties():
    assert metrics.expected_calibration_error([True] * 50 + [False] * 50, [0.5] * 100) == 0.0
    assert metrics.expected_calibration_error([True, False] * 50, [0.25, 0.25] * 50) == 0.25


@pytest.mark.parametrize("seed", range(20))
def test_calibration_error_never_exceeds_the_root_of_the_brier_score(seed):
    rng = np.random.default_rng(seed)
    p_fake, is_fake = rng.random(40) ** rng.uniform(0.1, 5), rng.random(40) < rng.random()
    brier = np.mean((p_fake - is_fake) ** 2)
    assert metrics.expected_calibration_error(is_fake, p_fake) <= np.sqrt(brier) + 1e-12


@settings(deadline=None)  # the first case imports scikit-learn
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]) | st.floats(0, 1)), min_size=1, max_size=60))
def test_calibration_error_never_exceeds_the_root_of_the_brier_score_with_ties_and_one_class_either(cases):
    found = metrics.figures([fake for fake, _ in cases], [p for _, p in cases], LIMITS)
    assert found["ece"] <= np.sqrt(found["brier"]) + 1e-12
