import numpy as np
import pytest

from detector.evaluation import intervals, metrics
from detector.evaluation.metrics import classification_metrics
from detector.model.scores import p_fake_of

LIMITS = {"fake": 0.8, "real": 0.2}
ANY = {"fake": 0.7, "real": 0.3}


def drawn(seed=0, n=300, fraction=0.4, ties=True):
    rng = np.random.default_rng(seed)
    is_fake = rng.random(n) < fraction
    margins = rng.normal(np.where(is_fake, 1.2, -1.2), 1.5)
    p_fake, p_raw = p_fake_of(margins, 1.7), p_fake_of(margins, 1.0)
    return is_fake, np.round(p_fake, 2) if ties else p_fake, np.round(p_raw, 2) if ties else p_raw


def flat(nested, path=()):
    """{path: number} of nested metrics, without counts and older names."""
    found = {}
    for name, value in nested.items():
        if name in ("n", "confusion", "verdict_counts", *metrics.OLDER_NAMES):
            continue
        if isinstance(value, dict):
            found |= flat(value, (*path, name))
        else:
            found[*path, name] = value
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ties, limits", [(True, LIMITS), (False, LIMITS), (True, {"fake": 0.5, "real": 0.5})])
def test_metrics_of_a_resample_are_those_of_its_images(seed, ties, limits):
    """On the images repeated as often as they were drawn."""
    is_fake, p_fake, p_raw = drawn(seed, ties=ties)
    weights = next(intervals.resampled(is_fake, 3, seed))
    found = metrics.metrics_of_resamples(weights, is_fake, p_fake, limits, p_raw)
    for row, times in enumerate(weights.astype(int)):
        images = np.repeat(np.arange(len(is_fake)), times)
        expected = flat(classification_metrics(is_fake[images], p_fake[images], limits, p_raw[images]))
        assert {name: values[row] for name, values in found.items()} == pytest.approx(expected, abs=1e-9)


def test_resamples_keep_the_number_of_each_class_and_are_drawn_with_replacement():
    is_fake = np.arange(50) < 20
    weights = np.concatenate(list(intervals.resampled(is_fake, 2000, seed=1)))
    assert weights.shape == (2000, 50)
    assert (weights[:, :20].sum(axis=1) == 20).all() and (weights[:, 20:].sum(axis=1) == 30).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.12)
    assert weights[:, :20].var() == pytest.approx(19 / 20, rel=0.03)  # of a binomial: 20 draws of 1 in 20


def test_the_number_of_resamples_does_not_depend_on_blocks(monkeypatch):
    monkeypatch.setattr(intervals, "BLOCK", 70)
    is_fake = np.arange(10) < 5
    assert [part.shape for part in intervals.resampled(is_fake, 17)] == [(7, 10), (7, 10), (3, 10)]


