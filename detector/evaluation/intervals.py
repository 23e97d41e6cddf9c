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

All metrics of a block of resamples are computed at once: `scipy.stats.bootstrap` with scikit-learn's metrics takes 12 times as long
(48 s against 4 s of CPU time for 20,000 images), and a report needs dozens of such intervals.
"""

import numpy as np

from detector.data.tree import CLASSES
from detector.evaluation.metrics import bins_of, classification_metrics, metrics_of_resamples, nested
from detector.evaluation.thresholds import upper_bound

RESAMPLES = 1000
BLOCK = 200_000  # draws computed at once: a few MB, which fit into the processor's cache
EXACT = 0.975  # one-sided confidence of an end of a two-sided 95 % interval
NO_FRACTIONS = ("log_loss", "brier", "ece")  # metrics that are not 0 or 1 without errors, or with errors only


def metrics_with_intervals(is_fake, p_fake, thresholds, p_raw=None, resamples=RESAMPLES, seed=0):
    """Return the metrics of detector.evaluation.metrics.classification_metrics and, as `intervals`, their 95 % intervals.

    Those have [low, high] in place of each number, and no n, confusion and verdict_counts; without images they are {}.

    Args:
        is_fake, p_fake, thresholds, p_raw: as in classification_metrics.
        resamples: number of resamples; the same ones for the same `seed`.
    """
    metrics = classification_metrics(is_fake, p_fake, thresholds, p_raw)
    is_fake = np.asarray(is_fake, bool)
    if not len(is_fake):
        return {**metrics, "intervals": {}}
    p_fake, p_raw = (None if p is None else np.asarray(p, np.float64) for p in (p_fake, p_raw))
    smaller = np.unique(is_fake, return_counts=True)[1].min()  # of the classes that occur
    trials = _trials(is_fake, p_fake, thresholds)

    def limits(name, value, low, high):
        if name[-1] == "ece":
            by_chance = error_by_chance(p_raw if name[0] == "raw" else p_fake, resamples, seed)
            low = max(0.0, 2 * value - high) if value > by_chance else 0.0
        elif low == high and high in (0, 1) and name[-1] not in NO_FRACTIONS:
            limit = upper_bound(0, trials.get(name, smaller), EXACT)
            low, high = (0.0, limit) if high == 0 else (1 - limit, 1.0)
        return min(low, value), max(high, value)

    def compute(weights):
        return metrics_of_resamples(weights, is_fake, p_fake, thresholds, p_raw)

    return {**metrics, "intervals": _bootstrap(compute, limits, is_fake, resamples, seed)[1]}


def _bootstrap(compute, limits, is_fake, resamples, seed):
    """Return (metrics, their intervals), nested, None if undefined.

    Args:
        compute: function from the weights of b resamples to {path of a metric: (b,) values}.
        limits: function from path, value, and lower and upper percentile to the ends of the interval.
    """
    point = compute(np.ones((1, len(is_fake))))
    drawn = [compute(weights) for weights in resampled(is_fake, resamples, seed)]
    values, spans = {}, {}
    for name, (value,) in point.items():
        if np.isnan(value):
            values[name] = spans[name] = None
            continue
        low, high = np.nanquantile(np.concatenate([part[name] for part in drawn]), [0.025, 0.975])
        values[name], spans[name] = float(value), [float(end) for end in limits(name, value, low, high)]
    return nested(values), nested(spans)


def _trials(is_fake, p_fake, thresholds):
    """Return {metric that is a fraction of images: number of these images}, with the keys of `metrics_of_resamples`."""
    predicted = p_fake >= 0.5
    certain = (p_fake >= thresholds["fake"]) | (p_fake <= thresholds["real"])
    masks = {("accuracy",): is_fake | True, ("abstention_rate",): is_fake | True, ("selective_accuracy",): certain}
    masks |= {("real_called_fake",): ~is_fake, ("fake_called_real",): is_fake, ("fakes_caught",): is_fake}
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

    smaller = np.unique(is_fake, return_counts=True)[1].min()
    limit = 0.0 if np.array_equal(p_fake, p_other) else upper_bound(0, smaller, EXACT)

    def limits(name, value, low, high):
        if name[-1] == "ece":
            far = max(high - value, value - low)
            return value - far, value + far
        if low == high and name[-1] not in NO_FRACTIONS:
            return max(-1.0, low - limit), min(1.0, high + limit)
        return min(low, value), max(high, value)

    difference, spans = _bootstrap(compute, limits, is_fake, resamples, seed)
    right, other_right = ((p >= 0.5) == is_fake for p in (p_fake, p_other))
    this, that = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    p = binomtest(this, this + that).pvalue if this + that else 1.0
    test = {"only_this_right": this, "only_other_right": that, "p": float(p)}
    return {"difference": difference, "intervals": spans, "mcnemar": test}
