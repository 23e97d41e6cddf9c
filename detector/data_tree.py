"""The first contract: data/{train,validation,test}/{Fake,Real}. The folder is the label.

Splits, classes and their aliases, which files are images, and how a file is placed without losing or overwriting one.
"""
import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import stat
import sys
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

from detector.console import InputError, plural, printable, progress, table

SPLITS = ("train", "validation", "test")
CLASSES = ("Fake", "Real")  # the index is the label
LEFT_OUT = "left_out"
NOT_STRAY = {"raw", LEFT_OUT}  # folders beside the splits that the project itself makes
AUGMENTED = "__augmented-"  # in the name of every image that data_augmentation made
TRANSFERS = ("hardlink", "copy", "move")
UNFINISHED = ".part"  # ends the name of a file that is still being written
JOURNAL = ".unfinished.jsonl"  # in a data folder: the plan of the stage that is placing files there
LOCK = ".in_use"  # in a data folder, on Windows: held by the stage that is placing files there
_JUNCTION = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", 0xA0000003)
_MOST_WORKERS = 61  # Windows waits for no more processes at once

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
_JUNK = {".ds_store", "thumbs.db", "desktop.ini", "__macosx"}


def _known_as(name, aliases):
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((known for known, names in aliases.items() if key in names), None)


def class_of(folder_name):
    """Return 'Fake', 'Real' or None for a folder name such as FAKE, real_images or GeneratedArt."""
    return _known_as(folder_name, _CLASS_ALIASES)


def split_of(folder_name):
    """Return 'train', 'validation', 'test' or None for a folder name such as Training or val."""
    return _known_as(folder_name, _SPLIT_ALIASES)


def is_junk(name):
    """Tell whether a file or folder name is an operating system's litter (__MACOSX, .DS_Store, Thumbs.db, ._x)."""
    return name.lower() in _JUNK or name.startswith("._")


def without_case(name):
    """Return the key under which macOS and Windows would store a name: composed, case ignored."""
    if name.isascii():
        return name.lower()
    import unicodedata

    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def image_format(head):
    """Return 'JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF' or 'AVIF' from a file's first 16 bytes or more, else None."""
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1"):
        return "AVIF"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "BMP"
    return None


def is_image(path):
    """Tell whether a file begins like an image; one that may not be read is none."""
    try:
        with open(path, "rb") as file:
            return image_format(file.read(16)) is not None
    except PermissionError:
        return False


def is_link(path):
    """Tell whether a path is a symbolic link or a Windows junction, which Python 3.11 takes for a folder like any other."""
    try:
        return os.path.islink(path) or getattr(os.lstat(path), "st_reparse_tag", 0) == _JUNCTION
    except OSError:  # nothing is there
        return False


def scan(folder, links=None):
    """Yield the POSIX path, relative to `folder`, of every file below it, in sorted order per folder.

    Operating-system litter, hidden names and unfinished files are passed over; links to folders are not followed, but added to
    the list `links`, as paths to open.
    """
    stack = [("", folder)]
    while stack:
        prefix, here = stack.pop()
        with os.scandir(here) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
        folders = []
        for entry in entries:
            if not _counts(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False) and not is_link(entry.path):
                folders.append((f"{prefix}{entry.name}/", entry.path))
            elif entry.is_file():
                yield prefix + entry.name
            elif links is not None and entry.is_dir():
                links.append(entry.path)
        stack.extend(reversed(folders))


def _counts(name):
    return not (name.startswith(".") or is_junk(name) or name.endswith(UNFINISHED))


def require_folder(folder, holding="images"):
    """Raise InputError unless `folder` is an existing folder."""
    folder = Path(folder)
    if not folder.is_dir():
        came = "a file" if folder.exists() else "nothing of that name"
        raise InputError(f"{folder}: expected a folder with {holding}, found {came}; check the path")


