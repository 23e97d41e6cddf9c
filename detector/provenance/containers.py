"""Metadata in image files: from JPEG, PNG, WebP, GIF, TIFF, AVIF and HEIF to texts, EXIF, XMP and IPTC.

Only headers are read, at most BUDGET bytes and PIECES pieces of them. The exception is text hidden in the pixels of a PNG
(`_hidden_text`).
"""

import contextlib
import io
import re
import zlib

from detector.images.formats import image_format
from detector.provenance.fields import LIMIT, decoded, exif_text, read_exif, read_iptc, read_xmp, reason

BUDGET = 16 << 20  # bytes read of all metadata of a file; of one piece, LIMIT
PIECES = 20_000  # chunks, segments or boxes
BLOCK = 1024  # bytes
LARGEST_HEIF = 128 << 20  # bytes of an AVIF or HEIF; Pillow, which finds EXIF and XMP in it, reads the whole file
LARGEST_HIDING = 50_000_000  # pixels of a PNG that is decoded for hidden text
NOTES = 12
MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # markers that are followed by no segment
SAMSUNG_TRAILER = 64 << 10  # bytes at the end of a file that are searched
SAMSUNG_AI = re.compile(rb'PhotoEditor_Re_Edit_Data.*?"genAIType"\s*:\s*"?([1-9]\d{0,3})', re.DOTALL)  # 0: no AI
HIDDEN = re.compile(rb"stealth_(png|rgb)(info|comp)")  # 15 bytes
LOWEST_BIT = bytes(b"01"[value & 1] for value in range(256))


class Metadata:
    """Metadata of a file, as stored there, and how many bytes of it may still be read.

    Attributes:
        kind: format of the file, as `image_format` returns it.
        texts: {keyword: text}, the first of each keyword; of other places as exif:…, xmp:…, iptc:…, hidden:…, samsung:….
        exif, xmp, iptc: as `read_exif`, `read_xmp` and `read_iptc` return them.
        manifest: size of the C2PA manifest in bytes, 0 without one.
        notes: lines on what could not be read.
    """

    def __init__(self, file, notes):
        self.notes, self.budget = notes, BUDGET
        self.texts, self.exif, self.xmp, self.iptc = {}, {}, {}, {}
        self.manifest = 0
        self.pieces = {"exif": [], "xmp": [], "iptc": []}  # bytes; for a TIFF, the file
        self.kind = image_format(file.read(256))
        with self.attempt("the metadata"):
            self._gather(file)
        self._parse()

    def _gather(self, file):
        walks = {
            "JPEG": _walk_jpeg, "PNG": _walk_png, "WEBP": _walk_webp, "GIF": _walk_gif, "AVIF": _walk_heif, "HEIF": _walk_heif,
        }  # fmt: skip
        if self.kind in walks:
            walks[self.kind](file, self)
        elif self.kind == "TIFF":
            self.pieces["exif"].append(file)
        elif self.kind is None:
            self.note("not an image of a known format (JPEG, PNG, WebP, GIF, TIFF, AVIF, HEIF)")

    def _parse(self):
        for piece in self.pieces["exif"][:4]:
            with self.attempt("EXIF"):
                self.exif = read_exif(piece) | self.exif
        if self.kind == "TIFF":
            self.manifest = len(self.exif.get("c2pa", b""))
            for name in {"xmp", "iptc"} & self.exif.keys():
                self.pieces[name].append(self.exif[name][:LIMIT])
        for piece in self.pieces["xmp"][:4]:
            self.xmp = read_xmp(piece, self.note) | self.xmp
        for piece in self.pieces["iptc"][:4]:
            self.iptc = read_iptc(piece) | self.iptc
        for name in ("UserComment", "ImageDescription", "XPComment", "Make", "Model", "Artist"):
            self.add_text(f"exif:{name}", exif_text(self.exif, name))
        self.add_text("iptc:caption", self.iptc.get((2, 120)))
        for name in ("UserComment", "description", "AIGC"):
            self.add_text(f"xmp:{name}", self.xmp.get(name, [None])[0])

    @contextlib.contextmanager
    def attempt(self, what):
        """Turn an exception into a note: damaged metadata counts as absent."""
        try:
            yield
        except Exception as error:  # parsers raise all kinds of exceptions on files of strangers
            self.note(f"{what} could not be read completely: {reason(error)}")

    def take(self, file, size):
        """Read a piece of `size` bytes, as far as the limits allow."""
        allowed = min(size, LIMIT, self.budget)
        self.budget -= allowed
        if not self.budget:
            self.note(f"more than {BUDGET:,} bytes of metadata; the rest was not read")
        elif allowed < size:
            self.note(f"only the first {allowed:,} of {size:,} bytes of a piece of metadata were read")
        return file.read(allowed)

    def add(self, name, data):
        """Store a piece of EXIF, XMP or IPTC."""
        self.pieces[name].append(data.removeprefix(b"Exif\0\0"))

    def add_text(self, keyword, text):
        """Store a text, unless it is empty."""
        text = decoded(text) if isinstance(text, bytes) else text
        if text and text.strip("\0 \r\n\t"):
            self.texts.setdefault(keyword[:100], text[:LIMIT])

    def note(self, line):
        """Store a line on what could not be read."""
        if line not in self.notes and len(self.notes) < NOTES:
            self.notes.append(line)


