"""Metadata in image files: from JPEG, PNG, WebP, GIF, TIFF, AVIF and HEIF to texts, EXIF, XMP and IPTC.

At most BUDGET bytes of it are read.
"""

import contextlib
import io
import re
import struct
import zlib
from itertools import islice

from detector.images.essentials import strip_metadata
from detector.images.exif import limit_tags
from detector.images.formats import END_OF_IMAGE, HEAD, START_OF_SCAN, image_format, jpeg_segments, png_chunks
from detector.provenance.fields import LIMIT, decoded, exif_text, read_exif, read_iptc, read_xmp, reason

BUDGET = 16 << 20  # bytes read of all metadata of a file; of one piece, LIMIT
PIECES = 20_000  # segments of a JPEG or chunks of a PNG that are looked at
LARGEST_HIDING = 50_000_000  # pixels of a PNG that is decoded for hidden text
NOTES = 12
XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
SAMSUNG_TRAILER = 64 << 10  # bytes at the end of a file that are searched
SAMSUNG_AI = re.compile(rb'PhotoEditor_Re_Edit_Data.*?"genAIType"\s*:\s*"?([1-9]\d{0,3})', re.DOTALL)  # 0: no AI
C2PA_BOX = bytes.fromhex("75756964d8fec3d61b0e483c92975828877ec481")  # of AVIF and HEIF: type and UUID


class Metadata:
    """Metadata of a file, as stored there, and how many bytes of it may still be read.

    Attributes:
        kind: format of the file, as `image_format` returns it.
        texts: {keyword: text}, the first of each keyword; of other places as exif:…, xmp:…, iptc:…, hidden:…, samsung:….
        exif, xmp, iptc: as `read_exif`, `read_xmp` and `read_iptc` return them.
        manifest: size of the C2PA manifest in bytes, 0 without one.
        notes: lines on what could not be read.
    """

    def __init__(self, content, notes):
        self.content, self.notes, self.budget = content, notes, BUDGET
        self.texts, self.exif, self.xmp, self.iptc = {}, {}, {}, {}
        self.manifest = 0
        self.pieces = {"exif": [], "xmp": [], "iptc": []}
        self.kind = image_format(content[:HEAD])
        walks = {"JPEG": _walk_jpeg, "PNG": _walk_png, "WEBP": _walk_webp, "GIF": _walk_gif, "AVIF": _walk_heif, "HEIF": _walk_heif}
        with self.attempt("the metadata"):
            if self.kind in walks:
                walks[self.kind](content, self)
            elif self.kind == "TIFF":
                self.pieces["exif"].append(content)
            elif self.kind is None:
                self.note("not an image of a known format (JPEG, PNG, WebP, GIF, TIFF, AVIF, HEIF)")
        self._parse()

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

    def take(self, start, end):
        """Return a piece of the file, as far as the limits allow."""
        size = end - start
        allowed = min(size, LIMIT, self.budget)
        self.budget -= allowed
        if not self.budget:
            self.note(f"more than {BUDGET:,} bytes of metadata; the rest was not read")
        elif allowed < size:
            self.note(f"only the first {allowed:,} of {size:,} bytes of a piece of metadata were read")
        return self.content[start : start + allowed]

    def add_text(self, keyword, text):
        """Store a text, unless it is empty."""
        text = decoded(text) if isinstance(text, bytes) else text
        if text and text.strip("\0 \r\n\t"):
            self.texts.setdefault(keyword[:100], text[:LIMIT])

    def note(self, line):
        """Store a line on what could not be read."""
        if line not in self.notes and len(self.notes) < NOTES:
            self.notes.append(line)


def _walk_jpeg(content, found):
    """Walk through the segments up to the image data, and look for the trailer of Samsung's phones."""
    if content.endswith(b"SEFT"):
        tool = SAMSUNG_AI.search(content[-SAMSUNG_TRAILER:])
        found.add_text("samsung:genAIType", tool and tool[1])
    marker = None
    for marker, start, end in islice(jpeg_segments(content), PIECES):
        head, start = content[start + 4 : start + 52], start + 4
        if marker == 0xE1 and head.startswith(b"Exif\0"):
            found.pieces["exif"].append(found.take(start + 6, end))
        elif marker == 0xE1 and head.startswith(XMP_SEGMENT):
            found.pieces["xmp"].append(found.take(start + len(XMP_SEGMENT), end))
        elif marker == 0xEB and head[:2] == b"JP" and head[12:16] == b"jumb":
            if found.manifest or b"c2pa" in head[16:]:  # only the first segment holds the type of the boxes
                found.manifest += end - start
        elif marker == 0xED and head.startswith(b"Photoshop 3.0\0"):
            found.pieces["iptc"].append(found.take(start + 14, end))
        elif marker == 0xFE:
            found.add_text("comment", found.take(start, end))
        elif 0xE0 <= marker <= 0xEF and head.startswith(b"AIGC"):  # China's label without an envelope
            found.add_text("AIGC", found.take(start + 4, end))
    if marker not in (START_OF_SCAN, END_OF_IMAGE):
        found.note("the JPEG's header is damaged or cut off")


