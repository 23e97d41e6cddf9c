"""The data tree data/{train,validation,test}/{Fake,Real}: splits, classes, published layouts, reading and counting.

The folder is the label. The class order is fixed: Fake is 0, Real is 1.
"""

import hashlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from detector.console import InputError, reason_line, table
from detector.data.placing import refuse_unfinished
from detector.files import counts_as_file, digests_and_formats, folders_above, names_for, require_folder, scan, without_case

SPLITS = ("train", "validation", "test")
HELD_OUT = ("validation", "test")  # kept as published
CLASSES = ("Fake", "Real")  # the index is the label
LEFT_OUT = "left_out"
NOT_STRAY = {"raw", LEFT_OUT}  # folders next to the splits that the stages make
AUGMENTED = "__augmented-"  # in the name of every image that data_augmentation made
_CLASS_ALIASES = {
    "Fake": {
        "fake", "fakes", "ai", "aiart", "aigenerated", "aigeneratedimages", "aiimages", "artificial", "diffusion",
        "fakeart", "fakeimages", "generated", "generatedart", "generatedimages", "machine", "sd", "synthetic",
    },
    "Real": {
        "real", "reals", "realart", "realimages", "realphotos", "authentic", "camera", "genuine", "human", "humanart",
        "humanmade", "natural", "nature", "original", "photo", "photograph", "photographs", "photos",
    },
}  # fmt: skip
_SPLIT_ALIASES = {
    "train": {"train", "training", "traindata", "trainset"},
    "validation": {"validation", "valid", "val", "dev", "validationset"},
    "test": {"test", "testing", "testdata", "testset"},
}


def _known_as(name, aliases):
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((known for known, names in aliases.items() if key in names), None)


def class_of(folder_name):
    """Return 'Fake', 'Real' or None for a folder name such as FAKE, real_images or GeneratedArt."""
    return _known_as(folder_name, _CLASS_ALIASES)


def split_of(folder_name):
    """Return 'train', 'validation', 'test' or None for a folder name such as Training or val."""
    return _known_as(folder_name, _SPLIT_ALIASES)


def class_folders(folder):
    """Return {'Fake': [paths], 'Real': [paths]} of the class folders directly in `folder`.

    Raises InputError if a class is missing, or for a folder whose name is no known class.
    """
    found = {path: class_of(path.name) for path in _subfolders(folder)}
    if not any(found.values()):
        raise InputError(f"{folder}: expected class folders (Fake and Real, or a known alias), found none; rename them")
    stray = [path.name for path, known in found.items() if not known]
    if stray:
        raise InputError(f"{folder}: expected only Fake, Real or a known alias, found also {', '.join(stray)}; rename or move it")
    classes = {name: [path for path, known in found.items() if known == name] for name in CLASSES}
    for name, folders in classes.items():
        if not folders:
            raise InputError(f"{folder}: expected folders of both classes, found none for {name}; add it")
    return classes


def _subfolders(folder):
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and counts_as_file(entry.name))
    return [Path(folder) / name for name in names]


def is_augmented(path):
    """Return whether a path is that of an image that data_augmentation made."""
    return AUGMENTED in os.path.basename(path)


def find_layout(source):
    """Return {split or None: {class: [folders]}} of a published data set; the key None stands for images without a split.

    Understood: class folders (flat), split folders that hold class folders, and either of them one or two folders down if
    there is no other folder (an archive's own top folder).

    Raises InputError if no such layout is found, or if a class is missing.
    """
    require_folder(source, holding="class folders")
    folder = Path(source)
    for _ in range(2):
        below = _subfolders(folder)
        if len(below) == 1 and not split_of(below[0].name) and _subfolders(below[0]):
            folder = below[0]  # even if it has the name of a class
    layout = _layout_in(folder)
    if layout:
        return layout
    names = ", ".join(path.name for path in _subfolders(folder)) or "no folders"
    raise InputError(f"{source}: expected folders Fake and Real, or train and test that hold them, found {names}; rename them")


