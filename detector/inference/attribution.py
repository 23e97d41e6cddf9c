"""Where in an image a verdict comes from: a heat map from forward passes alone, through the whole network and its head.

Random parts of what the network sees are masked, a fifth at a time, and the logit is noted each time (RISE, arXiv 1806.07421).
What each place is worth is then fitted to these logits by ridge regression, as LIME and KernelSHAP do (arXiv 1602.04938,
1705.07874), with a prior that neighbours are alike, since masks are few. What is masked is replaced by two fills in turn, a blur,
which takes the fine traces away, and noise, which puts others in their place: with one of them alone the map says more about that
fill than about the image.

The heat is in logits of Fake, and its unit is that of the whole image:

- Its mean is the logit, the score of the image: mostly above 0 where the verdict is Fake, mostly below where it is Real.
- Its differences from place to place are measured: a part that covers a share a of the image and is hotter than the rest by d
  lowers the logit by about a * d more when it is masked than as large a part elsewhere.

A detector of 'patches' or 'views' has a map for each of them, whose mean is its logit; where they overlap their maps are
averaged, and where there is none the heat is 0. With many patches there are few masks for each; below a few nothing is said of
where in it a patch gets its logit from. NumPy and Pillow.
"""
import functools
import math

import numpy as np

from detector.console import progress
from detector.files import atomic_write
from detector.images import pixels

CELLS = 32  # the map's own resolution is so many cells a side, or as many as there are pixels
BLOTCHES = 8  # masks are made of squares, so many to a side
MASKED = 0.2  # share that is masked at a time
SMOOTH = 2.0  # cells: how far neighbours are alike
PENALTY = 2.0  # of the ridge regression, in units of the masks' mean square
SMALL_PASSES, PASSES = 512, 256  # masked images for a network of up to pixels.SMALL pixels, and for a larger one
FEWEST = 32  # masked images for a patch; with fewer its map is flat
FILLS = ("blur", "noise")
FAKE, REAL = (230, 159, 0), (0, 114, 178)  # Okabe and Ito's orange and blue, as in the reports: all can tell them apart
SHORTEST, LONGEST = 512, 2048  # the longer side of an overlay, in pixels
FAINTEST = 2.0  # logits: where the heat is below it everywhere, no colour is strong


# --- the map -------------------------------------------------------------------------------------------------------------
def explain(detector, image):
    """Make the heat map of an image; the same one each time.

    Args:
        detector: detector.model.runtime.Detector; of it `logits` and `metadata` are used.
        image: (h, w, 3) uint8, RGB.

    Returns:
        (h, w) float32, logits of Fake: above 0 where the image speaks for Fake, below 0 where it speaks for Real.
    """
    inputs, boxes = pixels.preprocess(image, detector.metadata), pixels.input_boxes(*image.shape[:2], detector.metadata)
    logits = detector.logits(inputs)
    each = (SMALL_PASSES if inputs.shape[1] <= pixels.SMALL else PASSES) // len(inputs)
    heat = np.zeros(image.shape[:2], np.float32)
    covered = np.zeros(image.shape[:2], np.uint8 if len(boxes) < 256 else np.uint16)  # by how many inputs
    with progress((), total=each * len(inputs) if each >= FEWEST else 0, unit="masked image", delay=1) as bar:
        for one, logit, (left, top, right, bottom) in zip(inputs, logits, boxes, strict=True):
            cells = logit + (_differences(detector, one, each, bar) if each >= FEWEST else np.zeros((1, 1)))
            part = heat[top:bottom, left:right]
            if len(boxes) == 1:
                _enlarge(cells, *part.shape, out=part)
            else:
                part += _enlarge(cells, *part.shape)
                covered[top:bottom, left:right] += 1
    if len(boxes) > 1:
        np.divide(heat, covered, out=heat, where=covered > 1)
    return heat