def _walk_jpeg(file, found):
    """Walk through the segments up to the image data, and look for the trailer of Samsung's phones."""
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - 4))
    if file.read(4) == b"SEFT":
        file.seek(max(0, end - SAMSUNG_TRAILER))
        tool = SAMSUNG_AI.search(found.take(file, min(end, SAMSUNG_TRAILER)))
        found.add_text("samsung:genAIType", tool and tool[1])
    file.seek(2)
    for _ in range(PIECES):
        marker = _next_marker(file)
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            return None
        if marker in WITHOUT_LENGTH:
            continue
        length = file.read(2)
        size = int.from_bytes(length, "big") - 2
        if len(length) < 2 or size < 0:
            return found.note("the JPEG's header is damaged or cut off")
        start = file.tell()
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            _jpeg_segment(marker, size, file, found)
        file.seek(start + size)
    return found.note(f"more than {PIECES:,} segments in the JPEG; the rest was not read")


def _next_marker(file):
    """Move behind the next marker and return it, or None at the end of the file; skip stray bytes, as libjpeg does."""
    for _ in range(LIMIT // BLOCK):
        block = file.read(BLOCK)
        if found := MARKER.search(block):
            file.seek(found.end() - len(block), io.SEEK_CUR)
            return found[1][0]
        if len(block) < 2:
            return None
        file.seek(-1, io.SEEK_CUR)  # the first byte of a marker, perhaps
    return None


def _jpeg_segment(marker, size, file, found):
    head = file.read(min(size, 48))
    rest = size - len(head)
    if marker == 0xE1 and head.startswith(b"Exif\0"):
        found.add("exif", head[6:] + found.take(file, rest))
    elif marker == 0xE1 and head.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        found.add("xmp", head[29:] + found.take(file, rest))
    elif marker == 0xEB and head[:2] == b"JP" and head[12:16] == b"jumb":
        if found.manifest or b"c2pa" in head[16:]:  # only the first segment holds the type of the boxes
            found.manifest += size
    elif marker == 0xED and head.startswith(b"Photoshop 3.0\0"):
        found.add("iptc", head[14:] + found.take(file, rest))
    elif marker == 0xFE:
        found.add_text("comment", head + found.take(file, rest))
    elif head.startswith(b"AIGC"):  # China's label without an envelope
        found.add_text("AIGC", (head + found.take(file, rest))[4:])


def _walk_png(file, found):
    """Walk through the chunks to the end: text may follow the image data."""
    file.seek(8)
    header, pixels = b"", []
    for _ in range(PIECES):
        head = file.read(8)
        if len(head) < 8:
            found.note("the PNG is cut off")
            break
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        start = file.tell()
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            _png_text(kind, found.take(file, size), found)
        elif kind == b"eXIf":
            found.add("exif", found.take(file, size))
        elif kind == b"caBX":
            found.manifest += size
        elif kind == b"IHDR":
            header = file.read(min(size, 13))
        elif kind == b"IDAT":
            pixels.append((start, size))
        elif kind == b"IEND":
            break
        file.seek(start + size + 4)
    else:
        found.note(f"more than {PIECES:,} chunks in the PNG; the rest was not read")
    if len(header) == 13 and pixels:
        _hidden_text(file, header, pixels, found)


def _png_text(kind, data, found):
    keyword, _, rest = data.partition(b"\0")
    packed = kind == b"zTXt"
    if kind == b"iTXt":  # compressed or not, method, language \0, translated keyword \0, text
        packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif packed:
        rest = rest[1:]
    keyword = keyword.decode("latin-1")
    text = _unpacked(rest, found) if packed else rest
    if keyword == "XML:com.adobe.xmp":
        found.add("xmp", text)
    elif keyword.startswith("Raw profile type "):
        _raw_profile(keyword.removeprefix("Raw profile type "), text, found)
    else:
        found.add_text(keyword, text)


def _unpacked(data, found, wbits=zlib.MAX_WBITS):
    """Decompress at most LIMIT bytes: a megabyte can hold a gigabyte."""
    allowed = min(LIMIT, found.budget)
    if not allowed:  # for zlib, 0 is no limit
        return b""
    unpacker = zlib.decompressobj(wbits)
    try:
        text = unpacker.decompress(data, allowed)
    except zlib.error:
        found.note("a compressed text in the PNG is damaged")
        return b""
    found.budget -= len(text)
    if unpacker.unconsumed_tail:
        found.note(f"only the first {allowed:,} bytes of a compressed text were read")
    return text


def _raw_profile(name, text, found):
    """Store EXIF, IPTC or XMP as ImageMagick writes it into a PNG: lines of name, length and hexadecimal bytes."""
    try:
        data = bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    except ValueError:
        return found.note("a raw profile in the PNG is damaged")
    if name in ("exif", "APP1"):
        name = "exif" if data.startswith(b"Exif\0\0") else "xmp"
    return found.add(name, data) if name in found.pieces else None


def _hidden_text(file, header, pixels, found):
    """Look for text in the lowest bits of the pixels, column by column, as NovelAI and extensions of the web UI hide it.

    Such text survives the removal of metadata. It begins with a signature and the number of bits (32 bits), is plain or compressed
    by gzip, and uses the alpha channel, or red, green and blue in turn. The signature fits in the first column, whose pixels can be
    decoded without the others; the whole image is decoded only if it has the signature.

    Args:
        header: 13 bytes of the chunk IHDR.
        pixels: list of (start, size) of the chunks IDAT.
    """
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    channels = {2: 3, 6: 4}.get(header[9])
    if header[8] != 8 or header[12] or not channels or not 0 < width * height <= LARGEST_HIDING:
        return
    column = _first_column(file, 1 + width * channels, channels, min(height, 120), pixels)
    alpha = b"".join(pixel[3:] for pixel in column)
    mode = next((mode for mode, values in (("A", alpha), ("RGB", b"".join(pixel[:3] for pixel in column)[:120]))
                 if (match := HIDDEN.match(_packed(values))) and (match[1] == b"png") == (mode == "A")), None)  # fmt: skip
    if mode is None:
        return
    from PIL import Image

    file.seek(0)
    with found.attempt("text hidden in the pixels"), Image.open(file, formats=["PNG"]) as image:
        values = (image.getchannel("A") if mode == "A" else image.convert("RGB")).transpose(Image.Transpose.TRANSPOSE).tobytes()
        size = int.from_bytes(_packed(values[120:152]), "big") // 8
        data = _packed(values[152 : 152 + 8 * min(size, LIMIT, found.budget)])
        found.budget -= len(data)
        compressed = _packed(values[:120]).endswith(b"comp")
        found.add_text(f"hidden:{mode}", _unpacked(data, found, wbits=31) if compressed else data)


def _first_column(file, row_size, channels, rows, pixels):
    """Return the first pixels of at most `rows` rows of a PNG, as a list of bytes."""
    wanted = rows * row_size if rows * row_size <= BUDGET else 0
    unpacker, raw = zlib.decompressobj(), bytearray()
    with contextlib.suppress(zlib.error):
        for start, size in pixels:
            if len(raw) >= wanted:
                break
            file.seek(start)
            raw += unpacker.decompress(file.read(min(size, wanted)), wanted - len(raw))
    column, above = [], bytes(channels)
    for i in range(0, len(raw) - channels, row_size):
        pixel, method = bytes(raw[i + 1 : i + 1 + channels]), raw[i]
        if method >= 2:  # predicted from the pixel above: by half of it (3), or by all of it (2, and Paeth's 4)
            pixel = bytes((value + (up >> (method == 3))) & 255 for value, up in zip(pixel, above, strict=True))
        column.append(pixel)
        above = pixel
    return column


def _packed(values):
    """Return the lowest bits of `values`, eight to a byte."""
    values = values[: len(values) // 8 * 8]
    return int(values.translate(LOWEST_BIT), 2).to_bytes(len(values) // 8, "big") if values else b""


def _walk_webp(file, found):
    file.seek(12)
    for _ in range(PIECES):
        head = file.read(8)
        if len(head) < 8:
            return
        size, start = int.from_bytes(head[4:], "little"), file.tell()
        if head[:4] in (b"EXIF", b"XMP "):
            found.add(head[:4].decode().strip().lower(), found.take(file, size))
        elif head[:4] == b"C2PA":
            found.manifest += size
        file.seek(start + size + size % 2)


def _walk_gif(file, found):
    """Look for XMP and a C2PA manifest near the start of the file."""
    file.seek(0)
    data = found.take(file, LIMIT)
    found.manifest = int(b"!\xff\x0bC2PA_GIF" in data)
    if (start := data.find(b"!\xff\x0bXMP DataXMP")) >= 0:
        found.add("xmp", data[start + 14 :].partition(b"\x01\xff\xfe")[0])  # XMP is not stored in blocks


def _walk_heif(file, found):
    """Look for the box of a C2PA manifest; EXIF and XMP are read by Pillow."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    data = file.read(LIMIT)
    if (start := data.find(bytes.fromhex("75756964d8fec3d61b0e483c92975828877ec481"))) >= 4:
        found.manifest = int.from_bytes(data[start - 4 : start], "big") or end
    if end > LARGEST_HEIF:
        return found.note(f"{found.kind} file too large to look for EXIF and XMP in it")
    from PIL import Image

    from detector.images.exif import limit_tags

    file.seek(0)
    limit_tags()
    if found.kind == "HEIF":
        with found.attempt("EXIF and XMP of HEIF, by the package pillow-heif,"):
            import pillow_heif

            pillow_heif.register_heif_opener()
    with found.attempt(f"EXIF and XMP of the {found.kind} file"), Image.open(file, formats=[found.kind]) as image:
        for name in {"exif", "xmp"} & image.info.keys():
            found.add(name, (image.info[name] or b"")[:LIMIT])
    return None
