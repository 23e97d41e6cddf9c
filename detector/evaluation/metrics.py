"""Classification metrics. NumPy, SciPy and scikit-learn; no images, no network.

Everywhere: `is_fake` is (n,) bool, the truth; `p_fake` is (n,) float64 in 0..1, the score. Fake is the positive class.
"""

import numpy as np

from detector.data.tree import CLASSES

BINS = 15  # of the calibration error
OLDER_NAMES = {"uncertain_share": "abstention_rate", "accuracy_when_certain": "selective_accuracy"}  # kept in metrics.json
VERDICTS = ("Fake", "uncertain", "Real")


# --- metrics -------------------------------------------------------------------------------------------------------------
def classification_metrics(is_fake, p_fake, thresholds: dict, p_raw=None) -> dict:
    """Compute the metrics of metrics.json; a metric that is undefined, because a class is absent, for example, is None.

    Args:
        is_fake: (n,) bool.
        p_fake: (n,) float, calibrated.
        thresholds: {'fake': t_F, 'real': t_R}, from the model file.
        p_raw: (n,) float, before calibration, or None.

    Returns:
        dict with n, accuracy, balanced_accuracy, auc, average_precision, tpr_at_1pct_fpr, tpr_at_5pct_fpr, brier, ece, log_loss,
        confusion ([[Fake as Fake, Fake as Real], [Real as Fake, Real as Real]]), per_class (precision, recall, f1 of each),
        verdict_counts, abstention_rate, selective_accuracy, fakes_caught, real_called_fake and fake_called_real (see
        `verdict_metrics`), and uncertain_share and accuracy_when_certain, older names of abstention_rate and selective_accuracy;
        with `p_raw` also raw (log_loss, brier, ece; the other metrics do not depend on calibration, which keeps the order of the
        scores and their side of 0.5). In accuracy, confusion and per_class an image counts as Fake if P(Fake) is at least 0.5.
    """
    from sklearn import metrics

    is_fake, p_fake = np.asarray(is_fake, bool), np.asarray(p_fake, np.float64)
    predicted = p_fake >= 0.5
    some, both = len(is_fake) > 0, bool(is_fake.any() and not is_fake.all())
    return with_older_names({
        "n": len(is_fake),
        "accuracy": _if(some, metrics.accuracy_score, is_fake, predicted),
        "balanced_accuracy": _if(both, metrics.balanced_accuracy_score, is_fake, predicted),
        "auc": _if(both, metrics.roc_auc_score, is_fake, p_fake),
        "average_precision": _if(both, metrics.average_precision_score, is_fake, p_fake),
        "tpr_at_1pct_fpr": _if(both, tpr_at_fpr, is_fake, p_fake, 0.01),
        "tpr_at_5pct_fpr": _if(both, tpr_at_fpr, is_fake, p_fake, 0.05),
        **calibration(is_fake, p_fake),
        "confusion": metrics.confusion_matrix(~is_fake, ~predicted, labels=[False, True]).tolist() if some else [[0, 0], [0, 0]],
        "per_class": per_class(is_fake, predicted),
        **verdict_metrics(is_fake, p_fake, thresholds),
        **({} if p_raw is None else {"raw": calibration(is_fake, np.asarray(p_raw, np.float64))}),
    })  # fmt: skip


def with_older_names(found):
    """Return metrics, or their intervals, with the older names of some in addition."""
    return found | {old: found[name] for old, name in OLDER_NAMES.items()}


def _if(exists, metric, *arguments):
    return float(metric(*arguments)) if exists else None


def calibration(is_fake, p_fake) -> dict:
    """Return brier, ece and log_loss (None without images)."""
    from sklearn import metrics

    some = len(is_fake) > 0
    return {
        "brier": _if(some, lambda: np.mean((p_fake - is_fake) ** 2)),
        "ece": _if(some, expected_calibration_error, is_fake, p_fake),
        "log_loss": _if(some, lambda: metrics.log_loss(is_fake, p_fake, labels=[False, True])),
    }


