"""95 % intervals of the metrics of detector.evaluation.metrics, and the comparison of two models. NumPy and SciPy.

Intervals are 95 % percentile intervals of a seeded bootstrap (Efron 1979) with RESAMPLES resamples. It is stratified: each resample
has as many Fake and as many Real images as the set, because these numbers were chosen, not observed. Thresholds and temperature
are fixed. An interval always contains its metric. Two cases differ from the plain percentiles:

- The calibration error of a resample is higher than that of the set, because it is noisier: the percentiles of a good model's `ece`
  lie above the metric. Its interval is the metric plus and minus the distance to the upper percentile. The low end is 0 if a
  perfectly calibrated model with the same scores has as large an error by chance (more than 2.5 % of the time; Bröcker and Smith
  2007, consistency resampling).
- If no resample differs, because there was no error (or nothing correct), the percentiles would claim certainty. The far end is
  then the exact (Clopper-Pearson) limit for the number of images that the metric is a fraction of: those called Fake for the
  precision of Fake, those with a verdict for selective_accuracy. For a metric that is no plain fraction, such as the AUC, it is the
  number of images of the smaller class.

All metrics of a block of resamples are computed at once: `scipy.stats.bootstrap` with `classification_metrics` as its statistic
takes 12 times as long (48 s against 4 s of CPU time for 20,000 images), and a report needs dozens of such intervals.
"""

import numpy as np

from detector.data.tree import CLASSES
from detector.evaluation.metrics import BINS, bins_of, classification_metrics, with_older_names

RESAMPLES = 1000
BLOCK = 200_000  # draws computed at once: a few MB, which fit into the processor's cache
NO_FRACTIONS = ("log_loss", "brier", "ece")  # metrics that are not 0 or 1 without errors, or with errors only


def metrics_with_intervals(is_fake, p_fake, thresholds, p_raw=None):
    """Return detector.evaluation.metrics.classification_metrics and, as `intervals`, their intervals."""
    return {
        **classification_metrics(is_fake, p_fake, thresholds, p_raw),
        "intervals": intervals(is_fake, p_fake, thresholds, p_raw),
    }


def intervals(is_fake, p_fake, thresholds, p_raw=None, resamples=RESAMPLES, seed=0):
    """Return the 95 % intervals of metrics.

    Args:
        is_fake, p_fake, thresholds, p_raw: as in detector.evaluation.metrics.classification_metrics.
        resamples: number of resamples; the same ones for the same `seed`.

    Returns:
        the dict of classification_metrics without n, confusion and verdict_counts, with [low, high] in place of each number; {}
        without images.
    """
    is_fake = np.asarray(is_fake, bool)
    if not len(is_fake):
        return {}
    columns = [np.asarray(p, np.float64) for p in (p_fake, p_raw) if p is not None]

    def compute(weights):
        return metrics_of_resamples(weights, is_fake, *columns[:1], thresholds, *columns[1:])

    point = compute(np.ones((1, len(is_fake))))
    drawn = [compute(weights) for weights in resampled(is_fake, resamples, seed)]
    smaller, trials = _smaller(is_fake), _trials(is_fake, columns[0], thresholds)
    found = {}
    for name, (value,) in point.items():
        low, high = _percentiles(np.concatenate([part[name] for part in drawn]))
        if name[-1] == "ece":
            by_chance = error_by_chance(columns[name[0] == "raw"], resamples, seed)
            low = max(0.0, 2 * value - high) if value > by_chance else 0.0
        elif low == high and high in (0, 1) and name[-1] not in NO_FRACTIONS:
            limit = error_limit(trials.get(name, smaller))
            low, high = (0.0, limit) if high == 0 else (1 - limit, 1.0)
        found[name] = None if np.isnan(value) else [float(min(low, value)), float(max(high, value))]
    return with_older_names(_nested(found))


def error_limit(trials):
    """Return the upper end of the exact (Clopper-Pearson) 95 % interval of an error rate if none of `trials` was an error."""
    from scipy.stats import binomtest

    return float(binomtest(0, trials).proportion_ci().high) if trials else 1.0


def _smaller(is_fake):
    """Return the number of images of the smaller class that occurs."""
    return min(int(number) for number in (is_fake.sum(), (~is_fake).sum()) if number)


def _trials(is_fake, p_fake, thresholds):
    """Return {metric that is a fraction of images: number of these images}, with the keys of `metrics_of_resamples`."""
    predicted = p_fake >= 0.5
    certain = (p_fake >= thresholds["fake"]) | (p_fake <= thresholds["real"])
    masks = {
        ("accuracy",): np.ones(len(is_fake), bool), ("abstention_rate",): np.ones(len(is_fake), bool),
        ("selective_accuracy",): certain, ("real_called_fake",): ~is_fake, ("fake_called_real",): is_fake,
        ("fakes_caught",): is_fake,
    }  # fmt: skip
    for name, truth, positive in zip(CLASSES, (is_fake, ~is_fake), (predicted, ~predicted), strict=True):
        masks |= {("per_class", name, "recall"): truth, ("per_class", name, "precision"): positive}
    return {name: int(mask.sum()) for name, mask in masks.items()}


