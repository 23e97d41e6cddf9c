"""Image formats, recognised by the first bytes of a file; the same answer for every stage."""

import struct

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
HEAD = 256  # bytes of a file that `image_format` looks at
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9


def is_image(path) -> bool:
    """Return whether a file begins like an image; False for a file without read permission."""
    try:
        with open(path, "rb") as file:
            return image_format(file.read(HEAD)) is not None
    except PermissionError:
        return False


def image_format(head: bytes) -> str | None:
    """Return the image format that a file's first bytes name, one of FORMATS, or None; the rest of the header is not checked.

    Args:
        head: at least 16 bytes; with HEAD, AVIF and HEIF are distinguished by all of their brands.
    """
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[4:8] == b"ftyp":
        return _format_of_brands(head)
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "BMP"
    return None


def _format_of_brands(head):
    """Return AVIF or HEIF for the file type box of an image, None for that of a film."""
    major, size = head[8:12], int.from_bytes(head[:4], "big")
    brands = {major, *(head[i : i + 4] for i in range(16, min(size, len(head), HEAD), 4))}
    if major in (b"avif", b"avis"):
        return "AVIF"
    if major in (b"mif1", b"msf1", b"miaf") and brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if major in _HEIF_BRANDS else None


def jpeg_segments(content):
    """Yield (marker, start, end) of the segments of a JPEG up to the first scan; the last one, a scan, reaches to the end.

    Stray bytes between segments are skipped, as libjpeg does.
    """
    place = 2
    while (start := content.find(b"\xff", place)) >= 0 and start + 4 <= len(content):
        marker = content[start + 1]
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            yield marker, start, len(content)
            return
        if marker == 0xFF:  # padding
            place = start + 1
        elif marker < 2 or 0xD0 <= marker <= 0xD8:  # markers without a length
            place = start + 2
        else:
            place = start + 2 + max(2, int.from_bytes(content[start + 2 : start + 4], "big"))
            yield marker, start, place


def png_chunks(content):
    """Yield (type, start, end) of the data of each chunk of a PNG, up to the last one; `end` may lie beyond the file."""
    kind, place = b"", 8
    while kind != b"IEND" and place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        yield kind, place + 8, place + 8 + size
        place += size + 12
