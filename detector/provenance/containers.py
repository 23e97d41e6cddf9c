"""Where an image file keeps its metadata: from a JPEG, PNG, WebP, GIF, TIFF or AVIF to its texts, EXIF, XMP and IPTC.

Only headers are read, and of those at most BUDGET bytes and PIECES pieces: a file may claim what it likes.
"""

import io
import zlib

from detector.images.formats import image_format
from detector.provenance.fields import LIMIT, decoded, exif_text, read_exif, read_iptc, read_xmp

BUDGET = 16 << 20  # bytes read of all metadata of a file; of one piece, LIMIT
PIECES = 20_000  # chunks, segments or boxes walked through
LARGEST_AVIF = 128 << 20  # bytes; Pillow, which looks for EXIF and XMP in it, reads the whole file
NOTES = 12


class Metadata:
    """What a file tells of itself, as it stands there, and how many bytes of it may still be read."""

    def __init__(self, file, notes):
        self.notes, self.budget = notes, BUDGET
        self.texts = {}  # {keyword: text}, the first of a keyword counts; of EXIF and XMP as exif:…, xmp:…
        self.exif, self.xmp, self.iptc = {}, {}, {}  # as read_exif, read_xmp and read_iptc return them
        self.manifest = 0  # bytes of a C2PA manifest
        self.pieces = {"exif": [], "xmp": [], "iptc": []}  # bytes; of a TIFF, the file
        self.kind = image_format(file.read(16))
        self._gather(file)
        self._understand()

    def _gather(self, file):
        walks = {"JPEG": _walk_jpeg, "PNG": _walk_png, "WEBP": _walk_webp, "GIF": _walk_gif, "AVIF": _walk_avif}
        if self.kind in walks:
            walks[self.kind](file, self)
        elif self.kind == "TIFF":
            self.pieces["exif"].append(file)
        elif self.kind is None:
            self.note("the file is no image of a kind whose metadata is read here (JPEG, PNG, WEBP, GIF, TIFF, AVIF)")

    def _understand(self):
        for piece in self.pieces["exif"][:4]:
            self.exif = read_exif(io.BytesIO(piece) if isinstance(piece, bytes) else piece) | self.exif
        if self.kind == "TIFF":  # all is in tags
            self.manifest = self.exif.get("c2pa", 0)
            for name in {"xmp", "iptc"} & self.exif.keys():
                self.pieces[name].append(self.exif[name])
        for piece in self.pieces["xmp"][:4]:
            self.xmp = read_xmp(piece, self.note) | self.xmp
        for piece in self.pieces["iptc"][:4]:
            self.iptc = read_iptc(piece) | self.iptc
        for name in ("UserComment", "ImageDescription", "XPComment", "Make", "Model"):
            self.add_text(f"exif:{name}", exif_text(self.exif, name))
        for name in ("UserComment", "description"):
            self.add_text(f"xmp:{name}", self.xmp.get(name, [None])[0])

    def take(self, file, size):
        """Read a piece of `size` bytes, as far as the limits allow."""
        allowed = min(size, LIMIT, self.budget)
        self.budget -= allowed
        if not self.budget:
            self.note(f"it holds more than {BUDGET:,} bytes of metadata; the rest was not read")
        elif allowed < size:
            self.note(f"only the first {allowed:,} of {size:,} bytes of a piece of metadata were read")
        return file.read(allowed)

    def add(self, name, data):
        """Keep a piece of EXIF, XMP or IPTC."""
        self.pieces[name].append(data.removeprefix(b"Exif\0\0"))

    def add_text(self, keyword, text):
        """Keep a text, unless it is empty."""
        text = decoded(text) if isinstance(text, bytes) else text
        if text and text.strip("\0 \r\n\t"):
            self.texts.setdefault(keyword[:100], text[:LIMIT])

    def note(self, line):
        """Keep a line on what could not be read."""
        if line not in self.notes and len(self.notes) < NOTES:
            self.notes.append(line)


