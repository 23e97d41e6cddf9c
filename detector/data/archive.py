"""What an archive may hold and how it is read: names checked, zip and tar taken apart entry by entry, nothing written."""
import contextlib
import errno
import os
import re
import stat
import struct
import zlib
from collections import Counter, namedtuple

from detector.console import InputError, printable
from detector.data.packing import DAMAGED, OWN_PROCESS, PIECE, open_packed, unpacking_errors
from detector.files import is_junk, without_case

MAX_RATIO = 1000  # an archive of images hardly shrinks at all; deflate cannot exceed 1032:1, so more than this is made to harm
RATIO_FLOOR = 64 << 20  # bytes; below this size no ratio does harm
BLOCK = 4096  # bytes; what a file takes on the disk is a multiple of this
DEEPEST = 100  # folders; data sets have a few
HEADER = 512  # bytes of a tar header; also what tar rounds every entry up to
_END = bytes(HEADER)
_WINDOWS_REFUSES = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)', re.IGNORECASE)
_NOT_PLAIN = re.compile(r"[\\:\x00]")
ZipEntry = namedtuple("ZipEntry", "name size offset packed crc method")


class Damaged(Exception):
    """The archive, or one entry, does not hold what it should. The message says what was found."""


def show_size(size):
    """Return '1.5 GB' for a number of bytes."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, {"bytes": "KB", "KB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{size} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def kind_of(archive):
    """Return 'zip', or 'tar' and its packing as 'tar', 'tar.gz', 'tar.bz2', 'tar.xz', 'tar.zst', from a file's content.

    Raises InputError for anything else.
    """
    if not os.path.isfile(archive):
        came = "a folder" if os.path.isdir(archive) else "nothing of that name"
        raise InputError(f"expected an archive, found {came}; check the path")
    with open(archive, "rb") as file:
        head = file.read(HEADER)
    for kind, magic in {
        "zip": b"PK\x03\x04", "tar.gz": b"\x1f\x8b", "tar.bz2": b"BZh", "tar.xz": b"\xfd7zXZ\0", "tar.zst": b"\x28\xb5\x2f\xfd",
    }.items():  # fmt: skip
        if head.startswith(magic):
            return kind
    if header_agrees(head) or (head == bytes(HEADER)):
        return "tar"
    import zipfile

    if zipfile.is_zipfile(archive):  # with something before it, such as a self-extracting one; or empty
        return "zip"
    raise InputError("expected a zip or a tar (plain, gz, bz2, xz, zst); its content is none of them")


# --- what may be unpacked ----------------------------------------------------------------------------------------------
def safe_parts(name, windows=os.name == "nt"):
    """Return the parts of an entry's name. Backslashes separate too: the same archive gives the same tree everywhere.

    Raises InputError for a name that leads out of the target, and, with `windows`, for one that Windows does not accept.
    """
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if len(parts) > DEEPEST:
        raise InputError(f"the entry {printable(name)[:60]} ... lies {len(parts):,} folders deep; at most {DEEPEST} are unpacked")
    if path.startswith("/") or (parts and re.match("[A-Za-z]:", parts[0])):
        raise InputError(f"the entry {printable(name)} has an absolute path")
    if ".." in parts:
        raise InputError(f"the entry {printable(name)} leads out of its folder by '..'")
    if "\0" in path:
        raise InputError(f"the entry {printable(name)} has a name with a zero byte")
    for part in parts if windows else ():
        if _WINDOWS_REFUSES.search(part):
            raise InputError(f"the entry {printable(name)} has a name that Windows does not accept; unpack it on another system")
    return parts


class Names:
    """All names of one archive, checked one by one as they come. Memory grows with the names, with nothing else."""

    def __init__(self):
        self.files = set()  # keys, case ignored
        self.folders = {}  # key: the folder as it is spelled
        self._known = {"": ""}  # folder as the archive writes it: clean path, or None for litter

    def add(self, name):
        """Return the clean relative path of a file, None for litter. Raises InputError for a name that may not be unpacked."""
        folder, _, base = name.rpartition("/")
        plain = base not in ("", ".", "..") and not _NOT_PLAIN.search(base) and os.name != "nt"
        # the usual case, a plain name in a folder that has been checked, is spared the full check: 120,000 times
        if not (plain and folder in self._known and name[0] != "/"):
            *parents, base = safe_parts(name) or [""]
            folder = folder if plain else "/".join(parents)
            if not base:
                raise InputError(f"the entry {printable(name)} is a file without a name")
        parent = self.add_folder(folder)
        if parent is None or is_junk(base):
            return None
        path = f"{parent}/{base}" if parent else base
        key = without_case(path)
        if key in self.files:
            raise InputError(
                f"two entries are called {printable(path)}, upper and lower case ignored: one would overwrite the other"
            )
        if key in self.folders:
            raise InputError(f"{printable(path)} is both a file and a folder")
        self.files.add(key)
        return path

    def add_folder(self, name):
        """Return the clean relative path of a folder ('' for the top), None for litter."""
        if name not in self._known:
            parts = safe_parts(name)
            litter = any(is_junk(part) for part in parts)
            if not litter:
                self._check_folders(parts)
            self._known[name] = None if litter else "/".join(parts)
        return self._known[name]

    def _check_folders(self, parts):
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            key = without_case(path)
            if key in self.files:
                raise InputError(f"{printable(path)} is both a file and a folder")
            other = self.folders.setdefault(key, path)
            if other != path:
                raise InputError(f"the folders {printable(other)} and {printable(path)} are one, upper and lower case ignored")

    def add_link(self, name, points_to, hard=False):
        """Check a link; return the clean paths (link, target), or None for litter.

        A symbolic link counts from its own folder, a hard link from the top of the archive. Raises InputError for one that leaves.
        """
        path = self.add(name)
        here = [] if hard or path is None else path.split("/")[:-1]
        away = points_to.replace("\\", "/")
        for part in away.split("/"):
            if part == ".." and here:
                here.pop()
            elif part == "..":
                away = "/"
            elif part not in ("", "."):
                here.append(part)
        if away.startswith("/") or re.match("[A-Za-z]:", away):
            raise InputError(f"the link {printable(name)} leads out of its folder, to {printable(points_to)}")
        return None if path is None else (path, "/".join(here))


def check_size(declared, archive_size, max_size):
    """Raise InputError for an archive that unpacks to more than is allowed, or to suspiciously more than it weighs (bytes)."""
    if declared > max_size:
        raise InputError(f"it unpacks to more than {show_size(max_size)}; if that is meant, allow it with --max-size")
    if declared > RATIO_FLOOR and declared > MAX_RATIO * archive_size:
        raise InputError(f"it unpacks to more than {MAX_RATIO:,} times its size: it looks like a bomb, not like images")


# --- zip ---------------------------------------------------------------------------------------------------------------
def read_directory(archive, names):
    """Check every entry of a zip's directory, and add it to `names`.

    Returns:
        (list of ZipEntry, Counter of what is left out: 'junk' and 'links').

    Raises:
        InputError: an entry may not be unpacked.
        Damaged: the directory cannot be read.
    """
    import zipfile

    try:
        file = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error) as error:
        raise Damaged(f"a zip whose directory cannot be read ({error}): it is cut short or damaged; fetch it again") from None
    entries, left_out = [], Counter()
    with file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
            if info.flag_bits & 0x41:
                raise InputError(f"the entry {printable(info.filename)} is encrypted; unpack the archive with its password")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                raise InputError(f"the entry {printable(info.filename)} is a device, a pipe or a socket")
            if kind == stat.S_IFLNK:
                left_out["links"] += names.add_link(info.filename, _link_target(file, info)) is not None
            elif info.is_dir() or kind == stat.S_IFDIR:
                names.add_folder(info.filename.rstrip("/\\"))
            else:
                path = names.add(info.filename)
                left_out["junk"] += path is None
                if path is not None:
                    _check_method(info)
                    facts = info.file_size, info.header_offset, info.compress_size, info.CRC, info.compress_type
                    entries.append(ZipEntry(path, *facts))
    return entries, left_out


def _link_target(file, info):
    import zipfile

    if info.file_size > BLOCK:
        raise InputError(f"the link {printable(info.filename)} leads to a name of {info.file_size:,} bytes")
    try:
        return file.read(info).decode("utf-8", "surrogateescape")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        raise InputError(f"the link {printable(info.filename)} is damaged: where it leads cannot be checked") from None


def _check_method(info):
    import zipfile

    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        name = zipfile.compressor_names.get(info.compress_type, "unknown")
        raise InputError(
            f"the entry {printable(info.filename)} is compressed by method {info.compress_type} ({name}); "
            "expected stored, deflate, bzip2 or lzma: pack it anew"
        )


def content_start(archive, entry):
    """Return where an entry's content starts: behind its own header, whose length the directory does not tell."""
    if archive[entry.offset : entry.offset + 4] != b"PK\x03\x04" or entry.offset + 30 > len(archive):
        raise Damaged("no header where the directory says")
    name, extra = struct.unpack_from("<HH", archive, entry.offset + 26)
    return entry.offset + 30 + name + extra


