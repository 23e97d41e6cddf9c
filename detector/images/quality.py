"""Statistics that reveal images a detector cannot judge: enlarged, compressed too much, drawn, or blank.

All functions take (h, w, 3) uint8 RGB, look at no more than the middle of a large image, and are deterministic.
"""
import math

import numpy as np

WINDOW = 1024  # pixels; side of the square in the middle of a large image
BLOCK = 8  # pixels; side of JPEG's blocks


def step_ratio(image):
    """Return the mean luma step over one pixel divided by the mean step over two pixels, along rows and columns.

    In a photograph neighbouring pixels differ independently to some degree, and the ratio is about 0.6 to 0.8. In an image enlarged
    by interpolation, steps add up, and it is about 0.5. NaN if no pixel differs from the next but one.
    """
    luma = _luma(image)
    return _ratio(_steps(luma, 1), _steps(luma, 2))


def blockiness(image):
    """Return the mean luma step across the borders of 8 x 8 blocks divided by the mean step inside them.

    About 1 without compression; the more JPEG quantises, the larger. The grid may begin anywhere, as in a cropped image: the offset
    with the largest steps counts, along rows and columns. Infinite if all steps are at the borders, as after enlarging by a whole
    factor; NaN if the image is smaller than two blocks or has no steps.
    """
    luma = _luma(image)
    found = []
    for axis in (0, 1):
        steps = np.abs(np.diff(luma, axis=axis)).mean(axis=1 - axis)
        if len(steps) < 2 * BLOCK:
            return math.nan
        by_offset = np.array([steps[offset::BLOCK].mean() for offset in range(BLOCK)])
        border = by_offset.max()
        found.append(_ratio(border, (by_offset.sum() - border) / (BLOCK - 1)))
    return float(np.mean(found))


def flat_fraction(image):
    """Return the fraction of pixels whose left and upper neighbours have exactly the same luma: 1 for a blank image.

    A few percent in photographs; most of a chart, a drawing or a screenshot.
    """
    luma = _luma(image)
    if min(luma.shape) < 2:
        return 1.0
    return float(((luma[1:, 1:] == luma[:-1, 1:]) & (luma[1:, 1:] == luma[1:, :-1])).mean())


def _luma(image):
    """Return the rounded luma (Rec. 601) of the middle of an image, (h, w) int16."""
    height, width = image.shape[:2]
    top, left = max(0, height - WINDOW) // 2, max(0, width - WINDOW) // 2
    middle = image[top : top + WINDOW, left : left + WINDOW].astype(np.int32)
    return ((middle * (299, 587, 114)).sum(axis=2) // 1000).astype(np.int16)


def _steps(luma, distance):
    along = [np.abs(luma[distance:] - luma[:-distance]), np.abs(luma[:, distance:] - luma[:, :-distance])]
    number = sum(part.size for part in along)
    return sum(int(part.sum(dtype=np.int64)) for part in along) / number if number else 0.0


def _ratio(above, below):
    if below:
        return float(above / below)
    return math.inf if above else math.nan
