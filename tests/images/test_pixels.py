import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from detector.console import InputError
from detector.images.pixels import (
    MAX_PIXELS,
    choose_size,
    image_size,
    input_boxes,
    preprocess,
    read_image,
    resize,
    view_boxes,
    views,
)
from tests.sample_files import bomb, encoded

KINDS = "JPEG, PNG, WEBP, BMP, GIF, TIFF, AVIF, HEIF"
LOSSLESS = ["PNG", "TIFF", "BMP"]
LOSSY = [kind for kind in ("JPEG", "WEBP", "AVIF") if kind == "JPEG" or features.check(kind.lower())]


@pytest.fixture
def picture():
    """(12, 20, 3) uint8: four quarters of different colours, so that every turn of it differs."""
    pixels = np.zeros((12, 20, 3), np.uint8)
    pixels[:6, :10], pixels[:6, 10:], pixels[6:, :10], pixels[6:, 10:] = (250, 20, 20), (20, 250, 20), (20, 20, 250), (240, 240, 20)
    return pixels


def close(a, b, by):
    return a.shape == b.shape and np.abs(a.astype(int) - b).max() <= by


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_come_out_as_they_went_in(kind, picture, tmp_path):
    path = tmp_path / "image.any"
    path.write_bytes(encoded(picture, kind))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        result = read_image(source)
        assert result.dtype == np.uint8 and np.array_equal(result, picture)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", *(kind for kind in LOSSY if kind != "JPEG")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation, picture):
    as_shown = {
        1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1], 5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1), 7: picture[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(picture),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = Image.fromarray(picture).resize((200, 120), Image.Resampling.NEAREST)
    content = encoded(large, kind, exif=exif)
    result = read_image(content)
    height, width = as_shown.shape[:2]
    assert result.shape == (height * 10, width * 10, 3) and image_size(content) == (width * 10, height * 10)
    assert close(result[5::10, 5::10], np.ascontiguousarray(as_shown), 40)  # lossy, but no other colour comes so near


@pytest.mark.parametrize("at", [11, 12])
def test_a_damaged_tag_beside_the_orientation_does_no_harm(at, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = bytearray(encoded(picture, "JPEG", exif=exif))
    content[content.index(b"Exif\0\0") + 6 + at] ^= 0xFF  # type and number of the first tag
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(bytes(content)).shape in {(12, 20, 3), (20, 12, 3)}


def refused(source):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as error:
            read_image(source)
    return str(error.value)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"<svg></svg>", b"\0\0\0\x18ftypisom\0\0\0\0isom"])
