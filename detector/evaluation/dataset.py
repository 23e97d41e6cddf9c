"""The images to evaluate: their groups, their corruptions and delivery tiers, and which of them are train images."""

import functools
import zlib
from typing import NamedTuple

from detector import files
from detector.console import InputError
from detector.data import placing
from detector.data import tree as data_tree

ALL = "all"  # name of the split of a tree without splits
NO_GROUP = "(none)"
MOST_GROUPS = 500
TIERS = {"web": (1080, 80), "hard": (512, 40)}  # delivery tier: pixels of the longer side at most, JPEG quality


class Item(NamedTuple):
    """One image file to evaluate; `path` is a POSIX path relative to the data, `group` None without --group-by."""

    path: str
    is_fake: bool
    group: str | None

    @property
    def label(self):
        """'Fake' or 'Real'."""
        return data_tree.CLASSES[0 if self.is_fake else 1]


def list_items(data, splits=None, group_by=None, skipped=None):
    """List the images to evaluate, and the images of the train folder in the same tree.

    Args:
        data: folder with class folders, or with split folders that hold them.
        splits: names of the splits; None for test, or for a tree without splits.
        group_by: 'folder', or a regular expression, or None.
        skipped: list that takes a line for each reason why files in the folders are not evaluated.

    Returns:
        ({split: [Item]}, [paths of the train images, relative to data] or None)

    Raises:
        InputError: a class or split is missing or empty, the regular expression is invalid, or there are too many groups.
    """
    layout = data_tree.find_layout(data)
    placing.refuse_unfinished(data)
    if None in layout:
        if splits:
            raise InputError(f"{data}: expected the split {splits[0]}, found class folders without splits; leave --split out")
        return {ALL: _items_of(data, layout[None], group_by, skipped)}, None
    found = {}
    for split in splits or ["test"]:
        if split not in layout:
            there = ", ".join(name for name in data_tree.SPLITS if name in layout)
            raise InputError(f"{data}: expected the split {split}, found {there}; name another with --split")
        found[split] = _items_of(data, layout[split], group_by, skipped)
    train = [path for folders in layout.get("train", {}).values() for folder in folders for path, _ in _files(data, folder)]
    return found, train or None


def _files(data, folder, links=None, ignored=None):
    """Yield (path relative to data, path inside the class folder) of each file."""
    prefix = folder.relative_to(data).as_posix()
    for inside in files.scan(folder, links, ignored):
        yield f"{prefix}/{inside}", inside


def _items_of(data, classes, group_by, skipped):
    items, links, ignored = [], [], []
    group_of = data_tree.make_grouping(group_by)
    for name, folders in classes.items():
        before = len(items)
        for folder in folders:
            for path, inside in _files(data, folder, links, ignored):
                group = group_of(path, inside) or NO_GROUP if group_by is not None else None
                items.append(Item(path, name == data_tree.CLASSES[0], group))
        if len(items) == before:
            raise InputError(f"{folders[0]}: expected images of class {name}, found an empty folder; fill it")
    if skipped is not None:
        skipped += data_tree.report_skipped(links=links, ignored=ignored)
    groups = len({item.group for item in items})
    if groups > MOST_GROUPS:
        raise InputError(f"--group-by: expected at most {MOST_GROUPS} groups, found {groups:,}; give another expression")
    return items


def corruption_functions():
    """Return {name: function from an image, (h, w, 3) uint8, to the corrupted image}."""
    import cv2
    import numpy as np

    from detector.images import corruptions

    cv2.setNumThreads(1)  # images are processed in threads already

    def noise(image, sigma):
        return corruptions.noise(image, sigma, np.random.default_rng(zlib.crc32(np.ascontiguousarray(image))))

    return {
        **{f"JPEG {quality}": lambda image, q=quality: corruptions.jpeg(image, q) for quality in (90, 70, 50, 30)},
        **{f"blur {sigma}": lambda image, s=sigma: corruptions.blur(image, s) for sigma in (1, 2, 3)},
        **{f"noise {sigma:.2f}": lambda image, s=sigma: noise(image, s) for sigma in (0.05, 0.10)},
        **{f"scale 1/{part}": lambda image, p=part: corruptions.scale(image, 1 / p) for part in (2, 4)},
        "WebP 50": lambda image: corruptions.webp(image, 50),
        "flip": lambda image: image[:, ::-1],
    }


def tier_functions():
    """Return {name: function from an image, (h, w, 3) uint8, to the image as platforms deliver it: smaller, JPEG}."""
    import cv2

    from detector.images import corruptions

    cv2.setNumThreads(1)
    return {name: functools.partial(corruptions.deliver, longest=longest, quality=quality)
            for name, (longest, quality) in TIERS.items()}  # fmt: skip


def known_digests(data, model, train):
    """Return the digests of the train images of the tree (`train` are their paths, or None) and of the model, a .h5.

    Returns:
        {'in_train': set of SHA-256 as hex digits, 'in_train_of_model': set of their first 16}, None if not known.
    """
    from detector.model.file import read_train_digests

    digests = read_train_digests(model)
    return {
        "in_train": set(_digests(data, train)) - {None} if train else None,
        "in_train_of_model": None if digests is None else {row.tobytes().hex() for row in digests},
    }


def find_leaks(data, paths, known):
    """Find which of n images, given by paths relative to `data`, are also train images, by content.

    Args:
        known: as returned by `known_digests`.

    Returns:
        ({in_train, in_train_of_model, either: number of images, None if not known}, (n,) bool)
    """
    import numpy as np

    digests = _digests(data, paths) if any(some is not None for some in known.values()) else []
    counts, either = {}, np.zeros(len(paths), bool)
    for name, length in (("in_train", 64), ("in_train_of_model", 16)):
        counts[name] = None
        if known[name] is not None:
            found = np.array([digest is not None and digest[:length] in known[name] for digest in digests], bool)
            counts[name] = int(found.sum())
            either |= found
    return {**counts, "either": int(either.sum()) if digests else None}, either


def count_trained_on(data, paths, model):
    """Return how many images are among the train images of the model file, by content; None if it has no digests."""
    return find_leaks(data, paths, known_digests(data, model, None))[0]["in_train_of_model"]


def _digests(data, paths):
    """Return the SHA-256 of each file as hex digits, None if it cannot be read."""
    return [digest for digest, _ in files.digests_and_formats(data, paths)]
