"""Files and folders: listing, atomic writes, hashing, unique names and parallel processing."""

import contextlib
import errno
import functools
import hashlib
import os
import platform
import signal
import stat
import threading
from pathlib import Path

from detector.console import InputError, progress
from detector.images.formats import HEAD, image_format

PIECE = 1 << 16  # bytes of a file that are read at a time; more would slow down small files
UNFINISHED = ".part"  # ends the name of a file that is still being written
_JUNCTION = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", 0xA0000003)
_MOST_WORKERS = 61  # Windows waits for no more processes at once
# What systems, network drives and photo managers add to folders of images, such as thumbnails; names in lower case
_JUNK = {
    ".ds_store", ".localized", "icon\r", "__macosx", ".appledouble", ".apdisk", "network trash folder", "temporary items",  # macOS
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler",
    "system volume information",  # Windows
    "lost+found", ".thumbnails", ".directory",  # Linux
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", ".@__thumb", "@__thumb",  # network drives
    ".picasa.ini", "picasa.ini", ".picasaoriginals", ".nomedia", "zbthumbnail.info", "pspbrwse.jbf",
    "ipod photo cache",  # photo managers
}  # fmt: skip
_JUNK_STARTS = ("._", "~$", ".trash", ".spotlight-", ".fseventsd", ".bridgecache", "synophoto_thumb_")
_JUNK_ENDS = (".lrdata", ".crdownload")


def is_junk(name):
    """Return whether a file or folder name is that of litter, such as __MACOSX, Thumbs.db, ._x or @eaDir."""
    name = name.lower()
    return name in _JUNK or name.startswith(_JUNK_STARTS) or name.endswith(_JUNK_ENDS)


def without_case(name):
    """Return the key under which macOS and Windows would store a name: composed, case ignored."""
    if name.isascii():
        return name.lower()
    import unicodedata

    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_link(path):
    """Return whether a path is a symbolic link or a Windows junction, which Python 3.11 treats as an ordinary folder."""
    try:
        return os.path.islink(path) or getattr(os.lstat(path), "st_reparse_tag", 0) == _JUNCTION
    except OSError:  # nothing is there
        return False


def scan(folder, links=None, ignored=None):
    """Yield the POSIX path, relative to `folder`, of every file below it, in sorted order per folder.

    Litter, hidden names and unfinished files are ignored; links to folders are not followed. If given, the lists `links` and
    `ignored` take their paths.
    """
    stack = [("", folder)]
    while stack:
        prefix, here = stack.pop()
        with os.scandir(here) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
        folders = []
        for entry in entries:
            if not counts_as_file(entry.name):
                if ignored is not None:
                    ignored.append(entry.path)
                continue
            if entry.is_dir(follow_symlinks=False) and not is_link(entry.path):
                folders.append((f"{prefix}{entry.name}/", entry.path))
            elif entry.is_file():
                yield prefix + entry.name
            elif links is not None and entry.is_dir():
                links.append(entry.path)
        stack.extend(reversed(folders))


def counts_as_file(name):
    """Return whether a name is neither hidden, nor litter, nor that of an unfinished file."""
    return not (name.startswith(".") or is_junk(name) or name.endswith(UNFINISHED))


def require_folder(folder, holding="images"):
    """Raise InputError unless `folder` is an existing folder."""
    folder = Path(folder)
    if not folder.is_dir():
        came = "a file" if folder.exists() else "nothing of that name"
        raise InputError(f"{folder}: expected a folder with {holding}, found {came}; check the path")


