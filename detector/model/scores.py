"""Scores: from logits to calibrated probabilities and verdicts, and the range of images that a detector was trained on.

The logit of an image is that of Fake: log P(Fake) - log P(Real), before calibration. All scores derive from it.
"""
import numpy as np


# --- scores --------------------------------------------------------------------------------------------------------------
def margins_of(logits, output):
    """Return the logit of Fake, (n,) float64, from the network's logits: (n, 2) for 'softmax', (n, 1) for 'sigmoid_real'."""
    logits = np.asarray(logits, np.float64)
    return logits[:, 0] - logits[:, 1] if output == "softmax" else -logits[:, 0]


def p_fake_of(margins, temperature):
    """Return the calibrated P(Fake), float64 in 0..1: the sigmoid of margin / temperature."""
    return 1 / (1 + np.exp(np.clip(-np.asarray(margins, np.float64) / temperature, -700, 700)))


def verdict_of(p_fake, thresholds):
    """Return 'Fake' from thresholds['fake'] on, 'Real' up to thresholds['real'], 'uncertain' between them."""
    if p_fake >= thresholds["fake"]:
        return "Fake"
    return "Real" if p_fake <= thresholds["real"] else "uncertain"


def unlike_seen(facts, width, height, blank=False):
    """Return why an image is unlike those that a detector is made for, in words, or None.

    Args:
        facts: dict, as in the .h5.
        width, height: in pixels.
        blank: whether the image shows hardly anything (detector.inference.scoring.Score.blank).
    """
    sides, aspects = facts["seen"]["shorter_side"], facts["seen"]["aspect"]
    if not sides[0] <= min(width, height) <= sides[1]:
        span = f"{sides[0]}" if sides[0] == sides[1] else f"{sides[0]} to {sides[1]}"
        return f"it is {width} x {height} pixels; the detector is made for images with a shorter side of {span} pixels"
    aspect = max(width, height) / min(width, height)
    if not aspects[0] / 1.01 <= aspect <= aspects[1] * 1.01:
        aspect, low, high = (f"{round(value, 2):g} to 1" for value in (aspect, *aspects))
        return f"its sides are {aspect}; the detector is made for images of {low if low == high else f'{low} up to {high}'}"
    return "it is blank: there is nothing in it to judge" if blank else None