def _differences(detector, image, passes, bar):
    """Return how much more or less than the mean each cell of a fitted image speaks for Fake.

    Args:
        image: (s, s, 3) uint8, RGB.
        passes: number of masked images.
        bar: progress bar, or anything with `update`.

    Returns:
        (c, c) float64, logits, of mean 0.
    """
    size = len(image)
    masks, to_cells, to_weights, own = _design(min(size, CELLS), passes)
    fills, at = _fills(image), np.arange(size) * masks.shape[1] // size
    batch = getattr(detector, "batch", 64)
    logits = []
    for start in range(0, passes, batch):
        some = masks[start : start + batch][:, at][:, :, at, None]
        filled = np.stack([fills[(start + i) % len(fills)] for i in range(len(some))])
        logits.append(detector.logits(np.where(some, filled, image)))
        bar.update(len(some))
    drops = -np.concatenate(logits)
    weights = to_weights @ drops
    # The penalty makes differences too small. By how much, that tells how well the other masks foretell the drop of each (a ridge
    # regression gives that for nothing); where they foretell nothing, the map is flat.
    foretold = _less_fill_means(drops - weights / own)
    spread = foretold @ foretold
    scale = max(0.0, foretold @ _less_fill_means(drops) / spread) if spread > 1e-9 else 0.0
    cells = (to_cells @ weights).reshape(masks.shape[1:]) * masks[0].size * scale
    return cells - cells.mean()


@functools.lru_cache(maxsize=4)
def _design(cells, passes):
    """Draw masks and prepare the regression on them.

    Args:
        cells: a side of the map.
        passes: number of masks.

    Returns:
        masks: (passes, cells, cells) bool, True is masked; the fills take turns.
        to_cells: (cells ** 2, passes) float64, from weights of masks to a drop of the logit for each cell.
        to_weights: (passes, passes) float64, from drops of the logit to weights of masks.
        own: (passes,) float64, its diagonal.
    """
    masks = _draw_masks(cells, passes, np.random.default_rng(0))
    centred = masks.reshape(passes, -1) - masks.reshape(passes, -1).mean(axis=0)
    distance = np.subtract.outer(np.arange(cells), np.arange(cells))
    alike = np.exp(-(distance**2) / (2 * SMOOTH**2))
    to_cells = (alike @ centred.reshape(passes, cells, cells) @ alike).reshape(passes, -1).T
    kernel = centred @ to_cells
    inverse = np.linalg.inv(kernel + PENALTY * np.trace(kernel) / passes * np.eye(passes))
    # What a fill costs wherever it is tells of no place: each has a constant of its own, without penalty.
    constants = (np.arange(passes)[:, None] % len(FILLS) == np.arange(len(FILLS))).astype(np.float64)
    fitted = inverse @ constants
    to_weights = inverse - fitted @ np.linalg.solve(constants.T @ fitted, fitted.T)
    return masks, to_cells, to_weights, np.diag(to_weights)


def _draw_masks(cells, passes, rng):
    """Return (passes, cells, cells) bool: squares at random, MASKED of them True, in a grid that is shifted at random."""
    side = max(1, cells // BLOTCHES)
    squares = -(-cells // side) + 1
    order = rng.random((passes, squares**2)).argsort(axis=1).argsort(axis=1)
    chosen = (order < round(MASKED * squares**2)).reshape(passes, squares, squares)
    fine = chosen.repeat(side, axis=1).repeat(side, axis=2)
    shifts = rng.integers(side, size=(passes, 2))
    return np.stack([one[y : y + cells, x : x + cells] for one, (y, x) in zip(fine, shifts, strict=True)])


def _less_fill_means(values):
    """Return (passes,) values less the mean of those with the same fill."""
    found = np.array(values, np.float64)
    for i in range(len(FILLS)):
        found[i :: len(FILLS)] -= found[i :: len(FILLS)].mean()
    return found


def _fills(image):
    """Return what masked pixels are replaced by, one image for each of FILLS: (s, s, 3) uint8."""
    from PIL import Image, ImageFilter

    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(len(image) / 8)))
    noise = np.random.default_rng(0).normal(size=image.shape) * image.std(axis=(0, 1)) + image.mean(axis=(0, 1))
    return blurred, np.clip(np.rint(noise), 0, 255).astype(np.uint8)


def _enlarge(cells, height, width, out=None):
    """Scale a map to (height, width) float32, linear between the cells' centres; into `out` where it is given."""
    rows, columns = (_between(length, number) for length, number in zip((height, width), cells.shape, strict=True))
    return np.matmul(rows, cells.astype(np.float32) @ columns.T, out=out)