def error_by_chance(p_fake, resamples=RESAMPLES, seed=0):
    """Return the calibration error that perfectly calibrated scores exceed by chance 2.5 % of the time.

    Args:
        p_fake: (n,) float64, the scores; labels are drawn from them `resamples` times.
    """
    rng, index = np.random.default_rng(seed), bins_of(p_fake)
    order = np.argsort(index, kind="stable")
    p_fake, starts = p_fake[order], np.flatnonzero(np.diff(index[order], prepend=-1))
    block, found = max(1, BLOCK // len(p_fake)), []
    for start in range(0, resamples, block):
        drawn = rng.random((min(block, resamples - start), len(p_fake))) < p_fake
        found.append(np.abs(np.add.reduceat(drawn - p_fake, starts, axis=1)).sum(axis=1) / len(p_fake))
    return float(np.quantile(np.concatenate(found), 0.975))


def _percentiles(values):
    values = values[~np.isnan(values)]
    return np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)


def _nested(flat):
    """Return {("per_class", "Fake", "recall"): x, ...} as nested dicts."""
    found = {}
    for path, value in flat.items():
        here = found
        for name in path[:-1]:
            here = here.setdefault(name, {})
        here[path[-1]] = value
    return found


def resampled(is_fake, resamples, seed=0):
    """Yield (b, n) float64 arrays: the number of times each image is in each of b resamples of each class with replacement."""
    rng = np.random.default_rng(seed)
    classes = [part for part in (np.flatnonzero(is_fake), np.flatnonzero(~is_fake)) if len(part)]
    block = max(1, BLOCK // len(is_fake))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        weights = np.zeros((rows, len(is_fake)))
        for part in classes:
            drawn = rng.integers(len(part), size=(rows, len(part))) + len(part) * np.arange(rows)[:, None]
            weights[:, part] = np.bincount(drawn.ravel(), minlength=rows * len(part)).reshape(rows, -1)
        yield weights


def metrics_of_resamples(weights, is_fake, p_fake, thresholds, p_raw=None):
    """Compute the metrics of many resamples at once.

    Args:
        weights: (b, n) float64, the number of times each image is in each resample; the totals of a class are the same in each.
        is_fake, p_fake, thresholds, p_raw: as in detector.evaluation.metrics.classification_metrics.

    Returns:
        {path of the metric in the result of classification_metrics, such as ("per_class", "Fake", "recall"): (b,) float64}, NaN
        if it is undefined.
    """
    fake, real, levels = _by_level(weights, is_fake, p_fake)
    found = _calibration_of_resamples(fake, real, levels)
    fakes, reals = fake.cumsum(axis=1), real.cumsum(axis=1)  # at the k-th highest score or above
    all_fakes, all_reals = fakes[:, -1], reals[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        both = np.where((all_fakes > 0) & (all_reals > 0), 1.0, np.nan)
        found |= _verdicts_of_resamples(fakes, reals, levels, thresholds)
        found |= _sides_of_resamples(fakes, reals, int((levels >= 0.5).sum()), both)
        lower = all_reals[:, None] - reals + real / 2
        found["auc",] = (fake * lower).sum(axis=1) / (all_fakes * all_reals)
        precision = fakes / np.maximum(fakes + reals, 1)
        found["average_precision",] = both * (fake * precision).sum(axis=1) / all_fakes
        for name, rate in (("tpr_at_1pct_fpr", 0.01), ("tpr_at_5pct_fpr", 0.05)):
            within = (reals / all_reals[:, None] <= rate).sum(axis=1)
            reached = fakes[np.arange(len(fakes)), np.maximum(within - 1, 0)]
            found[name,] = both * np.where(within > 0, reached, 0) / all_fakes
    if p_raw is not None:
        raw = _calibration_of_resamples(*_by_level(weights, is_fake, p_raw))
        found |= {("raw", *name): values for name, values in raw.items()}
    return found


def _by_level(weights, is_fake, p_fake):
    """Return the (b, k) numbers of Fake and of Real images at each of k different scores, and the scores, (k,), descending."""
    order = np.argsort(-p_fake, kind="stable")
    starts = np.flatnonzero(np.diff(p_fake[order], prepend=np.inf))
    weights, is_fake = weights[:, order], is_fake[order]
    fake, real = weights * is_fake, weights * ~is_fake
    if len(starts) < len(order):
        fake, real = np.add.reduceat(fake, starts, axis=1), np.add.reduceat(real, starts, axis=1)
    return fake, real, p_fake[order][starts]


def _calibration_of_resamples(fake, real, levels):
    """Return brier, ece and log_loss of resamples."""
    total = fake + real
    above = total.cumsum(axis=1)
    n = above[0, -1]
    gap = (fake - total * levels).cumsum(axis=1)
    gap = np.concatenate([np.zeros((len(gap), 1)), gap], axis=1)
    above[:, 1:], above[:, 0] = above[:, :-1].copy(), 0  # images of a higher score
    ends = np.array([np.searchsorted(row * BINS // n, np.arange(BINS + 1)) for row in above])
    clipped = np.clip(levels, np.finfo(float).eps, 1 - np.finfo(float).eps)  # as scikit-learn does
    return {
        ("brier",): (fake @ (1 - levels) ** 2 + real @ levels**2) / n,
        ("ece",): np.abs(np.diff(np.take_along_axis(gap, ends, axis=1), axis=1)).sum(axis=1) / n,
        ("log_loss",): -(fake @ np.log(clipped) + real @ np.log1p(-clipped)) / n,
    }


def _at(cumulated, count):
    """Return the (b,) totals of the first `count` columns from (b, k) cumulative numbers."""
    return cumulated[:, count - 1] if count else np.zeros(len(cumulated))


def _sides_of_resamples(fakes, reals, predicted, both):
    """Return accuracy, balanced_accuracy and per_class of resamples if the `predicted` highest score levels are called Fake."""
    n_fake, n_real = fakes[:, -1], reals[:, -1]
    right = {"Fake": _at(fakes, predicted), "Real": n_real - _at(reals, predicted)}
    number = {"Fake": n_fake, "Real": n_real}
    called = {"Fake": right["Fake"] + n_real - right["Real"], "Real": right["Real"] + n_fake - right["Fake"]}
    recall = {name: right[name] / number[name] for name in CLASSES}
    found = {
        ("accuracy",): (right["Fake"] + right["Real"]) / (n_fake + n_real),
        ("balanced_accuracy",): (recall["Fake"] + recall["Real"]) / 2,
    }
    for name in CLASSES:
        found["per_class", name, "precision"] = both * right[name] / np.maximum(called[name], 1)
        found["per_class", name, "recall"] = recall[name]
        found["per_class", name, "f1"] = both * 2 * right[name] / (called[name] + number[name])
    return found


def _verdicts_of_resamples(fakes, reals, levels, thresholds):
    """Return the metrics of the verdicts of resamples, as `verdict_metrics` defines them."""
    n_fake, n_real = fakes[:, -1], reals[:, -1]
    fake_from = int((levels >= thresholds["fake"]).sum())
    real_from = max(fake_from, int((levels > thresholds["real"]).sum()))
    called_fake, wrong_fake = _at(fakes, fake_from), n_fake - _at(fakes, real_from)
    wrong_real, called_real = _at(reals, fake_from), n_real - _at(reals, real_from)
    certain = called_fake + wrong_fake + wrong_real + called_real
    return {
        ("abstention_rate",): 1 - certain / (n_fake + n_real),
        ("selective_accuracy",): (called_fake + called_real) / certain,
        ("fakes_caught",): called_fake / n_fake,
        ("real_called_fake",): wrong_real / n_real,
        ("fake_called_real",): wrong_fake / n_fake,
    }


# --- one model against another -------------------------------------------------------------------------------------------
def compare(is_fake, p_fake, thresholds, p_other, other_thresholds, resamples=RESAMPLES, seed=0):
    """Compare two models on the same images.

    Args:
        is_fake: (n,) bool; both classes occur.
        p_fake, thresholds: of the model.
        p_other, other_thresholds: of the other model.

    Returns:
        dict with difference (model minus other, of each metric), intervals (of the differences; each resample is the same for both
        models; that of `ece` is symmetric, and if no resample of two different models differs, it is the exact limit, as above) and
        mcnemar: {only_this_right, only_other_right, p}, McNemar's exact test of the two accuracies (two-sided binomial test).
    """
    from scipy.stats import binomtest

    is_fake, p_fake, p_other = np.asarray(is_fake, bool), np.asarray(p_fake, np.float64), np.asarray(p_other, np.float64)

    def compute(weights):
        one = metrics_of_resamples(weights, is_fake, p_fake, thresholds)
        other = metrics_of_resamples(weights, is_fake, p_other, other_thresholds)
        return {name: one[name] - other[name] for name in one}

    point = compute(np.ones((1, len(is_fake))))
    drawn = [compute(weights) for weights in resampled(is_fake, resamples, seed)]
    found = {name: _percentiles(np.concatenate([part[name] for part in drawn])) for name in point}
    limit = 0.0 if np.array_equal(p_fake, p_other) else error_limit(_smaller(is_fake))
    for name, (value,) in point.items():
        low, high = found[name]
        if name[-1] == "ece":
            far = max(high - value, value - low)
            found[name] = value - far, value + far
        elif low == high and name[-1] not in NO_FRACTIONS:
            found[name] = max(-1.0, low - limit), min(1.0, high + limit)
        else:
            found[name] = min(low, value), max(high, value)
    right, other_right = ((p >= 0.5) == is_fake for p in (p_fake, p_other))
    this, that = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    p = binomtest(this, this + that).pvalue if this + that else 1.0
    missing = {name for name, (value,) in point.items() if np.isnan(value)}
    return {
        "difference": with_older_names(
            _nested({name: None if name in missing else float(value) for name, (value,) in point.items()})
        ),
        "intervals": with_older_names(
            _nested({name: None if name in missing else [float(x) for x in pair] for name, pair in found.items()})
        ),
        "mcnemar": {"only_this_right": this, "only_other_right": that, "p": float(p)},
    }