def _walk_png(content, found):
    """Walk through the chunks to the end: text may follow the image data."""
    for kind, start, end in islice(png_chunks(content), PIECES):
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            _png_text(kind, found.take(start, end), found)
        elif kind == b"eXIf":
            found.pieces["exif"].append(found.take(start, end))
        elif kind == b"caBX":
            found.manifest += end - start
        elif kind == b"IEND":
            with contextlib.suppress(OSError, SyntaxError, ValueError):  # the pixels are damaged
                _hidden_text(strip_metadata(content, "PNG")[0], found)
            return
    found.note(f"the PNG is cut off, or has more than {PIECES:,} chunks")


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
        found.pieces["xmp"].append(text)
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
    if name in found.pieces:
        found.pieces[name].append(data)
    return None


def _hidden_text(content, found):
    """Look for text in the lowest bits of the pixels, column by column, as NovelAI and extensions of the web UI hide it.

    Such text survives the removal of metadata. It begins with a signature and the number of bits (32 bits), is plain or compressed
    by gzip, and uses the alpha channel, or red, green and blue in turn. The signature fits in the first column; the whole image is
    decoded only if it is there.
    """
    if content[12:16] != b"IHDR" or len(content) < 33:
        return
    width, height, bits, colour, *_, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if bits != 8 or colour not in (2, 6) or interlaced or not 0 < width * height <= LARGEST_HIDING:
        return
    header = content[12:20] + min(height, 120).to_bytes(4, "big") + content[24:29]
    top = content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
    for channels, name in (("A", b"stealth_png"), ("RGB", b"stealth_rgb")):
        signature = _lowest_bits(top, channels, columns=1)[:15]
        if signature in (name + b"info", name + b"comp"):
            data = _lowest_bits(content, channels, width)
            size = int.from_bytes(data[15:19], "big") // 8
            text = data[19 : 19 + min(size, LIMIT, found.budget)]
            found.budget -= len(text)
            found.add_text(f"hidden:{channels}", _unpacked(text, found, wbits=31) if signature.endswith(b"comp") else text)


def _lowest_bits(content, channels, columns):
    """Return the lowest bits of the given channels in the first columns of a PNG, eight to a byte."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        values = np.asarray(image.crop((0, 0, columns, image.height)))
    values = values[..., 3:] if channels == "A" else values[..., :3]
    return np.packbits(values.transpose(1, 0, 2) & 1).tobytes()


def _walk_webp(content, found):
    place = 12
    while len(content) - place >= 8:
        kind, start = content[place : place + 4], place + 8
        end = start + int.from_bytes(content[place + 4 : place + 8], "little")
        place = end + (end - start) % 2
        if kind in (b"EXIF", b"XMP "):
            found.pieces[kind.decode().strip().lower()].append(found.take(start, end))
        elif kind == b"C2PA":
            found.manifest += end - start


def _walk_gif(content, found):
    """Look for XMP and a C2PA manifest near the start of the file."""
    data = content[:LIMIT]
    found.manifest = int(b"!\xff\x0bC2PA_GIF" in data)
    if (start := data.find(b"!\xff\x0bXMP DataXMP")) >= 0:
        found.pieces["xmp"].append(data[start + 14 :].partition(b"\x01\xff\xfe")[0])  # XMP is not stored in blocks


def _walk_heif(content, found):
    """Look for the box of a C2PA manifest; EXIF and XMP are read by Pillow."""
    if (start := content.find(C2PA_BOX, 0, LIMIT)) >= 4:
        found.manifest = int.from_bytes(content[start - 4 : start], "big") or len(content)
    from PIL import Image

    from detector.images.pixels import register_heif

    limit_tags()
    with found.attempt(f"EXIF and XMP of the {found.kind} file"):
        if found.kind == "HEIF":
            register_heif()
        image = Image.open(io.BytesIO(content), formats=[found.kind])
        for name in {"exif", "xmp"} & image.info.keys():
            found.pieces[name].append((image.info[name] or b"")[:LIMIT])
