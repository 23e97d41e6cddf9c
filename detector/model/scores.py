"""From a network's outputs to logits, calibrated probabilities and verdicts, and the check against the training range.

The logit of an image is that of Fake: log P(Fake) - log P(Real), before calibration. All scores derive from it.
"""

import numpy as np


def fake_logits(outputs, output):
    """Return the logit of Fake, (n,) float64, from a network's outputs before the activation.

    Args:
        outputs: (n, 2) for 'softmax', (n, 1) for 'sigmoid_real'.
        output: kind of the last layer, as in a model's metadata.
    """
    outputs = np.asarray(outputs, np.float64)
    return outputs[:, 0] - outputs[:, 1] if output == "softmax" else -outputs[:, 0]


def p_fake_of(logits, temperature):
    """Return the calibrated P(Fake), float64 in 0..1: the sigmoid of logit / temperature."""
    return 1 / (1 + np.exp(np.clip(-np.asarray(logits, np.float64) / temperature, -700, 700)))


def verdict_of(p_fake, thresholds):
    """Return 'Fake' if P(Fake) is at least thresholds['fake'], 'Real' if at most thresholds['real'], otherwise 'uncertain'."""
    if p_fake >= thresholds["fake"]:
        return "Fake"
    return "Real" if p_fake <= thresholds["real"] else "uncertain"


def out_of_range(metadata, width, height, blank=False):
    """Return why an image is outside a detector's training range, as a sentence without a full stop, or None.

    Args:
        metadata: dict, as in the .h5.
        width, height: in pixels.
        blank: whether the image shows next to nothing (detector.inference.scoring.Score.blank).
    """
    sides, aspects = metadata["training_range"]["shorter_side"], metadata["training_range"]["aspect"]
    if not sides[0] <= min(width, height) <= sides[1]:
        span = f"{sides[0]}" if sides[0] == sides[1] else f"{sides[0]} to {sides[1]}"
        return f"it is {width} x {height} pixels; the detector is made for images with a shorter side of {span} pixels"
    aspect = max(width, height) / min(width, height)
    if not aspects[0] / 1.01 <= aspect <= aspects[1] * 1.01:
        aspect, low, high = (f"{round(value, 2):g} to 1" for value in (aspect, *aspects))
        return f"its sides are {aspect}; the detector is made for images of {low if low == high else f'{low} up to {high}'}"
    return "it is blank: there is nothing in it to classify" if blank else None
