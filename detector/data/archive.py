"""Safe extraction of zip and tar archives: names checked, bombs refused, litter left out, damage survived."""

import contextlib
import functools
import io
import os
import re
import stat
import struct
import sys
import tarfile
import tempfile
import zlib
from collections import Counter, defaultdict, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

from detector.console import InputError, printable, progress, show_size
from detector.files import folders_above, is_junk, without_case

MAX_RATIO = 1000  # an archive of images hardly shrinks at all; deflate cannot exceed 1032:1, so more than this is an attack
RATIO_FLOOR = 64 << 20  # bytes; below this size no ratio does harm
MAX_DEPTH = 100  # folders; data sets have a few
MAX_EXTENDED_HEADER = 1 << 20  # bytes of a long name or a pax header in a tar
WRITE_AT_ONCE = 8 << 20  # bytes; a zip entry up to this size is held in memory and written with one call
PIECE = 1 << 18  # bytes read at a time of anything larger
ENTRIES_PER_TASK = 256  # zip entries that a thread takes at a time
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
MAGIC = {b"PK\x03\x04": "zip", b"\x1f\x8b": "tar.gz", b"BZh": "tar.bz2", b"\xfd7zXZ\0": "tar.xz", b"\x28\xb5\x2f\xfd": "tar.zst"}
_EXTENDED_TYPES = (b"x", b"g", b"X", b"L", b"K")
_REFUSED_BY_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)', re.IGNORECASE)
_DOUBLE_BYTE = ("cp932", "gbk", "big5", "cp949")  # in these a backslash may be the second byte of a character

RECORD = ".unpacked.json"  # in an unpacked folder: which archive it came from, and whether all of it is there
JUNK = "litter of an operating system"
LINKS = "links"
SPECIAL = "devices and pipes"
DUPLICATES = "stored more than once (the last copy was kept)"
HIDDEN = "hidden files (extracted, but no stage reads them)"

ZipEntry = namedtuple("ZipEntry", "path size offset packed crc method")


class Damaged(Exception):
    """The archive, or one entry of it, is damaged. The message says how."""


@dataclass
class Extraction:
    """What came out of an archive."""

    files_in: Counter = field(default_factory=Counter)  # folder: files
    skipped: dict = field(default_factory=lambda: defaultdict(list))  # reason: names
    damaged: list = field(default_factory=list)  # names of damaged entries, or what is wrong with the archive
    warnings: list = field(default_factory=list)

    def count(self, path):
        """Count one extracted file."""
        folder, _, name = path.rpartition("/")
        self.files_in[folder] += 1
        if name.startswith("."):
            self.skipped[HIDDEN].append(path)


def kind_of(archive):
    """Return 'zip', 'tar', 'tar.gz', 'tar.bz2', 'tar.xz' or 'tar.zst', by a file's content; raise InputError for anything else."""
    if not os.path.isfile(archive):
        found = "a folder" if os.path.isdir(archive) else "nothing of that name"
        raise InputError(f"expected an archive, found {found}; check the path")
    with open(archive, "rb") as file:
        head = file.read(8)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    import zipfile

    if zipfile.is_zipfile(archive):  # empty, or with something in front of it, such as a self-extracting archive
        return "zip"
    if os.path.getsize(archive) and tarfile.is_tarfile(archive):
        return "tar"
    raise InputError("expected a zip or a tar (plain, gz, bz2, xz, zst); its content is not")


def extract(archive, root, max_size):
    """Extract a zip or tar into the existing, empty folder `root`.

    Returns:
        Extraction. Damage does not end it: everything readable is extracted.

    Raises:
        InputError: the archive, or an entry of it, must not be unpacked.
        OSError: a file cannot be written.
    """
    kind = kind_of(archive)
    if kind == "zip":
        return extract_zip(archive, root, max_size)
    return extract_tar(archive, kind.partition(".")[2], root, max_size)


def check_size(unpacked, archive_size, max_size):
    """Raise InputError if an archive unpacks to more bytes than allowed, or to suspiciously more than its own size."""
    if unpacked > max_size:
        raise InputError(f"it unpacks to more than {show_size(max_size)}; to allow that, raise --max-size")
    if unpacked > RATIO_FLOOR and unpacked > MAX_RATIO * archive_size:
        raise InputError(f"it unpacks to more than {MAX_RATIO:,} times its size: it looks like a bomb, not like images")


