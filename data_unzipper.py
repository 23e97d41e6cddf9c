"""Unpack archives into data/raw: ARCHIVE -> data/raw/<archive name>/, kaggle:OWNER/DATASET -> data/raw/DATASET/.

    python data_unzipper.py cifake.tar.xz photos.zip
    python data_unzipper.py kaggle:OWNER/DATASET --to data/raw

zip and tar (plain, gz, bz2, xz, zst), recognised by content. Nothing that could land outside its folder is unpacked. A folder
appears under its own name once it is complete; stopped at any moment and run again, the command goes on where it stopped.
"""
import argparse
import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import zlib
from collections import Counter, deque, namedtuple
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from detector.console import HelpFormatter, InputError, describe_os_error, plural, printable, progress, stage, table
from detector.data.archive import (
    BLOCK,
    HEADER,
    Damaged,
    Names,
    Stream,
    check_size,
    content_start,
    entry_pieces,
    kind_of,
    least_size,
    read_directory,
    show_size,
    tar_entries,
    whole_entry,
    without_case,
)
from detector.data.packing import PIECE
from detector.data.placing import place
from detector.data.tree import class_of, counts_table, split_of
from detector.files import UNFINISHED, is_junk, read_bytes, same_content, scan

WHOLE = 8 << 20  # bytes; an entry up to this size is held in memory and written by one call
CHUNK = 256  # zip entries per task
Downloaded = namedtuple("Downloaded", "name size source")  # the name in the data set, bytes, and the file itself
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_SUFFIXES = re.compile(r"(\.(tar|zip|gz|bz2|xz|zst|tgz|tbz2?|txz|tzst))+$", re.IGNORECASE)
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}


def parse_size(text):
    """Return a number of bytes for '50GB', '1.5 TiB' or '1000'."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not match or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"expected a size such as 50GB, received {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def check_room(folder, needed):
    """Raise InputError where the disk of `folder` (which may not exist yet) has less than `needed` bytes free."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"it needs {show_size(needed)} of disk, {show_size(free)} are free in {folder}; free some room")


def byte_bar(total):
    """Return a progress bar in bytes; off a terminal one that does nothing, and spares the import of tqdm."""
    if sys.stderr.isatty():
        return progress(None, total=total, unit="B", unit_scale=True)
    return contextlib.nullcontext(SimpleNamespace(n=0, update=lambda _: None))


# --- where it goes -----------------------------------------------------------------------------------------------------


