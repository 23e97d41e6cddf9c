import struct

import pytest

from detector.images.formats import image_format
from tests.sample_files import drawn


def box(major, *brands):
    body = b"ftyp" + major + bytes(4) + b"".join(brands)
    return struct.pack(">I", len(body) + 4) + body


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        *((drawn(kind), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")),
        (b"MM\0+\0\x08\0\0" + bytes(8), "TIFF"), (box(b"avif", b"mif1", b"miaf"), "AVIF"), (box(b"mif1", b"avif", b"miaf"), "AVIF"),
        (box(b"heic", b"mif1", b"heic"), "HEIF"), (box(b"mif1", b"mif1", b"heic"), "HEIF"), (box(b"msf1", b"hevc"), "HEIF"),
        (box(b"isom", b"avc1"), None), (box(b"crx ", b"isom"), None), (b"<svg></svg>" + bytes(16), None), (b"", None),
    ],
)  # fmt: skip
def test_formats_by_the_first_bytes(head, kind):
    assert image_format(head) == kind
    if kind != "AVIF":  # its brands may come after those of HEIF
        assert image_format(head[:16]) == kind