def byte_bar(total):
    """Return a progress bar in bytes. Off a terminal it does nothing, which saves importing tqdm."""
    if sys.stderr.isatty():
        return progress(None, total=total, unit="B", unit_scale=True)
    return contextlib.nullcontext(SimpleNamespace(n=0, update=lambda _: None))


# --- names -------------------------------------------------------------------------------------------------------------
def safe_path(name, windows=os.name == "nt"):
    """Return an entry's name as a clean relative POSIX path, '' for the top folder.

    Raises InputError for a name that leads out of the target and, with `windows`, for one that Windows does not accept.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if len(parts) > MAX_DEPTH:
        raise InputError(f"the entry {printable(name)[:60]} ... lies {len(parts):,} folders deep; at most {MAX_DEPTH} are unpacked")
    if name.startswith(("/", "\\")) or (parts and re.fullmatch("[A-Za-z]:", parts[0])):
        raise InputError(f"the entry {printable(name)} has an absolute path")
    if ".." in name and ".." in re.split(r"[/\\]", name):
        raise InputError(f"the entry {printable(name)} leads out of its folder by '..'")
    if "\0" in name:
        raise InputError(f"the entry {printable(name)} has a zero byte in its name")
    if windows and any(map(_REFUSED_BY_WINDOWS.search, parts)):
        raise InputError(f"the entry {printable(name)} has a name that Windows does not accept; unpack it on another system")
    return "/".join(parts)


def in_litter(path):
    """Return whether a path is, or is inside, something that operating systems leave behind."""
    return any(map(is_junk, path.split("/")))


def checked_path(name):
    """Return (`safe_path` of a name, whether it is in litter); folders are remembered, as most names differ in the file only."""
    folder, _, base = name.rpartition("/")
    if os.name == "nt" or base in ("", ".", "..") or not folder or "\\" in base or "\0" in base:
        path = safe_path(name)
        return path, in_litter(path)
    inside, litter = _checked_folder(folder)
    return f"{inside}/{base}" if inside else base, litter or is_junk(base)


@functools.lru_cache(maxsize=1024)
def _checked_folder(name):
    path = safe_path(name)
    return path, in_litter(path)


class Names:
    """The paths of the files of an archive: which repeat, and which cannot be in one folder."""

    def __init__(self):
        self._files, self._folders = set(), set()
        self._spelled = {}  # path, case ignored: path

    def add(self, path):
        """Add a file. Returns None, or an earlier path that equals it if case is ignored: itself, if that was added before.

        Raises InputError if the path is used both for a file and for a folder.
        """
        if path.rpartition("/")[0] not in self._folders:
            for folder in folders_above(path):
                if folder in self._files:
                    raise InputError(f"{printable(folder)} is both a file and a folder")
                self._folders.add(folder)
        if path in self._folders:
            raise InputError(f"{printable(path)} is both a file and a folder")
        if path in self._files:
            return path
        self._files.add(path)
        other = self._spelled.setdefault(without_case(path), path)
        return None if other == path else other


def check_disk_holds_both(folder, one, other):
    """Raise InputError if the disk takes two paths that differ only by case, or by Unicode composition, for one."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        here = [os.path.join(scratch, path.replace("/", "_")[-100:]) for path in (one, other)]
        open(here[0], "x").close()
        if os.path.lexists(here[1]):
            raise InputError(f"{printable(one)} and {printable(other)} are the same name on this disk; unpack it on another disk")


# --- zip ---------------------------------------------------------------------------------------------------------------
def extract_zip(archive, root, max_size):
    """Extract a zip into the folder `root`, in threads; returns and raises as `extract`."""
    result = Extraction()
    entries, folders, clashes = read_directory(archive, result)
    archive_size = os.path.getsize(archive)
    check_size(sum(entry.size for entry in entries), archive_size, max_size)
    for one, other in clashes:
        check_disk_holds_both(root, one, other)
    for folder in folders:
        os.makedirs(os.path.join(root, folder), exist_ok=True)
    # Threads, not processes: nearly all of the time is spent in system calls and in zlib, which release the interpreter lock
    chunks = [entries[start : start + ENTRIES_PER_TASK] for start in range(0, len(entries), ENTRIES_PER_TASK)]
    with byte_bar(archive_size) as bar:
        for chunk, problems in _in_threads(lambda chunk: _extract_entries(archive, chunk, root), chunks):
            for entry, problem in zip(chunk, problems, strict=True):
                if problem:
                    result.damaged.append(entry.path)
                else:
                    result.count(entry.path)
            bar.update(sum(entry.packed for entry in chunk))
    return result


