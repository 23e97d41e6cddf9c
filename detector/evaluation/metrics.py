"""Classification metrics. NumPy alone; no images, no network.

Everywhere: `is_fake` is (n,) bool, the truth; `p_fake` is (n,) float64 in 0..1, the score. Fake is the positive class.
"""

import numpy as np

from detector.data.tree import CLASSES

BINS = 15  # of the calibration error
OLDER_NAMES = {"uncertain_share": "abstention_rate", "accuracy_when_certain": "selective_accuracy"}  # kept in metrics.json


def classification_metrics(is_fake, p_fake, thresholds: dict, p_raw=None) -> dict:
    """Compute the metrics of metrics.json; a metric that is undefined, because a class is absent, for example, is None.

    Args:
        is_fake: (n,) bool.
        p_fake: (n,) float, calibrated.
        thresholds: {'fake': t_F, 'real': t_R}, from the model file.
        p_raw: (n,) float, before calibration, or None.

    Returns:
        dict with n, accuracy, balanced_accuracy, auc, average_precision, tpr_at_1pct_fpr, tpr_at_5pct_fpr (the largest true
        positive rate of a threshold with at most that false positive rate), brier, ece, log_loss, confusion ([[Fake as Fake, Fake
        as Real], [Real as Fake, Real as Real]]) and per_class (precision, recall, f1 of each); in these an image counts as Fake
        if P(Fake) is at least 0.5. Of the three-way verdict (detector.model.scores.verdict_of): verdict_counts ({class: {verdict:
        number of images}}), abstention_rate (fraction with the verdict uncertain), selective_accuracy (fraction of correct
        verdicts among the others), fakes_caught (fraction of Fake images with the verdict Fake), real_called_fake (false positive
        rate: fraction of Real images with the verdict Fake) and fake_called_real. uncertain_share and accuracy_when_certain are
        older names of abstention_rate and selective_accuracy. With `p_raw` also raw (log_loss, brier, ece; the other metrics do
        not depend on calibration, which keeps the order of the scores and their side of 0.5).
    """
    is_fake, p_fake = np.asarray(is_fake, bool), np.asarray(p_fake, np.float64)
    n = len(is_fake)
    columns = (is_fake, p_fake, thresholds, p_raw if p_raw is None else np.asarray(p_raw, np.float64))
    if not n:  # the metrics of an image that occurs 0 times
        columns = (np.zeros(1, bool), np.zeros(1), thresholds, p_raw if p_raw is None else np.zeros(1))
    found = metrics_of_resamples(np.full((1, max(n, 1)), float(n > 0)), *columns)
    predicted, called_fake = p_fake >= 0.5, p_fake >= thresholds["fake"]
    called_real = ~called_fake & (p_fake <= thresholds["real"])
    verdicts = {"Fake": called_fake, "uncertain": ~called_fake & ~called_real, "Real": called_real}
    truths = dict(zip(CLASSES, (is_fake, ~is_fake), strict=True))
    return {
        "n": n,
        "confusion": [[int((truth & side).sum()) for side in (predicted, ~predicted)] for truth in truths.values()],
        "verdict_counts": {
            name: {verdict: int((truth & given).sum()) for verdict, given in verdicts.items()} for name, truth in truths.items()
        },
        **nested({name: None if np.isnan(value) else float(value) for name, (value,) in found.items()}),
    }


def nested(flat):
    """Return {("per_class", "Fake", "recall"): x, ...} as nested dicts, with the older names of some metrics in addition."""
    found = {}
    for path, value in flat.items():
        here = found
        for name in path[:-1]:
            here = here.setdefault(name, {})
        here[path[-1]] = value
    return found | {old: found[name] for old, name in OLDER_NAMES.items()}


