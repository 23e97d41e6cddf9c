"""Rotations, shifts, shears, zooms and flips of uint8 images: the original recipe's augmentation."""
import math

import numpy as np
from PIL import Image


def random_affine(image, rng, rotation=20.0, shift=0.2, shear=0.2, zoom=0.2, flip=True):
    """Turn, shift, shear, zoom and perhaps mirror an image; what comes in at the edges repeats the nearest pixel.

    Args:
        image: (h, w, 3) uint8, RGB.
        rng: numpy.random.Generator; the same state gives the same image.
        rotation: largest angle, in degrees, to either side.
        shift: largest shift, as a share of width and height.
        shear: largest shear angle, in radians.
        zoom: each axis is scaled by 1 - zoom to 1 + zoom.
        flip: mirror left to right, half of the time.

    Returns:
        (h, w, 3) uint8, RGB, bilinear.
    """
    height, width = image.shape[:2]
    angle = math.radians(rng.uniform(-rotation, rotation))
    right, down = rng.uniform(-shift, shift, 2) * (width, height)
    slant = rng.uniform(-shear, shear)
    wide, tall = rng.uniform(1 - zoom, 1 + zoom, 2)
    mirrored = flip and rng.random() < 0.5

    # From output to input pixels, about the centre: zoom, then shear, then rotation.
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.array([[1, -math.sin(slant)], [0, math.cos(slant)]]) @ np.diag([wide, tall])
    if mirrored:
        matrix = matrix @ np.diag([-1, 1])
    centre = np.array([width, height]) / 2
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) - centre
    offset = centre + np.array([right, down])
    reach = corners @ matrix.T + offset
    before = np.maximum(0, np.ceil(-reach.min(0))).astype(int) + 1
    after = np.maximum(0, np.ceil(reach.max(0) - [width, height])).astype(int) + 1
    padded = np.pad(image, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="edge")
    constant = offset - matrix @ centre + before
    coefficients = (*matrix[0], constant[0], *matrix[1], constant[1])
    turned = Image.fromarray(padded).transform((width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(turned)