class Target:
    """The folder that one archive is unpacked into, and what has been done in it.

    Unpacking goes into a hidden folder beside it, which gets its name when everything is there: one rename, where a rename
    for each of 120,000 files would double the system calls. A file cut short by `kill -9` is therefore seen by nobody, and the
    next run finds it, because it compares what is there with the archive (zip: size and CRC-32, tar: the bytes themselves).

    Where the folder exists already, it is completed in place, and looked at first: the archive is read through once with
    nothing written. Only where every file there is one of the archive's, or the beginning of it (cut short: it is written
    again), the missing ones follow. Anything else belongs to somebody, or to another archive of the same name: two data sets
    in one folder would be noticed by nobody.
    """

    def __init__(self, to, name):
        self.to, self.final = to, os.path.join(to, name)
        self.complete_in_place = self.looking = os.path.lexists(self.final)
        if self.complete_in_place and not os.path.isdir(self.final):
            raise InputError(f"{self.final} is no folder; move it away")
        self.root = self.final if self.complete_in_place else os.path.join(to, f".{name}.unfinished")
        self.was_there = os.path.isdir(self.root)
        self._count_anew()

    def _count_anew(self):
        self.extracted = self.present = self.junk = self.links = 0  # while looking, `extracted` is what is missing
        self.damaged = []  # names, or what is wrong with the archive
        self.files_in = Counter()  # folder: files
        self._made = set()

    def make_folder(self, folder):
        """Make a folder below the root, unless that is done; a link in its place is not followed."""
        if folder in self._made:
            return
        if not self._made:
            if not self.looking:
                os.makedirs(self.root, exist_ok=True)
            self._made.add("")
        if folder:
            self.make_folder(os.path.dirname(folder))
            path = f"{self.root}/{folder}"
            there = os.path.lexists(path)
            if there and not stat.S_ISDIR(os.lstat(path).st_mode):
                if self.complete_in_place:
                    raise InputError(f"{path} is no folder, the archive has one there; move it away")
                os.unlink(path)
                there = False
            if not (there or self.looking):
                os.mkdir(path)
        self._made.add(folder)

    def write(self, name, content):
        """Write one file whose folder is there. Returns False where the same content is there already.

        Raises InputError where another content is there.
        """
        path = f"{self.root}/{name}"
        if self.looking:
            return not os.path.lexists(path) or self._clear_the_way(path, content)
        try:
            handle = os.open(path, NEW_FILE, 0o666)
        except FileExistsError:
            if not self._clear_the_way(path, content):
                return False
            handle = os.open(path, NEW_FILE, 0o666)
        try:
            try:
                written = os.write(handle, content)
                while written < len(content):
                    written += os.write(handle, content[written:])
            finally:
                os.close(handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise OSError(error.errno, error.strerror, path) from None
        return True

    def _clear_the_way(self, path, content):
        found = os.lstat(path)
        existing = read_bytes(path) if stat.S_ISREG(found.st_mode) and found.st_size <= len(content) else None
        if existing == content:
            return False
        if self.complete_in_place and (existing is None or not content.startswith(existing)):
            raise self._other_content(path)
        if not self.looking:
            remove(path)  # not emptied in place: other hard links to it keep what they have
        return True

    def _other_content(self, path):
        return InputError(f"{path}: another content of that name is there and is not overwritten; move {self.final} away")

    def write_large(self, name, pieces):
        """Write one file of any size from an iterable of bytes: beside, then renamed. Returns and raises as `write`."""
        path = f"{self.root}/{name}"
        if self.looking:
            return self._is_missing(path, pieces)
        # beside the folder, not in it: there it could be the name of another entry
        unfinished = os.path.join(self.to, f".{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.large{UNFINISHED}")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)  # of a run that was killed
            with open(unfinished, "xb") as file:
                for piece in pieces:
                    file.write(piece)
            if os.path.lexists(path):
                if os.path.isfile(path) and same_content(path, unfinished):
                    return False
                if self.complete_in_place:
                    raise self._other_content(path)
                remove(path)
            os.replace(unfinished, path)
            return True
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or path) from None
        finally:
            if os.path.lexists(unfinished):
                os.unlink(unfinished)

    def _is_missing(self, path, pieces):
        if not os.path.lexists(path):
            deque(pieces, maxlen=0)  # the next entry of a tar comes after them
            return True
        if not os.path.isfile(path):
            raise self._other_content(path)
        with open(path, "rb") as file:
            if not all([file.read(len(piece)) == piece for piece in pieces]) or file.read(1):
                raise self._other_content(path)
        return False

    def link(self, name, source):
        """Give the file `source` a second name here, or a copy where that is not possible. Returns and raises as `write`."""
        path = f"{self.root}/{name}"
        if os.path.lexists(path):
            if os.path.isfile(path) and same_content(path, source):
                return False
            if self.complete_in_place:
                raise self._other_content(path)
            remove(path)
        if not self.looking:
            place(source, path, "hardlink")
        return True

    def agrees(self, entry):
        """Tell whether a zip entry is there already, with its size and its CRC-32."""
        path = f"{self.root}/{entry.name}"
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
            return False
        crc = 0
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(PIECE):
                crc = zlib.crc32(piece, crc)
        return crc == entry.crc

    def note(self, name, written):
        """Count one file as extracted or as there already."""
        self.extracted += written
        self.present += not written
        self.files_in[name.rpartition("/")[0]] += 1

    def seen(self, names):
        """End looking. Returns whether anything is missing; raises InputError where a file is there that is not in the archive.

        Hidden files and the system's litter may be there, and are left alone.
        """
        strangers = [path for path in scan(self.root) if without_case(path) not in names.files]
        if strangers:
            damaged = f"damaged: {', '.join(map(printable, self.damaged[:3]))}; " if self.damaged else ""
            raise InputError(
                f"{damaged}{self.final} holds {plural(len(strangers), 'file')} that the archive does not "
                f"(first: {printable(strangers[0])}): of another data set? Move it away, or your own files out of it, "
                "or choose another --to"
            )
        if not self.extracted:
            return False
        self.looking = False
        self._count_anew()
        return True

    def finish(self, names):
        """Give the finished folder its name."""
        if self.complete_in_place:
            return
        self.make_folder("")
        if self.was_there:
            self._remove_strangers(names)
        os.rename(self.root, self.final)

    def _remove_strangers(self, names):
        # a run that was killed may have unpacked another archive of this name: what this one does not hold goes
        for here, _, files in os.walk(self.root, topdown=False):
            prefix = os.path.relpath(here, self.root).replace(os.sep, "/")
            prefix = "" if prefix == "." else prefix + "/"
            for file in files:
                if without_case(prefix + file) not in names.files:
                    os.unlink(os.path.join(here, file))
            if prefix and without_case(prefix[:-1]) not in names.folders:
                shutil.rmtree(here)

    def discard(self):
        """Remove what was unpacked of an archive that is refused; a folder that was there before keeps what it has.

        Refused before anything was written (for want of room, say), it leaves what a run that was killed has unpacked.
        """
        if self._made and not self.complete_in_place:
            shutil.rmtree(self.root, ignore_errors=True)


