"""Rotations, shifts, shears, zooms and flips of uint8 images: the original recipe's augmentation."""

import math

import cv2
import numpy as np


def random_affines(image, rng, copies, rotation=20.0, shift=0.2, shear=0.2, zoom=0.2, flip=True):
    """Rotate, shift, shear, zoom and possibly flip an image, each by an amount that is uniform in its range.

    Args:
        image: (h, w, 3) uint8, RGB.
        rng: numpy.random.Generator; the same state gives the same images.
        copies: number of new images; the first ones do not depend on it.
        rotation: largest angle to either side, in degrees.
        shift: largest shift to either side, as a fraction of width and of height; rounded to whole pixels if nothing is rotated,
            sheared or zoomed, since interpolation removes the fine traces that show an image's origin.
        shear: largest shear angle to either side, in radians. (Keras's `shear_range` was in radians when the recipe was
            written; it is in degrees today, and 0.2 degrees are hardly visible.)
        zoom: the result shows 1 - zoom to 1 + zoom of the width and, independently, of the height.
        flip: mirror left to right with probability 0.5.

    Yields:
        (h, w, 3) uint8, RGB.
    """
    height, width = image.shape[:2]
    whole = not (rotation or shear or zoom)
    for angle, right, down, slant, wide, tall, coin in (2 * rng.random((copies, 7)) - 1).tolist():
        right, down = shift * width * right, shift * height * down
        if whole:
            right, down = round(right), round(down)
        yield affine(image, rotation * angle, right, down, shear * slant, 1 + zoom * wide, 1 + zoom * tall, flip and coin < 0)


def affine(image, angle=0.0, right=0.0, down=0.0, slant=0.0, wide=1.0, tall=1.0, mirrored=False):
    """Transform an image about its centre; beyond its edges, the nearest pixel is repeated.

    Args:
        image: (h, w, 3) uint8, RGB.
        angle: turns the content counter-clockwise, in degrees.
        right, down: move the content, in pixels (along the rotated axes if it is also rotated).
        slant: shear angle, in radians: moves the upper half to the left and the lower to the right.
        wide, tall: fraction of the width and height that is shown: below 1 magnifies, above 1 shrinks.
        mirrored: swap left and right of the result.

    Returns:
        (h, w, 3) uint8, RGB, bilinear between pixels. With the default arguments the same pixels.
    """
    height, width = image.shape[:2]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    # From output to input, relative to the centre: x_in = xx x_out + xy y_out + x. In the order of Keras's ImageDataGenerator:
    # zoom, then shear, then shift, then rotation.
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    leaning, upright = -math.sin(slant), math.cos(slant)
    xx, xy = cos * wide, (cos * leaning - sin * upright) * tall
    yx, yy = sin * wide, (sin * leaning + cos * upright) * tall
    if mirrored:
        xx, yx = -xx, -yx
    x = sin * down - cos * right + middle_x - xx * middle_x - xy * middle_y
    y = -sin * right - cos * down + middle_y - yx * middle_x - yy * middle_y
    matrix, how = np.array(((xx, xy, x), (yx, yy, y))), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)
