"""Rotations, shifts, shears, zooms and flips of uint8 images: the original recipe's augmentation."""
import math

import numpy as np
from PIL import Image


def random_affine(image, rng, rotation=20.0, shift=0.2, shear=0.2, zoom=0.2, flip=True):
    """Turn, shift, shear, zoom and perhaps mirror an image, each by an amount drawn evenly from its range.

    Args:
        image: (h, w, 3) uint8, RGB.
        rng: numpy.random.Generator; the same state gives the same image.
        rotation: largest angle to either side, in degrees.
        shift: largest shift to either side, as a share of width and of height.
        shear: largest shear angle to either side, in radians. (Keras's `shear_range` was in radians when the recipe was
            written; today's reads it in degrees, where 0.2 does next to nothing.)
        zoom: the image shows 1 - zoom to 1 + zoom of its width, and, drawn on its own, of its height.
        flip: mirror left to right, half of the time.

    Returns:
        (h, w, 3) uint8, RGB.
    """
    return np.asarray(next(random_affines(image, rng, 1, rotation, shift, shear, zoom, flip)))


def random_affines(image, rng, copies, rotation=20.0, shift=0.2, shear=0.2, zoom=0.2, flip=True):
    """Yield so many `random_affine` versions of one image, as Pillow images: twice as fast as one by one.

    The first of them are the same, however many are asked for.
    """
    height, width = image.shape[:2]
    maps = []
    for *amounts, coin in rng.random((copies, 7)).tolist():
        angle, right, down, slant, wide, tall = (2 * amount - 1 for amount in amounts)
        maps.append(
            _matrix(
                rotation * angle, shift * width * right, shift * height * down, shear * slant, 1 + zoom * wide, 1 + zoom * tall,
                flip and coin < 0.5,
            )
        )  # fmt: skip
    return _mapped(image, maps)


def affine(image, angle=0.0, right=0.0, down=0.0, slant=0.0, wide=1.0, tall=1.0, mirrored=False):
    """Map an image about its centre; what comes in at the edges repeats the nearest pixel.

    Args:
        image: (h, w, 3) uint8, RGB.
        angle: turns the content counter-clockwise, in degrees.
        right, down: move the content, in pixels (along the turned axes where it is turned as well).
        slant: shear angle, in radians: moves the upper half to the left and the lower to the right.
        wide, tall: share of the width and height that is shown: below 1 magnifies, above 1 shrinks.
        mirrored: swap left and right of the result.

    Returns:
        (h, w, 3) uint8, RGB, bilinear between pixels, rounded down. With the default arguments the same pixels.
    """
    return np.asarray(next(_mapped(image, [_matrix(angle, right, down, slant, wide, tall, mirrored)])))


def _matrix(angle, right, down, slant, wide, tall, mirrored):
    """Return (xx, xy, x, yx, yy, y), from output back to input, both from the image's centre: x_in = xx x_out + xy y_out + x.

    In the order of Keras's ImageDataGenerator: zoom, then shear, then shift, then rotation.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    leaning, upright = -math.sin(slant), math.cos(slant)
    xx, xy = cos * wide, (cos * leaning - sin * upright) * tall
    yx, yy = sin * wide, (sin * leaning + cos * upright) * tall
    if mirrored:
        xx, yx = -xx, -yx
    return xx, xy, sin * down - cos * right, yx, yy, -sin * right - cos * down


def _mapped(image, maps):
    """Yield the Pillow image of each map of an array."""
    height, width = image.shape[:2]
    sides = [_reach(width, height, *coefficients) for coefficients in maps]
    left, top, right, bottom = (max(0, math.ceil(max(side))) for side in zip(*sides, strict=True))
    wider = Image.fromarray(_extend(image, left, top, right, bottom))
    for xx, xy, x, yx, yy, y in maps:
        constant_x = width / 2 + left + x - (xx * width + xy * height) / 2
        constant_y = height / 2 + top + y - (yx * width + yy * height) / 2
        coefficients = (xx, xy, constant_x, yx, yy, constant_y)
        yield wider.transform((width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def _reach(width, height, xx, xy, x, yx, yy, y):
    """Return how far the output looks beyond the input's left, top, right and bottom edge, where Pillow would paint black."""
    beyond_x = (abs(xx) * width + abs(xy) * height - width) / 2
    beyond_y = (abs(yx) * width + abs(yy) * height - height) / 2
    return beyond_x - x, beyond_y - y, beyond_x + x, beyond_y + y


def _extend(image, left, top, right, bottom):
    """Return an image with pixels added on each side, each the nearest of the image (np.pad's "edge", in a fifth of its time)."""
    if not (left or top or right or bottom):
        return image
    height, width = image.shape[:2]
    wider = np.empty((top + height + bottom, left + width + right, 3), np.uint8)
    rows = wider[top : top + height]
    rows[:, left : left + width] = image
    rows[:, :left] = image[:, :1]
    rows[:, left + width :] = image[:, -1:]
    wider[:top] = rows[:1]
    wider[top + height :] = rows[-1:]
    return wider
