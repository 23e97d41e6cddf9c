"""Degraded copies of an image, by which the app decides whether a verdict would survive re-saving. Pillow only."""
import io

import numpy as np
from PIL import Image

UNSTABLE = "unstable under re-saving"


def jpeg(image, quality):
    """Return an image, (h, w, 3) uint8, as it is after JPEG compression."""
    return _decoded(Image.fromarray(image), "JPEG", quality)


def webp(image, quality):
    """Return an image, (h, w, 3) uint8, as it is after lossy WebP compression."""
    return _decoded(Image.fromarray(image), "WEBP", quality)


def scaled(image, factor):
    """Return an image, (h, w, 3) uint8, scaled by a factor: another size, not scaled back."""
    height, width = image.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def messenger(image, longer=1280, quality=70):
    """Return an image, (h, w, 3) uint8, as a messenger sends it: at most `longer` pixels on the longer side, JPEG."""
    small = Image.fromarray(image)
    small.thumbnail((longer, longer), Image.Resampling.BICUBIC)
    return _decoded(small, "JPEG", quality)


def _decoded(image, kind, quality):
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


CHECKS = (messenger,)


def is_stable(verdict, verdicts_of_copies):
    """Tell whether no degraded copy of an image has the opposite verdict."""
    return {"Fake": "Real", "Real": "Fake"}.get(verdict) not in verdicts_of_copies