def metrics_of_resamples(weights, is_fake, p_fake, thresholds, p_raw=None):
    """Compute the metrics of many resamples at once.

    Args:
        weights: (b, n) float64, the number of times each image is in each resample; the totals of a class are the same in each.
        is_fake, p_fake, thresholds, p_raw: as in `classification_metrics`; at least one image.

    Returns:
        {path of the metric in the result of classification_metrics, such as ("per_class", "Fake", "recall"): (b,) float64}, NaN
        if it is undefined.
    """
    fake, real, levels = _by_level(weights, is_fake, p_fake)
    fakes, reals = fake.cumsum(axis=1), real.cumsum(axis=1)  # at the k-th highest score or above
    all_fakes, all_reals = fakes[:, -1], reals[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = _calibration_of_resamples(fake, real, levels)
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
    """Return the metrics of the verdicts of resamples."""
    n_fake, n_real = fakes[:, -1], reals[:, -1]
    fake_from = int((levels >= thresholds["fake"]).sum())
    real_from = max(fake_from, int((levels > thresholds["real"]).sum()))
    called_fake, wrong_fake = _at(fakes, fake_from), n_fake - _at(fakes, real_from)
    wrong_real, called_real = _at(reals, fake_from), n_real - _at(reals, real_from)
    certain = called_fake + wrong_fake + wrong_real + called_real
    return {
        ("abstention_rate",): (n_fake + n_real - certain) / (n_fake + n_real),
        ("selective_accuracy",): (called_fake + called_real) / certain,
        ("fakes_caught",): called_fake / n_fake,
        ("real_called_fake",): wrong_real / n_real,
        ("fake_called_real",): wrong_fake / n_fake,
    }


def bins_of(p_fake):
    """Return the index, 0 to BINS - 1, of the equal-mass bin of each of (n,) scores.

    It is computed from the number of images with a higher score: equal scores share a bin, regardless of their order.
    """
    higher = len(p_fake) - np.searchsorted(np.sort(p_fake), p_fake, side="right")
    return BINS - 1 - higher * BINS // len(p_fake)


def reliability(is_fake, p_fake):
    """Return (mean P(Fake), fraction of Fake, count) of equal-mass bins: three arrays with a value for each bin that has images."""
    is_fake, p_fake = np.asarray(is_fake, np.float64), np.asarray(p_fake, np.float64)
    index = bins_of(p_fake)
    count = np.bincount(index)
    filled = count > 0
    mean, fraction = (np.bincount(index, weights=values)[filled] / count[filled] for values in (p_fake, is_fake))
    return mean, fraction, count[filled]


BOTH_CLASSES = ("balanced_accuracy", "auc", "average_precision", "tpr_at_1pct_fpr", "tpr_at_5pct_fpr")  # metrics that need both
OF_ONE_CLASS = {"fakes_caught": "Fake", "fake_called_real": "Fake", "real_called_fake": "Real"}
SUMMARIZED = ("accuracy", *BOTH_CLASSES, "abstention_rate", "selective_accuracy", *OF_ONE_CLASS)
LOWER_IS_BETTER = ("abstention_rate", "real_called_fake", "fake_called_real")


def group_metrics(groups, is_fake, p_fake, thresholds, min_images: int = 30) -> dict:
    """Return the macro average over groups (sources, generators), in which each group counts the same, regardless of its size.

    A group contributes to a metric if it has at least `min_images` images of each class that the metric needs: of Fake for
    fakes_caught, of Real for real_called_fake, of both for auc, of either for accuracy, abstention_rate and selective_accuracy.
    The images of a class in groups with fewer than `min_images` of it are pooled: they form one further group for each class,
    which has no metric that needs both classes.

    Args:
        groups: (n,) array of group names.
        is_fake, p_fake, thresholds: as in `classification_metrics`.

    Returns:
        dict with min_images, pooled ({class: {groups, images}}) and, for each metric, None if no group has it, or {mean, std
        (spread: the population standard deviation over the groups), min, max, worst (name of the group), groups (number of them)},
        with errors and images of the worst group for fakes_caught, real_called_fake and fake_called_real.
    """
    groups, is_fake, p_fake = np.asarray(groups), np.asarray(is_fake, bool), np.asarray(p_fake, np.float64)
    names = list(dict.fromkeys(groups.tolist()))
    parts, pooled = {}, {name: np.zeros(len(groups), bool) for name in CLASSES}
    found: dict = {"min_images": min_images, "pooled": {name: {"groups": 0, "images": 0} for name in CLASSES}}
    for group in names:
        for name, truth in zip(CLASSES, (is_fake, ~is_fake), strict=True):
            which = (groups == group) & truth
            if which.sum() >= min_images:
                parts.setdefault(group, np.zeros(len(groups), bool))[which] = True
            elif which.any():
                pooled[name] |= which
                found["pooled"][name]["groups"] += 1
                found["pooled"][name]["images"] += int(which.sum())
    parts |= {f"(small groups, {name})": which for name, which in pooled.items() if which.any()}
    rows = {group: classification_metrics(is_fake[which], p_fake[which], thresholds) for group, which in parts.items()}
    return found | {metric: _summary(metric, rows) for metric in SUMMARIZED}


def _summary(metric, rows):
    values = {group: row[metric] for group, row in rows.items() if row[metric] is not None}
    if not values:
        return None
    worst = (max if metric in LOWER_IS_BETTER else min)(values, key=values.get)
    numbers = np.array(list(values.values()))
    summary = {
        "mean": float(numbers.mean()), "std": float(numbers.std()), "min": float(numbers.min()), "max": float(numbers.max()),
        "worst": worst, "groups": len(values),
    }  # fmt: skip
    if metric in OF_ONE_CLASS:
        counts = rows[worst]["verdict_counts"][OF_ONE_CLASS[metric]]
        images = sum(counts.values())
        errors = {"real_called_fake": counts["Fake"], "fake_called_real": counts["Real"], "fakes_caught": images - counts["Fake"]}
        summary |= {"errors": errors[metric], "images": images}
    return summary