def test_another_kind_of_file(content, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    expected = f"{path}: expected an image ({KINDS}), found a damaged or another kind of file; save it as JPEG or PNG"
    assert refused(path) == expected
    with pytest.raises(InputError) as error:
        image_size(path)
    assert str(error.value) == expected


def test_a_truncated_file(tmp_path):
    path = tmp_path / "cut.jpg"
    whole = encoded(Image.effect_noise((64, 64), 50), "JPEG")
    path.write_bytes(whole[: len(whole) // 2])
    assert refused(path).startswith(f"{path}: expected a whole image, found a damaged one (rows are missing); ")
    assert image_size(path) == (64, 64)  # its header is whole


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP", *LOSSY])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_files_of_every_format_are_refused(kind, share):
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), kind)
    assert refused(whole[: int(len(whole) * share)]).startswith("the image: expected ")


def test_a_folder_and_a_missing_file(tmp_path):
    assert refused(tmp_path).startswith(f"{tmp_path}: Is a directory")
    assert refused(tmp_path / "no").startswith(f"{tmp_path / 'no'}: No such file or directory: ")


def test_a_decompression_bomb():
    assert "expected at most 178,956,970 pixels" in refused(bomb(60_000, 60_000))
    assert "expected at most" in refused(bomb(MAX_PIXELS + 1, 1))
    assert image_size(bomb(10_000, 17_000)) == (10_000, 17_000)


def test_resize_is_antialiased_and_keeps_the_whole_image():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert resize(image, 32) is image
    board = np.indices((512, 512)).sum(0) % 2 * 255
    assert np.abs(resize(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), 32).astype(int) - 127.5).max() <= 1
    for shape in ((100, 40, 3), (1, 1, 3), (20, 20, 3)):
        image = np.zeros(shape, np.uint8)
        image[: shape[0] // 2] = 255
        resized = resize(image, 32)
        assert resized.shape == (32, 32, 3) and resized.mean() == pytest.approx(image.mean(), abs=3)


KINDS_OF_VIEWS = [*["whole"] * 3, *["between"] * 5, *["native"] * 5]


def test_views_of_a_large_image_have_three_scales():
    boxes = np.array(view_boxes(1000, 2000, 56, KINDS_OF_VIEWS))
    sides = [875, 875, 875, *[np.sqrt(875 * 56)] * 5, *[56] * 5]  # 7/8 of the shorter side; the geometric mean of 875 and 56; 56
    places = [(0.5, 0.5), (0.1, 0.1), (0.9, 0.9), *[(0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.75, 0.25), (0.25, 0.75)] * 2]
    expected = [((2000 - side) * x, (1000 - side) * y) for side, (x, y) in zip(sides, places, strict=True)]
    assert boxes[:, :2] == pytest.approx(np.array(expected))
    assert boxes[:, 2:] - boxes[:, :2] == pytest.approx(np.stack([sides, sides], axis=1))


def test_native_views_are_the_images_own_pixels():
    image = np.random.default_rng(0).integers(0, 256, (60, 91, 3), np.uint8)
    found = views(image, 16, ["native"] * 5)
    boxes = view_boxes(60, 91, 16, ["native"] * 5)
    assert np.array_equal(found, [image[int(top) :, int(left) :][:16, :16] for left, top, *_ in boxes])
    assert np.array_equal(found[0], image[22:38, 38:54])


def test_views_of_a_small_image_are_enlarged_alike():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    found = views(image, 32, KINDS_OF_VIEWS)
    assert np.array_equal(found[0], found[3])
    assert len(set(view_boxes(20, 30, 32, KINDS_OF_VIEWS))) == 12
    large = np.asarray(Image.fromarray(image).resize((55, 37), Image.Resampling.BICUBIC))  # the shorter side is 8/7 of 32
    assert np.abs(views(image, 32, ["native"] * 3)[2].astype(int) - large[4:36, 17:49]).max() <= 1


def test_the_whole_view_averages_what_it_scales_down():
    board = np.indices((640, 640)).sum(axis=0) % 2 * 255
    image = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    assert np.abs(views(image, 32, ["whole"]).astype(int) - 127.5).max() <= 2


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(8, 64))
def test_views_lie_within_the_image(height, width, size):
    metadata = {"preprocessing": "views", "image_size": size, "views": KINDS_OF_VIEWS}
    for left, top, right, bottom in view_boxes(height, width, size, KINDS_OF_VIEWS):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
    for left, top, right, bottom in input_boxes(height, width, metadata):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert preprocess(np.zeros((height, width, 3), np.uint8), metadata).shape == (13, size, size, 3)


def test_inputs_are_as_the_metadata_say():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert np.array_equal(preprocess(image, {"preprocessing": "resize", "image_size": 8}), resize(image, 8)[None])
    both = {"preprocessing": "views", "image_size": 8, "views": ["whole", "native"]}
    assert np.array_equal(preprocess(image, both), views(image, 8, ["whole", "native"]))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([(32, 32)] * 3, 32), ([(64, 900)] * 3, 32), ([(65, 65)] * 3, 224), ([(9, 9), (32, 32), (512, 512)], 32), ([(800, 600)], 224)],
)
def test_choose_size_by_the_median_shorter_side(sizes, expected):
    assert choose_size(np.array(sizes)) == expected