def _layout_in(folder):
    subfolders = _subfolders(folder)
    if any(class_of(path.name) for path in subfolders):
        classes = class_folders(folder)
        below = [path for some in classes.values() for one in some for path in _subfolders(one) if split_of(path.name)]
        if below:  # taken for class folders without splits, its test would be divided among all three
            raise InputError(f"{below[0]}: expected splits above the classes, as in {below[0].name}/Fake; swap the folders")
        return {None: classes}
    layout = {}
    if any(split_of(path.name) for path in subfolders):
        for path in subfolders:
            split = split_of(path.name)
            if split in layout:
                raise InputError(f"{folder}: two folders mean {split}; keep one of them")
            if split:
                layout[split] = class_folders(path)
            elif path.name not in NOT_STRAY:
                raise InputError(f"{folder}: expected only train, validation and test, found also {path.name}; move it away")
    return layout


def read_tree(data, splits=SPLITS, but=None):
    """List the images of a data tree.

    Args:
        data: folder that holds the split folders.
        splits: the splits to read; each must be there.
        but: name of a stage that may read a tree which it left unfinished itself.

    Returns:
        {split: ([relative POSIX paths], [labels])}, sorted by class and path; label 0 is Fake, 1 is Real.

    Raises:
        InputError: a split or a class is missing or empty, or there is an unknown folder.
    """
    require_folder(data, holding="train, validation and test")
    refuse_unfinished(data, but)
    check_no_stray(data)
    tree = {}
    for split in splits:
        paths, labels = [], []
        for label, name in enumerate(CLASSES):
            folder = Path(data) / split / name
            found = [f"{split}/{name}/{path}" for path in scan(folder)] if folder.is_dir() else []
            if not found:
                state = "an empty folder" if folder.is_dir() else "no such folder"
                raise InputError(f"{folder}: expected images of class {name}, found {state}; run data_split.py first")
            paths += found
            labels += [label] * len(found)
        tree[split] = paths, labels
    return tree


def check_no_stray(data, known=SPLITS):
    """Raise InputError if `data` holds folders other than the known ones, or a split in it others than the classes."""
    for path in _subfolders(data):
        if path.name in NOT_STRAY:
            continue
        if path.name not in known:
            raise InputError(f"{data}: expected the folders {', '.join(known)}, found also {path.name}; move it away")
        if known is SPLITS:
            check_no_stray(path, CLASSES)


def count_images(data, augmented_apart=False):
    """Return a Counter {(split, class): files} of the splits in a data tree, or of its class folders ("all") if it has none.

    With `augmented_apart`, augmented images are counted as a split of their own, such as "train, augmented".
    """
    counts = Counter()
    for split in (*SPLITS, "all"):
        for name in CLASSES:
            folder = Path(data, "" if split == "all" else split, name)
            for path in scan(folder) if folder.is_dir() else ():
                counts[f"{split}, augmented" if augmented_apart and is_augmented(path) else split, name] += 1
    return counts


def counts_table(counts):
    """Return counts {(row, class): n} as a table: a line for each row, with the total of both classes."""
    rows = list(dict.fromkeys(row for row, _ in counts))
    rows.sort(key=lambda row: SPLITS.index(row) if row in SPLITS else len(SPLITS))
    lines = [[row, *(numbers := [counts.get((row, name), 0) for name in CLASSES]), sum(numbers)] for row in rows]
    return table(lines, ["", *CLASSES, "total"])


class Image(NamedTuple):
    """One file of a published data set or of a data tree."""

    path: str  # to open it
    split: str | None  # None in a flat set
    label: str  # Fake or Real
    inside: str  # POSIX path inside its class folder
    digest: str | None  # SHA-256 of its bytes; None without read permission
    kind: str | None  # image format by its header; None if it is not an image