def read_directory(archive, result):
    """Read the directory of a zip and check every name in it.

    Args:
        archive: path.
        result: Extraction that what is left out is added to.

    Returns:
        (list of ZipEntry, list of folders, list of pairs of paths that differ only by case)

    Raises:
        InputError: an entry must not be unpacked, or the directory cannot be read.
    """
    import zipfile

    try:
        with zipfile.ZipFile(archive) as file:
            infos = file.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error) as error:
        raise InputError(f"a zip whose directory cannot be read ({error}): cut short or damaged; get the archive again") from None
    supported = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    entries, folders = {}, set()
    for info, name in zip(infos, decode_names(infos), strict=True):
        kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
        path, litter = checked_path(name)
        if info.flag_bits & 0x41:
            raise InputError(f"the entry {printable(name)} is encrypted; unpack the archive with its password")
        if litter:
            result.skipped[JUNK].append(path)
        elif name.endswith("/") or kind == stat.S_IFDIR or (not kind and info.external_attr & 0x10 and not info.file_size):
            folders.add(path)
        elif kind == stat.S_IFLNK:
            result.skipped[LINKS].append(path)
        elif kind not in (0, stat.S_IFREG):
            result.skipped[SPECIAL].append(path)
        elif not path:
            raise InputError(f"the entry {printable(name)} is a file without a name")
        elif info.compress_type not in supported:
            method = zipfile.compressor_names.get(info.compress_type, "unknown")
            result.damaged.append(f"{path} (compressed by method {info.compress_type}, {method})")
        else:
            if path in entries:
                result.skipped[DUPLICATES].append(path)
            facts = info.file_size, info.header_offset, info.compress_size, info.CRC, info.compress_type
            entries[path] = ZipEntry(path, *facts)
    return _check_together(entries, folders)


def _check_together(entries, folders):
    """Return (entries, folders, clashes); an empty file whose name is that of a folder is an odd entry for the folder."""
    for folder in {path.rpartition("/")[0] for path in entries} - {""}:
        folders.update([folder, *folders_above(folder)])
    names, clashes, kept = Names(), [], []
    for entry in entries.values():
        if entry.path in folders and not entry.size:
            continue
        if entry.path in folders:
            raise InputError(f"{printable(entry.path)} is both a file and a folder")
        other = names.add(entry.path)
        clashes += [(other, entry.path)] if other else []
        kept.append(entry)
    return kept, sorted(folders), clashes


def decode_names(infos):
    """Return the names of zip entries with '/' between folders.

    Without the UTF-8 flag the encoding of a name is unknown: the Info-ZIP Unicode field decides, then valid UTF-8. Otherwise the
    name is in a code page: the standard one (437), unless there is a backslash in it and a double-byte code page reads it as
    a part of a character. A backslash separates folders only in archives that have no '/' at all.
    """
    names, undecoded = [], {}
    for info in infos:
        name = info.orig_filename
        if not info.flag_bits & 0x800 and not (name.isascii() and not info.extra):
            raw = name.encode("cp437")  # as zipfile has decoded it
            try:
                name = _unicode_field(info.extra, raw) or raw.decode()
            except UnicodeDecodeError:
                undecoded[len(names)] = raw
        names.append(name)
    if any(b"\\" in raw for raw in undecoded.values()):
        for encoding in _DOUBLE_BYTE:
            with contextlib.suppress(UnicodeDecodeError):
                decoded = {index: raw.decode(encoding) for index, raw in undecoded.items()}
                if not any("\\" in name for name in decoded.values()):
                    names = [decoded.get(index, name) for index, name in enumerate(names)]
                    break
    if any("/" in name for name in names):
        return names
    return [name.replace("\\", "/") for name in names]


