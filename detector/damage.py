"""What happens to images on their way to a user: JPEG, WebP, blur, noise, scaling.

Functions on (h, w, 3) uint8 RGB arrays that return the same shape and type. Without a generator they are deterministic.
"""
import io

import numpy as np
from PIL import Image, ImageFilter


def jpeg(image, quality):
    """Encode as JPEG of a quality from 1 to 95 (Pillow's scale, 4:2:0 chroma) and decode again."""
    return _through_a_file(image, "JPEG", quality)


def webp(image, quality):
    """Encode as lossy WebP of a quality from 1 to 100 and decode again."""
    return _through_a_file(image, "WEBP", quality)


def _through_a_file(image, kind, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def blur(image, sigma):
    """Blur with a Gaussian of standard deviation `sigma`, in pixels."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))) if sigma > 0 else image


def noise(image, sigma, rng):
    """Add Gaussian noise of standard deviation `sigma`, as a share of the full range (0.1 is 25.5 grey levels).

    Args:
        rng: numpy.random.Generator.
    """
    noisy = image + rng.normal(0, 255 * sigma, image.shape).astype(np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def scale(image, factor):
    """Resize by `factor` (antialiased bicubic; at least one pixel is left) and back to the size it had."""
    height, width = image.shape[:2]
    small = max(1, round(width * factor)), max(1, round(height * factor))
    resized = Image.fromarray(image).resize(small, Image.Resampling.BICUBIC)
    return np.asarray(resized.resize((width, height), Image.Resampling.BICUBIC))


def random_damage(image, rng, probability=0.5):
    """Damage an image at random: blur, scaling, noise and JPEG, each on its own with `probability`, in this order.

    The ranges are CNNDetection's where it has them (arXiv 1912.11035: blur sigma 0 to 3, JPEG quality 30 to 100 cut
    here at Pillow's 95); scaling is by 0.25 to 1 and noise has a sigma of 0 to 0.1.

    Args:
        image: (h, w, 3) uint8, RGB.
        rng: numpy.random.Generator; the same state gives the same damage.
        probability: chance of each damage, 0 to 1.
    """
    chosen = rng.random(4) < probability
    if chosen[0]:
        image = blur(image, rng.uniform(0, 3))
    if chosen[1]:
        image = scale(image, rng.uniform(0.25, 1))
    if chosen[2]:
        image = noise(image, rng.uniform(0, 0.1), rng)
    if chosen[3]:
        image = jpeg(image, int(rng.integers(30, 96)))
    return image
