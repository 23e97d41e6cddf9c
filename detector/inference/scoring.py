"""From image files to scores, in one place for evaluation and the app: the same file gets the same score everywhere."""
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from detector.console import InputError
from detector.images import pixels
from detector.images.guard import one_file
from detector.model.scores import p_fake_of

BULK = 4  # from so many batches for each thread on, each thread gets an engine of its own
BLANK = 8  # grey levels; a plain wall in poor light spans more


class Score(NamedTuple):
    """What a detector says of one image file.

    Attributes:
        source: the path, as given.
        p_fake: calibrated P(Fake) in 0..1; None where the file could not be read.
        logit: logit of Fake before calibration; None likewise.
        width, height: in pixels, as a viewer would show it; None likewise.
        blank: whether it shows hardly anything: fitted, the levels of each channel span less than BLANK.
        error: one line, where the file could not be read; else None.
        damaged: the logits of the image after each of the damages that were asked for.
        detector: the one that scored it; None likewise.
    """

    source: object
    p_fake: float | None = None
    logit: float | None = None
    width: int | None = None
    height: int | None = None
    blank: bool = False
    error: str | None = None
    damaged: tuple = ()
    detector: object = None


def score_files(detector, sources, threads=None, damages=(), batch=None):
    """Yield a Score for each image file, in order; files are decoded in some threads while the network runs in others.

    Each thread decodes some files and then scores them, with an engine of its own: an engine that has all cores would wait for
    the threads that decode at every layer.

    Args:
        detector: detector.model.runtime.Detector, or a function (width, height) -> such a detector.
        sources: iterable of paths or binary files.
        threads: that decode and score; the number of cores where it is None.
        damages: functions from an image, (h, w, 3) uint8, to a damaged one. Each image is decoded once, then damaged in each way
            as it is, and only then fitted: so is a file that reaches the detector damaged.
        batch: inputs that a thread handles at a time; required if `detector` is a function.
    """
    threads = threads or os.cpu_count() or 1
    choose = detector if callable(detector) else lambda width, height: detector
    at_a_stretch = max(1, (batch or images_at_a_stretch(detector)) // (1 + len(damages)))
    sources = iter(sources)
    first = list(islice(sources, BULK * threads * at_a_stretch))
    concurrency = threads if len(first) == BULK * threads * at_a_stretch else 1
    sources = chain(first, sources)
    del first
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        while True:
            while len(waiting) < 2 * threads and (some := list(islice(sources, at_a_stretch))):
                waiting.append(pool.submit(_score_some, some, choose, damages, concurrency))
            if not waiting:
                return
            yield from waiting.popleft().result()


def images_at_a_stretch(detector):
    """Return how many images a thread decodes and scores at a stretch."""
    return max(1, detector.batch // pixels.most_inputs(detector.metadata))


def _score_some(sources, choose, damages, concurrency):
    """Return a list of Score; images that go to the same detector are scored together."""
    decoded = [_decode(source, choose, damages) for source in sources]
    stacks = {}
    for item in decoded:
        if not isinstance(item, str):
            stacks.setdefault(item[0], []).extend(item[1])
    scored = {}
    for detector, stack in stacks.items():
        logits = pooled_logits(detector, stack, concurrency)
        scored[detector] = zip(logits.tolist(), p_fake_of(logits, detector.metadata["temperature"]).tolist(), strict=True)
    scores = []
    for source, item in zip(sources, decoded, strict=True):
        if isinstance(item, str):
            scores.append(Score(source, error=item))
            continue
        detector, stack, width, height, blank = item
        logit, p_fake = next(scored[detector])
        damaged = tuple(logit for logit, _ in islice(scored[detector], len(damages)))
        scores.append(Score(source, p_fake, logit, width, height, blank, damaged=damaged, detector=detector))
    return scores


def _decode(source, choose, damages=()):
    """Return (detector, [inputs of the image, and of damaged ones], width, height, blank), or a line: why it cannot be read."""
    try:
        with one_file(source):
            image = pixels.read_image(source)
            height, width = image.shape[:2]
            detector = choose(width, height)
            inputs = pixels.preprocess(image, detector.metadata)
            damaged = [pixels.preprocess(damage(image), detector.metadata) for damage in damages]
    except InputError as error:
        return str(error)
    blank = all(channel.max() - channel.min() < BLANK for channel in inputs.T)  # a wall may be red
    return detector, [inputs, *damaged], width, height, blank


def pooled_logits(detector, stack, concurrency=1):
    """Return the logits, (n,) float64, of n images given by their inputs, (k, s, s, 3) uint8 each: the mean over the k."""
    logits = detector.logits(np.concatenate(stack), concurrency)
    if len(logits) == len(stack):
        return logits
    ends = np.cumsum([len(inputs) for inputs in stack])
    return np.array([part.mean() for part in np.split(logits, ends[:-1])])
