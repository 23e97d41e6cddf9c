"""Attribution: which parts of an image its score comes from, as a heat map made from forward passes of the whole network.

Random parts of the network's input are masked, a fifth at a time, and the logit is recorded each time (RISE, arXiv 1806.07421).
Ridge regression then fits a weight for each place to these logits, as LIME and KernelSHAP do (arXiv 1602.04938, 1705.07874), with
a prior that neighbouring places have similar weights, because masks are few. Masked pixels are replaced by two baselines in turn: a
blur, which removes fine traces, and noise, which replaces them by others. With one baseline alone, the map would depend on the
baseline more than on the image.

Attributions are in logits of Fake:

- Their mean is the logit of the image: mostly above 0 if the verdict is Fake, mostly below if it is Real.
- Their differences are measured: if a part that covers a fraction a of the image is higher than the rest by d, masking it lowers
  the logit by about a * d more than masking a part of the same size elsewhere.

With the preprocessing 'views', each input of the network has a map whose mean is its logit. Overlapping maps are averaged with
weights that fall towards their edges; where there is no input, the attribution is 0. The inputs share the masked images.
"""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from detector.console import progress
from detector.images import pixels

CELLS = 32  # resolution of the map: cells on a side, or pixels if there are fewer
MASK_SQUARES = 8  # masks are made of squares: this many on a side
MASKED = 0.2  # fraction that is masked at a time
SMOOTHNESS = 2.0  # cells: standard deviation of the prior's Gaussian
PENALTY = 2.0  # of the ridge regression, relative to the masks' mean square
SMALL_PASSES, PASSES, FEWEST = 512, 256, 64  # masked images: up to pixels.SMALL pixels, above, at least per input
BASELINES = ("blur", "noise")
FAKE, REAL = (230, 159, 0), (0, 114, 178)  # Okabe and Ito's orange and blue, which colour-blind people can tell apart
SHORTEST, LONGEST = 512, 2048  # the longer side of an overlay, in pixels
MIN_SCALE = 2.0  # logits: if no attribution reaches this, no colour is strong


