"""Image formats, recognised by a file's first bytes."""


def image_format(head):
    """Return 'JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF' or 'AVIF' from a file's first 16 bytes or more, else None."""
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
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1"):
        return "AVIF"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "BMP"
    return None


def is_image(path):
    """Tell whether a file begins like an image; one that may not be read is none."""
    try:
        with open(path, "rb") as file:
            return image_format(file.read(16)) is not None
    except PermissionError:
        return False