def remove(path):
    """Remove a file, a link, or a folder with all that is in it."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


# --- zip ---------------------------------------------------------------------------------------------------------------


def unpack_zip(archive, target, max_size):
    """Unpack a zip into its target, in threads. Raises InputError, before anything is written, for what may not be unpacked."""
    names = Names()
    entries, left_out = read_directory(archive, names)
    target.junk, target.links = left_out["junk"], left_out["links"]
    archive_size = os.stat(archive).st_size
    check_size(sum(entry.size for entry in entries), archive_size, max_size)
    check_room(target.root, room_for(entries, target))
    for folder in ["", *names.folders.values()]:
        target.make_folder(folder)
    # Threads, not processes: nearly all of the time is spent in system calls and in zlib, which other threads do not wait
    # for; nothing is pickled; and whoever kills this process has killed all that writes.
    chunks = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
    with byte_bar(archive_size) as bar:
        for chunk, results in _in_threads(lambda chunk: unpack_chunk(archive, chunk, target), chunks):
            for entry, written in zip(chunk, results, strict=True):
                if written is None:
                    target.damaged.append(entry.name)
                else:
                    target.note(entry.name, written)
            bar.update(sum(entry.packed for entry in chunk))
    return names


def room_for(entries, target):
    """Return the bytes of disk that the entries will take, without those that have their size already."""
    needed = 0
    for entry in entries:
        if target.was_there:
            try:
                if os.lstat(f"{target.root}/{entry.name}").st_size == entry.size:
                    continue
            except OSError:
                pass  # not there: it will need room
        needed += -(-entry.size // BLOCK) * BLOCK
    return needed


def _in_threads(work, chunks):
    """Yield (chunk, work(chunk)) in order, worked on by a thread for each core; a failure stops those not yet begun."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        yield from zip(chunks, pool.map(work, chunks), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def unpack_chunk(archive, entries, target):
    """Unpack some entries of a zip. Returns for each of them: True written, False there already, None damaged."""
    import mmap

    results = []
    with open(archive, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for entry in entries:
            try:
                if target.was_there and target.agrees(entry):
                    results.append(False)
                elif entry.size <= WHOLE and entry.method in (0, 8):
                    results.append(target.write(entry.name, whole_entry(content, entry)))
                else:
                    file.seek(content_start(content, entry))
                    results.append(target.write_large(entry.name, entry_pieces(file, entry)))
            except Damaged:
                results.append(None)
    return results


# --- tar ---------------------------------------------------------------------------------------------------------------


def unpack_tar(archive, packing, target, max_size):
    """Unpack a tar into its target, as it streams past: one process unpacks (see Stream), this one writes.

    One alone: a second thread that makes files waits for the first one's interpreter lock (a third slower, on two busy cores), a
    second process that makes every other batch of them costs what it gains, for the system makes those of a folder one by one.

    Raises InputError at the first entry that may not be unpacked; Damaged where the archive ends early or does not hold.
    What can be told beforehand (room, size) is checked beforehand; reading all headers first would take as long again.
    """
    archive_size, expected = os.stat(archive).st_size, least_size(archive, packing)
    check_size(expected, archive_size, max_size)
    check_room(target.root, 0 if target.was_there else expected)
    names = Names()
    with byte_bar(expected) as bar:

        def moved(unpacked):
            check_size(unpacked, archive_size, max_size)
            bar.update(unpacked - bar.n)

        stream = Stream(archive, packing, moved)
        try:
            _unpack_entries(stream, target, names, lambda size: check_size(size, archive_size, max_size))
        except Damaged as error:
            target.damaged.append(f"the archive itself: {error}; fetch it again")
        finally:
            stream.close()
    return names


def _unpack_entries(stream, target, names, check):
    for name, kind, size, link in tar_entries(stream):
        if kind not in b"07\0" or (kind == b"\0" and name.endswith("/")):
            unpack_special(target, names, name, kind, link)
            continue
        if size > WHOLE:  # what is smaller is read before it is written, and so counted in time
            check(size)
        path = names.add(name)
        if path is None:
            target.junk += 1
            deque(stream.pieces(size), maxlen=0)
            stream.take(-size % HEADER)
            continue
        target.make_folder(path.rpartition("/")[0])
        if size > WHOLE:
            target.note(path, target.write_large(path, stream.pieces(size)))
            stream.take(-size % HEADER)
        else:
            content = stream.take(size, -size % HEADER)
            if len(content) < size:
                raise Damaged(f"it ends early, in {printable(path)}")
            target.note(path, target.write(path, content))
    while stream.take(PIECE):
        pass  # the packing's own checksum comes at the very end


def unpack_special(target, names, name, kind, link):
    """Unpack one entry that is no plain file. Raises InputError for what may not be unpacked."""
    if kind in b"5\0":
        path = names.add_folder(name.rstrip("/\\"))
        if path:
            target.make_folder(path)
    elif kind == b"2":
        target.links += names.add_link(name, link) is not None
    elif kind == b"1":
        linked = names.add_link(name, link, hard=True)
        if linked:
            _write_hard_link(target, names, *linked)
    elif kind in b"346":
        raise InputError(f"the entry {printable(name)} is a device or a pipe")
    elif kind == b"S":
        raise InputError(f"the entry {printable(name)} is a sparse file; pack the folder anew, without --sparse")
    elif kind != b"V":  # a volume label carries nothing
        raise InputError(f"the entry {printable(name)} is of the unknown type {kind!a}; pack the folder anew")


def _write_hard_link(target, names, path, original):
    """A hard link is the same file under a second name: it is unpacked as such, or as a copy where that is not possible."""
    known, there = without_case(original) in names.files, os.path.isfile(f"{target.root}/{original}")
    if not known or not (there or target.looking):
        target.damaged.append(path)
        return
    target.make_folder(os.path.dirname(path))
    target.note(path, target.link(path, f"{target.root}/{original}") if there else True)


# --- kaggle ------------------------------------------------------------------------------------------------------------


_TOKEN = (
    "make an API token at https://www.kaggle.com/settings/api and put it into the environment variable KAGGLE_API_TOKEN "
    "or the file ~/.kaggle/access_token"
)


def place_downloaded(folder, target, max_size):
    """Place the files of a folder that kagglehub has unpacked, in its cache, in the target.

    They are checked as those of an archive are, before anything is written; what kagglehub itself writes is its own business.
    """
    names = Names()
    files = list_folder(folder, names, target)
    size = sum(file.size for file in files)
    check_size(size, size, max_size)  # the archive has gone, and with it the ratio
    if not files:
        return names
    if not can_link(files[0].source, target.to):
        check_room(target.root, room_for(files, target))
    for inside in ["", *names.folders.values()]:
        target.make_folder(inside)
    for file in progress(files, unit="file"):
        target.note(file.name, target.link(file.name, file.source))
    return names


def list_folder(folder, names, target):
    """Return a Downloaded for each file below a folder, checked and added to `names`; links and litter are counted."""

    def fail(error):
        raise error  # os.walk would pass over a folder that cannot be read

    found = []
    for here, folders, files in os.walk(folder, onerror=fail):
        inside = os.path.relpath(here, folder).replace(os.sep, "/")
        names.add_folder(inside)
        folders.sort()  # the same line on every disk
        for base in sorted(folders + files):
            source, name = os.path.join(here, base), f"{inside}/{base}"
            facts = os.lstat(source)
            if stat.S_ISLNK(facts.st_mode):
                target.links += names.add_link(name, os.readlink(source)) is not None
            elif stat.S_ISREG(facts.st_mode):
                path = names.add(name)
                target.junk += path is None
                if path is not None:
                    found.append(Downloaded(path, facts.st_size, source))
            elif not stat.S_ISDIR(facts.st_mode):
                raise InputError(f"the entry {printable(name)} is a device or a pipe")
    return found


def can_link(source, folder):
    """Tell whether a file can get a second name in a folder: not on another disk, nor on one that knows no hard links."""
    os.makedirs(folder, exist_ok=True)
    probe = os.path.join(folder, f".link{UNFINISHED}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(probe)  # of a run that was killed
    try:
        os.link(source, probe)
    except OSError:
        return False
    os.unlink(probe)
    return True


def download_kaggle(source):
    """Return the folder in kagglehub's cache that holds the dataset 'kaggle:OWNER/DATASET'.

    Raises InputError, with the way out, where kagglehub, the network, the credentials or the dataset is missing.
    """
    import io
    import logging
    import tarfile
    import zipfile

    try:
        import kagglehub
        import requests
        from kagglehub import exceptions
        from kagglehub.config import get_cache_folder
    except ImportError:
        raise InputError(f"{source}: downloading needs kagglehub: pip install kagglehub") from None
    logging.getLogger("kagglehub").setLevel(logging.WARNING)
    # stdout is for results; and off a terminal, its bar would be printed line by line
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    broken_archive = zipfile.BadZipFile, tarfile.TarError
    not_for_kagglehub = tarfile.FilterError, RuntimeError  # leads out of its folder; is encrypted or compressed in a rare way
    try:
        with contextlib.redirect_stdout(sys.stderr), quiet:
            return kagglehub.dataset_download(source.removeprefix("kaggle:"))
    except exceptions.KaggleApiHTTPError as error:
        raise InputError(f"{source}: {_refusal(error.response.status_code)}") from None
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout):
        raise InputError(f"{source}: Kaggle cannot be reached; check the network, or give an archive fetched elsewhere") from None
    except (exceptions.UnauthenticatedError, exceptions.CredentialError):
        raise InputError(f"{source}: Kaggle wants credentials: {_TOKEN}") from None
    except not_for_kagglehub as error:
        raise InputError(f"{source}: kagglehub cannot unpack it ({error}); fetch the archive itself and give that") from None
    except (exceptions.DataCorruptionError, requests.RequestException, EOFError, zlib.error, *broken_archive) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{source}: the download failed ({what}); run the same command again") from None
    except OSError as error:  # of kagglehub's cache
        raise OSError(error.errno, error.strerror or str(error), error.filename or get_cache_folder()) from None
    except ValueError as error:  # an archive that kagglehub cannot unpack, or a kaggle.json that it cannot read
        what = " ".join(str(error).split())
        if "credentials" in what:
            raise InputError(f"{source}: {what}; {_TOKEN}") from None
        raise InputError(f"{source}: the download failed ({what}); run the same command again") from None


def _refusal(status):
    if status in (401, 403):
        return f"Kaggle refuses it ({status}): it is private, or wants your consent on its page, or your credentials: {_TOKEN}"
    if status == 404:
        return "Kaggle knows no such dataset (404); check OWNER/DATASET in its address"
    return f"Kaggle answered {status}; try again later"


# --- the stage ---------------------------------------------------------------------------------------------------------


def folder_name(source):
    """Return the name of the folder that an archive, or kaggle:OWNER/DATASET, is unpacked into."""
    if source.startswith("kaggle:"):
        if not re.fullmatch(r"kaggle:[\w-]+/[\w-]+(/versions/\d+)?", source):
            raise InputError(f"{source}: expected kaggle:OWNER/DATASET, as in the address of the dataset")
        return source.split("/")[1]
    name = _SUFFIXES.sub("", os.path.basename(os.path.normpath(source)))
    if name.strip(".") == "" or is_junk(name):
        raise InputError(f"{source}: no folder can have the name of this archive; rename it")
    return name


def reader(source, max_size):
    """Return the function that unpacks a source into a Target and returns its Names. Raises InputError for what is no archive."""
    if source.startswith("kaggle:"):
        return partial(place_downloaded, download_kaggle(source), max_size=max_size)
    kind = kind_of(source)
    if kind == "zip":
        return partial(unpack_zip, source, max_size=max_size)
    return partial(unpack_tar, source, kind.partition(".")[2], max_size=max_size)


def unpack(source, to, max_size):
    """Unpack one source into its folder below `to`. Returns its Target. Raises InputError; a refused archive leaves nothing."""
    target = Target(os.fspath(to), folder_name(source))
    try:
        read = reader(source, max_size)
        names = read(target)
        if not target.files_in:
            raise InputError("; ".join(target.damaged) or "it holds no files")
        if target.looking and target.seen(names):
            names = read(target)
        target.finish(names)
    except Damaged as error:
        raise InputError(f"{source}: {error}") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        target.discard()
        cure = "longer than this disk takes; pack it under a shorter name, or unpack it elsewhere with --to"
        raise InputError(f"{source}: {error.filename}: {cure}") from None
    except InputError as error:
        target.discard()
        raise InputError(str(error) if str(error).startswith(source) else f"{source}: {error}") from None
    return target


def report(target):
    """Return what was done, and the counts per split and class as far as the folders' names tell them."""
    parts = [f"{plural(target.extracted, 'file')} extracted", f"{target.present:,} already there"]
    parts += [f"{plural(target.junk, 'junk file')} left out"] if target.junk else []
    parts += [f"{plural(target.links, 'symbolic link')} left out"] if target.links else []
    parts += [f"{len(target.damaged):,} damaged"] if target.damaged else []
    lines = [f"{target.final}: {', '.join(parts)}"]
    known, other = Counter(), Counter()
    for folder, files in target.files_in.items():
        parts = folder.split("/")
        split, name = (next(filter(None, map(find, parts)), None) for find in (split_of, class_of))
        if name:
            known[split or "no split", name] += files
        else:
            other[parts[0] or "(top)"] += files
    if known:
        lines.append(counts_table(known))
    if other:
        lines.append(table(sorted(other.items()), ["other folders" if known else "folder", "files"]))
    return "\n".join(lines)


def check_distinct(sources):
    """Raise InputError where two sources would be unpacked into the same folder."""
    taken = {}
    for source in sources:
        name = folder_name(source)
        other = taken.setdefault(without_case(name), source)
        if other is not source:
            raise InputError(f"{other} and {source} would both be unpacked into {name}; give them in two calls, with another --to")


@stage
def main(argv=None):
    """Unpack every source; go on with the next where one fails; fail at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="ARCHIVE", help="a zip or a tar, or kaggle:OWNER/DATASET")
    parser.add_argument("--to", type=Path, default=Path("data/raw"), help="each is unpacked into a folder here")
    parser.add_argument(
        "--max-size", type=parse_size, default="200GB", help="refuse an archive that unpacks to more"
    )
    args = parser.parse_args(argv)
    check_distinct(args.sources)
    failures = []
    for source in args.sources:
        try:
            target = unpack(source, args.to, args.max_size)
        except InputError as error:
            failures.append(str(error))
            continue
        except OSError as error:
            failures.append(describe_os_error(error))
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                break  # the next one would meet the same
            continue
        print(report(target), flush=True)
        if target.damaged:
            shown = ", ".join(map(printable, target.damaged[:20])) + (" ..." if len(target.damaged) > 20 else "")
            failures.append(f"{source}: {plural(len(target.damaged), 'damaged entry')}: {shown}")
    if failures:
        raise InputError("; ".join(failures))


if __name__ == "__main__":
    main()
