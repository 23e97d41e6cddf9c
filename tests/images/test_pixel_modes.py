"""Every bit depth, sample format, colour interpretation and palette that the formats have, against values computed here."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from detector.console import InputError
from detector.images.pixels import image_size, read_image
from tests.sample_files import chunk, encoded

HEIGHT, WIDTH = 3, 8
RAMP = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)


def samples(bits, channels=1, seed=0):
    """(h, w, channels) int: all over the range, both ends among them."""
    values = np.random.default_rng(seed).integers(0, 1 << bits, (HEIGHT, WIDTH, channels))
    values[0, 0], values[0, 1] = 0, (1 << bits) - 1
    return values


def packed(values, bits, order="big"):
    """Samples as bytes: rows of whole bytes below 8 bits."""
    rows = values.reshape(HEIGHT, -1)
    if bits < 8:
        digits = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        return np.packbits(digits.reshape(HEIGHT, -1).astype(np.uint8), axis=1).tobytes()
    return rows.astype(f"{'>' if order == 'big' else '<'}u{bits // 8}").tobytes()


def to_8_bit(values, bits):
    return values * 255 // ((1 << bits) - 1) if bits < 8 else values >> (bits - 8)


def grey(levels):
    return np.repeat(levels.reshape(HEIGHT, WIDTH, 1), 3, axis=2)


def on_white(colours, alpha):
    """Colours, 0 to 255, laid on white; alpha 0 to 255."""
    return np.rint((colours * alpha + 255 * (255 - alpha)) / 255)


def check(content, expected, by=0):
    image = read_image(content)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= by
    assert image_size(content) == (WIDTH, HEIGHT)


# --- PNG ---------------------------------------------------------------------------------------------------------------
def png(bits, colour, values, palette=b"", transparent=b"", extra=b""):
    rows = packed(values, bits)
    size = len(rows) // HEIGHT
    lines = b"".join(b"\0" + rows[i : i + size] for i in range(0, len(rows), size))
    chunks = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)) + extra
    chunks += chunk(b"PLTE", palette) if palette else b""
    chunks += chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("transparent", [False, True])
def test_png_grey(bits, transparent):
    values = samples(bits)
    expected = grey(to_8_bit(values, bits))
    value = int(values[1, 1, 0])
    if transparent:
        expected[values[..., 0] == value] = 255
    check(png(bits, 0, values, transparent=struct.pack(">H", value) if transparent else b""), expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("transparent", [False, True])
def test_png_rgb(bits, transparent):
    values = samples(bits, 3)
    expected = to_8_bit(values, bits)
    if transparent:
        expected[1, 1] = 255
    check(png(bits, 2, values, transparent=struct.pack(">3H", *values[1, 1].tolist()) if transparent else b""), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_png_palette(bits, transparent):
    palette, alpha = np.random.default_rng(1).integers(0, 256, (1 << bits, 3)), np.full((1 << bits, 1), 255)
    if transparent:
        alpha[:2, 0] = 0, 128
    values = samples(bits)
    expected = on_white(palette, alpha)[values[..., 0]]
    alphas = bytes(alpha[:2, 0].tolist()) if transparent else b""
    check(png(bits, 3, values, bytes(palette.ravel().tolist()), alphas), expected, by=1)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("colour", "channels"), [(4, 2), (6, 4)])
def test_png_alpha(bits, colour, channels):
    values = samples(bits, channels)
    levels = to_8_bit(values, bits)
    check(png(bits, colour, values), on_white(levels[..., :-1], levels[..., -1:]) * np.ones(3), by=1)


# --- TIFF --------------------------------------------------------------------------------------------------------------
def tiff(order, bits, photometric, data, channels=1, sample_format=1, extra=(), packing=False):
    """A TIFF, uncompressed or deflated; data in its byte order."""
    data = zlib.compress(data) if packing else data
    end = "<" if order == "II" else ">"
    tags = {
        256: (4, [WIDTH]), 257: (4, [HEIGHT]), 258: (3, [bits] * channels), 259: (3, [8 if packing else 1]),
        262: (3, [photometric]), 273: (4, [0]),
        277: (3, [channels]), 278: (4, [HEIGHT]), 279: (4, [len(data)]), 339: (3, [sample_format] * channels),
    }  # fmt: skip
    if extra:
        tags[338] = 3, list(extra)
    start = 8 + 2 + 12 * len(tags) + 4
    values = {tag: struct.pack(f"{end}{len(v)}{'HI'[kind - 3]}", *v) for tag, (kind, v) in tags.items()}
    pixels = start + sum(len(value) for value in values.values() if len(value) > 4)
    values[273] = struct.pack(f"{end}I", pixels)
    entries, beyond = b"", b""
    for tag in sorted(tags):
        kind, listed = tags[tag]
        value = values[tag]
        if len(value) > 4:
            beyond += value
            value = struct.pack(f"{end}I", start + len(beyond) - len(value))
        entries += struct.pack(f"{end}HHI", tag, kind, len(listed)) + value.ljust(4, b"\0")
    head = (b"II*\0" if order == "II" else b"MM\0*") + struct.pack(f"{end}IH", 8, len(tags))
    return head + entries + bytes(4) + beyond + data


ORDERS = {"II": "little", "MM": "big"}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("packing", [False, True])
def test_tiff_grey(order, photometric, bits, packing):
    values = samples(bits)
    levels = to_8_bit(values, bits)
    content = tiff(order, bits, photometric, packed(values, bits, ORDERS[order]), packing=packing)
    refused = {(32, 0, "II"), (32, 0, "MM"), (32, 1, "MM"), (16, 0, "MM")}
    check_or_refused(content, grey(255 - levels if photometric == 0 else levels), (bits, photometric, order) in refused)


def check_or_refused(content, expected, refused=False, by=0):
    """A kind that Pillow does not know is refused, never decoded wrongly."""
    if refused:
        with pytest.raises(InputError):
            read_image(content)
    else:
        check(content, expected, by)


@pytest.mark.parametrize("order", ORDERS)
def test_tiff_12_bit(order):
    values = samples(12)
    digits = (values.reshape(HEIGHT, -1, 1) >> np.arange(11, -1, -1)) & 1
    data = np.packbits(digits.reshape(HEIGHT, -1).astype(np.uint8), axis=1).tobytes()
    check_or_refused(tiff(order, 12, 1, data), grey(values >> 4), refused=order == "MM")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("packing", [False, True])
def test_tiff_signed_is_black_below_zero(order, bits, packing):
    values = np.random.default_rng(0).integers(-(1 << bits - 1), 1 << bits - 1, (HEIGHT, WIDTH))
    values[0, :2] = -(1 << bits - 1), (1 << bits - 1) - 1
    data = values.astype(f"{'<' if order == 'II' else '>'}i{bits // 8}").tobytes()
    check(tiff(order, bits, 1, data, sample_format=2, packing=packing), grey(np.maximum(values, 0) >> (bits - 9)))


@pytest.mark.parametrize("top", [200, 60_000])
def test_tiff_32_bit_with_small_values(top):
    values = RAMP * top // RAMP.max()
    expected = values if top < 256 else values >> 8
    check(tiff("II", 32, 1, values.astype("<u4").tobytes()), grey(expected))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("top", [1, 255])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("packing", [False, True])
def test_tiff_float(order, top, photometric, packing):
    values = RAMP / RAMP.max() * top
    values[0, 3] = np.nan
    expected = np.rint(np.nan_to_num(values) * 255 / top)
    data = values.astype("<f4" if order == "II" else ">f4").tobytes()
    content = tiff(order, 32, photometric, data, sample_format=3, packing=packing)
    check(content, grey(255 - expected if photometric == 0 else expected))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extra", [(), (0,), (1,), (2,)])
@pytest.mark.parametrize("packing", [False, True])
def test_tiff_rgb(order, bits, extra, packing):
    values = samples(bits, 3 + len(extra))
    if extra == (1,):
        values[..., :3] = values[..., :3] * values[..., 3:] // ((1 << bits) - 1)  # colours multiplied by alpha
    levels = to_8_bit(values, bits)
    if extra == (1,):
        expected = levels[..., :3] + 255 - levels[..., 3:]
    else:
        expected = on_white(levels[..., :3], levels[..., 3:]) if extra == (2,) else levels[..., :3]
    data = packed(values, bits, ORDERS[order])
    check(tiff(order, bits, 2, data, 3 + len(extra), extra=extra, packing=packing), expected, by=2)


def test_tiff_lab():
    values = np.zeros((HEIGHT, WIDTH, 3), np.int64)
    values[..., 0] = RAMP * 255 // RAMP.max()  # L* from 0 to 100; a* and b* are 0: neutral grey
    light = values[..., 0] / 255 * 100
    y = np.where(light > 8, ((light + 16) / 116) ** 3, light / 903.3)
    srgb = np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055) * 255
    check(tiff("II", 8, 8, packed(values, 8), 3), grey(srgb), by=2)


def test_tiff_whose_alpha_is_zero_everywhere_is_opaque():
    values = samples(8, 4)
    values[..., 3] = 0
    check(tiff("II", 8, 2, packed(values, 8), 4, extra=(2,)), values[..., :3])


# --- BMP ---------------------------------------------------------------------------------------------------------------
def bmp(bits, rows, compression=0, palette=b"", masks=b"", header=40):
    """A BMP from rows of bytes, top first, or from compressed data."""
    data = rows if isinstance(rows, bytes) else b"".join(rows[::-1])
    info = struct.pack("<IiiHHIIiiII", header, WIDTH, HEIGHT, 1, bits, compression, len(data), 2835, 2835, len(palette) // 4, 0)
    info = (info + masks).ljust(header, b"\0")
    offset = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + palette + data


def rows_of(data):
    size = len(data) // HEIGHT
    return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.parametrize("header", [56, 108, 124])
@pytest.mark.parametrize("alpha", ["zero", "mixed"])
def test_bmp_with_alpha(header, alpha):
    values = samples(8, 4)
    if alpha == "zero":
        values[..., 3] = 0
    expected = values[..., :3] if alpha == "zero" else on_white(values[..., :3], values[..., 3:])
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    check(bmp(32, rows_of(packed(values[..., [2, 1, 0, 3]], 8)), 3, masks=masks, header=header), expected, by=1)


def test_tiff_with_uncompressed_ycbcr_is_refused():
    with pytest.raises(InputError, match="YCbCr"):
        read_image(tiff("II", 8, 6, packed(samples(8, 3), 8) + bytes(1000), 3))


def test_bmp_rle4_is_refused():
    with pytest.raises(InputError, match="RLE4"):
        read_image(bmp(4, bytes([8, 0x11, 0, 0]) * HEIGHT + b"\0\1", 2, bytes(64)))


# --- what Pillow writes ------------------------------------------------------------------------------------------------
def colour_image():
    values = samples(8, 3, seed=3).astype(np.uint8)
    return Image.fromarray(np.repeat(np.repeat(values, 8, axis=0), 8, axis=1)), values  # blocks, which lossy formats keep


LOSSLESS = {  # the modes that each format keeps
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"],
    "TIFF": ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "I", "I;16", "F"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "GIF": ["1", "L", "P"],
    **({"WEBP": ["1", "L", "LA", "P", "RGB", "RGBA"]} if features.check("webp") else {}),
}


def as_mode(mode):
    """Return a Pillow image of a mode; with alpha where the mode has it."""
    if mode in ("I", "I;16"):
        return Image.fromarray(samples(16)[..., 0].astype(np.int32 if mode == "I" else np.uint16))
    image = Image.fromarray(samples(8, 3).astype(np.uint8))
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(samples(8, seed=5)[..., 0].astype(np.uint8)))
    if mode == "F":
        return Image.fromarray((RAMP / RAMP.max()).astype(np.float32))
    return image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind in LOSSLESS for mode in LOSSLESS[kind]])
def test_every_mode_that_pillow_writes(kind, mode):
    image = as_mode(mode)
    if mode in ("I", "I;16"):
        expected = grey(np.asarray(image).astype(int) >> 8)
    elif mode == "F":
        expected = grey(np.rint(np.asarray(image) * 255))
    else:
        colours = np.asarray(image.convert("RGBA"), int)
        opaque = kind == "BMP"  # without a mask for it, the fourth byte of a BMP is no alpha
        expected = colours[..., :3] if opaque else on_white(colours[..., :3], colours[..., 3:])
    check(encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})), expected, by=1)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(mode):
    image, values = colour_image()
    image = image.convert(mode)
    content = encoded(image, "JPEG", quality=95, subsampling=0)
    expected = grey(np.asarray(image)[4::8, 4::8].astype(int)) if mode == "L" else values
    assert np.abs(read_image(content)[4::8, 4::8].astype(int) - expected).max() <= 12


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif(alpha):
    image, values = colour_image()
    if alpha:
        image.putalpha(128)
    content = encoded(image, "AVIF", quality=100, subsampling="4:4:4")
    assert np.abs(read_image(content)[4::8, 4::8] - on_white(values, np.array(128 if alpha else 255))).max() <= 6


def test_heic():
    pillow_heif = pytest.importorskip("pillow_heif")
    image, values = colour_image()
    pillow_heif.register_heif_opener()
    content = encoded(image, "HEIF", quality=95, chroma=444)
    assert np.abs(read_image(content)[4::8, 4::8].astype(int) - values).max() <= 24
    assert image_size(content) == (WIDTH * 8, HEIGHT * 8)