def per_class(is_fake, predicted) -> dict:
    """Return {class: {precision, recall, f1}} of (n,) bool arrays; if a class is absent, only the recall of the other exists."""
    from sklearn.metrics import precision_recall_fscore_support

    found, both = {}, is_fake.any() and not is_fake.all()
    for name, truth, positive in zip(CLASSES, (is_fake, ~is_fake), (predicted, ~predicted), strict=True):
        if truth.any():
            precision, recall, f1, _ = precision_recall_fscore_support(truth, positive, average="binary", zero_division=0)
            precision, f1 = (float(precision), float(f1)) if both else (None, None)
            found[name] = {"precision": precision, "recall": float(recall), "f1": f1}
        else:
            found[name] = {"precision": None, "recall": None, "f1": None}
    return found


def verdict_metrics(is_fake, p_fake, thresholds) -> dict:
    """Return the metrics of the three-way verdict, which is Fake, Real or uncertain (detector.model.scores.verdict_of).

    Returns:
        dict with verdict_counts ({class: {verdict: number of images}}), abstention_rate (fraction with the verdict uncertain),
        selective_accuracy (fraction of correct verdicts among the others, None if there are no others), fakes_caught (fraction of
        Fake images with the verdict Fake), real_called_fake (false positive rate: fraction of Real images with the verdict Fake)
        and fake_called_real (fraction of Fake images with the verdict Real).
    """
    called_fake = p_fake >= thresholds["fake"]
    called_real = ~called_fake & (p_fake <= thresholds["real"])
    certain = called_fake | called_real
    verdicts = (called_fake, ~certain, called_real)
    return {
        "verdict_counts": {
            name: {verdict: int((truth & given).sum()) for verdict, given in zip(VERDICTS, verdicts, strict=True)}
            for name, truth in zip(CLASSES, (is_fake, ~is_fake), strict=True)
        },
        "abstention_rate": _fraction(~certain),
        "selective_accuracy": _fraction(np.where(is_fake, called_fake, called_real)[certain]),
        "fakes_caught": _fraction(called_fake[is_fake]),
        "real_called_fake": _fraction(called_fake[~is_fake]),
        "fake_called_real": _fraction(called_real[is_fake]),
    }


def _fraction(cases):
    return float(np.mean(cases)) if len(cases) else None


def tpr_at_fpr(is_fake, p_fake, fpr) -> float:
    """Return the largest true positive rate of a threshold whose false positive rate is at most `fpr`."""
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(is_fake, p_fake, drop_intermediate=False)
    return float(true_positive[false_positive <= fpr].max())


def bins_of(p_fake, bins=BINS):
    """Return the index, 0 to bins - 1, of the equal-mass bin of each of (n,) scores.

    It is computed from the number of images with a higher score: equal scores share a bin, regardless of their order.
    """
    higher = len(p_fake) - np.searchsorted(np.sort(p_fake), p_fake, side="right")
    return bins - 1 - higher * bins // len(p_fake)


def reliability(is_fake, p_fake, bins=BINS):
    """Return (mean P(Fake), fraction of Fake, count) of equal-mass bins: three arrays with a value for each bin that has images."""
    is_fake, p_fake = np.asarray(is_fake, np.float64), np.asarray(p_fake, np.float64)
    index = bins_of(p_fake, bins)
    count = np.bincount(index)
    filled = count > 0
    mean, fraction = (np.bincount(index, weights=values)[filled] / count[filled] for values in (p_fake, is_fake))
    return mean, fraction, count[filled]


def expected_calibration_error(is_fake, p_fake, bins=BINS) -> float:
    """Return the ECE over equal-mass bins (Nguyen and O'Connor 2015): the mean gap between P(Fake) and the fraction of Fake."""
    mean, fraction, count = reliability(is_fake, p_fake, bins)
    return float(np.average(np.abs(mean - fraction), weights=count))


# --- groups --------------------------------------------------------------------------------------------------------------
BOTH_CLASSES = ("balanced_accuracy", "auc", "average_precision", "tpr_at_1pct_fpr", "tpr_at_5pct_fpr")  # metrics that need both
OF_ONE_CLASS = {"fakes_caught": ("Fake",), "fake_called_real": ("Fake",), "real_called_fake": ("Real",)}
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
        counts = rows[worst]["verdict_counts"]["Real" if metric == "real_called_fake" else "Fake"]
        images = sum(counts.values())
        errors = {"real_called_fake": counts["Fake"], "fake_called_real": counts["Real"], "fakes_caught": images - counts["Fake"]}
        summary |= {"errors": errors[metric], "images": images}
    return summary
