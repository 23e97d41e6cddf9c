"""EXIF: its tags, and protection against directories of tags that name the same bytes over and over.

Pillow loads the value of every tag of EXIF and TIFF, mostly as soon as a file is opened (TIFF, AVIF), and 65,535 tags may name the
same megabyte: a file of 2 MB would take 64 GB. In an honest file the values do not overlap.
"""

import contextlib
import functools
import io
import struct
import warnings

FACTOR = 2  # bytes read for one directory, at most, per byte of the file: once, and once more for a value of damaged length
ORIENTATION = 0x0112
RAW = (0x02BC, 0x83BB, 0xCD41)  # XMP, IPTC, C2PA: taken as bytes; some writers declare them as 32-bit numbers


class _LimitedFile:
    """A file that refuses to be read more than FACTOR times its length."""

    def __init__(self, file):
        self.file, self.seek, self.tell = file, file.seek, file.tell
        position = file.tell()
        self.left = FACTOR * file.seek(0, io.SEEK_END)
        file.seek(position)

    def read(self, size):
        """Read as a file does. Raises ValueError beyond the limit."""
        data = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            # No OSError: Pillow would use the tags so far, and pass a TIFF to libtiff, which reads them all again.
            raise ValueError("its tags name more data than there is")
        return data


@functools.cache
def limit_tags():
    """Make Pillow refuse (ValueError), in the whole process, a directory of tags that names more data than there is."""
    from PIL import TiffImagePlugin  # importing it takes longer than importing the rest of Pillow

    original = TiffImagePlugin.ImageFileDirectory_v2.load

    def load(self, fp):
        return original(self, _LimitedFile(fp))

    TiffImagePlugin.ImageFileDirectory_v2.load = load


def read_tags(content: bytes, offset: int | None = None, group: int | None = None) -> dict:
    """Return {tag number: value} of a directory of tags.

    Args:
        content: bytes that begin with a TIFF header (`Exif\\0\\0` before it is skipped).
        offset, group: position of the directory, and the tag that names it; None for the main directory.

    Returns:
        Values as Pillow decodes them: str (Latin-1), bytes, int, float, IFDRational, or tuples of these. Tags that cannot be
        decoded are left out; {} if there is no TIFF header.

    Raises:
        ValueError: the tags name more data than there is.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    content = content.removeprefix(b"Exif\0\0")
    if content[:4] not in (b"II*\0", b"MM\0*") or len(content) < 8:
        return {}
    limit_tags()
    directory, file, found = ImageFileDirectory_v2(content[:8], group=group), io.BytesIO(content), {}
    file.seek(int.from_bytes(content[4:8], "little" if content[:1] == b"I" else "big") if offset is None else offset)
    with warnings.catch_warnings(action="ignore"):  # Pillow warns of every damaged tag
        directory.load(file)
        for tag in directory:
            with contextlib.suppress(ValueError, TypeError, struct.error):  # the bytes do not fit the tag's type
                value = directory._tagdata[tag] if tag in RAW else directory[tag]
                found[tag] = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return found


def read_orientation(exif: bytes | None) -> int:
    """Return the orientation, 1 to 8, of EXIF bytes; 1 if they are None, damaged, or have another value or none."""
    try:
        value = read_tags(exif or b"").get(ORIENTATION)
    except ValueError:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
