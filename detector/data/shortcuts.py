"""Metadata-only baseline: how well features of the files, without a pixel, separate Fake from Real.

A detector that can learn "PNG is Fake" learns nothing else ("Fake or JPEG?", arXiv 2403.17608). So a classifier is trained on size,
format, compression and metadata alone: if it does better than chance, the data set has a shortcut.
"""

import os
import warnings
from itertools import chain

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from detector.console import InputError
from detector.images.formats import FORMATS, HEAD, image_format
from detector.images.guard import one_file

MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16", "I", "F", "YCbCr")
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")  # by Pillow's number
ANNEX_K = 3688, 5505  # sums of the luminance and chrominance tables of ITU-T T.81 Annex K: IJG's quality 50
YES = "yes"  # a feature that a file has or has not, 1 or 0
# A tuple: the value is an index into these names. YES: 1 or 0. None: a number.
FEATURES = {
    "width": None, "height": None, "aspect": None, "bytes": None, "bytes per pixel": None,
    "format": FORMATS, "colour mode": MODES,
    "JPEG quality": None, "JPEG chroma quality": None, "JPEG subsampling": SUBSAMPLINGS, "JPEG progressive": YES,
    "density": None, "EXIF": YES, "ICC profile": YES, "XMP": YES, "other text": YES, "animated": YES,
}  # fmt: skip
ABSENT = -1  # value of a feature that a file does not have: JPEG features of a PNG, an unknown format
FEWEST = 30  # different images of each class that an AUC needs at least
MOST = 10_000  # images of each class that are used: the interval is then narrower than ±0.01
FOLDS = 5
REPEATS = 5  # of the cross-validation of fewer than 2,000 images, whose AUC depends on the folds
SHUFFLES = 3  # of each feature in each fold


def file_features(path, image):
    """Return the features of one file as (len(FEATURES),) float32, in the order of FEATURES.

    `image` is its decoded picture, (h, w, 3) uint8. Metadata that cannot be parsed counts as absent.
    """
    height, width = image.shape[:2]
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        kind = image_format(file.read(HEAD))
    try:
        with one_file("metadata"):
            metadata = _metadata(path, kind)
    except InputError:
        metadata = *(ABSENT,) * 5, 0, 0, 0, 0, 0, 0
    shape = width, height, width / height, size, size / (width * height)
    return np.array([*shape, _index(FORMATS, kind), *metadata], np.float32)


def feature(features, name):
    """Return one of a file's features: its name if it has names, such as 'JPEG' (None if unknown), else the number."""
    value = features[list(FEATURES).index(name)]
    names = FEATURES[name]
    if not isinstance(names, tuple):
        return float(value)
    return names[int(value)] if value >= 0 else None


def _index(names, name):
    return names.index(name) if name in names else ABSENT


def _metadata(path, kind):
    """Return the features from "colour mode" on."""
    with warnings.catch_warnings(action="ignore"), Image.open(path, formats=[kind]) as opened:  # Pillow warns of odd metadata
        info = opened.info
        density = info.get("dpi", info.get("jfif_density", (0, 0)))[0]
        text = getattr(opened, "text", None) or info.get("comment")
        animated = kind != "JPEG" and getattr(opened, "is_animated", False)  # the second image of a JPEG is a preview
        has = (info.get(name) is not None for name in ("exif", "icc_profile", "xmp"))
        return _index(MODES, opened.mode), *_jpeg_features(opened), float(density), *has, bool(text), animated


def _jpeg_features(opened):
    """Return (quality, chroma quality, subsampling, progressive) of an opened image; ABSENT if it is no JPEG."""
    tables = getattr(opened, "quantization", None)
    if not tables:
        return (ABSENT,) * 4
    sums = [sum(tables[key]) for key in sorted(tables)[:2]]
    qualities = [_quality(found, annex) for found, annex in zip(sums, ANNEX_K, strict=False)] + [ABSENT]
    return *qualities[:2], get_sampling(opened), "progressive" in opened.info


def _quality(total, annex_k):
    """Return IJG's quality setting, 1 to 100, that scales an Annex K table to this sum; for other tables the nearest."""
    percent = 100 * total / annex_k
    return round(min(100, max(1, 100 - percent / 2 if percent <= 100 else 5000 / percent)), 1)


