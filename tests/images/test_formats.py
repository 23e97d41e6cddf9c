import struct

import pytest

from detector.images.formats import image_format, is_empty_image
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
    assert image_format(head) == kind and not is_empty_image(head)
    if kind != "AVIF":  # its brands may come after those of HEIF
        assert image_format(head[:16]) == kind


def with_size(kind, height, width):
    content = bytearray(drawn(kind))
    if kind == "JPEG":
        place = content.index(b"\xff\xc0\0\x11\x08") + 5
        content[place : place + 4] = struct.pack(">HH", height, width)
    elif kind == "PNG":
        content[16:24] = struct.pack(">II", width, height)
    else:
        content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_an_image_without_height_or_width_is_none(kind):
    assert image_format(with_size(kind, 16, 16)) == kind
    for height, width in ((0, 16), (16, 0)):
        content = with_size(kind, height, width)
        assert image_format(content) is None and is_empty_image(content)
    assert image_format(with_size(kind, 0, 16)[:16]) == kind  # it cannot be seen yet


def test_a_size_behind_metadata_is_found():
    content = with_size("JPEG", 0, 16)
    profile = b"\xff\xe2" + struct.pack(">H", 60_000) + b"\xff\xc0" * 29_999
    assert image_format(content[:2] + profile + content[2:]) is None
