"""Calibration and thresholds, fitted on validation images.

Everywhere: `is_fake` is (n,) bool, the truth; `p_fake` is (n,) float64 in 0..1, the score. Fake is the positive class.
"""
import numpy as np

from detector.model.scores import p_fake_of


# --- calibration and thresholds, fitted on validation ----------------------------------------------------------------------
def fit_temperature(is_fake, logits):
    """Return the T that minimises the log loss of sigmoid(logit / T) (Guo et al. 2017, arXiv 1706.04599).

    Both classes weigh the same, as in training. T is 0.5 to 20: a few images that are told apart without error do not make
    the detector more certain than twice what it says.
    """
    from scipy.optimize import minimize_scalar

    is_fake = np.asarray(is_fake, bool)
    signed = np.where(is_fake, logits, -np.asarray(logits, np.float64))
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


def calibrate(is_fake, logits, max_error=0.01):
    """Return (temperature, thresholds) fitted on validation logits."""
    temperature = fit_temperature(is_fake, logits)
    return temperature, fit_thresholds(is_fake, p_fake_of(logits, temperature), max_error)
