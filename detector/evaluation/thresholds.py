"""Calibration and thresholds, fitted on images that the network was not trained on.

Everywhere: `is_fake` is (n,) bool, the truth; `p_fake` is (n,) float64 in 0..1, the score; Fake is the positive class.
"""

import bisect
import csv

import numpy as np

from detector.console import InputError
from detector.model.scores import p_fake_of

SMALL_GROUP = 50  # images of a class; smaller groups are pooled, since their error rates say little
OTHERS = "(small groups)"


def calibrate(is_fake, logits, max_error=0.01, groups=None, worst_error=0.08):
    """Return (temperature, thresholds): with `groups` as `fit_group_thresholds`, otherwise as `fit_thresholds`."""
    temperature = fit_temperature(is_fake, logits, groups)
    p_fake = p_fake_of(logits, temperature)
    if groups is None:
        return temperature, fit_thresholds(is_fake, p_fake, max_error)
    return temperature, fit_group_thresholds(is_fake, p_fake, groups, max_error, worst_error)


def calibrate_from_scores(path, max_error=0.02, worst_error=0.08):
    """Return (temperature, thresholds) from a table of logits of images that the network, or one like it, was not trained on.

    With cross-validation, all images of a data set get such a logit, and the network itself can be trained on all of them.

    Args:
        path: CSV with the columns label ('Fake' or 'Real'), source and logit (of Fake), and perhaps weight, of the source in
            the mean error, and tier, if images were scored in several delivery tiers. Thresholds must hold in every tier; bounds
            and error rates are those of the first.
        max_error, worst_error: as in `fit_group_thresholds`, with the sources as groups.

    Raises:
        InputError: the file is no such table.
    """
    is_fake, groups, logits, tiers, weights = read_calibration_scores(path)
    temperature = fit_temperature(is_fake, logits, groups)
    p_fake, limits = p_fake_of(logits, temperature), {}
    names = list(dict.fromkeys(tiers.tolist()))
    for tier in names:
        here = tiers == tier
        limits[tier] = fit_group_thresholds(is_fake[here], p_fake[here], groups[here], max_error, worst_error, weights=weights)
    fake, real = max(one["fake"] for one in limits.values()), min(one["real"] for one in limits.values())
    here = tiers == names[0]
    errors = _errors_by_group(is_fake[here], p_fake[here], groups[here], {"fake": fake, "real": real}, worst_error, weights)
    return temperature, {**limits[names[0]], "fake": fake, "real": real, **errors}