def whole_entry(archive, entry):
    """Return the checked content of a stored or deflated entry. Raises Damaged.

    Not through zipfile: opening an entry there costs more than unpacking it, for images of a few kilobytes.
    """
    start = content_start(archive, entry)
    content = archive[start : start + entry.packed]
    if entry.method == 8:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = unpacker.decompress(content, entry.size + 1)  # one byte more than declared is enough to know
        except zlib.error as error:
            raise Damaged(str(error)) from None
    if len(content) != entry.size or zlib.crc32(content) != entry.crc:
        raise Damaged("size or CRC-32 do not agree")
    return content


def entry_pieces(file, entry):
    """Yield the content of an entry, compressed in any way, from a file that stands at its start.

    Raises Damaged. Never yields more than the declared size.
    """
    import lzma
    import zipfile

    info = zipfile.ZipInfo(entry.name)
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
def least_size(archive, packing):
    """Return the unpacked bytes as far as a tar tells them without being unpacked: a lower bound.

    xz has an index at its end (of its last stream). For the others it is the size of the archive, which is not far off:
    images hardly shrink. (What gz tells of its size, modulo 2^32, is noise where the file was cut short.)
    """
    size = os.stat(archive).st_size
    with open(archive, "rb") as file:
        if packing == "xz" and size >= 32:
            file.seek(-12, os.SEEK_END)
            footer = file.read(12)
            length = (struct.unpack_from("<I", footer, 4)[0] + 1) * 4
            if footer[-2:] == b"YZ" and length + 12 <= size:
                file.seek(-12 - length, os.SEEK_END)
                return max(size, _xz_index_total(file.read(length)))
    return size


