"""Decoding of image files to RGB uint8, and preprocessing to the network's input.

Training, evaluation and the app share both, so that a score is the same wherever it is computed. A file is readable if `read_image`
reads it: no stage has another definition.
"""

import contextlib
import functools
import io
import math
import os
import sys
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from detector.images.essentials import strip_metadata
from detector.images.exif import limit_tags, read_orientation
from detector.images.formats import END_OF_IMAGE, FORMATS, HEAD, START_OF_SCAN, image_format
from detector.images.guard import UnreadableFile, one_file, read_source

MAX_PIXELS = 178_956_970  # Pillow's limit (540 MB decoded), beyond which it suspects a decompression bomb
SMALL = 64  # data sets whose median shorter side is at most this are judged at 32 px, others at 224 px
VIEW_MARGIN = 8 / 7  # shorter side of a scaled image by the side of the view cut out of it: 256 for 224 px
_POSITIONS = ((0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.75, 0.25), (0.25, 0.75))  # of views: parts of what is left over
VIEW_POSITIONS = {"whole": ((0.5, 0.5), (0.1, 0.1), (0.9, 0.9)), "between": _POSITIONS, "native": _POSITIONS}
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
ORIENTATIONS = {  # the EXIF tag's values that are not upright, and what makes them so
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SCAN, _END = bytes([0xFF, START_OF_SCAN]), bytes([0xFF, END_OF_IMAGE])  # markers of JPEG
_FILLER = b"\x5a\x3c\x96\xa7\x1e\x78" * 50  # decodes to anything but the grey that libjpeg puts in place of missing data
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_SIGNED, _YCBCR = 2, 6  # a sample format, a photometric interpretation
_NATIVE = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"}  # libtiff swaps the bytes already, which Pillow overlooks


def read_image(source: str | os.PathLike | bytes | BinaryIO) -> np.ndarray:
    """Decode an image file to RGB.

    EXIF orientation is applied; transparency is shown on white; palette, grey, CMYK, CIELAB, 16-bit, 32-bit and float images are
    converted; of an animation the first frame is taken. Metadata has no influence: a damaged text or colour profile does not make
    an image unreadable. Missing rows do.

    Args:
        source: path, bytes or binary file.

    Returns:
        (h, w, 3) uint8 array, RGB; neither side is 0.

    Raises:
        InputError: one line that says why the file cannot be read: it is missing or no image, damaged, cut off, or has more than
            MAX_PIXELS pixels.
    """
    with _one_image(source):
        content, kind, exif = _content(source)
        image = _decode_jpeg(content) if kind == "JPEG" else _decode(content, kind)
        orientation = _orientation(image, exif)
        image = _to_rgb(image)
        return np.asarray(image.transpose(ORIENTATIONS[orientation]) if orientation in ORIENTATIONS else image)


def image_size(source: str | os.PathLike | bytes | BinaryIO) -> tuple[int, int]:
    """Return (width, height) in pixels as a viewer shows the image, without decoding it.

    Raises:
        InputError: as `read_image`, as far as the header shows it.
    """
    with _one_image(source):
        content, kind, exif = _content(source)
        image = _open(content, kind)
        return image.size if _orientation(image, exif) < 5 else image.size[::-1]


def _orientation(image, exif):
    # For AVIF, Pillow makes EXIF of the rotation
    return read_orientation(image.info.get("exif") if image.format in ("AVIF", "WEBP") else exif)


@contextlib.contextmanager
def _one_image(source):
    """Turn any exception into an InputError that names the source."""
    limit_tags()
    with one_file(source), warnings.catch_warnings(action="ignore"):  # Pillow warns of large images and odd metadata
        try:
            yield
        except Image.DecompressionBombError:
            raise UnreadableFile(f"expected at most {MAX_PIXELS:,} pixels, found more; scale the image down") from None


def _content(source):
    """Return (bytes of the file without metadata, its format, its EXIF). Raises UnreadableFile if it is no image."""
    content = read_source(source)
    kind = image_format(content[:HEAD])
    if kind is None:
        raise UnreadableFile(
            f"expected an image ({', '.join(FORMATS)}), found a damaged or another kind of file; save it as JPEG or PNG"
        )
    if kind == "BMP" and content[14:18] != b"\x0c\0\0\0" and content[30:34] == b"\x02\0\0\0":
        raise UnreadableFile("BMP images with RLE4 compression are not supported; save it as PNG")  # Pillow decodes them wrongly
    content, exif = strip_metadata(content, kind)
    return content, kind, exif


def _open(content, kind):
    if kind == "HEIF":
        register_heif()
    try:
        return Image.open(io.BytesIO(content), formats=[kind])
    except UnidentifiedImageError:
        found = f"found a {kind} whose header is damaged or of an unsupported kind"
        raise UnreadableFile(f"expected an image, {found}; save it as JPEG or PNG") from None


@functools.cache
def register_heif():
    """Let Pillow read HEIF. Raises UnreadableFile if pillow-heif is not installed."""
    try:
        import pillow_heif
    except ImportError:
        raise UnreadableFile("HEIC images need the package pillow-heif; run: pip install pillow-heif, or save it as JPEG") from None
    pillow_heif.register_heif_opener()


def _decode(content, kind):
    image = _open(content, kind)
    if kind == "TIFF":
        if image.tag_v2.get(_PHOTOMETRIC) == _YCBCR and image.tile[0].codec_name == "raw":  # Pillow takes it for RGB
            raise UnreadableFile("TIFF images with uncompressed YCbCr are not supported; save it as PNG")
        for i, tile in enumerate(image.tile):
            if tile.codec_name == "libtiff" and sys.byteorder == "little":
                mode, *others = tile.args
                image.tile[i] = tile._replace(args=(_NATIVE.get(mode, mode), *others))
    if kind == "PNG":
        _scale_transparent_value(image, bits=content[24])
    image.load()
    return image


def _scale_transparent_value(image, bits):
    """Scale the transparent colour of a grey or RGB PNG to 8 bits, as Pillow scales the samples that it compares with it.

    (16-bit grey Pillow leaves at 16 bits. Of 16-bit RGB, colours that agree in the upper bytes become transparent together.)
    """
    value = image.info.get("transparency")
    if image.mode == "L" and value is not None:
        image.info["transparency"] = value % (1 << bits) * 255 // ((1 << bits) - 1)
    elif image.mode == "RGB" and value is not None and bits == 16:
        image.info["transparency"] = tuple(sample >> 8 for sample in value)


def _decode_jpeg(content):
    """Decode a JPEG that need not have an end marker; raise UnreadableFile if rows are missing."""
    scan = content.find(_SCAN)
    if not (had_end := content.find(_END, scan) >= 0):
        content = content.rstrip(b"\xff") + _END
    image = _decode(content, "JPEG")
    corner = image.getpixel((image.width - 1, image.height - 1))
    grey = all(value in (127, 128) for value in (corner if isinstance(corner, tuple) else (corner,)))  # libjpeg's for missing data
    if grey or not had_end:
        # libjpeg ignores bytes between the last row and the end marker; if rows are missing, it decodes these bytes instead.
        end = content.find(_END, scan)
        filled = _decode(content[:end] + _FILLER + content[end:], "JPEG")
        if not np.array_equal(image, filled):
            found = "found a damaged one (rows are missing)"
            raise UnreadableFile(f"expected a whole image, {found}; get the file again or leave it out")
    return image


def _to_rgb(image):
    """Return a Pillow image of any mode as mode RGB, 8 bits a channel."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.mode == "LAB":
        from PIL import ImageCms

        return ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB")
    if image.format in ("BMP", "TIFF") and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # programs that know no alpha leave zeros there
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image):
    """Return a grey image of more than 8 bits as 8-bit grey.

    Integers of 12 and 16 bits keep their upper bits; signed ones are black up to 0. 32-bit integers and floats have no fixed
    range; the smallest that holds their values is taken: 8, 16 or 32 bits, or 0 to 1 and 0 to 255.
    """
    tags = getattr(image, "tag_v2", {})
    bits, signed = tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
    stored = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(stored.astype(np.float64)) * (255 if np.nanmax(stored) <= 1 else 1)
    else:
        stored = stored.astype(np.int64)
        if bits == 32:
            stored = stored if signed else stored & 0xFFFFFFFF  # Pillow reads them as signed
            bits, signed = next(size for size in (8, 16, 32 - signed) if stored.max() < 1 << size), False
        values = np.maximum(stored, 0) >> (bits - 8 - signed)
    levels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:
        levels = 255 - levels  # white is zero
    if isinstance(transparent := image.info.get("transparency"), int):
        levels[stored == transparent] = BACKGROUND[0]
    return Image.fromarray(levels)


def resize(image, size):
    """Resize an image to the network's input with Pillow's antialiasing; an image of that size is returned unchanged.

    Args:
        image: (h, w, 3) uint8, RGB.
        size: side of the network's input, in pixels.

    Returns:
        (size, size, 3) uint8, RGB. The whole image is kept; another aspect ratio is distorted to the square.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def view_boxes(height, width, size, kinds):
    """Return the square that each view of an image shows, as floats in pixels: [(left, top, right, bottom)].

    A view is a square of `size` pixels cut out of the image after a scaling that depends on its kind. The first view of each kind
    is in the middle, the others towards the corners. If an image is hardly larger than a view, its views are alike.

    - 'whole': the shorter side becomes VIEW_MARGIN * size.
    - 'native': the image's own resolution; smaller images are enlarged as for 'whole'.
    - 'between': the scale is the geometric mean of both.

    Args:
        size: side of the network's input, in pixels.
        kinds: the kind of each view, each at most len(VIEW_POSITIONS[kind]) times.
    """
    whole = VIEW_MARGIN * size / min(height, width)
    scales = {"whole": whole, "native": max(1.0, whole), "between": math.sqrt(whole * max(1.0, whole))}
    positions = {kind: iter(places) for kind, places in VIEW_POSITIONS.items()}
    boxes = []
    for kind in kinds:
        x, y = next(positions[kind])
        if kind == "native":  # at whole pixels of the image or of the enlarged one, so that the former is not interpolated
            spans = [_native_span(width, scales[kind], size, x), _native_span(height, scales[kind], size, y)]
        else:
            side = size / scales[kind]
            spans = [((length - side) * place, (length - side) * place + side) for length, place in ((width, x), (height, y))]
        boxes.append(tuple(edge for edges in zip(*spans, strict=True) for edge in edges))
    return boxes


def _native_span(length, scale, size, place):
    """Return where a native view begins and ends on one axis of an image, in pixels."""
    enlarged = max(round(VIEW_MARGIN * size), round(length * scale)) if scale > 1 else length
    start = round(place * (enlarged - size))
    return start * length / enlarged, (start + size) * length / enlarged


def views(image, size, kinds):
    """Cut the views of an image that `view_boxes` describes: (len(kinds), size, size, 3) uint8, RGB."""
    source = Image.fromarray(image)
    boxes = view_boxes(*image.shape[:2], size, kinds)
    return np.stack([cut(source, box, size) for box in boxes])


def cut(image, box, size):
    """Return the part of a Pillow image within `box`, (left, top, right, bottom), scaled to (size, size, 3) uint8."""
    if box[2] - box[0] == size and all(edge == int(edge) for edge in box):
        return np.asarray(image.crop(tuple(map(int, box))))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))


