"""Metadata has no influence on whether a file is readable, and missing rows have."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.console import InputError
from detector.images.pixels import image_size, read_image
from tests.conftest import draw
from tests.sample_files import chunk, encoded, exif

PICTURE = np.asarray(draw(7, (96, 80)))
COLOURS = Image.fromarray(PICTURE)
REFUSED = "damaged"


def saved(kind, **options):
    return encoded(COLOURS, kind, **options)


def animated(kind):
    return saved(kind, save_all=True, append_images=[draw(i, (96, 80)) for i in range(3)], duration=100)


def same(content, expected=PICTURE):
    assert np.array_equal(read_image(content), expected)
    assert image_size(content) == expected.shape[1::-1]


# --- PNG ---------------------------------------------------------------------------------------------------------------
BIG = zlib.compress(bytes(range(256)) * 10_000)  # more than Pillow unpacks of a text or profile


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"workflow\0\0" + BIG), chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG), chunk(b"iCCP", b"a\0\0" + BIG),
        chunk(b"zTXt", b"a\0\0not packed"), chunk(b"zTXt", b"a"), chunk(b"iTXt", b"\xff"), chunk(b"iCCP", b""),
        chunk(b"pHYs", b"1"), chunk(b"gAMA", b""), chunk(b"cHRM", b"12"), chunk(b"sRGB", b""), chunk(b"acTL", b"1"),
        chunk(b"eXIf", b"MM"),
        chunk(b"tEXt", b"a\0b")[:-1] + b"?", chunk(b"eXIf", b"II*\0\x08\0\0\0")[:-1] + b"?",
    ],
)  # fmt: skip
@pytest.mark.parametrize("at_the_end", [False, True])
def test_png_with_broken_metadata(extra, at_the_end):
    content = saved("PNG")
    place = len(content) - 12 if at_the_end else 33
    same(content[:place] + extra + content[place:])


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS"])
def test_png_whose_pixels_hang_on_a_broken_chunk_is_refused(kind):
    content = bytearray(encoded(COLOURS.quantize(16), transparency=3))
    content[content.index(kind) + 5] ^= 1
    with pytest.raises(InputError, match=REFUSED):
        read_image(bytes(content))


# --- animations --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_animation_cut_off_behind_its_first_frame(kind):
    content = animated(kind)
    whole = read_image(content)
    assert np.abs(whole.astype(int) - PICTURE).mean() <= (20 if kind == "GIF" else 0)
    for length in (len(content) * 3 // 4, len(content) - 1):
        same(content[:length], whole)
    with pytest.raises(InputError, match=REFUSED):
        read_image(content[: len(content) // 5])


def test_png_without_its_end():
    same(saved("PNG")[:-12])
    same(animated("PNG")[:-12])


# --- JPEG --------------------------------------------------------------------------------------------------------------
KINDS_OF_JPEG = {
    "small": {}, "progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 1},
    "fine": {"quality": 95, "subsampling": 0},
}  # fmt: skip


@pytest.mark.parametrize("options", KINDS_OF_JPEG.values(), ids=KINDS_OF_JPEG)
@pytest.mark.parametrize("size", [(96, 80), (700, 500)])
def test_jpeg_lacks_its_end_marker_or_rows(options, size):
    content = encoded(draw(7, size), "JPEG", **options)
    whole = read_image(content)
    for tail in (b"", b"\xff", b"\0\0", b"\xff\xff", b"\xff\xd9" + b"junk" * 50):
        same(content[:-2] + tail, whole)
    for missing in (10, len(content) // 3):
        for end in (b"", b"\xff\xd9") if missing > 10 and "progressive" not in options else (b"",):
            with pytest.raises(InputError, match="rows are missing"):
                read_image(content[: -2 - missing] + end)


def segment(kind, data):
    return struct.pack(">BBH", 0xFF, kind, len(data) + 2) + data


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE1, b"Exif\0\0not tags"), segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
        segment(0xE2, b"ICC_PROFILE\0\1"), segment(0xED, b"Photoshop 3.0\x008BIM\x04"),
        segment(0xEB, b"JP"), segment(0xFE, b"\xff" * 99), b"\xff\xff\xff", b"\0\0", b"stray",
    ],
)  # fmt: skip
def test_jpeg_with_broken_metadata(extra):
    content = saved("JPEG")
    same(content[:20] + extra + content[20:], read_image(content))


def test_second_image_of_a_jpeg_is_ignored():
    content = saved("MPO", save_all=True, append_images=[draw(1, (96, 80))])
    same(content, read_image(saved("JPEG")))
    same(content[:-500], read_image(saved("JPEG")))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_with_one_line(data):
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]))
    content = bytearray(saved(kind))
    for place in data.draw(st.lists(st.integers(0, min(len(content) - 1, 400)), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else bytes(content)
    try:
        image = read_image(content)
    except InputError as error:
        assert str(error).startswith("the image: ") and "\n" not in str(error)
        return
    assert image.dtype == np.uint8 and image.ndim == 3 and min(image.shape[:2]) > 0


# --- TIFF, WebP --------------------------------------------------------------------------------------------------------
def test_tiff_with_broken_metadata():
    content = saved("TIFF", icc_profile=b"no profile", exif=exif({}, {0x9286: b"a"}, {2: (1.0, 2.0, 3.0)}))
    for tag, kind in ((34665, 4), (34853, 4), (34675, 7)):
        place = content.index(struct.pack("<HH", tag, kind))
        same(content[: place + 4] + struct.pack("<II", 1 << 31, len(content) - 3) + content[place + 12 :])


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})])
def test_the_first_page_or_frame_is_taken(kind, options):
    same(saved(kind, save_all=True, append_images=[draw(1, (96, 80))], **options))


def test_webp_with_broken_metadata():
    same(saved("WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0", icc_profile=b"no profile", xmp=b"<"))