def find_images(layout, links=None, ignored=None):
    """List and hash every file of a layout (see `find_layout`), and look at its header.

    If several folders of one class share a name, their own names are put before it. If two names would be one on some system,
    the later is called name-<hash of its path>.

    Args:
        layout: as `find_layout` returns it.
        links, ignored: lists that take what `scan` passes over.

    Returns:
        List of Image, in the order of the layout; including files that are not images (kind None).
    """
    found = [
        (os.path.join(folder, path), split, label, inside)
        for split, classes in layout.items()
        for label, folders in classes.items()
        for folder, path, inside in _apart(folders, links, ignored)
    ]
    facts = digests_and_formats("", [path for path, *_ in found])
    return [Image(*file, digest, kind) for file, (digest, kind) in zip(found, facts, strict=True)]


def _apart(folders, links, ignored):
    """Return [(folder, path in it, new path)] of the files of one class; the new paths are different on every system."""
    found = [(folder, path) for folder in folders for path in scan(folder, links, ignored)]
    names = _distinct([path for _, path in found])
    if len(folders) > 1 and names != [path for _, path in found]:
        names = _distinct([f"{os.path.basename(folder)}/{path}" for folder, path in found])
    return [(folder, path, name) for (folder, path), name in zip(found, names, strict=True)]


def _distinct(paths):
    taken = {without_case(above) for path in paths if "/" in path for above in folders_above(path)}
    names = []
    for path in paths:
        name = path
        if without_case(name) in taken:
            digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()
            name = next(name for name in names_for(path, digest) if without_case(name) not in taken)
        taken.add(without_case(name))
        names.append(name)
    return names


def make_grouping(group_by):
    """Return the function (path, path inside the class folder) -> name of the group or None, for --group-by.

    `group_by` is 'folder', for the first folder inside the class folder; or a regular expression that is searched in the path,
    whose first group, or else the whole match, is the name; or None. Raises InputError if the expression is invalid.
    """
    if group_by is None:
        return lambda path, inside: None
    if group_by == "folder":
        return lambda path, inside: inside.split("/")[0] if "/" in inside else None
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(f"--group-by {group_by}: expected 'folder' or a regular expression, but {error}") from None

    def group_of(path, inside):
        match = pattern.search(path)
        return ((match[1] if pattern.groups else match[0]) or None) if match else None

    return group_of


def loose_files(source, layout):
    """Return the paths of the files outside the class folders of a layout, which have no label."""
    outside = {Path(source)}
    for folder in (folder for classes in layout.values() for folders in classes.values() for folder in folders):
        outside.update(parent for parent in folder.parents if parent.is_relative_to(source))
    found = []
    for folder in sorted(outside):
        with os.scandir(folder) as entries:
            found += sorted(entry.path for entry in entries if counts_as_file(entry.name) and entry.is_file())
    return found


def read_sources(sources):
    """Return (images of published data sets, in order, as [Image], lines for the report on the files that are skipped).

    Raises InputError if a layout is unknown, or if a stage was interrupted in a source.
    """
    for source in sources:
        refuse_unfinished(source)
    layouts = {source: find_layout(source) for source in sources}
    links, ignored = [], []
    files = [file for layout in layouts.values() for file in find_images(layout, links, ignored)]
    loose = [path for source, layout in layouts.items() for path in loose_files(source, layout)]
    return [file for file in files if file.kind], report_skipped(files, links, loose, ignored)


def report_skipped(files=(), links=(), loose=(), ignored=()):
    """Return a line of a stage's report for each reason why files are skipped.

    Args: as `find_images` and `loose_files` return them; those of the `files` that are not images count.
    """
    reasons = {
        ("skipped, not an image", "file"): [file.path for file in files if file.digest and not file.kind],
        ("skipped, not readable", "file"): [file.path for file in files if file.digest is None],
        ("skipped, outside the class folders", "file"): loose,
        ("skipped, a link", "folder"): links,
        ("skipped, hidden, unfinished or litter", "entry"): ignored,
    }
    return [reason_line(reason, paths, noun) for (reason, noun), paths in reasons.items() if paths]
