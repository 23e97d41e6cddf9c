"""Reduction of a JPEG or PNG to the parts that hold pixels, without metadata.

Pillow parses texts, colour profiles, previews and frames of animations before it decodes a pixel, and refuses a file if it stumbles
there. Without these parts, metadata can neither make a good image unreadable nor use up memory.
"""

from detector.images.formats import jpeg_segments, png_chunks

_APP1, _APP13, _APP15, _COMMENT = 0xE1, 0xED, 0xEF, 0xFE  # APP0 (JFIF) and APP14 (Adobe) tell what the channels mean
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def strip_metadata(content: bytes, kind: str) -> tuple[bytes, bytes | None]:
    """Return an image file without its metadata, and its EXIF.

    Args:
        content: bytes of the whole file.
        kind: image format; all but JPEG and PNG are returned unchanged, without EXIF.

    Returns:
        (content, exif): bytes of a file that decodes to the same pixels, not yet turned, and the bytes of its EXIF, or None. Of an
        animation only the first frame is kept.
    """
    strip = {"JPEG": _strip_jpeg, "PNG": _strip_png}
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
    kept, exif = [content[:8]], None
    for kind, start, end in png_chunks(content):
        if kind == b"eXIf":
            exif = content[start:end]
        elif kind in _PNG_PIXELS:
            kept.append(content[start - 8 : end + 4])
    return b"".join(kept), exif
