"""Degraded copies of an image, which show whether a verdict would survive re-saving. They decide, but never enter the score."""

import io

import numpy as np
from PIL import Image

UNSTABLE = "unstable under re-saving"
LONGEST, QUALITY = 1280, 40  # a messenger's size, and the strongest compression of benchmarks/stability.py


def resaved(image):
    """Return an image, (h, w, 3) uint8, after a messenger: at most LONGEST pixels on the longer side, strongly compressed."""
    small = Image.fromarray(image)
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(file))


CHECKS = (resaved,)


def is_stable(verdict, verdicts_of_copies):
    """Tell whether no degraded copy of an image has the opposite verdict."""
    return {"Fake": "Real", "Real": "Fake"}.get(verdict) not in verdicts_of_copies