def read_calibration_scores(path):
    """Read the table of `calibrate_from_scores`.

    Returns:
        (is_fake (n,) bool, sources (n,) str, logits (n,) float64, tiers (n,) str, {source: weight})

    Raises:
        InputError: the file is no such table, a logit is not finite, or a tier lacks a class.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        weights = {row["source"]: float(row.get("weight") or 1) for row in rows}
        table = [(row["label"], row["source"], float(row["logit"]), row.get("tier", "")) for row in rows]
        labels, groups, logits, tiers = map(np.array, zip(*table, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected a CSV with the columns label, source, logit, found another table ({error})") from None
    is_fake = labels == "Fake"
    if not (np.isfinite(logits).all() and all(0 < weight < np.inf for weight in weights.values())):
        raise InputError(f"{path}: expected finite logits and positive weights, found another number")
    for tier in set(tiers.tolist()):
        if set(labels[tiers == tier]) != {"Fake", "Real"}:
            found = ", ".join(sorted(set(labels[tiers == tier])))
            raise InputError(f"{path}: expected the labels Fake and Real in every tier, found {found}")
    return is_fake, groups, logits, tiers, weights


def fit_temperature(is_fake, logits, groups=None):
    """Return the T that minimises the log loss of sigmoid(logit / T) (Guo et al. 2017, arXiv 1706.04599).

    Both classes have the same total weight, as in training; within a class, groups are weighted by the square root of their size.
    T is limited to 0.5 to 20: on a few images without an error, the loss would fall without end.
    """
    from scipy.optimize import minimize_scalar

    is_fake = np.asarray(is_fake, bool)
    signed = np.where(is_fake, logits, -np.asarray(logits, np.float64))
    weights = sample_weights(is_fake, groups)

    def log_loss(log_temperature):
        return np.average(np.logaddexp(0, -signed / np.exp(log_temperature)), weights=weights)

    return float(np.exp(minimize_scalar(log_loss, bounds=np.log([0.5, 20]), method="bounded").x))


def sample_weights(labels, sources=None):
    """Return (n,) float32 weights with mean 1 that give both classes the same total weight.

    With sources, a list of n names, a source of k images has a weight proportional to the square root of k within its class: a
    large source counts more than a small one, but does not dominate. Weights instead of sampling, so that each epoch still shows
    every image once, in an order that does not depend on the option.
    """
    labels = np.asarray(labels)
    sources = [""] * len(labels) if sources is None else sources
    groups = np.array([f"{label}/{source}" for label, source in zip(labels, sources, strict=True)])
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1 / np.sqrt(counts[index])  # summed over the n images of a source: the square root of n
    for label in set(labels.tolist()):
        of_class = labels == label
        weights[of_class] *= len(labels) / (2 * weights[of_class].sum())
    return weights.astype(np.float32)


def fit_thresholds(is_fake, p_fake, max_error=0.01):
    """Choose the thresholds of the three-way verdict so that they hold on other images of the same kind.

    t_F is the smallest threshold for which, with 95 % confidence, at most `max_error` of all Real images like these are called
    Fake; t_R is likewise the largest for which at most that many Fake images are called Real (distribution-free tolerance limits,
    Wilks 1941). With too few images for any such threshold, it lies beyond all of them. Each threshold is the middle between two
    scores, so that rounding does not move an image across it. If the two cross, both become the threshold of least error.

    Returns:
        {'fake': t_F, 'real': t_R, 'max_error', 'real_called_fake_bound', 'fake_called_real_bound', 'n_real', 'n_fake'}. A bound is
        the upper 95 % confidence limit of that error rate: above `max_error` with too few images. If t_F = t_R, the verdict at
        the threshold itself is Fake.
    """
    is_fake, p_fake = np.asarray(is_fake, bool), np.asarray(p_fake, np.float64)
    real, fake = np.sort(p_fake[~is_fake]), np.sort(p_fake[is_fake])
    wrong_real, wrong_fake = (errors_within(max_error, len(scores)) for scores in (real, fake))
    upper = _middle(real[len(real) - 1 - wrong_real], real, 1)
    lower = _middle(fake[wrong_fake], fake, 0)
    return {
        **_uncrossed(is_fake, p_fake, upper, lower),
        "max_error": max_error,
        "real_called_fake_bound": upper_bound(wrong_real, len(real)),
        "fake_called_real_bound": upper_bound(wrong_fake, len(fake)),
        "n_real": len(real),
        "n_fake": len(fake),
    }


def fit_group_thresholds(is_fake, p_fake, groups, max_error=0.02, worst_error=0.08, weights=None):
    """Choose the thresholds of the three-way verdict so that they hold on average over groups, and nearly in each of them.

    t_F is the smallest threshold at which the false-positive rate (Real called Fake) is at most `max_error` on average over the
    groups, and at most `worst_error` in each; t_R is likewise the largest for Fake called Real. Groups with fewer than
    SMALL_GROUP images of the class are pooled, those of the same weight to one group, whose rate counts in the average but is not
    limited by `worst_error` if it has fewer than that itself. Each threshold is the middle between two scores. If the two cross,
    both become the threshold of least error.

    Args:
        groups: (n,) names, such as the source of each image.
        weights: {group: weight in the average}, 1 if a group is not in it. `worst_error` does not apply to groups with a weight
            below 1, such as one with wrong labels or a single subject.

    Returns:
        as `fit_thresholds`, and 'groups': {'worst_error', 'small', 'real', 'fake'}, the last two with {'n', 'mean_error',
        'worst_error', 'worst'}: number of groups, the error rates at the threshold, and the group of the highest. A bound is the
        upper 95 % confidence limit of the error rate, on average over groups like these: the larger of the limit by the t
        distribution over the groups' rates and that of Clopper and Pearson for all images.
    """
    is_fake, p_fake, groups = np.asarray(is_fake, bool), np.asarray(p_fake, np.float64), np.asarray(groups, str)
    real, fake = _wrong_way(is_fake, p_fake, groups, weights or {})
    upper = _group_threshold(real, max_error, worst_error)
    lower = 1 - _group_threshold(fake, max_error, worst_error)
    limits = _uncrossed(is_fake, p_fake, upper, max(0.0, lower))  # a score of 1 has a successor above 1
    errors = _errors_by_group(is_fake, p_fake, groups, limits, worst_error, weights or {})
    return {**limits, "max_error": max_error, **errors, "n_real": int((~is_fake).sum()), "n_fake": int(is_fake.sum())}


def _wrong_way(is_fake, p_fake, groups, weights):
    """Return P(Fake) of the Real images and 1 - P(Fake) of the Fake ones, whose high scores are errors, by `_by_group`."""
    return _by_group(p_fake[~is_fake], groups[~is_fake], weights), _by_group(1 - p_fake[is_fake], groups[is_fake], weights)


def _errors_by_group(is_fake, p_fake, groups, limits, worst_error, weights):
    """Return {'real_called_fake_bound', 'fake_called_real_bound', 'groups'} at two thresholds, as `fit_group_thresholds`."""
    real, fake = _wrong_way(is_fake, p_fake, groups, weights)
    real_bound, of_real = _group_errors(real, limits["fake"])
    fake_bound, of_fake = _group_errors(fake, 1 - limits["real"])
    by_group = {"worst_error": worst_error, "small": SMALL_GROUP, "real": of_real, "fake": of_fake}
    return {"real_called_fake_bound": real_bound, "fake_called_real_bound": fake_bound, "groups": by_group}


def _by_group(scores, groups, weights):
    """Return {(group, weight): sorted scores}; groups with fewer than SMALL_GROUP scores are pooled, by weight."""
    by_group = {}
    for name, count in zip(*np.unique(groups, return_counts=True), strict=True):
        key = str(name) if count >= SMALL_GROUP else OTHERS, weights.get(str(name), 1)
        by_group.setdefault(key, []).extend(scores[groups == name])
    return {key: np.sort(some) for key, some in by_group.items()}


def _group_threshold(by_group, max_error, worst_error):
    """Return the smallest threshold at which the mean and the highest of the groups' rates of scores above it are low enough."""
    scores = np.unique(np.concatenate(list(by_group.values())))
    weight = np.array([weight for _, weight in by_group])
    limited = np.array([len(some) >= SMALL_GROUP for some in by_group.values()]) & (weight >= 1)

    def holds(index):
        rates = np.array([(some > scores[index]).mean() for some in by_group.values()])
        return np.average(rates, weights=weight) <= max_error and (rates[limited] <= worst_error).all()

    return _middle(scores[bisect.bisect_left(range(len(scores) - 1), True, key=holds)], scores, 1)


