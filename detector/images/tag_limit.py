"""Keeps Pillow from reading the same bytes of a file over and over, tag by tag.

Pillow loads the value of every tag in EXIF and TIFF, mostly as soon as a file is opened (JPEG, TIFF, AVIF), and 65,535 tags may
name the same megabyte: a file of 2 MB takes up 64 GB. In an honest file the values do not overlap.
"""
import functools
import io

TIMES = 2  # of a file's length are read for one directory: once, and once more for a value whose length is damaged


class _Sparing:
    """A file of which no more than TIMES its length is read."""

    def __init__(self, file):
        self.file, self.seek, self.tell = file, file.seek, file.tell
        here = file.tell()
        self.left = TIMES * file.seek(0, io.SEEK_END)
        file.seek(here)

    def read(self, size):
        """Read as a file does."""
        data = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            # No OSError: Pillow would go on with the tags so far, and hand a TIFF to libtiff, which reads them all again.
            raise ValueError("its tags name more data than there is")
        return data


@functools.cache
def limit_tags():
    """Have Pillow refuse (ValueError), in the whole process, a directory of tags that names more data than there is."""
    from PIL import TiffImagePlugin  # it takes longer than the rest of Pillow

    whole = TiffImagePlugin.ImageFileDirectory_v2.load

    def load(self, fp):
        return whole(self, _Sparing(fp))

    TiffImagePlugin.ImageFileDirectory_v2.load = load
