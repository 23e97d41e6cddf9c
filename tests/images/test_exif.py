import contextlib
import struct
import tracemalloc

import pytest
from PIL import features

from detector.console import InputError
from detector.images.exif import read_orientation, read_tags
from detector.images.pixels import image_size, read_image
from tests.sample_files import MEGABYTE, bare_exif, drawn, png


def tags(entries, number, place):
    """A TIFF directory of entries and `number` more that all name the megabyte at `place`."""
    same = b"".join(struct.pack("<HHII", 50_000 + i, 7, MEGABYTE, place) for i in range(number))
    return struct.pack("<H", len(entries) // 12 + number) + entries + same + bytes(4)


def overlapping(number):
    return b"II*\0" + struct.pack("<I", 8) + tags(b"", number, 8) + b"A" * MEGABYTE


def jpeg_with(exif, **options):
    plain = drawn("JPEG", **options)
    parts = [b"Exif\0\0" + exif[i : i + 65_000] for i in range(0, len(exif), 65_000)]
    return plain[:2] + b"".join(struct.pack(">HH", 0xFFE1, len(part) + 2) + part for part in parts) + plain[2:]


def container_with(kind, exif):
    """WebP or AVIF: Pillow looks into what it is to write, so what is written is exchanged."""
    harmless = exif[:8] + bytes(len(exif) - 9) + b"!"  # no tags
    content = drawn(kind, exif=harmless)
    assert content.count(harmless) == 1
    return content.replace(harmless, exif)


def tiff_with(number, compression):
    content = drawn("TIFF", compression=compression)
    content += bytes(len(content) % 2)
    (place,) = struct.unpack("<I", content[4:8])
    entries = content[place + 2 : place + 2 + 12 * struct.unpack("<H", content[place : place + 2])[0]]
    moved = b"II*\0" + struct.pack("<I", len(content) + MEGABYTE) + content[8:]
    return moved + b"A" * MEGABYTE + tags(entries, number, len(content))


BOMBS = {
    "JPEG": lambda n: jpeg_with(overlapping(n), dpi=(72, 72)),
    "JPEG without a density": lambda n: jpeg_with(overlapping(n)),  # Pillow looks for one in EXIF, and forgives
    "PNG": lambda n: png((b"eXIf", overlapping(n))),
    "TIFF": lambda n: tiff_with(n, None),
    "TIFF for libtiff": lambda n: tiff_with(n, "tiff_lzw"),
    "WEBP": lambda n: container_with("WEBP", overlapping(n)),
    **({"AVIF": lambda n: container_with("AVIF", overlapping(n))} if features.check("avif") else {}),
}
HARMLESS = {"JPEG", "JPEG without a density", "PNG", "WEBP"}  # their tags are not looked at; others are refused


@contextlib.contextmanager
def little_memory():
    """Check that the body takes at most 12 MB of memory."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 12 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("read", [read_image, image_size])
def test_tags_that_name_the_same_megabyte_are_not_all_read(name, read):
    content = BOMBS[name](40)
    with little_memory(), contextlib.nullcontext() if name in HARMLESS else pytest.raises(InputError, match="more data than"):
        read(content)


@pytest.mark.parametrize("source", [overlapping(40), tiff_with(40, None)], ids=["EXIF", "TIFF"])
def test_reading_the_tags_themselves_is_refused(source):
    with little_memory(), pytest.raises(ValueError, match="more data than there is"):
        read_tags(source)


@pytest.mark.parametrize("name", BOMBS)
def test_a_large_tag_that_is_named_once_does_no_harm(name):
    assert read_image(BOMBS[name](1)).shape == (16, 16, 3)


NO_TAGS = [None, b"", b"Exif\0\0", b"no tags", b"II*\0\x08", b"MM\0*\xff\xff\xff\xff", bare_exif([(0x0112, 2, 4, 0)])]


@pytest.mark.parametrize("content", NO_TAGS)
def test_exif_without_an_orientation_is_upright(content):
    assert read_orientation(content) == 1
    assert read_tags(content or b"").keys() <= {0x0112}