def _xz_index_total(index):
    """Add up the unpacked sizes in an xz index (The .xz File Format, section 4); 0 where it is none or its CRC-32 differs."""
    if zlib.crc32(index[:-4]) != struct.unpack("<I", index[-4:])[0]:
        return 0
    numbers, value, shift = [], 0, 0
    for byte in index[1:-4]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(value)
            value = shift = 0
    count = numbers[0] if index[:1] == b"\0" and numbers else 0
    return sum(numbers[2 : 1 + 2 * count : 2]) if len(numbers) > 2 * count else 0

# A small archive is unpacked here; for a larger one, a process of its own unpacks while this one writes. Not a thread: beside
# 120,000 files made by this process, waiting for each other's interpreter lock costs more than the pipe. The process writes
# to the pipe only and ends when nobody reads it any more, also where this process was killed.
_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from detector.data import packing; packing.unpack_to_stdout(*sys.argv[2:])"


class Stream:
    """The unpacked bytes of a tar, in order."""

    def __init__(self, archive, packing, moved):
        """Args: `moved` is called after each piece with the bytes unpacked so far; it may raise."""
        self.size = 0  # bytes that came so far
        self._archive, self._packing, self._moved = archive, packing, moved
        self._buffer, self._at, self._ended, self._process = b"", 0, False, None
        self._file = open(archive, "rb")  # noqa: SIM115 (closed by `close`)
        self._content = open_packed(self._file, packing)  # here too: it tells what is not installed
        if packing and os.stat(archive).st_size > OWN_PROCESS:
            self._start()

    def _start(self):
        import subprocess
        import sys

        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        command = [sys.executable, "-c", _CHILD, root, self._archive, self._packing]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux, and not beyond what a user may have in pipes
            import fcntl

            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._content = self._process.stdout

    def _next(self):
        """Return the next piece, b'' at the end. Raises Damaged where the packing does not hold."""
        if self._ended:
            return b""
        try:
            piece = self._content.read(PIECE)
        except unpacking_errors(self._packing) as error:
            self._ended = True
            raise Damaged(str(error)) from None
        if not piece:
            self._ended = True
            self._check_process()
        self.size += len(piece)
        self._moved(self.size)
        return piece

    def _check_process(self):
        if self._process:
            said = self._process.stderr.read().decode("utf-8", "replace")
            if self._process.wait() == DAMAGED:
                raise Damaged(said)
            if self._process.returncode:
                raise OSError(errno.EIO, said.strip().rpartition("\n")[2] or "unpacking was stopped", self._archive)

    def close(self):
        """End what is still being unpacked."""
        self._file.close()
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process.stderr.close()

    def take(self, size, padding=0):
        """Return the next `size` bytes, fewer at the end, and pass over `padding` more. The bytes are held in memory."""
        start = self._at
        self._at += size + padding
        if self._at > len(self._buffer):
            parts = [self._buffer[start:]]
            missing = size + padding - len(parts[0])
            while missing > 0 and (piece := self._next()):
                parts.append(piece)
                missing -= len(piece)
            start, self._buffer = 0, b"".join(parts)
            self._at = min(size + padding, len(self._buffer))
        return self._buffer[start : start + size]

    def pieces(self, size):
        """Yield the next `size` bytes in pieces. Raises Damaged where fewer come."""
        while size > 0:
            piece = self.take(min(size, PIECE))
            if not piece:
                raise Damaged("it ends early")
            size -= len(piece)
            yield piece


