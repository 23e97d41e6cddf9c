"""Statistics that reveal images a detector cannot judge: enlarged, compressed too much, drawn, or blank.

All functions take (h, w, 3) uint8 RGB and are deterministic. All but `is_blank` look at no more than the middle of a large image.
"""

import math

import numpy as np

WINDOW = 1024  # pixels; side of the square in the middle of a large image
BLOCK = 8  # pixels; side of JPEG's blocks
BLANK = 8  # grey levels; noise of JPEG spans fewer, a plain wall in poor light more
NEAR = 2  # levels of luma
MIN_SIDE = 128  # pixels
# Chosen so that about 1 % of photographs are beyond any of them (docs/app.md).
MIN_STEP_RATIO, MAX_BLOCKINESS, MAX_DOMINANT_FRACTION = 0.52, 4.0, 0.55
MIN_FLAT_FRACTION, MIN_SHARP_FRACTION = 0.8, 0.03  # of drawings and text with a dominant colour; dark photographs have neither
SHARP = 64  # levels of luma


def step_ratio(image: np.ndarray) -> float:
    """Return the mean luma step over one pixel divided by the mean step over two pixels, along rows and columns.

    In a photograph neighbouring pixels differ independently to some degree, and the ratio is about 0.6 to 0.8. In an image enlarged
    by interpolation, steps add up, and it is about 0.5. NaN if no pixel differs from the next but one.
    """
    luma = _luma(image)
    return _ratio(_steps(luma, 1), _steps(luma, 2))


def blockiness(image: np.ndarray) -> float:
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


def dominant_fraction(image: np.ndarray) -> float:
    """Return the fraction of pixels within NEAR levels of the most frequent luma: 1 for a blank image.

    Charts, drawings and screenshots of text have a background of one colour that fills most of them; photographs rarely do.
    """
    counts = np.bincount(_luma(image).ravel(), minlength=256)
    return float(np.convolve(counts, np.ones(2 * NEAR + 1), "same").max() / counts.sum())


def is_blank(image: np.ndarray) -> bool:
    """Return whether an image, or a stack of them, shows next to nothing: each channel spans fewer than BLANK grey levels."""
    return all(channel.max() - channel.min() < BLANK for channel in image.T)  # a wall may be red


def is_drawn(image: np.ndarray) -> bool:
    """Tell whether one colour dominates an image that is also flat, as charts are, or full of sharp steps, as text is.

    A photograph of the night has a dominant colour, too, but noise in place of flat areas, and few sharp steps.
    """
    if dominant_fraction(image) <= MAX_DOMINANT_FRACTION:
        return False
    steps = np.abs(np.diff(_luma(image), axis=1))
    return bool((steps == 0).mean() > MIN_FLAT_FRACTION or (steps > SHARP).mean() > MIN_SHARP_FRACTION)


def quality_problem(image: np.ndarray) -> str | None:
    """Return why a detector cannot judge an image, in words, or None; None for thumbnails, which are too small for the statistics.

    An image enlarged and compressed may be called either.
    """
    if min(image.shape[:2]) < MIN_SIDE:
        return None
    if is_drawn(image):
        return "it looks blank, or like a chart, a drawing or a screenshot of text"
    if step_ratio(image) < MIN_STEP_RATIO:
        return "it looks like a small image that was enlarged"
    return "it is compressed so strongly that traces of its origin are lost" if blockiness(image) > MAX_BLOCKINESS else None


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