def preprocess(image, metadata):
    """Return the network's inputs for a decoded image, as a detector's metadata say; the image's score is the mean over them.

    Args:
        image: (h, w, 3) uint8, RGB.
        metadata: dict, as detector.model.file describes it.

    Returns:
        (k, s, s, 3) uint8, RGB: one for 'resize', several for 'views'.
    """
    if metadata["preprocessing"] == "views":
        return views(image, metadata["image_size"], metadata["views"])
    return resize(image, metadata["image_size"])[None]


def input_boxes(height, width, metadata):
    """Return where in an image the inputs of `preprocess` come from, in whole pixels: [(left, top, right, bottom)]."""
    if metadata["preprocessing"] == "views":
        boxes = view_boxes(height, width, metadata["image_size"], metadata["views"])
        return [(math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)) for left, top, right, bottom in boxes]
    return [(0, 0, width, height)]


def read_resized(source, size):
    """Decode a file and resize it: (size, size, 3) uint8, RGB. Raises as `read_image`."""
    return resize(read_image(source), size)


def choose_size(sizes):
    """Return 32 if the median shorter side of (n, 2) image sizes is at most 64 px, else 224."""
    return 32 if np.median(sizes.min(axis=1)) <= SMALL else 224


def training_range(sizes):
    """Return {'shorter_side': [lowest, highest] in pixels, 'aspect': [lowest, highest], longer by shorter side}."""
    shorter, longer = sizes.min(axis=1), sizes.max(axis=1)
    aspect = longer / shorter
    return {
        "shorter_side": [int(shorter.min()), int(shorter.max())],
        "aspect": [round(float(aspect.min()), 3), round(float(aspect.max()), 3)],
    }
