"""Decoding of image files to RGB uint8, and preprocessing to the network's input.

Training, evaluation and the app share both, so that a score is the same wherever it is computed.
"""
import contextlib
import io
import os
import re
import warnings
from stat import S_ISREG

import numpy as np
from PIL import Image, UnidentifiedImageError

from detector.console import InputError
from detector.images.exif import limit_tags

MAX_PIXELS = 178_956_970  # Pillow's limit (540 MB decoded): it takes more for a decompression bomb
SMALL = 64  # data sets whose median shorter side is at most this are judged at 32 px, others at 224 px
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
SMALL_FILE = 1 << 16  # bytes; of larger files decoding takes so long that reading the header does not matter
PLAIN_JPEG = re.compile(  # JFIF, two tables, baseline, height and width below 1,024, three channels: no EXIF, no profile, no CMYK
    rb"\xff\xd8\xff\xe0\0\x10JFIF\0.{9}(?:\xff\xdb\0C.{65}){2}\xff\xc0\0\x11\x08([\0-\x03].)([\0-\x03].)\x03.{9}\xff\xc4", re.DOTALL
)
ORIENTATIONS = {  # the EXIF tag's values that are not upright, and what makes them so
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source):
    """Decode an image file to RGB.

    EXIF orientation is applied, transparency is laid on white, palette, grey, CMYK and 16-bit are converted; of an
    animation the first frame is taken.

    Args:
        source: path, bytes or binary file.

    Returns:
        (h, w, 3) uint8 array, RGB.

    Raises:
        InputError: the file is no image, is damaged or cut off, or has more than MAX_PIXELS pixels.
    """
    plain = _read_plain_jpeg(source)
    return _read_any(source) if plain is None else plain


def _read_plain_jpeg(source):
    """Return what `_read_any` does, of a small plain JPEG that is whole; None of every other source.

    It goes straight to Pillow's decoder: reading its header in Python would take longer than decoding it.
    """
    try:
        content = source if isinstance(source, bytes) else _small_file(source)
    except (OSError, TypeError, ValueError):  # not there, or a file object: the long way says so
        return None
    plain = content and PLAIN_JPEG.match(content)
    if not plain:
        return None
    height, width = map(int.from_bytes, plain.groups())
    try:
        return np.asarray(Image.frombytes("RGB", (width, height), content, "jpeg", "RGB", ""))
    except ValueError:  # it is not whole: the long way says what is wrong with it
        return None


def _small_file(path):
    """Return the bytes of a file of at most SMALL_FILE bytes, else None. Plain system calls: the files are many."""
    stat = os.stat(path)
    if not S_ISREG(stat.st_mode) or stat.st_size > SMALL_FILE:
        return None
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        return os.read(handle, SMALL_FILE + 1)
    finally:
        os.close(handle)


def _read_any(source):
    with _opened(source) as image:
        image.load()
        return np.asarray(_to_rgb(_upright(image)))


def image_size(source):
    """Return (width, height) in pixels as a viewer would show the image, from the file's header alone.

    Raises:
        InputError: the file is no image.
    """
    with _opened(source) as image:
        width, height = image.size
        if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
            return width, height  # Pillow turns TIFF by itself, and would decode a whole PNG to look for EXIF at its end
        return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _orientation(image):
    return image.getexif().get(0x0112, 1)


def _upright(image):
    """Turn a loaded Pillow image as its EXIF says (ImageOps.exif_transpose fails where another EXIF tag is damaged)."""
    orientation = _orientation(image)
    known = isinstance(orientation, int) and orientation in ORIENTATIONS
    return image.transpose(ORIENTATIONS[orientation]) if known else image


@contextlib.contextmanager
def _opened(source):
    """Open an image with Pillow; what Pillow raises on bad files, here or in the body, becomes an InputError."""
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the image"
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    limit_tags()
    with warnings.catch_warnings(action="ignore"):  # Pillow warns of large images and odd metadata
        try:
            with Image.open(file, formats=FORMATS) as image:
                yield image
        except InputError:
            raise
        except Exception as error:
            raise _translated(error, name) from None