def class_folders(folder):
    """Return {'Fake': [paths], 'Real': [paths]} of the class folders directly in `folder`; None where there are none.

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


def find_layout(source):
    """Return {split or None: {class: [folders]}} of a published data set; the key None stands for images without a split.

    Understood: class folders (flat), split folders that hold class folders, and either of them one or two folders down
    where nothing else lies beside (an archive's own top folder).

    Raises InputError where no such layout is found, or where a class is missing.
    """
    require_folder(source, holding="class folders")
    folder = Path(source)
    for _ in range(3):
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
        but: name of the stage that may read a tree which it left unfinished itself.

    Returns:
        {split: ([relative POSIX paths], [labels])}, sorted by class and path; label 0 is Fake, 1 is Real.

    Raises:
        InputError: a split or a class is missing or empty, or a folder is there that is none of the contract's.
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
    """Raise InputError where `data`, or a split in it, holds a folder that the contract does not know."""
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
                    f"{path}: expected the folders Fake and Real, found also {below.name}; "
                    "it would be a third class: move it away"
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
    """Return a table of counts {(row, class): n}: a line for each row, with the total of both classes."""
    rows = list(dict.fromkeys(row for row, _ in counts))
    rows.sort(key=lambda row: SPLITS.index(row) if row in SPLITS else len(SPLITS))
    lines = [[row, *(numbers := [counts.get((row, name), 0) for name in CLASSES]), sum(numbers)] for row in rows]
    return table(lines, ["", *CLASSES, "total"])


# --- content -----------------------------------------------------------------------------------------------------------


SMALL = 1 << 24  # bytes; larger files are hashed piece by piece


def read_bytes(path):
    """Return a whole file as bytes. Plain system calls: small files are read in half the time of `Path.read_bytes`."""
    handle = _open(path)
    try:
        return _read(handle, os.fstat(handle).st_size)
    finally:
        os.close(handle)


def _open(path):
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def _read(handle, size):
    content = os.read(handle, size + 1)  # one byte more: a full answer is the end of the file, without asking again
    if len(content) == size:
        return content
    parts = [content]
    while part := os.read(handle, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def digest_of(path):
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    return _hash(path)[0]


def _hash(path):
    """Return (SHA-256, first bytes)."""
    handle = _open(path)
    try:
        size = os.fstat(handle).st_size
        if size <= SMALL:
            content = _read(handle, size)
            return hashlib.sha256(content).hexdigest(), content[:16]
        head = os.read(handle, 16)
        os.lseek(handle, 0, os.SEEK_SET)
        with open(handle, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), head
    finally:
        os.close(handle)


def _facts(root, path):
    """Return (SHA-256, image format or None) of one file; a file that may not be read has neither."""
    try:
        digest, head = _hash(os.path.join(root, path))
    except PermissionError:
        return None, None
    return digest, image_format(head)


def file_facts(root, paths, unit="image"):
    """Hash every file and look at its header, on all cores.

    Args:
        root: folder that the paths are relative to.
        paths: list of relative paths.

    Returns:
        List of (SHA-256 hex digest, image format or None), in the order of `paths`; (None, None) for a file that may not be read.
    """
    return parallel(functools.partial(_facts, os.fspath(root)), paths, unit)


def parallel(function, items, unit="image", chunk=256):
    """Map a picklable function over a list on all cores, in order, with a progress bar; small lists stay in this process.

    Raises:
        InputError: a worker was ended from outside, as the system does where memory runs out.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(cores, _MOST_WORKERS)
    if cores == 1 or len(items) <= 2 * chunk:
        return [function(item) for item in progress(items, unit=unit)]
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        try:
            return list(progress(pool.map(function, items, chunksize=chunk), total=len(items), unit=unit))
        except BrokenProcessPool:
            raise InputError(
                "a worker process was ended, most likely for want of memory; close other programs and run the same command again"
            ) from None


def _start_worker():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """Without this, a worker whose parent was killed waits for work for ever."""
    parent_process().join()
    os._exit(1)


class Image(NamedTuple):
    """One file of a published data set or of a data tree."""

    path: str  # to open it
    split: str | None  # None in a flat set
    label: str  # Fake or Real
    inside: str  # POSIX path inside its class folder
    digest: str | None  # SHA-256 of its bytes; None where it may not be read
    kind: str | None  # image format by its header; None for a file that is no image


def find_images(layout, links=None):
    """List and hash every file of a layout (see `find_layout`), and look at its header.

    Where several folders of one class share a name, their own names are put before it. Where two names would be one on some
    system, the later is called name-<hash of its path>.

    Args:
        layout: as `find_layout` returns it.
        links: list that the links to folders are added to, which are passed over.

    Returns:
        List of Image, in the order of the layout; among them files that are no images (kind None).
    """
    found = [
        (os.path.join(folder, path), split, label, inside)
        for split, classes in layout.items()
        for label, folders in classes.items()
        for folder, path, inside in _apart(folders, links)
    ]
    facts = file_facts("", [path for path, *_ in found])
    return [Image(*file, digest, kind) for file, (digest, kind) in zip(found, facts, strict=True)]


def _apart(folders, links):
    """Return [(folder, path in it, path that it gets)] of the files of one class, all different on every system."""
    found = [(folder, path) for folder in folders for path in scan(folder, links)]
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


def folders_above(path):
    """Return the folders that a relative POSIX path lies in, from the inside outwards."""
    above = []
    while path := path.rpartition("/")[0]:
        above.append(path)
    return above


def names_for(path, digest):
    """Yield a relative POSIX path, then that path with ever more of the digest in its name; raises InputError after the last."""
    yield path
    stem, suffix = os.path.splitext(path)
    folder, slash, name = stem.rpartition("/")
    if len(os.fsencode(name)) > 180:  # file systems allow 255 bytes
        name = name[:40]
    for digits in (8, 16, 32, 64):
        yield f"{folder}{slash}{name}-{digest[:digits]}{suffix}"
    raise InputError(f"{path}: expected a name that is free, or free with a hash added, found all of them taken; rename the file")


def loose_files(source, layout):
    """Return the paths of the files beside the class folders of a layout, and beside its split folders: they have no label."""
    beside = {Path(source)}
    for folder in (folder for classes in layout.values() for folders in classes.values() for folder in folders):
        beside.update(parent for parent in folder.parents if parent.is_relative_to(source))
    found = []
    for folder in sorted(beside):
        with os.scandir(folder) as entries:
            found += sorted(entry.path for entry in entries if _counts(entry.name) and entry.is_file())
    return found


def report_passed_over(links, loose):
    """Return a line for a stage's report on the links that `scan` met and on `loose_files`; no line where there are none."""
    groups = (("linked folder", "", links), ("file", " beside the class folders", loose))
    parts = [f"{plural(len(some), what)}{where} (first: {printable(some[0])})" for what, where, some in groups if some]
    return [f"passed over: {', '.join(parts)}"] if parts else []


def report_refused(files):
    """Return lines for a stage's report on the files, among what `find_images` listed, that are no images."""
    files = list(files)
    unreadable = [file.path for file in files if file.digest is None]
    others = [file.path for file in files if file.digest and not file.kind]
    return [
        f"{what}: {plural(len(paths), 'file')} (first: {', '.join(map(printable, paths[:3]))})"
        for what, paths in (("no images", others), ("not readable", unreadable))
        if paths
    ]


def check_is_folder(data):
    """Raise InputError where something that is no folder stands where a stage is to place files."""
    if os.path.lexists(data):
        require_folder(data)


# --- placing -----------------------------------------------------------------------------------------------------------


def place(source, destination, transfer, copied=None):
    """Put a file at `destination` by hard link, copy or move. Nothing is ever overwritten, nothing is ever half there.

    Done again it does nothing: a destination with the same content counts as done (a move then removes its source), and so
    does one whose source has gone. Where hard links are not to be had (another disk, a file system without them), the file
    is copied, and added to the list `copied`. A symbolic link is placed as the file that it leads to.

    Returns:
        True where a file was placed, False where it had been there already.

    Raises:
        InputError: another content stands at `destination`.
        FileNotFoundError: the source is not there, nor is the destination.
    """
    try:
        if transfer == "copy" or os.path.islink(source):
            _copy(source, destination, transfer)
        else:
            _link(source, destination, transfer, copied)  # a move is a link, then an unlink: unlike a rename it overwrites nothing
    except FileExistsError:
        return _already_there(source, destination, transfer)
    except FileNotFoundError:
        if os.path.lexists(source) or not os.path.lexists(destination):
            raise
        return False
    if transfer == "move":
        os.unlink(source)
    return True


def _already_there(source, destination, transfer):
    if not os.path.lexists(destination):  # it was its folder that could not be made
        folder = os.path.dirname(destination)
        raise InputError(f"{folder}: expected a folder, found a file; move it away and run the same command again")
    found = "another file" if os.path.isfile(destination) else "something else"
    if found == "something else" or not same_content(source, destination):
        raise InputError(
            f"{destination}: {found} of that name is there and is not overwritten; move it away and run the same command again"
        )
    if transfer == "move" and _is_second_copy(source, destination):
        os.unlink(source)
    return False


def _is_second_copy(source, destination):
    """Tell whether removing `source` leaves the content at `destination`: not so for two spellings of one name."""
    if not os.path.samefile(source, destination):
        return True
    return os.path.islink(source) or (os.stat(source).st_nlink > 1 and os.path.realpath(source) != os.path.realpath(destination))


def _link(source, destination, transfer, copied):
    try:
        os.link(source, destination)
    except FileExistsError:
        raise
    except FileNotFoundError:
        if not os.path.lexists(source):
            raise
        os.makedirs(os.path.dirname(destination), exist_ok=True)
        _link(source, destination, transfer, copied)
    except OSError:
        _copy(source, destination, transfer)
        if copied is not None:
            copied.append((source, destination))


def _copy(source, destination, transfer):
    if os.path.lexists(destination):
        raise FileExistsError(destination)
    here, name = os.path.split(destination)
    # a name that no image has, and no longer than file systems allow; the same on every run, so that a rerun replaces it
    unfinished = os.path.join(here, f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{UNFINISHED}")
    try:
        os.makedirs(here, exist_ok=True)
        shutil.copyfile(source, unfinished)
        shutil.copystat(source, unfinished)
        if transfer == "move":  # the source will be removed: the copy must outlive a power cut, its name too
            _sync(unfinished, os.O_RDWR)
        os.rename(unfinished, destination)
        if transfer == "move":
            with contextlib.suppress(OSError):  # Windows opens no folders, some network file systems sync none
                _sync(here, os.O_RDONLY)
    except BaseException as error:
        if os.path.lexists(unfinished):
            os.unlink(unfinished)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            error.filename = destination  # else the line would name the source, whose disk is not the full one
        raise


def _sync(path, flags):
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def same_content(a, b):
    """Tell whether two files hold the same bytes (the same file on disk is answered without reading)."""
    one, other = os.stat(a), os.stat(b)
    if (one.st_ino, one.st_dev) == (other.st_ino, other.st_dev):
        return True
    return one.st_size == other.st_size and digest_of(a) == digest_of(b)


def carry_out(plan, transfer, unit="image"):
    """Place every (source, destination) of a plan; run again after an interruption, it finishes.

    Where hard links were asked for and are not to be had, it says so on stderr: the copies take room.

    Returns:
        (placed, vanished): the number of files placed now, and the sources that had gone before they were placed.
    """
    placed, vanished, copied = 0, [], []
    try:
        for source, destination in progress(plan, unit=unit):
            try:
                placed += place(source, destination, transfer, copied)
            except FileNotFoundError:
                if os.path.lexists(source):
                    raise
                vanished.append(source)
    finally:
        if copied and transfer == "hardlink":
            here, there = (printable(os.path.dirname(path)) for path in copied[0])
            print(f"hard links are not to be had between {here} and {there}: copied, {plural(len(copied), unit)}", file=sys.stderr)
    return placed, vanished


# --- an interrupted stage ----------------------------------------------------------------------------------------------
# The plan is written into the data folder before the first file is placed, and removed after the last. Run again, the
# stage goes on with that plan: it need not hash again, and a move finds its plan although the source has shrunk.


def unfinished_plan(data, job):
    """Return what `finish` wrote into the folder `data` for the same job: (report, plan); None where nothing is unfinished.

    Args:
        data: folder that files are placed in.
        job: the command line, as a list of strings with absolute paths.

    Raises:
        InputError: another job is unfinished there.
    """
    head, plan = _read_journal(data, job)
    if head is None:
        return None
    return head["report"], [(os.path.join(head["cwd"], source), os.path.join(data, below)) for source, below in plan]


def refuse_unfinished(data, but=None):
    """Raise InputError where a stage, other than `but`, was interrupted in the folder `data`: it does not hold the whole yet."""
    _read_journal(data, job=None, but=but)


@contextlib.contextmanager
def unfinished_while(data, job):
    """Mark the folder `data` as unfinished while a stage works in it, alone, that starts over when it is run again.

    Args:
        data: folder that the stage writes to.
        job: the command line, as a list of strings with absolute paths; the stage's name first.
    """
    with alone_in(data):
        _write_journal(data, {"job": job, "cwd": os.getcwd(), "report": None}, [])
        yield
        os.unlink(os.path.join(data, JOURNAL))


@contextlib.contextmanager
def alone_in(data):
    """Keep other stages from placing files in the folder `data` meanwhile; the folder is made where it is not there.

    To hold from before the plan is made, or the plan may be out of date when it is carried out. The lock is the system's and
    ends with the process, however that ends; a file system that has no locks goes without.

    Raises:
        InputError: another process is in it.
    """
    there = os.path.isdir(data)
    os.makedirs(data, exist_ok=True)
    try:
        handle = _lock(data)
    except BlockingIOError:
        raise InputError(f"{data}: another command is working there now{_job_in(data)}; run this one when it has ended") from None
    try:
        yield
    finally:
        _unlock(data, handle)
        if not there:
            with contextlib.suppress(OSError):
                os.rmdir(data)  # which it cannot where anything was placed


def _lock(data):
    """Return an open handle that nobody else has while it is open. Raises BlockingIOError where somebody has it."""
    windows = os.name == "nt"  # where a folder cannot be locked, but a file in it
    handle = os.open(os.path.join(data, LOCK), os.O_RDWR | os.O_CREAT) if windows else os.open(data, os.O_RDONLY)
    try:
        if windows:
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(handle)
        raise BlockingIOError from None
    except OSError:  # some network file systems have no locks
        pass
    return handle


def _unlock(data, handle):
    os.close(handle)
    with contextlib.suppress(OSError):  # not there but on Windows, where it stays while another process has it open
        os.unlink(os.path.join(data, LOCK))


def _job_in(data):
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(os.path.join(data, JOURNAL), "rb") as file:
        return f" ({shlex.join(json.loads(file.readline())['job'])})"
    return ""


def _read_journal(data, job, but=None):
    journal = os.path.join(data, JOURNAL)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(journal, encoding="utf-8") as file:
        try:
            head = json.loads(next(file))
            theirs = shlex.join(head["job"])
            plan = [json.loads(line) for line in file] if head["job"] == job else None
        except (ValueError, KeyError, TypeError, StopIteration):
            raise InputError(f"{journal}: expected an interrupted plan, found something else; remove the file") from None
        if plan is None and head["job"][0] != but:
            raise InputError(f"{data}: a command was interrupted here; run it again to finish it: {theirs}")
        return head, plan
    return None, None


def finish(data, job, report, plan, transfer):
    """Carry out a plan so that the same job, killed at any moment and run again, finishes it.

    Args:
        data: folder that all destinations of the plan are in.
        job: the command line, as a list of strings with absolute paths.
        report: what the stage wants to know of its plan when it goes on (anything JSON can hold).
        plan: list of (source, destination).
        transfer: one of TRANSFERS.

    Returns:
        The number of files placed now.

    Raises:
        InputError: sources have vanished; everything else is placed, and the plan is kept.
    """
    journal = os.path.join(data, JOURNAL)
    if plan and not os.path.exists(journal):
        _write_journal(data, {"job": job, "cwd": os.getcwd(), "report": report}, plan)
    placed, vanished = carry_out(plan, transfer)
    if vanished:
        raise InputError(
            f"{plural(len(vanished), 'image')} vanished before being placed (first: {vanished[0]}), the others are in {data}; "
            f"put back what vanished and run the same command again, or remove {journal} to go without"
        )
    if plan:
        os.unlink(journal)
    return placed


def _write_journal(data, head, plan):
    journal = os.path.join(data, JOURNAL)
    inside = len(os.path.join(data, ""))
    os.makedirs(data, exist_ok=True)
    with open(journal + UNFINISHED, "w", encoding="utf-8") as file:
        file.write(json.dumps(head) + "\n")
        file.writelines(json.dumps((source, destination[inside:])) + "\n" for source, destination in plan)
        file.flush()
        os.fsync(file.fileno())
    os.replace(journal + UNFINISHED, journal)
