"""Safe extraction of zip and tar archives: names checked, bombs refused, litter left out, damage survived."""

import bz2
import contextlib
import gzip
import lzma
import mmap
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from detector.console import InputError, printable, progress, show_size
from detector.data.placing import place
from detector.files import folders_above, is_junk

MAX_RATIO = 1000  # an archive of images hardly shrinks at all; deflate cannot exceed 1032:1, so more than this is an attack
RATIO_FLOOR = 64 << 20  # bytes; below this size no ratio does harm
MAX_DEPTH = 100  # folders; data sets have a few
MAX_EXTENDED_HEADER = 1 << 20  # bytes of a long name or a pax header in a tar
WRITE_AT_ONCE = 8 << 20  # bytes; a zip entry up to this size is held in memory and written with one call
PIECE = 1 << 18  # bytes read at a time of anything larger
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
ENTRIES_PER_TASK = 256  # zip entries that a thread takes at a time
MAGIC = {b"PK\x03\x04": "zip", b"\x1f\x8b": "tar.gz", b"BZh": "tar.bz2", b"\xfd7zXZ\0": "tar.xz", b"\x28\xb5\x2f\xfd": "tar.zst"}
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError, zlib.error, lzma.LZMAError)
_EXTENDED_TYPES = (b"x", b"g", b"X", b"L", b"K")
_REFUSED_BY_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)', re.IGNORECASE)
_DOUBLE_BYTE = ("cp932", "gbk", "big5", "cp949")  # in these a backslash may be the second byte of a character

RECORD = ".unpacked.json"  # in an unpacked folder: which archive it came from, and whether all of it is there
JUNK = "litter of an operating system"
LINKS = "links, devices and pipes"
DUPLICATES = "stored more than once (the last copy was kept)"


@dataclass
class Extraction:
    """What came out of an archive."""

    files: int = 0
    skipped: dict = field(default_factory=lambda: defaultdict(list))  # reason: names
    damaged: list = field(default_factory=list)  # damaged entries with the reason, or what is wrong with the archive


def kind_of(archive):
    """Return 'zip', 'tar', 'tar.gz', 'tar.bz2', 'tar.xz' or 'tar.zst', by a file's content; raise InputError for anything else."""
    if os.path.isdir(archive):
        raise InputError("expected an archive, found a folder; check the path")
    with open(archive, "rb") as file:
        head = file.read(8)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if zipfile.is_zipfile(archive):  # empty, or with something in front of it, such as a self-extracting archive
        return "zip"
    if os.path.getsize(archive) and tarfile.is_tarfile(archive):
        return "tar"
    raise InputError("expected a zip or a tar (plain, gz, bz2, xz, zst); its content is not")


def extract(archive, root, max_size):
    """Extract a zip or tar into the existing, empty folder `root`; return an Extraction, also of a damaged archive.

    Raises InputError if the archive, or an entry of it, must not be unpacked, and OSError if a file cannot be written.
    """
    kind = kind_of(archive)
    try:
        if kind == "zip":
            return extract_zip(archive, root, max_size)
        return extract_tar(archive, kind.partition(".")[2], root, max_size)
    except (FileExistsError, NotADirectoryError) as error:
        name = printable(os.path.relpath(error.filename, root))
        raise InputError(f"{name} is both a file and a folder, or on this disk the same name as another entry's") from None


def check_size(unpacked, archive_size, max_size):
    """Raise InputError if an archive unpacks to more bytes than allowed, or to suspiciously more than its own size."""
    if unpacked > max_size:
        raise InputError(f"it unpacks to more than {show_size(max_size)}; to allow that, raise --max-size")
    if unpacked > RATIO_FLOOR and unpacked > MAX_RATIO * archive_size:
        raise InputError(f"it unpacks to more than {MAX_RATIO:,} times its size: it looks like a bomb, not like images")