def _between(length, number):
    """Return (length, number) float32: the share that each of `number` cells has in each of `length` pixels."""
    place = np.clip((np.arange(length) + 0.5) * number / length - 0.5, 0, number - 1)
    shares = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(number)))
    return shares.astype(np.float32)


# --- the picture ---------------------------------------------------------------------------------------------------------
def overlay(image, heat):
    """Lay a heat map over its image, for people: orange speaks for Fake, blue for Real, grey for neither; a legend below.

    The longer side comes to at least SHORTEST pixels (whole pixels are repeated) and to LONGEST at most.

    Args:
        image: (h, w, 3) uint8, RGB.
        heat: (h, w) float32, as `explain` returns it.

    Returns:
        (height, width, 3) uint8, RGB: the picture and the legend below it.
    """
    image, heat = _to_picture_size(image, heat)
    limit = max(FAINTEST, float(np.quantile(np.abs(heat), 0.98)))
    grey = 255 * (image @ np.array([0.299, 0.587, 0.114], np.float32) / 255)[..., None] ** 0.75  # colours need light
    picture = _tinted(grey, heat / limit)
    legend = _legend(max(picture.shape[1], SHORTEST))
    canvas = np.full((picture.shape[0] + legend.shape[0], legend.shape[1], 3), 255, np.uint8)
    left = (legend.shape[1] - picture.shape[1]) // 2
    canvas[: picture.shape[0], left : left + picture.shape[1]] = picture
    canvas[picture.shape[0] :] = legend
    return canvas


def save(path, image, heat):
    """Write the overlay of an image and its heat map as PNG, atomically."""
    from PIL import Image

    with atomic_write(path) as temporary:
        Image.fromarray(overlay(image, heat)).save(temporary, "PNG")


def _to_picture_size(image, heat):
    """Return image and heat as large as the picture is to be."""
    from PIL import Image

    height, width = image.shape[:2]
    longer = max(height, width)
    factor = LONGEST / longer if longer > LONGEST else math.ceil(SHORTEST / longer)
    size = tuple(max(16, round(side * factor)) for side in (width, height))  # of a line there is still something to see
    step = max(1, longer // (2 * LONGEST))  # of huge ones every so many pixels are enough, and take no gigabytes
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    few, little = np.ascontiguousarray(image[::step, ::step]), np.ascontiguousarray(heat[::step, ::step], np.float32)
    shown = Image.fromarray(few).resize(size, how)
    smooth = Image.fromarray(little).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(shown), np.asarray(smooth)


def _tinted(grey, strength):
    """Colour a grey picture: (h, w, 1) 0-255 and (h, w), from -1, all Real, to 1, all Fake -> (h, w, 3) uint8."""
    colour = np.where(strength[..., None] > 0, np.float32(FAKE), np.float32(REAL))
    share = 0.85 * np.minimum(np.abs(strength), 1)[..., None]
    light = 0.6 + 0.5 * grey / 255  # the picture is still seen through the strongest colour
    return np.rint(np.minimum(grey * (1 - share) + colour * light * share, 255)).astype(np.uint8)


def _legend(width):
    """Return the legend, (height, width, 3) uint8: a scale of colours and what they mean, in words."""
    from PIL import Image, ImageDraw, ImageFont

    letter = width // 30
    long, line = width - 2 * letter, 3 * letter // 2
    sheet = Image.new("RGB", (width, letter + 4 * line), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(letter)
    bar = _tinted(np.full((letter, long, 1), 200.0), np.tile(np.linspace(-1, 1, long), (letter, 1)))
    sheet.paste(Image.fromarray(bar), (letter, letter))
    words = ("speaks for Real", "for neither", "speaks for Fake")
    for text, x, anchor in zip(words, (letter, width // 2, width - letter), ("la", "ma", "ra"), strict=True):
        draw.text((x, letter + line), text, "black", font, anchor)
    draw.text((width // 2, 2 * letter + 2 * line), "The stronger the colour, the more it counts.", "black", font, "ma")
    return np.asarray(sheet)