def explain(detector, image):
    """Return the heat map of an image; it is deterministic.

    Args:
        detector: detector.model.runtime.Detector.
        image: (h, w, 3) uint8, RGB.

    Returns:
        (h, w) float32, logits of Fake: above 0 for parts that raise P(Fake), below 0 for parts that lower it.
    """
    inputs, boxes = pixels.preprocess(image, detector.metadata), pixels.input_boxes(*image.shape[:2], detector.metadata)
    logits, weights = detector.logits(inputs), detector.metadata.get("view_weights") or [1] * len(inputs)
    each = max(FEWEST, (SMALL_PASSES if inputs.shape[1] <= pixels.SMALL else PASSES) // len(inputs))
    each -= each % len(BASELINES)  # the baselines take turns
    heat, covered = (np.zeros(image.shape[:2], np.float32) for _ in range(2))  # weighted sum, sum of the weights
    with progress((), total=each * len(inputs), unit="masked image", delay=1) as bar:
        for one, logit, (left, top, right, bottom), weight in zip(inputs, logits, boxes, weights, strict=True):
            cells = logit + _differences(detector, one, each, bar)
            taper = np.hanning(len(cells) + 2)[1:-1] if len(inputs) > 1 else np.ones(len(cells))  # no visible borders between them
            window = weight * np.outer(taper, taper)
            for total, part in ((heat, cells * window), (covered, window)):
                scaled = Image.fromarray(np.float32(part)).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
                total[top:bottom, left:right] += scaled
    return np.divide(heat, covered, out=heat, where=covered > 0)


def _differences(detector, image, passes, bar):
    """Return the attribution of each cell of an input, (s, s, 3) uint8, less their mean: (c, c) float64, logits."""
    size = len(image)
    masks, to_cells, to_weights, own = _design(min(size, CELLS), passes)
    baselines, at = _baselines(image), np.arange(size) * masks.shape[1] // size
    logits = []
    for start in range(0, passes, detector.batch):
        some = masks[start : start + detector.batch][:, at][:, :, at, None]
        filled = baselines[np.arange(start, start + len(some)) % len(baselines)]
        logits.append(detector.logits(np.where(some, filled, image)))
        bar.update(len(some))
    drops = -np.concatenate(logits)
    weights = to_weights @ drops
    # The penalty shrinks differences. The leave-one-out predictions of the drops, which ridge regression yields at no cost, show by
    # how much; if they predict nothing, the map is flat.
    predicted = _less_baseline_means(drops - weights / own)
    spread = predicted @ predicted
    scale = max(0.0, predicted @ _less_baseline_means(drops) / spread) if spread > 1e-9 else 0.0
    cells = (to_cells @ weights).reshape(masks.shape[1:]) * masks[0].size * scale
    return cells - cells.mean()


@functools.lru_cache(maxsize=4)
def _design(cells, passes):
    """Draw masks for a map of cells x cells, and prepare the regression on them.

    Returns:
        masks: (passes, cells, cells) bool, True is masked; the baselines take turns.
        to_cells: (cells ** 2, passes) float64, from weights of masks to a drop of the logit for each cell.
        to_weights: (passes, passes) float64, from drops of the logit to weights of masks; and own, its diagonal.
    """
    masks = _draw_masks(cells, passes, np.random.default_rng(0))
    centred = masks.reshape(passes, -1) - masks.reshape(passes, -1).mean(axis=0)
    distance = np.subtract.outer(np.arange(cells), np.arange(cells))
    alike = np.exp(-(distance**2) / (2 * SMOOTHNESS**2))
    to_cells = (alike @ centred.reshape(passes, cells, cells) @ alike).reshape(passes, -1).T
    kernel = centred @ to_cells
    inverse = np.linalg.inv(kernel + PENALTY * np.trace(kernel) / passes * np.eye(passes))
    # What a baseline costs wherever it is says nothing about places: each has its own constant, without penalty.
    constants = (np.arange(passes)[:, None] % len(BASELINES) == np.arange(len(BASELINES))).astype(np.float64)
    fitted = inverse @ constants
    to_weights = inverse - fitted @ np.linalg.solve(constants.T @ fitted, fitted.T)
    return masks, to_cells, to_weights, np.diag(to_weights)


def _draw_masks(cells, passes, rng):
    """Return (passes, cells, cells) bool: random squares, a fraction MASKED of them True, in a randomly shifted grid."""
    side = max(1, cells // MASK_SQUARES)
    squares = -(-cells // side) + 1
    order = rng.random((passes, squares**2)).argsort(axis=1).argsort(axis=1)
    chosen = (order < round(MASKED * squares**2)).reshape(passes, squares, squares)
    fine = chosen.repeat(side, axis=1).repeat(side, axis=2)
    shifts = rng.integers(side, size=(passes, 2))
    return np.stack([one[y : y + cells, x : x + cells] for one, (y, x) in zip(fine, shifts, strict=True)])


def _less_baseline_means(values):
    """Return (passes,) values less the mean of those with the same baseline."""
    by_baseline = values.reshape(-1, len(BASELINES))
    return (by_baseline - by_baseline.mean(axis=0)).ravel()


def _baselines(image):
    """Return the baselines, one image for each of BASELINES: (2, s, s, 3) uint8."""
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(len(image) / 8)))
    noise = np.random.default_rng(0).normal(size=image.shape) * image.std(axis=(0, 1)) + image.mean(axis=(0, 1))
    return np.stack([blurred, np.clip(np.rint(noise), 0, 255).astype(np.uint8)])


def overlay(image, heat):
    """Return an image with its heat map over it: orange towards Fake, blue towards Real, grey neither or not seen; a legend below.

    The longer side has at least SHORTEST pixels (whole pixels are repeated) and at most LONGEST.

    Args:
        image: (h, w, 3) uint8, RGB.
        heat: (h, w) float32, as `explain` returns it.

    Returns:
        (height, width, 3) uint8, RGB, legend included.
    """
    image, heat = _to_picture_size(image, heat)
    limit = max(MIN_SCALE, float(np.quantile(np.abs(heat), 0.98)))
    # Darker images would hide the colours.
    grey = 255 * (image @ np.array([0.299, 0.587, 0.114], np.float32) / 255)[..., None] ** 0.75
    picture = _tinted(grey, heat / limit)
    legend = _legend(max(picture.shape[1], SHORTEST))
    canvas = np.full((picture.shape[0] + legend.shape[0], legend.shape[1], 3), 255, np.uint8)
    left = (legend.shape[1] - picture.shape[1]) // 2
    canvas[: picture.shape[0], left : left + picture.shape[1]] = picture
    canvas[picture.shape[0] :] = legend
    return canvas


def explain_file(detector, source):
    """Return an image file with its heat map over it, as `overlay` does."""
    image = pixels.read_image(source)
    return overlay(image, explain(detector, image))


def save(file, detector, source):
    """Write the picture of an image file and its heat map as PNG into a path or binary file."""
    Image.fromarray(explain_file(detector, source)).save(file, "PNG")


def _to_picture_size(image, heat):
    """Return image and heat map in the size of the overlay."""
    height, width = image.shape[:2]
    longer = max(height, width)
    factor = LONGEST / longer if longer > LONGEST else math.ceil(SHORTEST / longer)
    size = tuple(max(16, round(side * factor)) for side in (width, height))  # a line of pixels stays visible
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    shown, smooth = Image.fromarray(image).resize(size, how), Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(shown), np.asarray(smooth)


def _tinted(grey, strength):
    """Return a grey image, (h, w, 1) 0-255, tinted by (h, w) from -1, all Real, to 1, all Fake: (h, w, 3) uint8."""
    colour = np.where(strength[..., None] > 0, np.float32(FAKE), np.float32(REAL))
    share = 0.85 * np.minimum(np.abs(strength), 1)[..., None]
    light = 0.6 + 0.5 * grey / 255  # the image stays visible under the strongest colour
    return np.rint(np.minimum(grey * (1 - share) + colour * light * share, 255)).astype(np.uint8)


def _legend(width):
    """Return the legend, (height, width, 3) uint8: a colour scale and its meaning."""
    letter = width // 30
    long, line = width - 2 * letter, 3 * letter // 2
    sheet = Image.new("RGB", (width, letter + 4 * line), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(letter)
    bar = _tinted(np.full((letter, long, 1), 200.0), np.tile(np.linspace(-1, 1, long), (letter, 1)))
    sheet.paste(Image.fromarray(bar), (letter, letter))
    words = ("towards Real", "neither", "towards Fake")
    for text, x, anchor in zip(words, (letter, width // 2, width - letter), ("la", "ma", "ra"), strict=True):
        draw.text((x, letter + line), text, "black", font, anchor)
    draw.text((width // 2, 2 * letter + 2 * line), "The stronger the colour, the larger the effect.", "black", font, "ma")
    return np.asarray(sheet)
