"""Metrics. NumPy, SciPy and scikit-learn; no images, no network.

Everywhere: `is_fake` is (n,) bool, the truth; `p_fake` is (n,) float64 in 0..1, the score. Fake is the positive class.
"""
import numpy as np

from detector.data.tree import CLASSES
from detector.model.scores import verdict_of

BINS = 15  # of the calibration error


# --- figures -------------------------------------------------------------------------------------------------------------
def figures(is_fake, p_fake, thresholds, p_raw=None):
    """Compute the figures of metrics.json; one that does not exist (of an absent class, say) is None.

    Args:
        is_fake: (n,) bool.
        p_fake: (n,) float, calibrated.
        thresholds: {'fake': t_F, 'real': t_R}, from the model file.
        p_raw: (n,) float, before calibration, or None.

    Returns:
        dict with n, accuracy, balanced_accuracy, auc, average_precision, tpr_at_1pct_fpr, tpr_at_5pct_fpr, brier, ece, log_loss,
        confusion ([[Fake as Fake, Fake as Real], [Real as Fake, Real as Real]]), per_class (precision, recall, f1 of each),
        uncertain_share, accuracy_when_certain (None where every verdict is uncertain), real_called_fake and fake_called_real;
        with `p_raw` also raw (log_loss, brier, ece; the others do not change, as calibration keeps the order and the side).
        An image counts as Fake in accuracy, confusion and per_class from P(Fake) 0.5 on; the last four use the verdict.
    """
    from sklearn import metrics

    is_fake, p_fake = np.asarray(is_fake, bool), np.asarray(p_fake, np.float64)
    said_fake = p_fake >= 0.5
    some, both = len(is_fake) > 0, bool(is_fake.any() and not is_fake.all())
    return {
        "n": len(is_fake),
        "accuracy": _where(some, metrics.accuracy_score, is_fake, said_fake),
        "balanced_accuracy": _where(both, metrics.balanced_accuracy_score, is_fake, said_fake),
        "auc": _where(both, metrics.roc_auc_score, is_fake, p_fake),
        "average_precision": _where(both, metrics.average_precision_score, is_fake, p_fake),
        "tpr_at_1pct_fpr": _where(both, tpr_at_fpr, is_fake, p_fake, 0.01),
        "tpr_at_5pct_fpr": _where(both, tpr_at_fpr, is_fake, p_fake, 0.05),
        **calibration(is_fake, p_fake),
        "confusion": metrics.confusion_matrix(~is_fake, ~said_fake, labels=[False, True]).tolist() if some else [[0, 0], [0, 0]],
        "per_class": per_class(is_fake, said_fake),
        **three_way(is_fake, p_fake, thresholds),
        **({} if p_raw is None else {"raw": calibration(is_fake, np.asarray(p_raw, np.float64))}),
    }


def _where(exists, figure, *arguments):
    return float(figure(*arguments)) if exists else None


def calibration(is_fake, p_fake):
    """Return brier, ece and log_loss (None without images)."""
    from sklearn import metrics

    some = len(is_fake) > 0
    return {
        "brier": _where(some, lambda: np.mean((p_fake - is_fake) ** 2)),
        "ece": _where(some, expected_calibration_error, is_fake, p_fake),
        "log_loss": _where(some, lambda: metrics.log_loss(is_fake, p_fake, labels=[False, True])),
    }


def per_class(is_fake, said_fake):
    """Return {class: {precision, recall, f1}} of (n,) bool arrays; where a class is absent, only the other's recall exists."""
    from sklearn.metrics import precision_recall_fscore_support

    found, both = {}, is_fake.any() and not is_fake.all()
    for name, truth, said in zip(CLASSES, (is_fake, ~is_fake), (said_fake, ~said_fake), strict=True):
        if truth.any():
            precision, recall, f1, _ = precision_recall_fscore_support(truth, said, average="binary", zero_division=0)
            precision, f1 = (float(precision), float(f1)) if both else (None, None)
            found[name] = {"precision": precision, "recall": float(recall), "f1": f1}
        else:
            found[name] = {"precision": None, "recall": None, "f1": None}
    return found


def three_way(is_fake, p_fake, thresholds):
    """Return how the three-way verdict does: uncertain_share, accuracy_when_certain, real_called_fake, fake_called_real."""
    verdicts = np.array([verdict_of(p, thresholds) for p in p_fake])
    certain = verdicts != "uncertain"
    right = verdicts == np.where(is_fake, "Fake", "Real")
    return {
        "uncertain_share": _share(~certain),
        "accuracy_when_certain": _share(right[certain]),
        "real_called_fake": _share(verdicts[~is_fake] == "Fake"),
        "fake_called_real": _share(verdicts[is_fake] == "Real"),
    }


def _share(cases):
    return float(np.mean(cases)) if len(cases) else None


def tpr_at_fpr(is_fake, p_fake, fpr):
    """Return the largest true positive rate that a threshold reaches with a false positive rate of at most `fpr`."""
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(is_fake, p_fake, drop_intermediate=False)
    return float(true_positive[false_positive <= fpr].max())


def bins_of(p_fake, bins=BINS):
    """Return the number, 0 to bins - 1, of the equal-mass bin that each of (n,) scores is in.

    It follows from how many images have a higher score. Equal scores are in one bin, whatever their order.
    """
    higher = len(p_fake) - np.searchsorted(np.sort(p_fake), p_fake, side="right")
    return bins - 1 - higher * bins // len(p_fake)


def reliability(is_fake, p_fake, bins=BINS):
    """Return (mean P(Fake), share of Fake, count) of equal-mass bins: three arrays, one value for each bin that has images."""
    is_fake, p_fake = np.asarray(is_fake, np.float64), np.asarray(p_fake, np.float64)
    index = bins_of(p_fake, bins)
    count = np.bincount(index)
    filled = count > 0
    mean, share = (np.bincount(index, weights=values)[filled] / count[filled] for values in (p_fake, is_fake))
    return mean, share, count[filled]


def expected_calibration_error(is_fake, p_fake, bins=BINS):
    """Return the ECE over equal-mass bins (Nguyen and O'Connor 2015): mean gap of P(Fake) and the share of Fake, by count."""
    mean, share, count = reliability(is_fake, p_fake, bins)
    return float(np.average(np.abs(mean - share), weights=count))
