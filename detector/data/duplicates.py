"""Exact duplicates, near-duplicates and leaked augmented images: pairs that cross splits or labels are leaks."""

import functools
import os
from collections import Counter, defaultdict
from itertools import combinations_with_replacement

from detector import files
from detector.console import InputError
from detector.data import tree as data_tree

# Two images count as near-duplicates if their hashes differ in at most 7 of 64 bits and their colour thumbnails correlate by
# ALIKE. Found by looking at pairs of different CIFAKE files (2,347 within 7 bits): from 0.9 on nearly all show
# the same picture, at 0.85 many are two pictures of a kind. JPEG at quality 30 leaves 95 % of CIFAKE's images above 0.96.
ALIKE = 0.94
UNSPLIT = "unsplit"  # stands for the split of images that have none yet
ORDER = (*data_tree.SPLITS, UNSPLIT)


def relation(a, b):
    """Return ((split, split), conflicting labels) of two (split, class) places, splits in their usual order."""
    return tuple(sorted((a[0], b[0]), key=ORDER.index)), a[1] != b[1]


def is_leak(relation):
    """Return whether a pair crosses splits or labels."""
    (a, b), conflicting = relation
    return a != b or conflicting


def exact_duplicates(digests, places):
    """Group files of the same content, by the hex digest, or None if it could not be read, and (split, class) of each file.

    Returns (groups, pairs): lists of indices with the same digest, those across splits or labels first, and a Counter of the
    pairs by `relation`.
    """
    by_digest = defaultdict(list)
    for index, digest in enumerate(digests):
        if digest is not None:
            by_digest[digest].append(index)
    groups = [group for group in by_digest.values() if len(group) > 1]
    groups.sort(key=lambda group: len({places[index] for index in group}) == 1)
    pairs = Counter()
    for group in groups:
        cells = Counter(places[index] for index in group)
        for a, b in combinations_with_replacement(sorted(cells), 2):
            pairs[relation(a, b)] += cells[a] * (cells[a] - 1) // 2 if a == b else cells[a] * cells[b]
    return groups, +pairs


def augmented(paths, places, insides):
    """Find augmented images that leak. Their content is new; only their names, which contain the names of the originals, tell.

    Args: relative path, (split, class) and path inside the class folder of each file.

    Returns:
        {leaks, held_out}, the entry `augmented` of the audit's report: pairs of an augmented image in train and its original, if
        that is in validation or test and not in train; and the augmented images in validation and test.
    """
    made = [i for i, inside in enumerate(insides) if data_tree.is_augmented(inside)]
    found = {"leaks": [], "held_out": [paths[i] for i in made if places[i][0] in data_tree.HELD_OUT]}
    if not made:
        return found
    there = {(*place, files.without_case(inside)): path for path, place, inside in zip(paths, places, insides, strict=True)}
    for i in made:
        split, label = places[i]
        original = files.without_case(insides[i].rpartition(data_tree.AUGMENTED)[0])
        if split == "train" and ("train", label, original) not in there:
            held = [(other, label, original) for other in data_tree.HELD_OUT]
            found["leaks"] += [[paths[i], there[key]] for key in held if key in there]
    return found


def near_duplicates(root, paths, places, hashes, usable):
    """Find pairs of different files that show the same picture.

    Args:
        root: folder that the paths are relative to.
        paths: relative path of each file.
        places: (split, class) of each file.
        hashes: (n,) uint64 perceptual hashes.
        usable: indices of the files to compare: readable, not blank, one of each content.

    Returns:
        {pairs, found: [{paths, bits, likeness}], complete}, the entry `near` of the audit's report: counts by relation, and each
        pair, those across splits or labels first, the most alike first.
    """
    import numpy as np

    from detector.images import similarity

    usable = np.array(usable, np.int64)
    pairs = similarity.close_pairs(hashes[usable])
    complete = len(pairs) < similarity.MAX_PAIRS
    pairs = usable[pairs]
    members = np.unique(pairs)
    thumbnails = files.parallel(functools.partial(colour_thumbnail, root), [paths[i] for i in members], chunk=64)
    thumbnails = np.array(thumbnails, np.uint8).reshape(-1, similarity.COLOUR_SIDE, similarity.COLOUR_SIDE, 3)
    first, second = np.searchsorted(members, pairs).T
    likeness = similarity.likeness(thumbnails, first, second)
    bits = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    found = [
        (relation(places[a], places[b]), {"paths": [paths[a], paths[b]], "bits": int(n), "likeness": round(float(alike), 4)})
        for (a, b), n, alike in zip(pairs, bits, likeness, strict=True)
        if alike >= ALIKE
    ]
    found.sort(key=lambda pair: (not is_leak(pair[0]), -pair[1]["likeness"]))
    return {"pairs": listed(Counter(kind for kind, _ in found)), "found": [pair for _, pair in found], "complete": complete}


def listed(pairs):
    """Return a Counter of pairs by relation as the list that audit.json holds, leaks first, then as the splits come."""
    order = sorted(pairs, key=lambda kind: (not is_leak(kind), [ORDER.index(split) for split in kind[0]], kind[1]))
    return [{"splits": list(kind[0]), "conflicting_labels": kind[1], "pairs": pairs[kind]} for kind in order]


def colour_thumbnail(root, path):
    """Return the thumbnail, (16, 16, 3) uint8, that confirms a pair; a black one, which confirms none, if the file has vanished."""
    import numpy as np

    from detector.images import pixels, similarity

    try:
        return similarity.colour_thumbnail(pixels.read_image(os.path.join(root, path)))
    except InputError:
        return np.zeros((similarity.COLOUR_SIDE, similarity.COLOUR_SIDE, 3), np.uint8)