def _unicode_field(extra, raw):
    """Return the name in an Info-ZIP Unicode Path field (0x7075), which counts only if it belongs to the raw name; else None."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        content, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 0x7075 and content[:5] == struct.pack("<BI", 1, zlib.crc32(raw)):
            return content[5:].decode()
    return None


def _in_threads(work, chunks):
    """Yield (chunk, work(chunk)) in order, with a thread for each core; a failure cancels what has not begun."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        yield from zip(chunks, pool.map(work, chunks), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _extract_entries(archive, entries, root):
    """Extract some entries of a zip; return for each of them None, or what is wrong with it."""
    import mmap

    problems = []
    with open(archive, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for entry in entries:
            try:
                if entry.size <= WRITE_AT_ONCE and entry.method in (0, 8):
                    _write(f"{root}/{entry.path}", [whole_entry(content, entry)])
                else:
                    file.seek(content_start(content, entry))
                    _write(f"{root}/{entry.path}", entry_pieces(file, entry))
                problems.append(None)
            except Damaged as error:
                problems.append(str(error))
    return problems


def _write(path, pieces):
    """Write a new file from pieces of bytes; if that fails, none of it stays. (`open` would take twice as long.)"""
    handle = os.open(path, NEW_FILE, 0o666)
    try:
        try:
            for piece in pieces:
                while len(piece):
                    piece = piece[os.write(handle, piece) :]
        finally:
            os.close(handle)
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, path) from None  # the system names no file if the disk is full
        raise


def content_start(archive, entry):
    """Return where an entry's content starts: after its local header, whose length the directory does not tell."""
    if archive[entry.offset : entry.offset + 4] != b"PK\x03\x04" or entry.offset + 30 > len(archive):
        raise Damaged("no header at the place that the directory gives")
    name, extra = struct.unpack_from("<HH", archive, entry.offset + 26)
    return entry.offset + 30 + name + extra


def whole_entry(archive, entry):
    """Return the checked content of a stored or deflated entry; raise Damaged.

    Not by zipfile: for images of a few kilobytes, opening an entry there takes longer than unpacking it.
    """
    start = content_start(archive, entry)
    content = archive[start : start + entry.packed]
    if entry.method == 8:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, entry.size + 1)  # one byte too many is enough to know
        except zlib.error as error:
            raise Damaged(str(error)) from None
    if len(content) != entry.size or zlib.crc32(content) != entry.crc:
        raise Damaged("size or CRC-32 do not agree")
    return content


def entry_pieces(file, entry):
    """Yield the content of an entry from a file positioned at its start, never more than the declared size; raise Damaged."""
    import lzma
    import zipfile

    info = zipfile.ZipInfo(entry.path)
    info.compress_type, info.CRC, info.file_size, info.compress_size = entry.method, entry.crc, entry.size, entry.packed
    left = entry.size
    try:
        with zipfile.ZipExtFile(file, "r", info) as content:
            while piece := content.read(PIECE):
                left -= len(piece)
                yield piece
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, lzma.LZMAError) as error:
        raise Damaged(str(error)) from None
    if left:
        raise Damaged("shorter than declared")


# --- tar ---------------------------------------------------------------------------------------------------------------
def extract_tar(archive, packing, root, max_size):
    """Extract a tar, packed as '', 'gz', 'bz2', 'xz' or 'zst', into the folder `root`; returns and raises as `extract`."""
    result, names = Extraction(), Names()
    archive_size = os.path.getsize(archive)
    with open(archive, "rb") as file, byte_bar(archive_size) as bar:
        stream = TarStream(file, packing)
        try:
            # read as a stream: what a decompressor has returned is used before it may fail
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo) as tar:
                while member := tar.next():
                    tar.members.clear()  # else memory would grow with the archive
                    check_size(max(stream.size, tar.offset), archive_size, max_size)
                    _extract_member(tar, member, root, names, result)
                    bar.update(file.tell() - bar.n)
            stream.drain()
        except (Damaged, tarfile.ReadError, tarfile.StreamError) as error:
            result.damaged.append(f"the archive: {stream.error or error}")
            return result
    if stream.error:
        result.damaged.append(f"the archive: {stream.error}")
    result.warnings += stream.warnings
    return result


def _extract_member(tar, member, root, names, result):
    path, litter = checked_path(member.name)
    if member.type in (b"V", b"D"):  # a volume label; the list of a folder in an incremental backup
        return
    if litter:
        result.skipped[JUNK].append(path)
    elif member.isdir():
        os.makedirs(os.path.join(root, path), exist_ok=True)
    elif member.issym():
        result.skipped[LINKS].append(path)
    elif not path:
        raise InputError(f"the entry {printable(member.name)} is a file without a name")
    elif member.issparse():  # its declared size is not the size of what the archive stores
        raise InputError(f"the entry {printable(member.name)} is a sparse file; pack the folder again, without --sparse")
    elif member.islnk() and safe_path(member.linkname) == path and os.path.isfile(os.path.join(root, path)):
        return  # GNU tar writes a file that it was given twice as a hard link to itself
    elif member.islnk() or member.isfile():
        _make_way(path, root, names, result)
        if member.islnk():
            _extract_hard_link(member, path, root, result)
        else:
            _extract_file(tar, member, path, root, result)
    else:
        result.skipped[SPECIAL].append(path)