def _group_errors(by_group, threshold):
    """Return (upper 95 % confidence limit of the weighted mean error rate, {'n', 'mean_error', 'worst_error', 'worst'})."""
    from scipy import stats

    rates = np.array([(some >= threshold).mean() for some in by_group.values()])
    weight = np.array([weight for _, weight in by_group])
    weight = weight / weight.sum()
    mean = float(weight @ rates)
    errors, n = sum(int((some >= threshold).sum()) for some in by_group.values()), sum(map(len, by_group.values()))
    bound = upper_bound(errors, n)
    if len(rates) > 1:
        deviation = np.sqrt(weight**2 @ (rates - mean) ** 2 * len(rates) / (len(rates) - 1))
        bound = max(bound, min(1.0, mean + stats.t.ppf(0.95, len(rates) - 1) * deviation))
    worst = int(rates.argmax())
    found = {"n": len(rates), "mean_error": mean, "worst_error": float(rates[worst]), "worst": [*by_group][worst][0]}
    return float(bound), found


def _uncrossed(is_fake, p_fake, upper, lower):
    """Return {'fake', 'real'}: two thresholds as they are, or if they cross, one of least error between them for both."""
    if lower >= upper:
        upper = lower = np.clip(_least_error(is_fake, p_fake), upper, lower)  # between them both error limits hold
    return {"fake": float(upper), "real": float(lower)}


def errors_within(rate, n):
    """Return the largest number of errors in `n` trials whose `upper_bound` is at most `rate`; otherwise 0."""
    if not n:
        return 0
    return max(0, bisect.bisect_right(range(int(rate * n) + 1), rate, key=lambda errors: upper_bound(errors, n)) - 1)


def _middle(score, scores, end):
    """Return the middle between a score and the next of sorted scores towards `end` (0 or 1), or `end` without one."""
    beyond = scores[scores > score] if end else scores[scores < score][::-1]
    middle = (score + (beyond[0] if len(beyond) else end)) / 2
    return middle if middle != score else np.nextafter(score, 2 * end - 0.5)


def _least_error(is_fake, p_fake):
    """Return the threshold from which on calling images Fake makes the fewest errors, both classes weighted the same."""
    from sklearn.metrics import roc_curve

    false_positive, true_positive, thresholds = roc_curve(is_fake, p_fake, drop_intermediate=False)
    best = min(thresholds[int(np.argmax(true_positive - false_positive))], 1.0)
    return _middle(best, np.sort(p_fake), 0)


def upper_bound(errors, n, confidence=0.95):
    """Return the one-sided Clopper-Pearson upper confidence limit of an error rate: `errors` of `n` trials."""
    from scipy.stats import binomtest

    return float(binomtest(int(errors), int(n), alternative="less").proportion_ci(confidence).high) if n else 1.0