def header_agrees(head):
    """Tell whether 512 bytes are a tar header: its checksum is the sum of its bytes, its own eight counted as blanks."""
    field = head[148:156]
    try:
        checksum = int(field.strip(b" \0"), 8)
    except ValueError:
        return False
    # the lower half of Adler-32 is 1 + the sum of the bytes, modulo 65521: a tenth of the time of adding them in Python
    return len(head) == HEADER and zlib.adler32(head) & 0xFFFF == (1 + checksum - 256 + sum(field)) % 65521


def _number(field):
    """Return a number from a tar header: octal digits, or base 256 where the first bit is set.

    Raises Damaged for what is no number, below 0, or more than any disk holds.
    """
    try:
        number = int.from_bytes(field[1:], "big") if field[0] & 0x80 else int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 63:
        raise Damaged("a header with an impossible size")
    return number


def _text(field):
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def tar_entries(stream):
    """Yield (name, type, size, link target) of a tar's entries; the content is to be taken from the stream between two of them.

    GNU long names and pax headers are applied. Stops at the end mark. Raises Damaged where a header does not hold.
    Not tarfile: reading 120,000 headers takes it longer than writing the files.
    """
    longer, last = {}, None
    while True:
        head = stream.take(HEADER)
        if head == _END:
            return
        if not header_agrees(head):
            came = "it ends early" if len(head) < HEADER else "a header is damaged"
            raise Damaged(f"{came}{f' after {printable(last)}' if last else ''}")
        kind, size = head[156:157], _number(head[124:136])
        if kind in b"LKxg":
            if size > 1 << 20:
                raise Damaged(f"a header of {size:,} bytes")
            longer.update(_extended(kind, stream.take(size, -size % HEADER)))
            continue
        name, link = _text(head[:100]), _text(head[157:257]) if kind in b"12" else ""
        if head[257:263] == b"ustar\0" and head[345]:
            name = f"{_text(head[345:500])}/{name}"
        if longer:
            if any(key.startswith("GNU.sparse") for key in longer):
                kind = b"S"
            name, link, size = longer.get("path", name), longer.get("linkpath", link), int(longer.get("size", size))
            longer = {}
        last = name
        yield name, kind, size, link


def _extended(kind, content):
    """Return {'path', 'linkpath', 'size', ...} as given by a GNU long name or a pax header."""
    if kind in b"LK":
        return {"path" if kind == b"L" else "linkpath": _text(content)}
    found = {}
    while content.strip(b"\0"):
        match = re.match(rb"(\d{1,7}) ([^=]+)=", content)
        length = int(match[1]) if match else 0
        if not match or not match.end() < length <= len(content):
            raise Damaged("a pax header is damaged")
        key = match[2].decode("utf-8", "replace")
        value = content[match.end() : length - 1].decode("utf-8", "surrogateescape")
        if key == "size" and not re.fullmatch(r"[0-9]{1,18}", value):
            raise Damaged("a pax header is damaged")
        found[key] = value
        content = content[length:]
    # a global header (g) tells what holds for all entries: never a name or a size
    return found if kind == b"x" else {}
