"""From image files to scores, in one place for evaluation and the app: the same file gets the same score everywhere."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from detector.console import InputError
from detector.images import pixels
from detector.images.guard import one_file
from detector.images.quality import is_blank
from detector.model.scores import p_fake_of

MAX_KEPT_BYTES = 3 << 20  # of a decoded image that is kept for its copies; a larger one among several is decoded again
MANY_PER_THREAD = 4  # with at least this many images per thread, each thread gets an engine of its own


class Score(NamedTuple):
    """The score of one image file.

    Attributes:
        source: as given.
        p_fake: calibrated P(Fake), 0 to 1; None if the file cannot be read.
        logit: logit of Fake before calibration; None likewise.
        width, height: in pixels, as a viewer shows the image; None likewise.
        blank: whether the preprocessed image is blank, as detector.images.quality.is_blank says.
        error: one line if the file cannot be read, otherwise None.
        degraded: logits of the degraded copies that were asked for.
        inspected: what `inspect` returned for the decoded image.
        detector: the detector that scored the image; None if it cannot be read.
    """

    source: object
    p_fake: float | None = None
    logit: float | None = None
    width: int | None = None
    height: int | None = None
    blank: bool = False
    error: str | None = None
    degraded: tuple[float, ...] = ()
    inspected: object = None
    detector: object = None


def score_files(detector, sources, threads=None, degradations=(), batch=None, select=lambda score: True, inspect=None):
    """Yield a Score for each image file, in order; some threads decode files while others run the network.

    Each thread decodes some files and then scores them with an engine of its own: an engine with all cores would wait for the
    decoding threads at every layer.

    Args:
        detector: detector.model.runtime.Detector, or a function (width, height) -> such a detector.
        sources: iterable of paths, bytes or binary files that can seek.
        threads: number of threads; by default the number of cores.
        degradations: functions from an image, (h, w, 3) uint8, to a degraded copy of it. They work on the decoded image, before
            preprocessing: so do degradations in the world.
        batch: images that a thread decodes and scores at a time; required if `detector` is a function.
        select: function Score -> whether this image's degraded copies are made and scored; by default all are.
        inspect: function from a decoded image, (h, w, 3) uint8, to what its Score holds as `inspected`.
    """
    threads = threads or os.cpu_count() or 1
    choose = detector if callable(detector) else lambda width, height: detector
    sources = list(sources)
    most = (batch or images_at_a_stretch(detector)) // (1 + len(degradations))
    at_a_stretch = max(1, min(most, len(sources) // (MANY_PER_THREAD * threads)))
    concurrency = threads if len(sources) >= MANY_PER_THREAD * threads else 1
    left = iter(sources)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        while True:
            while len(waiting) < 2 * threads and (some := list(islice(left, at_a_stretch))):
                waiting.append(pool.submit(_score_some, some, choose, degradations, select, inspect, concurrency))
            if not waiting:
                return
            yield from waiting.popleft().result()


def images_at_a_stretch(detector):
    """Return how many images a thread decodes and scores at a time."""
    inputs = len(detector.metadata["views"]) if detector.metadata["preprocessing"] == "views" else 1
    return max(1, detector.batch // inputs)


def _score_some(sources, choose, degradations, select, inspect, concurrency):
    """Return a list of Score; the inputs of all images that go to the same detector are scored together."""
    decoded = [_decode(source, choose, inspect, alone=len(sources) == 1) for source in sources]
    scores = [score for score, _, _ in decoded]

    def logits_of(inputs):
        """Return {key: logit}; `inputs` is {key: (i, inputs)}, the key i for image i itself, (i, k) for its copy k."""
        found = {}
        for detector in {id(scores[i].detector): scores[i].detector for i, _ in inputs.values()}.values():
            keys = [key for key, (i, _) in inputs.items() if scores[i].detector is detector]
            found |= zip(keys, pooled_logits(detector, [inputs[key][1] for key in keys], concurrency).tolist(), strict=True)
        return found

    readable = {i: (i, inputs) for i, (score, inputs, _) in enumerate(decoded) if score.error is None}
    for i, logit in logits_of(readable).items():
        p_fake = float(p_fake_of(logit, scores[i].detector.metadata["temperature"]))
        scores[i] = scores[i]._replace(logit=logit, p_fake=p_fake)
    copies = {}
    for i in readable if degradations else ():
        if select(scores[i]):
            try:
                made = _copies(scores[i], decoded[i][2], degradations)
                copies |= {(i, k): (i, inputs) for k, inputs in enumerate(made)}
            except InputError as error:
                scores[i] = Score(sources[i], error=str(error))
    logits = logits_of(copies)
    for i in {i for i, _ in copies}:
        scores[i] = scores[i]._replace(degraded=tuple(logits[i, k] for k in range(len(degradations))))
    return scores


def _decode(source, choose, inspect, alone):
    """Return (Score without its score, inputs of the network, decoded image); None for the latter if unreadable or not kept."""
    try:
        with one_file(source):
            image = pixels.read_image(source)
            height, width = image.shape[:2]
            detector = choose(width, height)
            inputs = pixels.preprocess(image, detector.metadata)
            inspected = inspect(image) if inspect else None
    except InputError as error:
        return Score(source, error=str(error)), None, None
    score = Score(source, width=width, height=height, blank=is_blank(inputs), detector=detector, inspected=inspected)
    return score, inputs, image if alone or image.nbytes <= MAX_KEPT_BYTES else None


def _copies(score, image, degradations):
    """Return the inputs of the degraded copies of an image, which is decoded again if it is None."""
    with one_file(score.source):
        image = pixels.read_image(score.source) if image is None else image
        return [pixels.preprocess(degrade(image), score.detector.metadata) for degrade in degradations]


def pooled_logits(detector, stack, concurrency=1):
    """Return the logits, (n,) float64, of n images given by their inputs, (k, s, s, 3) uint8 each: the mean over the k.

    It is weighted if the detector's metadata have 'view_weights'.
    """
    logits = detector.logits(np.concatenate(stack), concurrency)
    if len(logits) == len(stack):
        return logits
    ends, weights = np.cumsum([len(inputs) for inputs in stack]), detector.metadata.get("view_weights")
    return np.array([np.average(part, weights=weights) for part in np.split(logits, ends[:-1])])