def _translated(error, name):
    """Return the exception to raise in place of Pillow's: errors of the file system keep their own kind."""
    kinds = ", ".join(FORMATS)
    if isinstance(error, UnidentifiedImageError):
        found = "found another kind of file; save it as JPEG or PNG, or leave it out"
        return InputError(f"{name}: expected an image ({kinds}), {found}")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{name}: expected an image ({kinds}), found a folder")
    if isinstance(error, FileNotFoundError):
        return InputError(f"{name}: expected an image, found nothing of that name; check the path")
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if isinstance(error, Image.DecompressionBombError):
        return InputError(f"{name}: expected at most {MAX_PIXELS:,} pixels, found more; scale the image down")
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return InputError(f"{name}: expected a whole image, found a damaged one ({reason}); get the file again or leave it out")


def _to_rgb(image):
    """Return a Pillow image of any mode as mode RGB, 8 bits a channel."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image):
    """Return a 16-bit, 32-bit or float grey image as 8-bit grey: 16-bit by its top byte, others by their own range."""
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and values.min() >= 0 and 255 < values.max() <= 65535):
        values = np.floor(values / 256)  # as PNG and TIFF store 16-bit grey; Pillow's convert("L") would clip it to white
    elif image.mode == "F" and values.min() >= 0 and values.max() <= 1:
        values = values * 255
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def resize(image, size):
    """Resize an image to the network's input with Pillow's antialiasing; an image of that size is returned as it is.

    Args:
        image: (h, w, 3) uint8, RGB.
        size: side of the network's input, in pixels.

    Returns:
        (size, size, 3) uint8, RGB. The whole image is kept: another aspect ratio is squeezed to the square.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def patches(image, size, most):
    """Cut squares out of an image at its own resolution, on an even grid that depends on nothing but the image's size.

    As many as cover the image, overlapping where its sides are no multiples; where that takes more than `most`, fewer that are
    spread evenly. Of an image with a side shorter than `size` the squares are as large as that side, and scaled up.

    Args:
        image: (h, w, 3) uint8, RGB.
        size: side of the network's input, in pixels.
        most: so many at most.

    Returns:
        (k, size, size, 3) uint8, RGB; k is between 1 and `most`.
    """
    boxes = patch_boxes(*image.shape[:2], size, most)
    return np.stack([resize(image[top : top + side, left : left + side], size) for top, left, side in boxes])


def patch_boxes(height, width, size, most):
    """Return where `patches` cuts: [(top, left, side)] in pixels, row by row."""
    side = min(height, width, size)
    rows, columns = -(-height // side), -(-width // side)
    if rows * columns > most:
        # The grid whose squares lie closest together, and of several the one with the most squares.
        grids = [(number, min(columns, most // number)) for number in range(1, min(rows, most) + 1)]
        rows, columns = min(grids, key=lambda grid: (max(height / grid[0], width / grid[1]), -grid[0] * grid[1]))
    return [(top, left, side) for top in _spread(height, side, rows) for left in _spread(width, side, columns)]


def _spread(length, side, number):
    """Return where so many sides begin, evenly: from end to end where they cover the length, else each amid its share of it."""
    if number * side < length:
        return [round((i + 0.5) * length / number - side / 2) for i in range(number)]
    return [round(i * (length - side) / max(number - 1, 1)) for i in range(number)]


def preprocess(image, metadata):
    """Return the network's inputs for a decoded image, as a detector's metadata say; the image's score is the mean over them.

    Args:
        image: (h, w, 3) uint8, RGB.
        metadata: dict, as detector.model.file describes it.

    Returns:
        (k, s, s, 3) uint8, RGB: one for 'resize', several for 'patches'.
    """
    if metadata["preprocessing"] == "patches":
        return patches(image, metadata["image_size"], metadata["patches"])
    return resize(image, metadata["image_size"])[None]


def read_resized(source, size):
    """Decode a file and resize it: (size, size, 3) uint8, RGB. Raises as `read_image`."""
    return resize(read_image(source), size)


def choose_size(sizes):
    """Return 32 where the median shorter side of (n, 2) image sizes is at most 64 px, else 224."""
    return 32 if np.median(sizes.min(axis=1)) <= SMALL else 224


def training_range(sizes):
    """Return {'shorter_side': [lowest, highest] in pixels, 'aspect': [lowest, highest], longer by shorter side}."""
    shorter, longer = sizes.min(axis=1), sizes.max(axis=1)
    aspect = longer / shorter
    return {
        "shorter_side": [int(shorter.min()), int(shorter.max())],
        "aspect": [round(float(aspect.min()), 3), round(float(aspect.max()), 3)],
    }