def safe_path(name, windows=os.name == "nt"):
    """Return an entry's name as a clean relative POSIX path, '' for the top folder.

    Raises InputError for a name that leads out of the target and, with `windows`, for one that Windows does not accept.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if len(parts) > MAX_DEPTH:
        raise InputError(f"the entry {printable(name)[:60]} ... lies {len(parts):,} folders deep; at most {MAX_DEPTH} are unpacked")
    if name.startswith(("/", "\\")) or (parts and re.fullmatch("[A-Za-z]:", parts[0])):
        raise InputError(f"the entry {printable(name)} has an absolute path")
    if ".." in re.split(r"[/\\]", name):
        raise InputError(f"the entry {printable(name)} leads out of its folder by '..'")
    if "\0" in name:
        raise InputError(f"the entry {printable(name)} has a zero byte in its name")
    if windows and any(map(_REFUSED_BY_WINDOWS.search, parts)):
        raise InputError(f"the entry {printable(name)} has a name that Windows does not accept; unpack it on another system")
    return "/".join(parts)


def in_litter(path):
    """Return whether a path is, or is inside, something that operating systems leave behind."""
    return any(map(is_junk, path.split("/")))


def _write(path, pieces):
    """Write a new file from pieces of bytes; if that fails, none of it stays. Raises FileExistsError if there is one.

    Not by `open`, which takes longer for a small file (benchmarks/unzip.py).
    """
    handle = os.open(path, NEW_FILE, 0o666)
    try:
        try:
            for piece in pieces:
                while len(piece):
                    piece = piece[os.write(handle, piece) :]
        finally:
            os.close(handle)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, path) from None  # the system names no file if the disk is full
        raise


def extract_zip(archive, root, max_size):
    """Extract a zip into the folder `root`, in threads; returns and raises as `extract`."""
    result = Extraction()
    try:
        opened = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error) as error:
        raise InputError(f"a zip whose directory cannot be read ({error}): cut short or damaged; get the archive again") from None
    with opened, open(archive, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        entries, folders = check_entries(opened.infolist(), result)
        check_size(sum(info.file_size for _, info in entries), len(content), max_size)
        for folder in folders:
            os.makedirs(os.path.join(root, folder), exist_ok=True)

        def extract_some(some):
            return [_extract_entry(opened, content, info, f"{root}/{path}") for path, info in some]

        # Threads, not processes: nearly all of the time is spent in system calls and in zlib, which release the interpreter lock
        chunks = [entries[start : start + ENTRIES_PER_TASK] for start in range(0, len(entries), ENTRIES_PER_TASK)]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            done = progress(pool.map(extract_some, chunks), total=len(chunks), unit=f"{ENTRIES_PER_TASK} files")
            for chunk, problems in zip(chunks, done, strict=True):
                for (path, _), problem in zip(chunk, problems, strict=True):
                    if problem:
                        result.damaged.append(f"{path} ({problem})")
                    else:
                        result.files += 1
    return result


def check_entries(infos, result):
    """Check the name and kind of every entry of a zip; add to the Extraction `result` what is left out.

    Returns ([(path, ZipInfo)] of the files, of several with one name the last, [folders]); raises InputError for an entry that
    must not be unpacked.
    """
    entries, folders = {}, set()
    for info, name in zip(infos, decode_names(infos), strict=True):
        kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
        path = safe_path(name)
        if info.flag_bits & 0x41:
            raise InputError(f"the entry {printable(name)} is encrypted; unpack the archive with its password")
        if in_litter(path):
            result.skipped[JUNK].append(path)
        elif name.endswith("/") or kind == stat.S_IFDIR or (not kind and info.external_attr & 0x10 and not info.file_size):
            folders.add(path)
        elif kind not in (0, stat.S_IFREG):
            result.skipped[LINKS].append(path)
        elif not path:
            raise InputError(f"the entry {printable(name)} is a file without a name")
        else:
            if path in entries:
                result.skipped[DUPLICATES].append(path)
            entries[path] = info
    for folder in {path.rpartition("/")[0] for path in entries} - {""}:
        folders.update([folder, *folders_above(folder)])
    # an empty file whose name is that of a folder is an odd entry for the folder
    return [(path, info) for path, info in entries.items() if info.file_size or path not in folders], sorted(folders)


def decode_names(infos):
    """Return the names of zip entries with '/' between folders.

    Without the UTF-8 flag the encoding of a name is unknown: valid UTF-8 is taken for that. Otherwise the name is in a code page:
    the standard one (437), unless there is a backslash in it and a double-byte code page reads it as a part of a character. A
    backslash separates folders only in archives that have no '/' at all.
    """
    names, undecoded = [info.orig_filename for info in infos], {}
    for index, info in enumerate(infos):
        if not info.flag_bits & 0x800 and not info.orig_filename.isascii():
            raw = info.orig_filename.encode("cp437")  # as zipfile has decoded it
            try:
                names[index] = raw.decode()
            except UnicodeDecodeError:
                undecoded[index] = raw
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


def _extract_entry(opened, content, info, path):
    """Write one entry of a zip to `path`; return None, or what is wrong with it."""
    try:
        if info.file_size <= WRITE_AT_ONCE and info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            _write(path, [whole_entry(content, info)])
        else:
            with opened.open(info) as source:
                _write(path, iter(lambda: source.read(PIECE), b""))
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return error
    return None


def whole_entry(archive, info):
    """Return the checked content of a stored or deflated entry of an archive, given as bytes; raise BadZipFile or zlib.error.

    Not by ZipFile.open: for images of a few kilobytes, opening an entry there takes longer than unpacking it.
    """
    at = info.header_offset
    if archive[at : at + 4] != b"PK\x03\x04" or at + 30 > len(archive):
        raise zipfile.BadZipFile("no header at the place that the directory gives")
    start = at + 30 + sum(struct.unpack_from("<HH", archive, at + 26))  # behind a name and an extra field
    content = archive[start : start + info.compress_size]
    if info.compress_type == zipfile.ZIP_DEFLATED:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        content = unpacker.decompress(content, info.file_size + 1)  # one byte too many is enough to know
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile("size or CRC-32 do not agree")
    return content


def extract_tar(archive, packing, root, max_size):
    """Extract a tar, packed as '', 'gz', 'bz2', 'xz' or 'zst', into the folder `root`; returns and raises as `extract`."""
    result, seen = Extraction(), set()
    archive_size = os.path.getsize(archive)
    with open(archive, "rb") as file, progress(None, total=archive_size, unit="B", unit_scale=True) as bar:
        stream = TarStream(file, packing)
        try:
            # read as a stream: what a decompressor has returned is used before it may fail
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo) as tar:
                while member := tar.next():
                    tar.members.clear()  # else memory would grow with the archive
                    check_size(max(stream.size, tar.offset), archive_size, max_size)
                    _extract_member(tar, member, root, seen, result)
                    bar.update(file.tell() - bar.n)
            while stream.read(PIECE):  # to the end, where the checksum is
                pass
        except (tarfile.ReadError, tarfile.StreamError) as error:
            stream.error = stream.error or error
    if stream.error:
        result.damaged.append(f"the archive: {stream.error}")
    return result


def _extract_member(tar, member, root, seen, result):
    path = safe_path(member.name)
    target = os.path.join(root, path)
    if in_litter(path):
        result.skipped[JUNK].append(path)
    elif member.isdir():
        os.makedirs(target, exist_ok=True)
    elif not (member.isfile() or member.islnk()):
        result.skipped[LINKS].append(path)
    elif not path:
        raise InputError(f"the entry {printable(member.name)} is a file without a name")
    elif member.issparse():  # its declared size is not the size of what the archive stores
        raise InputError(f"the entry {printable(member.name)} is a sparse file; pack the folder again, without --sparse")
    elif member.islnk() and safe_path(member.linkname) == path and path in seen:
        return  # GNU tar writes a file that it was given twice as a hard link to itself
    else:
        if path in seen:  # of several files of one name the last one counts
            os.unlink(target)  # not overwritten, as it may have a second name
            result.files -= 1
            result.skipped[DUPLICATES].append(path)
            seen.remove(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if member.isfile():
            source = tar.extractfile(member)
            _write(target, iter(lambda: source.read(PIECE), b""))
        elif safe_path(member.linkname) in seen:
            place(os.path.join(root, safe_path(member.linkname)), target, "hardlink")
        else:
            result.damaged.append(f"{path} (a second name for {printable(member.linkname)}, which is missing)")
            return
        seen.add(path)
        result.files += 1


class _TarInfo(tarfile.TarInfo):
    """A header of which damage is reported: TarFile takes a damaged header, except the first, for the end of the archive."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED_TYPES and header.size > MAX_EXTENDED_HEADER:  # would be read into memory
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tar):
        try:
            header = super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # the end mark
            raise
        except (tarfile.HeaderError, RecursionError, ValueError) as error:
            raise tarfile.ReadError(f"a damaged header, or none, at byte {tar.offset:,} ({error})") from None
        if not 0 <= header.size < 1 << 63:
            raise tarfile.ReadError(f"a header with an impossible size at byte {tar.offset:,}")
        return header


class TarStream:
    """The unpacked content of a tar, for TarFile in stream mode.

    It ends at the first damage, and `error` then says what is wrong; `size` is the number of bytes read so far. Bytes after a gzip
    stream, as mailers and downloads append them, are ignored.
    """

    def __init__(self, file, packing):
        self.size, self.error, self._damage = 0, None, _DAMAGE
        unpackers = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
        if packing == "zst":
            try:
                import zstandard
            except ImportError:
                raise InputError("it is compressed with Zstandard, which needs a package: pip install zstandard") from None
            self._content = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            self._damage = (*_DAMAGE, zstandard.ZstdError)
        else:
            self._content = unpackers[packing](file) if packing else file

    def read(self, size):
        """Return up to `size` bytes; b'' at the end, and at damage."""
        if self.error:
            return b""
        try:
            piece = self._content.read1(size)  # one call of the decompressor: nothing that it returned before it failed is lost
        except self._damage as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if not self.size or not str(error).startswith("Not a gzipped file"):
                self.error = error
            return b""
        self.size += len(piece)
        return piece
