"""What a file says without its picture, and whether that alone tells Fake from Real.

A detector that can learn "PNG is Fake" learns nothing else ("Fake or JPEG?", arXiv 2403.17608). So a classifier is given
the facts of the files and no pixel: where it does better than chance, the data set has a shortcut.
"""
import io
import os
import warnings
from itertools import chain

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from detector.images.formats import FORMATS

MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16", "I", "F", "YCbCr")
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")  # by Pillow's number
ANNEX_K = 3688, 5505  # sums of the luminance and chrominance tables of ITU-T T.81 Annex K: IJG's quality 50
YES = "yes"  # a fact that a file has or has not, 1 or 0
# Named facts are numbers into a list of names, for people to read;
# the others are YES, or numbers (None).
FACTS = {
    "width": None, "height": None, "aspect": None, "bytes": None, "bytes per pixel": None,
    "format": FORMATS, "colour mode": MODES,
    "JPEG quality": None, "JPEG chroma quality": None, "JPEG subsampling": SUBSAMPLINGS, "JPEG progressive": YES,
    "density": None, "EXIF": YES, "ICC profile": YES, "XMP": YES, "other text": YES, "animated": YES,
}  # fmt: skip
ABSENT = -1  # value of a fact that a file does not have: JPEG facts of a PNG, an unknown format
FEWEST = 30  # different images of each class without which an AUC says nothing
MOST = 10_000  # images of each class that are looked at: the interval is then narrower than ±0.01
FOLDS = 5
SHUFFLES = 3  # of each fact in each fold


def file_facts(source, image):
    """Return the facts of one file as (len(FACTS),) float32, in the order of FACTS.

    Args:
        source: the file's bytes, or its path.
        image: its decoded picture, (h, w, 3) uint8.
    """
    height, width = image.shape[:2]
    size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images and odd metadata, as in pixels.read_image
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as opened:
            info = opened.info
            density = info.get("dpi", info.get("jfif_density", (0, 0)))[0]
            text = getattr(opened, "text", None) or info.get("comment")
            return np.array([
                width, height, width / height, size, size / (width * height),
                _index(FORMATS, opened.format), _index(MODES, opened.mode), *_jpeg_facts(opened), float(density),
                "exif" in info, "icc_profile" in info, "xmp" in info, bool(text), getattr(opened, "is_animated", False),
            ], np.float32)  # fmt: skip


def fact(facts, name):
    """Return one of a file's facts: its name where it has names, such as 'JPEG' (None where unknown), else the number."""
    value = facts[list(FACTS).index(name)]
    names = FACTS[name]
    if not isinstance(names, tuple):
        return float(value)
    return names[int(value)] if value >= 0 else None


def _index(names, name):
    return names.index(name) if name in names else ABSENT


def _jpeg_facts(opened):
    """Return (quality, chroma quality, subsampling, progressive) of an opened image; ABSENT where it is no JPEG."""
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


def find_shortcut(facts, is_fake, groups, seed=0):
    """Try to tell Fake from Real by file facts alone.

    Args:
        facts: (n, len(FACTS)) float32.
        is_fake: (n,) bool.
        groups: (n,) int; images of one group (identical content) are never in both training and test folds.
        seed: chooses the images (at most MOST of each class), the folds and the permutations.

    Returns:
        {images, auc, interval: [low, high] (95 %, DeLong), facts: [{fact, drop, alone, Fake, Real}]}: `drop` is what the AUC
        loses when the fact is shuffled among the test images, `alone` the AUC of a shallow tree on this fact only, `Fake` and
        `Real` the median or the most frequent value. Sorted by drop, then by alone. None where a class has fewer than FEWEST.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(is_fake == value) for value in (True, False)]
    if min(len(np.unique(groups[found])) for found in members) < FEWEST:
        return None
    chosen = np.sort(np.concatenate([rng.permutation(found)[:MOST] for found in members]))
    facts, is_fake, groups = facts[chosen], is_fake[chosen], groups[chosen]
    scores, drops, alone = _cross_validate(facts, is_fake, groups, rng, seed)
    area, low, high = auc_interval(is_fake, scores)
    rows = [
        {"fact": fact, "drop": float(drops[i]), "alone": float(auc(is_fake, alone[:, i]))}
        | {name: typical(fact, facts[is_fake == value, i]) for name, value in (("Fake", True), ("Real", False))}
        for i, fact in enumerate(FACTS)
    ]
    rows.sort(key=lambda row: (-round(row["drop"], 3), -row["alone"]))
    return {"images": len(chosen), "auc": area, "interval": [low, high], "facts": rows}


def _cross_validate(facts, is_fake, groups, rng, seed):
    """Return out-of-fold scores (n,), the AUC lost by shuffling each fact (k,), and scores of each fact alone (n, k)."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.tree import DecisionTreeClassifier

    scores, alone, drops = np.zeros(len(facts)), np.zeros(facts.shape), np.zeros(facts.shape[1])
    repeats = 5 if len(facts) < 2000 else 1  # with few images the AUC hangs on how the folds fall
    folds = [StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed + i).split(facts, is_fake, groups) for i in range(repeats)]
    for train, test in chain(*folds):
        drawn = min(len(train), 4000)  # for each tree: more of them only take longer
        forest = RandomForestClassifier(60, min_samples_leaf=3, max_samples=drawn, n_jobs=-1, random_state=seed)
        forest.fit(facts[train], is_fake[train])
        of_fold = forest.predict_proba(facts[test])[:, 1]
        scores[test] += of_fold / repeats
        varying = np.repeat(np.flatnonzero(np.ptp(facts, axis=0)), SHUFFLES)
        shuffled = np.repeat(facts[None, test], len(varying), axis=0)  # one call of the forest for all: a call is dear
        for copy, i in zip(shuffled, varying, strict=True):
            copy[:, i] = rng.permutation(copy[:, i])
        lost = auc(is_fake[test], of_fold) - auc(is_fake[test], _scores(forest, shuffled))
        np.add.at(drops, varying, lost / (repeats * FOLDS * SHUFFLES))
        for i in np.unique(varying):
            tree = DecisionTreeClassifier(max_depth=4, min_samples_leaf=3, random_state=seed)
            tree.fit(facts[train, i : i + 1], is_fake[train])
            alone[test, i] += tree.predict_proba(facts[test, i : i + 1])[:, 1] / repeats
    return scores, drops, alone


def _scores(model, stack):
    """Return P(Fake), (m, n), of a stack of facts, (m, n, k).

    Rounded: the forest's threads add up their trees in the order they end, and 1e-16 would decide between ties.
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
    of_fake = (ranks[: len(fake)] - rankdata(fake)) / len(real)  # share of the Real images that score below each Fake one
    of_real = 1 - (ranks[len(fake) :] - rankdata(real)) / len(fake)
    area = of_fake.mean()
    error = np.sqrt(of_fake.var(ddof=1) / len(fake) + of_real.var(ddof=1) / len(real))
    return float(area), float(max(0, area - 1.96 * error)), float(min(1, area + 1.96 * error))


def typical(fact, values):
    """Return what most images of a class have: 'JPEG 98 %', 'yes 12 %', or a median such as '512'."""
    names = FACTS[fact]
    if names is YES:
        return f"yes {(values > 0).mean():.0%}"
    if names:
        found, counts = np.unique(values, return_counts=True)
        top = int(found[counts.argmax()])
        return f"{names[top] if top >= 0 else 'none'} {counts.max() / len(values):.0%}"
    middle = float(np.median(values))
    return "none" if middle == ABSENT else f"{middle:,.4g}" if middle < 1000 else f"{middle:,.0f}"