def test_the_width_of_the_interval_of_an_accuracy():
    rng = np.random.default_rng(3)
    is_fake = np.arange(4000) < 2000
    right = rng.random(4000) < 0.9
    p_fake = np.where(right == is_fake, 0.9, 0.1)
    found = classification_metrics(is_fake, p_fake, ANY)["accuracy"]
    low, high = intervals_of(is_fake, p_fake, ANY)["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(found * (1 - found) / 4000), rel=0.1)
    assert (low + high) / 2 == pytest.approx(found, abs=0.002)


def test_intervals_have_the_keys_of_the_metrics_and_contain_them():
    is_fake, p_fake, p_raw = drawn()
    found = intervals.metrics_with_intervals(is_fake, p_fake, LIMITS, p_raw)
    spans = flat(found.pop("intervals"))
    values = flat(found)
    assert set(spans) == set(values)
    assert ("raw", "ece") in spans and ("per_class", "Real", "f1") in spans
    assert all(low <= values[name] <= high for name, (low, high) in spans.items())
    assert all(low < high for low, high in spans.values())
    again, others = (flat(intervals_of(is_fake, p_fake, LIMITS, p_raw, seed=seed)) for seed in (0, 1))
    assert spans == again != others


@pytest.mark.slow
def test_the_interval_of_a_calibration_error_is_not_that_of_its_resamples():
    """Of a calibrated model a resample's ECE lies above the set's: the plain percentiles would not contain the metric."""
    rng = np.random.default_rng(4)
    p_fake = rng.random(5000)
    is_fake = rng.random(5000) < p_fake
    weights = next(intervals.resampled(is_fake, 40))
    found = classification_metrics(is_fake, p_fake, ANY)["ece"]
    assert metrics.metrics_of_resamples(weights, is_fake, p_fake, ANY)["ece",].mean() > 1.2 * found
    low, high = intervals_of(is_fake, p_fake, ANY)["ece"]
    assert [low, high] == intervals_of(is_fake, is_fake * 1.0, ANY, p_raw=p_fake)["raw"]["ece"]
    assert 0 <= low < found / 2 and 1.3 * found < high < 2 * found
    wrong = p_fake_of(np.log(p_fake / (1 - p_fake)) * 3, 1.0)  # three times too certain: a true error of 0.17
    low, high = intervals_of(is_fake, wrong, ANY)["ece"]
    assert low < classification_metrics(is_fake, wrong, ANY)["ece"] < high and low > 0.1


def test_the_interval_of_a_calibrated_models_error_holds_no_error():
    """Errors that occur by chance must not count as miscalibration."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        p_fake = rng.random(300)
        held += intervals_of(rng.random(300) < p_fake, p_fake, ANY, resamples=200)["ece"][0] == 0
    assert held >= 36


def test_calibration_error_by_chance():
    rng = np.random.default_rng(5)
    p_fake = np.round(rng.random(400), 2)  # ties
    drawn = [classification_metrics(rng.random(400) < p_fake, p_fake, ANY)["ece"] for _ in range(1000)]
    assert intervals.error_by_chance(p_fake) == pytest.approx(np.quantile(drawn, 0.975), rel=0.05)
    assert intervals.error_by_chance(p_fake) == intervals.error_by_chance(p_fake)
    assert intervals.error_by_chance(np.array([0.0, 1.0, 1.0])) == 0.0


def intervals_of(*given, **options):
    return intervals.metrics_with_intervals(*given, **options)["intervals"]


def limit(trials):
    """The upper limit of the exact two-sided 95 % interval of an error rate after `trials` without an error."""
    return 1 - 0.025 ** (1 / trials)


def test_an_interval_without_errors_is_not_empty():
    is_fake = np.array([True] * 40 + [False] * 20)
    p_fake = np.where(is_fake, 0.9, 0.1)
    found = intervals_of(is_fake, p_fake, ANY)
    for name in ("balanced_accuracy", "auc", "average_precision", "tpr_at_1pct_fpr"):
        assert found[name] == pytest.approx([1 - limit(20), 1.0]), name
    assert found["accuracy"] == found["selective_accuracy"] == found["accuracy_when_certain"] == pytest.approx([1 - limit(60), 1.0])
    assert found["abstention_rate"] == pytest.approx([0, limit(60)])
    assert found["real_called_fake"] == pytest.approx([0, limit(20)])
    assert found["fake_called_real"] == pytest.approx([0, limit(40)])
    assert found["per_class"]["Real"]["recall"] == found["per_class"]["Real"]["precision"] == pytest.approx([1 - limit(20), 1.0])
    assert found["brier"] == pytest.approx([0.01, 0.01])


def test_the_limit_of_a_fraction_uses_the_number_of_its_own_images():
    """Six images have a verdict: Fake, correctly. The set has a thousand images of each class."""
    is_fake = np.arange(2000) < 1000
    p_fake = np.full(2000, 0.4)
    p_fake[:6] = 0.9
    found = intervals_of(is_fake, p_fake, ANY, resamples=300)
    assert found["per_class"]["Fake"]["precision"] == found["selective_accuracy"] == pytest.approx([1 - limit(6), 1.0])
    assert found["real_called_fake"] == pytest.approx([0, limit(1000)])


def test_one_class_and_no_image():
    p_fake = np.array([0.9, 0.6, 0.1])
    found = intervals_of(np.ones(3, bool), p_fake, ANY)
    assert found["auc"] is found["per_class"]["Real"]["recall"] is found["per_class"]["Fake"]["precision"] is None
    assert found["real_called_fake"] is found["balanced_accuracy"] is None
    assert found["accuracy"][0] < 2 / 3 < found["accuracy"][1]
    assert intervals_of([], [], ANY) == {}


def test_a_model_against_itself_and_against_a_worse_one():
    is_fake, p_fake, _ = drawn(ties=False)
    same = intervals.compare(is_fake, p_fake, LIMITS, p_fake, LIMITS)
    assert same["mcnemar"] == {"only_this_right": 0, "only_other_right": 0, "p": 1.0}
    assert set(flat(same["difference"]).values()) == {0.0}
    assert same["intervals"]["auc"] == [0, 0]
    worse = np.random.default_rng(0).permutation(p_fake)
    found = intervals.compare(is_fake, p_fake, LIMITS, worse, ANY)
    for name in ("accuracy", "auc", "selective_accuracy"):
        low, high = found["intervals"][name]
        expected = classification_metrics(is_fake, p_fake, LIMITS)[name] - classification_metrics(is_fake, worse, ANY)[name]
        assert found["difference"][name] == pytest.approx(expected)
        assert 0 < low < expected < high


def test_the_interval_contains_the_metric_of_a_hopeless_model():
    """Resampled, the average precision of a model that has every image the wrong way round is always higher: images repeat."""
    is_fake, p_fake = np.arange(22) < 11, np.arange(22) / 22
    found = intervals.metrics_with_intervals(is_fake, p_fake, ANY)
    weights = np.concatenate(list(intervals.resampled(is_fake, 1000)))
    drawn = metrics.metrics_of_resamples(weights, is_fake, p_fake, ANY)["average_precision",]
    assert np.quantile(drawn, 0.025) > found["average_precision"] == pytest.approx(found["intervals"]["average_precision"][0])
    low, high = intervals.compare(is_fake, p_fake, ANY, 1 - p_fake, ANY)["intervals"]["average_precision"]
    assert low <= found["average_precision"] - 1 <= high


def test_two_models_without_an_error_are_not_known_to_be_equal():
    is_fake = np.arange(60) < 40
    found = intervals.compare(is_fake, np.where(is_fake, 0.9, 0.1), ANY, np.where(is_fake, 0.8, 0.2), ANY)
    for name in ("accuracy", "auc", "real_called_fake"):
        assert (found["difference"][name], found["intervals"][name]) == (0, pytest.approx([-limit(20), limit(20)])), name
    assert found["intervals"]["brier"] == pytest.approx([-0.03, -0.03])
    none_right = intervals.compare(is_fake, np.where(is_fake, 0.9, 0.1), ANY, np.where(is_fake, 0.1, 0.9), ANY)
    assert none_right["intervals"]["accuracy"] == pytest.approx([1 - limit(20), 1])


def test_a_difference_of_calibration_errors_lies_in_the_middle_of_its_interval():
    rng = np.random.default_rng(6)
    p_fake = rng.random(300)
    is_fake, other = rng.random(300) < p_fake, np.clip(p_fake + 0.2, 0, 1)
    found = intervals.compare(is_fake, p_fake, ANY, other, ANY, resamples=300)
    low, high = found["intervals"]["ece"]
    assert (low + high) / 2 == pytest.approx(found["difference"]["ece"]) and low < high < 0


def test_mcnemars_test_by_hand():
    is_fake = np.ones(12, bool)
    is_fake[-1] = False
    this = np.array([0.9] * 9 + [0.1] * 1 + [0.9, 0.1])  # right on the first nine and the last two
    other = np.array([0.1] * 9 + [0.9] * 1 + [0.9, 0.1])
    found = intervals.compare(is_fake, this, ANY, other, ANY)["mcnemar"]
    assert (found["only_this_right"], found["only_other_right"]) == (9, 1)
    assert found["p"] == pytest.approx(2 * (10 + 1) / 2**10)  # one or none of ten coins, on either side