@contextlib.contextmanager
def atomic_write(path, suffix="", unique=False, sync=False):
    """Write a file atomically: yield a temporary path in the same folder, which replaces `path` when the block succeeds.

    If the block fails, the temporary file is removed and the file at `path`, if any, stays.

        with atomic_write(folder / "metrics.json") as temporary:
            temporary.write_text(text, "utf-8")

    Args:
        path: file to write; its folder must exist.
        suffix: ending that the writer demands of a file name, such as ".h5".
        unique: put the computer's name and the process id into the temporary name, for files that several processes may
            write at once. Without it, the next run replaces what a killed run left behind.
        sync: force the content to the disk before renaming, so that it survives a power cut.

    Yields:
        Path: a hidden name, which `scan` ignores.

    Raises:
        OSError: the file cannot be written; `filename` is `path`.
    """
    path = Path(path)
    name = path.name
    if len(os.fsencode(name)) > 150:  # file systems allow 255 bytes
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    owner = f".{platform.node()}.{os.getpid()}" if unique else ""
    temporary = path.with_name(f".{name}{owner}{UNFINISHED}{suffix}")
    try:
        yield temporary
        if sync:
            sync_to_disk(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # it may not have been made; a read-only disk refuses even then
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            disk_full = error.errno in (errno.ENOSPC, errno.EDQUOT)  # reported for the source of a copy
            if disk_full or error.filename in (None, os.fspath(temporary), temporary):
                raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def sync_to_disk(path):
    """Force the content of a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock(path):
    """Hold a lock file, which is removed in the end; the lock ends with the process. File systems without locks go without.

    Raises BlockingIOError if another process holds it.
    """
    from filelock import FileLock, Timeout  # imported late: it takes as long as the start of a stage

    held = FileLock(path, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise BlockingIOError(errno.EAGAIN, "in use by another process", os.fspath(path)) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the file is temporary; Windows removes no open file
            os.unlink(path)
        held.release()


def read_bytes(path):
    """Return a whole file as bytes; small files without a buffer, in less time than by `Path.read_bytes`."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def digest_of(path):
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    return _hash(path)[0]


def _hash(path):
    """Return (SHA-256, first bytes)."""
    digest, head = hashlib.sha256(), b""
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            head = head or piece[:HEAD]
    return digest.hexdigest(), head


def _digest_and_format(root, path):
    try:
        digest, head = _hash(os.path.join(root, path))
    except (PermissionError, FileNotFoundError):
        return None, None
    return digest, image_format(head)


def digests_and_formats(root, paths, unit="image"):
    """Return [(SHA-256 hex digest, image format or None)] of files below `root`; (None, None) for one that cannot be read."""
    return parallel(functools.partial(_digest_and_format, os.fspath(root)), paths, unit)


def parallel(function, items, unit="image", chunk=256):
    """Map a picklable function over a list on all cores, in order, with a progress bar; small lists stay in this process.

    Raises InputError if a worker was killed, as the system does when memory runs out.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(cores, _MOST_WORKERS)
    if cores == 1 or len(items) <= 2 * chunk:
        return [function(item) for item in progress(items, unit=unit)]
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor  # here, since the app starts faster without
    from multiprocessing import get_context

    with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        try:
            return list(progress(pool.map(function, items, chunksize=chunk), total=len(items), unit=unit))
        except BrokenProcessPool:
            raise InputError("a worker process was killed, probably as memory ran out; close other programs and rerun") from None


def _start_worker():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """End with the parent process: otherwise a worker whose parent was killed would wait for work for ever."""
    from multiprocessing import parent_process

    parent_process().join()
    os._exit(1)


def folders_above(path):
    """Return the folders above a relative POSIX path, the innermost first."""
    above = []
    while path := path.rpartition("/")[0]:
        above.append(path)
    return above


def names_for(path, digest):
    """Yield a relative POSIX path, then that path with more and more of the digest in its name; finally raise InputError."""
    yield path
    stem, suffix = os.path.splitext(path)
    folder, slash, name = stem.rpartition("/")
    if len(os.fsencode(name)) > 180:  # file systems allow 255 bytes
        name = name[:40]
    for digits in (8, 16, 32, 64):
        yield f"{folder}{slash}{name}-{digest[:digits]}{suffix}"
    raise InputError(f"{path}: expected a free name, even with a hash added, found all of them taken; rename the file")


def same_content(a, b):
    """Return whether two files have the same content (without reading, if they are one file)."""
    return os.path.samefile(a, b) or (os.path.getsize(a) == os.path.getsize(b) and digest_of(a) == digest_of(b))
