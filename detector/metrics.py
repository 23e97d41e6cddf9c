"""Figures, calibration and thresholds. NumPy, SciPy and scikit-learn; no image, no network.

Everywhere: `is_fake` is (n,) bool, the truth; `p_fake` is (n,) float64 in 0..1, the score. Fake is the positive class.
"""
import numpy as np

from detector.data_tree import CLASSES
from detector.model_file import p_fake_of, verdict_of

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


# --- calibration and thresholds, fitted on validation ----------------------------------------------------------------------


def fit_temperature(is_fake, margins):
    """Return the T that minimises the log loss of sigmoid(margin / T) (Guo et al. 2017, arXiv 1706.04599).

    Both classes weigh the same, as in training. T is 0.5 to 20: a few images that are told apart without error do not make
    the detector more certain than twice what it says.
    """
    from scipy.optimize import minimize_scalar

    is_fake = np.asarray(is_fake, bool)
    signed = np.where(is_fake, margins, -np.asarray(margins, np.float64))
    weights = np.where(is_fake, 1 / max(1, is_fake.sum()), 1 / max(1, (~is_fake).sum()))

    def log_loss(log_temperature):
        return np.average(np.logaddexp(0, -signed / np.exp(log_temperature)), weights=weights)

    return float(np.exp(minimize_scalar(log_loss, bounds=np.log([0.5, 20]), method="bounded").x))


def fit_thresholds(is_fake, p_fake, max_error=0.01):
    """Choose the thresholds of the three-way verdict on validation images, so that they hold on others.

    t_F is the smallest threshold of which it can be said with 95 % confidence that at most `max_error` of all Real images like
    these reach it; t_R likewise the largest that at most so many of the Fake images are under or at (distribution-free
    tolerance limits, Wilks 1941). Where there are too few images to say that of any threshold, it lies beyond all of them. Each
    lies in the middle between two scores, so that float noise does not move an image across it. Where the two cross, both
    become the threshold of least error.

    Returns:
        {'fake': t_F, 'real': t_R, 'max_error', 'real_called_fake_bound', 'fake_called_real_bound', 'n_real', 'n_fake'}; a bound is
        the share of which the above can be said: above `max_error` where there are too few images. With t_F = t_R the verdict
        at the threshold itself is Fake.
    """
    is_fake, p_fake = np.asarray(is_fake, bool), np.asarray(p_fake, np.float64)
    real, fake = np.sort(p_fake[~is_fake]), np.sort(p_fake[is_fake])
    wrong_real, wrong_fake = (errors_within(max_error, len(scores)) for scores in (real, fake))
    upper = _middle(real[len(real) - 1 - wrong_real], real, 1)
    lower = _middle(fake[wrong_fake], fake, 0)
    if lower >= upper:
        upper = lower = np.clip(_least_error(is_fake, p_fake), upper, lower)  # between them both promises hold
    return {
        "fake": float(upper),
        "real": float(lower),
        "max_error": max_error,
        "real_called_fake_bound": upper_bound(wrong_real, len(real)),
        "fake_called_real_bound": upper_bound(wrong_fake, len(fake)),
        "n_real": len(real),
        "n_fake": len(fake),
    }


def errors_within(rate, n):
    """Return how many errors of `n` trials at most have an `upper_bound` within `rate`; 0 where not even that has."""
    if not n:
        return 0
    errors = np.arange(int(rate * n) + 1)
    return max(0, int(np.sum([upper_bound(k, n) <= rate for k in errors])) - 1)


def _middle(score, scores, end):
    """Return the middle between a score and the next of sorted scores towards `end` (0 or 1), or `end` where there is none."""
    beyond = scores[scores > score] if end else scores[scores < score][::-1]
    middle = (score + (beyond[0] if len(beyond) else end)) / 2
    return middle if middle != score else np.nextafter(score, 2 * end - 0.5)


def _least_error(is_fake, p_fake):
    """Return the threshold from which on calling Fake makes the fewest errors, each class weighing the same."""
    from sklearn.metrics import roc_curve

    false_positive, true_positive, thresholds = roc_curve(is_fake, p_fake, drop_intermediate=False)
    best = min(thresholds[int(np.argmax(true_positive - false_positive))], 1.0)
    return _middle(best, np.sort(p_fake), 0)


def upper_bound(errors, n, confidence=0.95):
    """Return the one-sided Clopper-Pearson upper limit of an error rate: `errors` of `n` trials."""
    from scipy.special import betaincinv

    return 1.0 if errors >= n else float(betaincinv(errors + 1, n - errors, confidence))


def calibrate(is_fake, margins, max_error=0.01):
    """Return (temperature, thresholds) fitted on validation margins."""
    temperature = fit_temperature(is_fake, margins)
    return temperature, fit_thresholds(is_fake, p_fake_of(margins, temperature), max_error)
