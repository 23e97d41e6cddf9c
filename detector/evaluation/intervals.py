"""95 % intervals of the figures of detector.evaluation.metrics, and the comparison of two models. NumPy and SciPy.

Intervals are 95 % percentile intervals of a bootstrap (Efron 1979) of RESAMPLES resamples, seeded. It is stratified: each resample
has as many Fake and as many Real images as the set, since whoever made the set chose these numbers. Thresholds and
temperature stay as they are. An interval always holds its figure. Two cases are not the plain percentiles:

- A resample's calibration error is higher than the set's, as it has more noise: the percentiles of a good model's `ece` lie above
  the figure. It gets the figure give or take its distance to the upper one. The low end is 0 where a perfectly calibrated model
  with the same scores shows as much by chance (2.5 % of the times more; Bröcker and Smith 2007, consistency resampling).
- Where no resample differs, since no error was seen (or nothing right), the percentiles would claim certainty. The far end is
  then the exact (Clopper-Pearson) limit for as many images as the figure is a share of: those called Fake for its precision, the
  ones with a verdict for the accuracy of these. Of a figure that is no plain share, such as the AUC, it is the smaller class's.
"""
import numpy as np

from detector.data.tree import CLASSES
from detector.evaluation.metrics import BINS, bins_of, figures
from detector.evaluation.thresholds import upper_bound

RESAMPLES = 1000
BLOCK = 200_000  # draws that are worked on at once: a few MB, so that they stay in the processor's cache
NO_SHARES = ("log_loss", "brier", "ece")  # figures that are not 0 or 1 where no error, or nothing else, was seen


def figures_with_intervals(is_fake, p_fake, thresholds, p_raw=None):
    """Return detector.evaluation.metrics.figures and, as `intervals`, their intervals."""
    return {
        **figures(is_fake, p_fake, thresholds, p_raw),
        "intervals": intervals(is_fake, p_fake, thresholds, p_raw),
    }


def intervals(is_fake, p_fake, thresholds, p_raw=None, resamples=RESAMPLES, seed=0):
    """Return the 95 % intervals of figures.

    Args:
        is_fake, p_fake, thresholds, p_raw: as detector.evaluation.metrics.figures.
        resamples: how many are drawn; the same ones for the same `seed`.

    Returns:
        the dict of detector.evaluation.metrics.figures without n and confusion, with [low, high] in place of each number;
        {} without images.
    """
    is_fake = np.asarray(is_fake, bool)
    if not len(is_fake):
        return {}
    columns = [np.asarray(p, np.float64) for p in (p_fake, p_raw) if p is not None]

    def compute(weights):
        return figures_of_resamples(weights, is_fake, *columns[:1], thresholds, *columns[1:])

    point = compute(np.ones((1, len(is_fake))))
    drawn = [compute(weights) for weights in resampled(is_fake, resamples, seed)]
    smaller, trials = _smaller(is_fake), _trials(is_fake, columns[0], thresholds)
    found = {}
    for name, (value,) in point.items():
        low, high = _percentiles(np.concatenate([part[name] for part in drawn]))
        if name[-1] == "ece":
            by_chance = error_by_chance(columns[name[0] == "raw"], resamples, seed)
            low = max(0.0, 2 * value - high) if value > by_chance else 0.0
        elif low == high and high in (0, 1) and name[-1] not in NO_SHARES:
            margin = upper_bound(0, trials.get(name, smaller), 0.975)
            low, high = (0.0, margin) if high == 0 else (1 - margin, 1.0)
        found[name] = None if np.isnan(value) else [float(min(low, value)), float(max(high, value))]
    return _nested(found)


def _smaller(is_fake):
    """Return the number of images of the smaller class that occurs."""
    return min(int(number) for number in (is_fake.sum(), (~is_fake).sum()) if number)


def _trials(is_fake, p_fake, thresholds):
    """Return {figure that is a share of images: how many these are}, keyed as `figures_of_resamples` does."""
    said_fake = p_fake >= 0.5
    certain = (p_fake >= thresholds["fake"]) | (p_fake <= thresholds["real"])
    masks = {
        ("accuracy",): np.ones(len(is_fake), bool), ("uncertain_share",): np.ones(len(is_fake), bool),
        ("accuracy_when_certain",): certain, ("real_called_fake",): ~is_fake, ("fake_called_real",): is_fake,
    }  # fmt: skip
    for name, truth, said in zip(CLASSES, (is_fake, ~is_fake), (said_fake, ~said_fake), strict=True):
        masks |= {("per_class", name, "recall"): truth, ("per_class", name, "precision"): said}
    return {name: int(mask.sum()) for name, mask in masks.items()}