def metadata_baseline(features, is_fake, groups, seed=0):
    """Measure how well a random forest separates Fake from Real by file features alone, in cross-validation.

    Args:
        features: (n, len(FEATURES)) float32.
        is_fake: (n,) bool.
        groups: (n,) int; images of one group (identical content) are never in both training and test folds.
        seed: chooses the images (at most MOST of each class), the folds and the permutations.

    Returns:
        {images, auc, interval: [low, high] (95 %, DeLong), facts: [{fact, drop, alone, Fake, Real}]}: `drop` is what the AUC
        loses if the feature is shuffled among the test images, `alone` the AUC of a shallow tree on this feature only, `Fake` and
        `Real` the median or the most frequent value. Sorted by drop, then by alone. None if a class has fewer than FEWEST.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(is_fake == value) for value in (True, False)]
    if min(len(np.unique(groups[found])) for found in members) < FEWEST:
        return None
    chosen = np.sort(np.concatenate([rng.permutation(found)[:MOST] for found in members]))
    features, is_fake, groups = features[chosen], is_fake[chosen], groups[chosen]
    scores, drops, alone = _cross_validate(features, is_fake, groups, rng, seed)
    area, low, high = auc_interval(is_fake, scores)
    rows = [
        {"fact": name, "drop": float(drops[i]), "alone": float(auc(is_fake, alone[:, i]))}
        | {label: typical(name, features[is_fake == value, i]) for label, value in (("Fake", True), ("Real", False))}
        for i, name in enumerate(FEATURES)
    ]
    rows.sort(key=lambda row: (-round(row["drop"], 3), -row["alone"]))
    return {"images": len(chosen), "auc": area, "interval": [low, high], "facts": rows}


def _cross_validate(features, is_fake, groups, rng, seed):
    """Return out-of-fold scores (n,), the AUC lost by shuffling each feature (k,), and scores of each feature alone (n, k)."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.tree import DecisionTreeClassifier

    scores, alone, drops = np.zeros(len(features)), np.zeros(features.shape), np.zeros(features.shape[1])
    repeats = REPEATS if len(features) < 2000 else 1
    splitters = [StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed + i) for i in range(repeats)]
    folds = [splitter.split(features, is_fake, groups) for splitter in splitters]
    for train, test in chain(*folds):
        drawn = min(len(train), 4000)  # for each tree: more only take longer
        forest = RandomForestClassifier(60, min_samples_leaf=3, max_samples=drawn, n_jobs=-1, random_state=seed)
        forest.fit(features[train], is_fake[train])
        of_fold = forest.predict_proba(features[test])[:, 1]
        scores[test] += of_fold / repeats
        varying = np.repeat(np.flatnonzero(np.ptp(features, axis=0)), SHUFFLES)
        shuffled = np.repeat(features[None, test], len(varying), axis=0)  # one call of the forest for all: each call is slow
        for copy, i in zip(shuffled, varying, strict=True):
            copy[:, i] = rng.permutation(copy[:, i])
        lost = auc(is_fake[test], of_fold) - auc(is_fake[test], _scores(forest, shuffled))
        np.add.at(drops, varying, lost / (repeats * FOLDS * SHUFFLES))
        for i in np.unique(varying):
            tree = DecisionTreeClassifier(max_depth=4, min_samples_leaf=3, random_state=seed)
            tree.fit(features[train, i : i + 1], is_fake[train])
            alone[test, i] += tree.predict_proba(features[test, i : i + 1])[:, 1] / repeats
    return scores, drops, alone


def _scores(model, stack):
    """Return P(Fake), (m, n), of a stack of features, (m, n, k).

    Rounded, since the forest's threads sum their trees in any order, and a difference of 1e-16 would decide between ties.
    """
    if not len(stack):
        return np.empty(stack.shape[:2])
    return model.predict_proba(stack.reshape(-1, stack.shape[2]))[:, 1].reshape(stack.shape[:2]).round(12)


def auc(is_fake, scores):
    """Return the AUC of scores, (..., n), larger for Fake; ties count half."""
    from scipy.stats import rankdata

    fake, n = np.count_nonzero(is_fake), len(is_fake)
    return (rankdata(scores, axis=-1)[..., is_fake].sum(axis=-1) / fake - (fake + 1) / 2) / (n - fake)


def auc_interval(is_fake, scores):
    """Return (AUC, low, high) with the 95 % interval of DeLong, DeLong and Clarke-Pearson (1988, Biometrics 44, 837).

    Args:
        is_fake: (n,) bool, both values present.
        scores: (n,) float, larger for Fake.
    """
    from scipy.stats import rankdata

    fake, real = scores[is_fake], scores[~is_fake]
    ranks = rankdata(np.concatenate([fake, real]))
    of_fake = (ranks[: len(fake)] - rankdata(fake)) / len(real)  # fraction of the Real images that score below each Fake one
    of_real = 1 - (ranks[len(fake) :] - rankdata(real)) / len(fake)
    area = of_fake.mean()
    error = np.sqrt(of_fake.var(ddof=1) / len(fake) + of_real.var(ddof=1) / len(real))
    return float(area), float(max(0, area - 1.96 * error)), float(min(1, area + 1.96 * error))


def typical(name, values):
    """Return the typical value of a feature in a class: 'JPEG 98 %', 'yes 12 %', or a median such as '512'."""
    names = FEATURES[name]
    if names is YES:
        return f"yes {(values > 0).mean():.0%}"
    if names:
        found, counts = np.unique(values, return_counts=True)
        top = int(found[counts.argmax()])
        return f"{names[top] if top >= 0 else 'none'} {counts.max() / len(values):.0%}"
    middle = float(np.median(values))
    return "none" if middle == ABSENT else f"{middle:,.4g}" if middle < 1000 else f"{middle:,.0f}"