def _walk_jpeg(file, found):
    """Walk through the segments up to the image data."""
    file.seek(2)
    for _ in range(PIECES):
        head = file.read(4)
        if head[:2] == b"\xff\xff":  # a byte that fills
            file.seek(1 - len(head), io.SEEK_CUR)
            continue
        kind, size = head[1:2], int.from_bytes(head[2:], "big") - 2
        if len(head) == 4 and head[0] == 0xFF and kind in (b"\xda", b"\xd9"):  # the image data, the end
            return None
        if len(head) < 4 or head[0] != 0xFF or size < 0:
            return found.note("the JPEG's header is damaged or cut off")
        start = file.tell()
        if kind in (b"\xe1", b"\xeb", b"\xed", b"\xfe"):
            _jpeg_segment(kind, size, file, found)
        file.seek(start + size)
    return found.note(f"the JPEG has more than {PIECES:,} segments; the rest was not looked at")


def _jpeg_segment(kind, size, file, found):
    head = file.read(min(size, 48))
    rest = size - len(head)
    if kind == b"\xe1" and head.startswith(b"Exif\0"):
        found.add("exif", head[6:] + found.take(file, rest))
    elif kind == b"\xe1" and head.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        found.add("xmp", head[29:] + found.take(file, rest))
    elif kind == b"\xeb" and head[:2] == b"JP" and head[12:16] == b"jumb":
        if found.manifest or b"c2pa" in head[16:]:  # the boxes' type is told in the first segment only
            found.manifest += size
    elif kind == b"\xed" and head.startswith(b"Photoshop 3.0\0"):
        found.add("iptc", head[14:] + found.take(file, rest))
    elif kind == b"\xfe":
        found.add_text("comment", head + found.take(file, rest))


def _walk_png(file, found):
    """Walk through the chunks to the end: text may stand behind the image data."""
    file.seek(8)
    for _ in range(PIECES):
        head = file.read(8)
        if len(head) < 8:
            return found.note("the PNG is cut off")
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        start = file.tell()
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            _png_text(kind, found.take(file, size), found)
        elif kind == b"eXIf":
            found.add("exif", found.take(file, size))
        elif kind == b"caBX":
            found.manifest += size
        elif kind == b"IEND":
            return None
        file.seek(start + size + 4)
    return found.note(f"the PNG has more than {PIECES:,} chunks; the rest was not looked at")


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


def _unpacked(data, found):
    """Decompress at most LIMIT bytes: a thousandth of that can hold a gigabyte."""
    allowed = min(LIMIT, found.budget)
    if not allowed:  # zlib takes 0 for no limit
        return b""
    unpacker = zlib.decompressobj()
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
    """Take EXIF, IPTC or XMP as ImageMagick writes it into a PNG: name, length and the bytes in hexadecimal, on lines."""
    try:
        data = bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    except ValueError:
        return found.note("a raw profile in the PNG is damaged")
    if name in ("exif", "APP1"):
        name = "exif" if data.startswith(b"Exif\0\0") else "xmp"
    return found.add(name, data) if name in found.pieces else None


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
    """Look for XMP and a C2PA manifest: both stand before the pictures, or not far behind."""
    file.seek(0)
    data = found.take(file, LIMIT)
    found.manifest = int(b"!\xff\x0bC2PA_GIF" in data)
    if (start := data.find(b"!\xff\x0bXMP DataXMP")) >= 0:
        found.add("xmp", data[start + 14 :].partition(b"\x01\xff\xfe")[0])  # what stands there in place of blocks


def _walk_avif(file, found):
    """Look for the box of a C2PA manifest; EXIF and XMP are handed out by Pillow."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    data = file.read(LIMIT)
    if (start := data.find(bytes.fromhex("75756964d8fec3d61b0e483c92975828877ec481"))) >= 4:
        found.manifest = int.from_bytes(data[start - 4 : start], "big") or end
    if end > LARGEST_AVIF:
        return found.note("the AVIF is too large to look for EXIF and XMP in it")
    file.seek(0)
    try:
        from PIL import Image

        from detector.images.exif import limit_tags

        limit_tags()
        with Image.open(file, formats=["AVIF"]) as image:
            for name in {"exif", "xmp"} & image.info.keys():
                found.add(name, image.info[name][:LIMIT])
    except Exception:  # a damaged file, or a Pillow without AVIF
        found.note("the AVIF's EXIF and XMP could not be read")
    return None