def error_by_chance(p_fake, resamples=RESAMPLES, seed=0):
    """Return the calibration error that perfectly calibrated scores exceed in 2.5 % of the sets drawn from them.

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
    """Yield (b, n) float64 arrays: how often each image is in each of b resamples, drawn from each class with replacement."""
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


def figures_of_resamples(weights, is_fake, p_fake, thresholds, p_raw=None):
    """Compute the figures of many resamples at once.

    Args:
        weights: (b, n) float64, how often each image is in each resample; the classes' totals are the same in each.
        is_fake, p_fake, thresholds, p_raw: as detector.evaluation.metrics.figures.

    Returns:
        {where detector.evaluation.metrics.figures has it, such as ("per_class", "Fake", "recall"): (b,) float64}, NaN where a
        figure does not exist.
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
    """Return (b, k) numbers of Fake and of Real images at each of k different scores, and these, (k,), the highest first."""
    order = np.argsort(-p_fake, kind="stable")
    starts = np.flatnonzero(np.diff(p_fake[order], prepend=np.inf))
    weights, is_fake = weights[:, order], is_fake[order]
    fake, real = weights * is_fake, weights * ~is_fake
    if len(starts) < len(order):
        fake, real = np.add.reduceat(fake, starts, axis=1), np.add.reduceat(real, starts, axis=1)
    return fake, real, p_fake[order][starts]


def _calibration_of_resamples(fake, real, levels):
    """Return brier, ece and log_loss of resamples, as `calibration` has them."""
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
    """Return the (b,) totals of the first `count` of k columns of cumulated numbers."""
    return cumulated[:, count - 1] if count else np.zeros(len(cumulated))


def _sides_of_resamples(fakes, reals, said, both):
    """Return accuracy, balanced_accuracy and per_class, where the `said` highest of the scores are called Fake."""
    n_fake, n_real = fakes[:, -1], reals[:, -1]
    right = {"Fake": _at(fakes, said), "Real": n_real - _at(reals, said)}
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
    """Return uncertain_share, accuracy_when_certain, real_called_fake and fake_called_real of resamples."""
    n_fake, n_real = fakes[:, -1], reals[:, -1]
    fake_from = int((levels >= thresholds["fake"]).sum())
    real_from = max(fake_from, int((levels > thresholds["real"]).sum()))
    called_fake, wrong_fake = _at(fakes, fake_from), n_fake - _at(fakes, real_from)
    wrong_real, called_real = _at(reals, fake_from), n_real - _at(reals, real_from)
    certain = called_fake + wrong_fake + wrong_real + called_real
    return {
        ("uncertain_share",): 1 - certain / (n_fake + n_real),
        ("accuracy_when_certain",): (called_fake + called_real) / certain,
        ("real_called_fake",): wrong_real / n_real,
        ("fake_called_real",): wrong_fake / n_fake,
    }


# --- one model against another -------------------------------------------------------------------------------------------
def compare(is_fake, p_fake, thresholds, p_other, other_thresholds, resamples=RESAMPLES, seed=0):
    """Compare two models on the same images.

    Args:
        is_fake: (n,) bool; both classes occur.
        p_fake, thresholds: of the model.
        p_other, other_thresholds: of the other.

    Returns:
        dict with difference (model minus other, of each figure), intervals (of these; each resample is the same for both
        models; that of `ece` is as far on one side as on the other, and where no resample of two different models differs the
        exact limit stands in, as above) and mcnemar: {only_this_right, only_other_right, p}, McNemar's exact test of their
        accuracy (two-sided binomial).
    """
    from scipy.stats import binomtest

    is_fake, p_fake, p_other = np.asarray(is_fake, bool), np.asarray(p_fake, np.float64), np.asarray(p_other, np.float64)

    def compute(weights):
        one = figures_of_resamples(weights, is_fake, p_fake, thresholds)
        other = figures_of_resamples(weights, is_fake, p_other, other_thresholds)
        return {name: one[name] - other[name] for name in one}

    point = compute(np.ones((1, len(is_fake))))
    drawn = [compute(weights) for weights in resampled(is_fake, resamples, seed)]
    found = {name: _percentiles(np.concatenate([part[name] for part in drawn])) for name in point}
    margin = 0.0 if np.array_equal(p_fake, p_other) else upper_bound(0, _smaller(is_fake), 0.975)
    for name, (value,) in point.items():
        low, high = found[name]
        if name[-1] == "ece":
            far = max(high - value, value - low)
            found[name] = value - far, value + far
        elif low == high and name[-1] not in NO_SHARES:
            found[name] = max(-1.0, low - margin), min(1.0, high + margin)
        else:
            found[name] = min(low, value), max(high, value)
    right, other_right = ((p >= 0.5) == is_fake for p in (p_fake, p_other))
    this, that = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    p = binomtest(this, this + that).pvalue if this + that else 1.0
    missing = {name for name, (value,) in point.items() if np.isnan(value)}
    return {
        "difference": _nested({name: None if name in missing else float(value) for name, (value,) in point.items()}),
        "intervals": _nested({name: None if name in missing else [float(x) for x in pair] for name, pair in found.items()}),
        "mcnemar": {"only_this_right": this, "only_other_right": that, "p": float(p)},
    }
