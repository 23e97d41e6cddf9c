"""Reduction of an image file to the parts that hold pixels, without metadata.

Pillow parses texts, colour profiles, previews and frames of animations before it decodes a pixel, and refuses a file if it stumbles
there. Without these parts, metadata can neither make a good image unreadable nor use up memory.
"""

import re
import zlib

from detector.images.formats import END_OF_IMAGE, START_OF_SCAN, jpeg_segments

_LAST_PIXEL_TAG = 0x0214  # of TIFF: ReferenceBlackWhite; beyond it come XMP, IPTC, colour profiles, EXIF, GPS
_APP1, _APP13, _APP15, _COMMENT = 0xE1, 0xED, 0xEF, 0xFE  # APP0 (JFIF) and APP14 (Adobe) tell what the channels mean
_PNG_CRITICAL = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_WEBP_PIXELS = (b"ALPH", b"VP8 ", b"VP8L", b"ANIM")
_WEBP_METADATA_FLAGS = 0b00101100  # of VP8X: colour profile, EXIF, XMP
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)  # an item of HEIF and its type
_BOXES = 1 << 20  # bytes at the beginning of HEIF and AVIF among which the items are declared


def strip_metadata(content: bytes, kind: str) -> tuple[bytes, bytes | None]:
    """Return an image file without its metadata, and its EXIF.

    Args:
        content: bytes of the whole file.
        kind: image format; a GIF is returned unchanged.

    Returns:
        (content, exif): bytes of a file that decodes to the same pixels, not yet turned, and the bytes of its EXIF. Of an animation
        only the first frame is kept. The EXIF is None if the file has no EXIF, and for TIFF, AVIF and HEIF, which
        store the orientation elsewhere.
    """
    strip = {
        "JPEG": _strip_jpeg, "PNG": _strip_png, "WEBP": _strip_webp, "BMP": _align_bmp, "TIFF": _strip_tiff, "AVIF": _strip_heif,
        "HEIF": _strip_heif,
    }  # fmt: skip
    return strip[kind](content) if kind in strip else (content, None)


def _strip_jpeg(content):
    kept, exif = [content[:2]], []
    for marker, start, end in jpeg_segments(content):
        if marker == _APP1 and content[start + 4 : start + 8] == b"Exif":
            exif.append(content[start + 10 : end])  # large EXIF is spread over several segments
        if not (_APP1 <= marker <= _APP13 or marker in (_APP15, _COMMENT)):
            kept.append(content[start:end])
    return b"".join(kept), b"".join(exif) or None


def _strip_png(content):
    kept, exif, place, header = [content[:8]], None, 8, b""
    while len(content) - place >= 8:
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        kind = content[place + 4 : place + 8]
        if kind == b"IHDR":
            header = content[place + 8 : end - 4]
        if kind == b"eXIf":
            exif = content[place + 8 : end - 4]
        elif kind == b"IEND":
            kept.append(content[place:end])
            break
        elif kind in _PNG_CRITICAL:
            chunk = content[place:end]
            kept.append(_scale_transparent_value(chunk, header) if kind == b"tRNS" else chunk)
        place = end
    return b"".join(kept), exif


def _scale_transparent_value(chunk, header):
    """Return the tRNS chunk of a grey or RGB PNG with its value as Pillow compares it: with samples scaled to 8 bits.

    (16-bit grey Pillow leaves at 16 bits. Of 16-bit RGB, colours that agree in the upper bytes become transparent together.)
    """
    bits, colour = header[8:9], header[9:10]
    value, checksum = chunk[8:-4], chunk[-4:]
    if bits == b"\x08" or (bits, colour) == (b"\x10", b"\0") or colour not in (b"\0", b"\x02") or len(value) % 2:
        return chunk
    if zlib.crc32(chunk[4:-4]).to_bytes(4, "big") != checksum:
        return chunk  # to be refused
    samples = [int.from_bytes(value[i : i + 2], "big") for i in range(0, len(value), 2)]
    samples = [sample >> 8 if bits == b"\x10" else (sample & (2 ** bits[0] - 1)) * 255 // (2 ** bits[0] - 1) for sample in samples]
    scaled = b"tRNS" + b"".join(sample.to_bytes(2, "big") for sample in samples)
    return chunk[:4] + scaled + zlib.crc32(scaled).to_bytes(4, "big")


def _strip_webp(content):
    kept, exif, place = [], None, 12
    while len(content) - place >= 8:
        kind, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        end = place + 8 + size
        chunk = content[place:end] + bytes(size % 2 if end <= len(content) else 0)
        if kind == b"VP8X":
            kept.append(chunk[:8] + bytes([chunk[8] & ~_WEBP_METADATA_FLAGS]) + chunk[9:])
        elif kind in _WEBP_PIXELS or (kind == b"ANMF" and not any(part.startswith(b"ANMF") for part in kept)):
            kept.append(chunk)
        elif kind == b"EXIF":
            exif = content[place + 8 : end]
        place = end + size % 2
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body, exif


def _strip_tiff(content):
    """Remove the tags that no pixel depends on, and all directories but the first. Offsets stay the same."""
    order = "little" if content[:1] == b"I" else "big"

    def number(start, size):
        return int.from_bytes(content[start : start + size], order)

    big = number(2, 2) == 43
    directory, count, entry, pointer = (number(8, 8), 8, 20, 8) if big else (number(4, 4), 2, 12, 4)
    first = directory + count
    end = first + entry * number(directory, count)
    if end + pointer > len(content):
        return content, None  # to be refused
    entries = [content[place : place + entry] for place in range(first, end, entry) if number(place, 2) <= _LAST_PIXEL_TAG]
    shorter = len(entries).to_bytes(count, order) + b"".join(entries) + bytes(pointer)  # no further directory
    return content[:directory] + shorter + content[directory + len(shorter) :], None


def _strip_heif(content):
    return _EXIF_ITEM.sub(rb"\1skip", content[:_BOXES]) + content[_BOXES:], None


def _align_bmp(content):
    """Let the pixels begin at an even position, from which Pillow counts the padding of RLE8."""
    place = int.from_bytes(content[10:14], "little")
    if place % 2:
        content = content[:10] + (place + 1).to_bytes(4, "little") + content[14:place] + b"\0" + content[place:]
    return content, None


# --- JPEG: complete or cut off -----------------------------------------------------------------------------------------
_SCAN, _END = bytes([0xFF, START_OF_SCAN]), bytes([0xFF, END_OF_IMAGE])
_FILLER = b"\x5a\x3c\x96\xa7\x1e\x78" * 50  # decodes to anything but the grey that libjpeg puts in place of missing data


def end_of_jpeg(content: bytes) -> int:
    """Return the position of the marker that ends the first image of a JPEG, -1 if it has no such marker."""
    return content.find(_END, content.find(_SCAN))


def add_end(content: bytes) -> bytes:
    """Return a JPEG without an end marker with one."""
    return content.rstrip(b"\xff") + _END


def add_filler(content: bytes) -> bytes:
    """Return a JPEG with bytes inserted before its end marker.

    libjpeg ignores bytes between the last row and the end marker. If rows are missing, it decodes the inserted bytes instead: the
    result has the same pixels if, and only if, all rows were there.
    """
    end = end_of_jpeg(content)
    return content[:end] + _FILLER + content[end:]