def _make_way(path, root, names, result):
    """Check the name of a file, and remove an earlier file of that name: of several the last one counts."""
    other = names.add(path)
    if other == path:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(root, path))  # not overwritten, as it may have a second name
            result.files_in[path.rpartition("/")[0]] -= 1
        result.skipped[DUPLICATES].append(path)
    elif other:
        check_disk_holds_both(root, other, path)


def _extract_file(tar, member, path, root, result):
    try:
        member.name = path
        tar.extract(member, root, set_attrs=False, filter="data")
    except tarfile.FilterError as error:
        raise InputError(f"the entry {printable(member.name)} must not be unpacked: {error}") from None
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(root, path))
        if isinstance(error, OSError) and error.errno is not None and not error.filename:
            raise OSError(error.errno, error.strerror, os.path.join(root, path)) from None
        if isinstance(error, tarfile.ReadError):
            raise Damaged(f"it ends early, in {printable(path)}") from None
        raise
    result.count(path)


def _extract_hard_link(member, path, root, result):
    """Give an extracted file its second name, or a copy of it if the disk has no hard links."""
    from detector.data.placing import place

    source = os.path.join(root, safe_path(member.linkname))
    if not os.path.isfile(source):
        result.damaged.append(f"{path} (a second name for {printable(member.linkname)}, which is missing)")
        return
    place(source, os.path.join(root, path), "hardlink")
    result.count(path)


class _TarInfo(tarfile.TarInfo):
    """A header of which damage is reported: TarFile takes a damaged header, except the first, for the end of the archive."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED_TYPES and header.size > MAX_EXTENDED_HEADER:  # would be read into memory
            raise Damaged(f"a header of {header.size:,} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tar):
        offset = tar.fileobj.tell()
        try:
            header = super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # the end mark
            raise
        except tarfile.EmptyHeaderError:
            raise Damaged("it ends early, without the mark at its end") from None
        except (tarfile.HeaderError, RecursionError, ValueError) as error:
            if offset == 0:
                raise Damaged("expected a tar in it, found something else") from None
            raise Damaged(f"a damaged header at byte {offset:,} ({error})") from None
        if not 0 <= header.size < 1 << 63:
            raise Damaged(f"a header with an impossible size at byte {offset:,}")
        return header


class TarStream:
    """The unpacked content of a tar, for TarFile in stream mode.

    It ends at the first damage, and `error` then says what is wrong. Bytes after a gzip stream, as mailers and downloads append
    them, are ignored with a warning.

    Attributes:
        size: bytes read so far.
    """

    def __init__(self, file, packing):
        self.size, self.error, self.warnings = 0, None, []
        self._content = _open_packed(file, packing)
        # one call of the decompressor each, so that nothing is lost of what it returned before it failed
        self._read = getattr(self._content, "read1", self._content.read)
        self._errors = _damage_errors(packing)

    def read(self, size):
        """Return up to `size` bytes; b'' at the end, and at damage."""
        if self.error:
            return b""
        try:
            piece = self._read(size)
        except self._errors as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if self.size and str(error).startswith("Not a gzipped file"):
                self.warnings.append("ignored bytes after the end of the gzip stream")
            else:
                self.error = str(error)
            return b""
        self.size += len(piece)
        return piece

    def drain(self):
        """Read to the end, where the checksum is."""
        while self.read(PIECE):
            pass


def _open_packed(file, packing):
    if packing == "gz":
        import gzip

        return gzip.GzipFile(fileobj=file)
    if packing == "bz2":
        import bz2

        return bz2.BZ2File(file)
    if packing == "xz":
        import lzma

        return lzma.LZMAFile(file)
    if packing == "zst":
        try:
            import zstandard
        except ImportError:
            raise InputError("it is compressed with Zstandard, which needs a package: pip install zstandard") from None
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return file


def _damage_errors(packing):
    """Return the exceptions by which a decompressor reports damage; OSError counts only without an errno."""
    if packing == "xz":
        from lzma import LZMAError

        return EOFError, LZMAError
    if packing == "zst":
        from zstandard import ZstdError

        return EOFError, ZstdError
    return EOFError, OSError, zlib.error
