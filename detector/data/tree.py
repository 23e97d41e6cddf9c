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
from detector.files import (
    counts_as_file,
    digests_and_formats,
    folders_above,
    is_junk,
    names_for,
    require_folder,
    scan,
    without_case,
)

SPLITS = ("train", "validation", "test")
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
    """Return {'Fake': [paths], 'Real': [paths]} of the class folders directly in `folder`, or None without any.

    Raises InputError for a folder whose name is no known class, if another one is.
    """
    subfolders = _subfolders(folder)
    found = {path: class_of(path.name) for path in subfolders}
    if not any(found.values()):
        return None
    stray = [path.name for path, known in found.items() if not known]
    if stray:
        raise InputError(
            f"{folder}: expected class folders only ({', '.join(CLASSES)} or a known alias), found also {', '.join(stray)}; "
            "rename it to Fake or Real, or move it away"
        )
    return {name: [path for path, known in found.items() if known == name] for name in CLASSES}


def _subfolders(folder):
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".") and not is_junk(entry.name)
        )
    return [Path(folder) / name for name in names]


def is_data_set(names):
    """Return whether folder names are those of both classes, or of splits: a folder that holds them is no class folder."""
    names = list(names)
    return {class_of(name) for name in names} >= set(CLASSES) or any(map(split_of, names))


def find_layout(source):
    """Return {split or None: {class: [folders]}} of a published data set; the key None stands for images without a split.

    Understood: class folders (flat), split folders that hold class folders, and either of them one or two folders down if
    there is no other folder (an archive's own top folder).

    Raises InputError if no such layout is found, or if a class is missing.
    """
    require_folder(source, holding="class folders")
    folder = Path(source)
    for _ in range(3):
        below = _subfolders(folder)
        if len(below) == 1 and class_of(below[0].name) and is_data_set(path.name for path in _subfolders(below[0])):
            folder = below[0]  # photos/{Fake,Real}: a data set that has the name of a class
            continue
        layout = _layout_in(folder)
        if layout:
            return layout
        below = _subfolders(folder)
        if len(below) != 1:
            break
        folder = below[0]
    names = ", ".join(path.name for path in _subfolders(folder)) or "no folders"
    raise InputError(
        f"{source}: expected two class folders (such as Fake and Real, or FAKE and REAL), or train and test folders that "
        f"hold them; found {names}; rename the folders"
    )


def _layout_in(folder):
    classes = class_folders(folder) if _any(folder, class_of) else None
    if classes:
        below = [path for some in classes.values() for one in some for path in _subfolders(one) if split_of(path.name)]
        if below:  # taken for class folders without splits, its test would be divided among all three
            raise InputError(
                f"{below[0]}: expected splits above the classes, as in {below[0].name}/Fake, found them below; swap the folders"
            )
        return {None: _both(classes, folder)}
    if not _any(folder, split_of):
        return None
    layout = {}
    for path in _subfolders(folder):
        split = split_of(path.name)
        if split is None:
            if path.name in NOT_STRAY:
                continue
            raise InputError(f"{folder}: expected train, validation and test folders only, found also {path.name}; move it away")
        classes = class_folders(path)
        if classes is None:
            raise InputError(f"{path}: expected class folders (Fake and Real, or a known alias), found none; rename them")
        if split in layout:
            raise InputError(f"{folder}: two folders mean {split}; keep one of them")
        layout[split] = _both(classes, path)
    return layout


def _any(folder, known):
    return any(known(path.name) for path in _subfolders(folder))


def _both(classes, folder):
    for name, folders in classes.items():
        if not folders:
            raise InputError(f"{folder}: expected folders of both classes, found none for {name}; add it")
    return classes


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


def check_no_stray(data):
    """Raise InputError if `data`, or a split in it, holds an unknown folder."""
    for path in _subfolders(data):
        if path.name in NOT_STRAY:
            continue
        if path.name not in SPLITS:
            raise InputError(
                f"{data}: expected the folders {', '.join(SPLITS)}, found also {path.name}; move it away (the folder is the label)"
            )
        for below in _subfolders(path):
            if below.name not in CLASSES:
                raise InputError(
                    f"{path}: expected the folders Fake and Real, found also {below.name}; it would be a third class: move it away"
                )


def count_images(data):
    """Return a Counter {(split, class): files} of the splits that are in a data tree."""
    counts = Counter()
    for split in SPLITS:
        for name in CLASSES:
            folder = Path(data) / split / name
            if folder.is_dir():
                counts[split, name] = sum(1 for _ in scan(folder))
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
        links: list that takes the links to folders, which are not followed.
        ignored: list that takes hidden and unfinished files and litter.

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
    names = [path for _, path in found]
    if _clash(names):
        names = _distinct([f"{os.path.basename(folder)}/{path}" for folder, path in found] if len(folders) > 1 else names)
    return [(folder, path, name) for (folder, path), name in zip(found, names, strict=True)]


def _clash(paths):
    files, folders = set(map(without_case, paths)), _all_above(paths)
    return len(files) < len(paths) or not files.isdisjoint(folders)


def _all_above(paths):
    return {without_case(above) for path in paths if "/" in path for above in folders_above(path)}


def _distinct(paths):
    taken, names = _all_above(paths), []
    for path in paths:
        key, name = without_case(path), path
        if key in taken:
            digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()
            name = next(name for name in names_for(path, digest) if without_case(name) not in taken)
            key = without_case(name)
        taken.add(key)
        names.append(name)
    return names


def make_grouping(group_by):
    """Return the function that gives the group of an image, for --group-by.

    Args:
        group_by: 'folder', for the first folder inside the class folder; or a regular expression that is searched in the path,
            whose first group, or else the whole match, is the name; or None.

    Returns:
        Function (path, path inside the class folder) -> name of the group, or None.

    Raises:
        InputError: the expression is invalid.
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


def report_skipped(files=(), links=(), loose=(), ignored=()):
    """Return a line of a stage's report for each reason why files are skipped.

    Args:
        files: [Image] as `find_images` lists them; those that are not images count.
        links, ignored: paths, as `find_images` collects them.
        loose: paths, as `loose_files` returns them.
    """
    reasons = {
        ("skipped, not an image", "file"): [file.path for file in files if file.digest and not file.kind],
        ("skipped, not readable", "file"): [file.path for file in files if file.digest is None],
        ("skipped, outside the class folders", "file"): loose,
        ("skipped, a link", "folder"): links,
        ("skipped, hidden, unfinished or litter", "entry"): ignored,
    }
    return [reason_line(reason, paths, noun) for (reason, noun), paths in reasons.items() if paths]
