"""Corruptions of images: JPEG, WebP, blur, noise and scaling, as images meet them on their way to a user.

Functions on (h, w, 3) uint8 RGB arrays that return the same shape and type; deterministic unless they take a generator.
"""

import io
import math

import cv2
import numpy as np
from PIL import Image, ImageFilter

LONGEST_JPEG, LONGEST_WEBP = 65_500, 16_383  # pixels, as libjpeg and libwebp encode


def jpeg(image, quality):
    """Encode as JPEG of a quality from 1 to 95 (libjpeg's scale, 4:2:0 chroma) and decode again.

    An image with a side over LONGEST_JPEG pixels cannot be encoded; it is returned unchanged.
    """
    return _through_a_file(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality) if max(image.shape) <= LONGEST_JPEG else image


def webp(image, quality):
    """Encode as lossy WebP of a quality from 1 to 100 and decode again.

    An image with a side over LONGEST_WEBP pixels cannot be encoded; it is returned unchanged.
    """
    return _through_a_file(image, ".webp", cv2.IMWRITE_WEBP_QUALITY, quality) if max(image.shape) <= LONGEST_WEBP else image


def _through_a_file(image, kind, flag, quality):
    _, file = cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (flag, quality))
    return cv2.imdecode(file, cv2.IMREAD_COLOR_RGB)


def blur(image, sigma):
    """Blur with a Gaussian of standard deviation `sigma`, in pixels; the edges are repeated."""
    if sigma <= 0:
        return image
    kernel = cv2.getGaussianKernel(2 * math.ceil(3 * sigma) + 1, sigma, cv2.CV_32F)
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def noise(image, sigma, rng):
    """Add Gaussian noise of standard deviation `sigma`, as a fraction of the full range (0.1 is 25.5 grey levels).

    Args:
        rng: numpy.random.Generator; it seeds OpenCV's generator, which is three times as fast.
    """
    cv2.setRNGSeed(int(rng.integers(1 << 31)))
    added = cv2.randn(np.empty(image.shape, np.int16), (0, 0, 0), (255 * sigma,) * 3)
    return cv2.add(image, added, dtype=cv2.CV_8U)  # saturates


def scale(image, factor):
    """Resize by `factor` (averaging areas, to at least one pixel), then back to the original size (bicubic)."""
    height, width = image.shape[:2]
    small = max(1, round(width * factor)), max(1, round(height * factor))
    if small == (width, height):
        return image
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_CUBIC)


def deliver(image, longest, quality):
    """Shrink an image (averaging areas) to at most `longest` pixels on its longer side and encode it as JPEG, as platforms do."""
    factor = longest / max(image.shape[:2])
    if factor < 1:
        small = (max(1, round(side * factor)) for side in image.shape[1::-1])
        image = cv2.resize(image, tuple(small), interpolation=cv2.INTER_AREA)
    return jpeg(image, quality)


def random_degradation(image, rng, probability=0.5, max_blur=3.0, min_scale=0.25, max_noise=0.1, min_quality=30):
    """Degrade an image at random: blur, scaling, noise and JPEG, each independently with `probability`, in this order.

    Amounts are uniform in a range. The ranges of blur and JPEG are CNNDetection's (arXiv 1912.11035: sigma 0 to 3, quality 30 to
    100, limited here to Pillow's 95).

    Args:
        image: (h, w, 3) uint8, RGB.
        rng: numpy.random.Generator; the same state gives the same result.
        probability: chance of each degradation, 0 to 1.
        max_blur: sigma is drawn from 0 to this, in pixels.
        min_scale: the factor is drawn from this to 1.
        max_noise: sigma is drawn from 0 to this, as a fraction of the full range.
        min_quality: JPEG quality is drawn from this to 95, 1 to 95.
    """
    draws = rng.random(8).tolist()
    chosen, amounts = [draw < probability for draw in draws[:4]], draws[4:]
    if chosen[0]:
        image = blur(image, max_blur * amounts[0])
    if chosen[1]:
        image = scale(image, min_scale + (1 - min_scale) * amounts[1])
    if chosen[2]:
        image = noise(image, max_noise * amounts[2], rng)
    if chosen[3]:
        image = jpeg(image, min_quality + int((96 - min_quality) * amounts[3]))
    return image


def random_sharing(image, rng):
    """Degrade a photograph at random as being shared on the web does: resizing, blur, noise and one or two lossy encodings.

    The ranges are those of the photo detector's training (docs/experiments_photos.md). In order:

    1. the longer side is reduced to at most exp(uniform(log 640, log 2560)), never above 2048 pixels;
    2. with probability 0.25, JPEG of quality 60 to 97;
    3. with probability 0.3, the shorter side becomes uniform(180, 320) if it is larger; with probability 0.5, both sides are
       scaled by uniform(0.5, 1);
    4. with probability 0.1 each, Gaussian blur of radius 0.3 to 1.2 and noise of sigma 1 to 6 grey levels;
    5. WebP (probability 0.25) or JPEG (4:2:0 in two of three cases, else 4:4:4) of quality 40 to 97.

    Each resizing draws one of five filters.

    Args:
        image: (h, w, 3) uint8, RGB.
        rng: numpy.random.Generator; the same state gives the same image.

    Returns:
        (h', w', 3) uint8, RGB, no larger than `image`.
    """
    photo = Image.fromarray(image)
    longest = min(2048.0, math.exp(rng.uniform(math.log(640), math.log(2560))))
    photo = _shrink(photo, longest / max(photo.size), rng)
    if rng.random() < 0.25:
        photo = _encode(photo, rng, "JPEG", int(rng.integers(60, 98)))
    draw = rng.random()
    if draw < 0.3:
        photo = _shrink(photo, rng.uniform(180, 320) / min(photo.size), rng)
    elif draw < 0.8:
        photo = _shrink(photo, rng.uniform(0.5, 1), rng)
    if rng.random() < 0.1:
        photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.1:
        photo = Image.fromarray(noise(np.asarray(photo), rng.uniform(1, 6) / 255, rng))
    return np.asarray(_encode(photo, rng, "WEBP" if rng.random() < 0.25 else "JPEG", int(rng.integers(40, 98))))


def _shrink(photo, factor, rng):
    """Return a Pillow image with its sides multiplied by `factor`, unless that would enlarge it, with a filter drawn at random."""
    filters = Image.Resampling
    drawn = (filters.BILINEAR, filters.BICUBIC, filters.LANCZOS, filters.BOX, filters.HAMMING)[int(rng.integers(5))]
    if factor >= 1:
        return photo
    return photo.resize(tuple(max(1, round(side * factor)) for side in photo.size), drawn)


def _encode(photo, rng, kind, quality):
    """Return a Pillow image after lossy encoding as 'JPEG' or 'WEBP'."""
    options = {"subsampling": 2 if rng.random() < 2 / 3 else 0} if kind == "JPEG" else {"method": 2}
    file = io.BytesIO()
    photo.save(file, kind, quality=quality, **options)
    return Image.open(file).convert("RGB")
