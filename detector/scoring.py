"""From image files to scores, in one place for evaluation and the app: the same file gets the same score everywhere."""
import contextlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from detector import model_file, pixels
from detector.console import InputError, describe_os_error

BATCH = 64
CHUNK = 16  # files that a thread decodes at a stretch: handing over each by itself would cost a fifth of decoding a small one
BLANK = 8  # grey levels; a plain wall in poor light spans more


@dataclass(frozen=True, slots=True)
class Score:
    """What a detector says of one image file.

    Attributes:
        source: the path, as given.
        p_fake: calibrated P(Fake) in 0..1; None where the file could not be read.
        margin: logit of Fake before calibration; None likewise.
        width, height: in pixels, as a viewer would show it; None likewise.
        blank: whether it shows hardly anything: fitted, its grey levels span less than BLANK.
        error: one line, where the file could not be read; else None.
        damaged: the margins of the image after each of the damages that were asked for.
    """

    source: object
    p_fake: float | None = None
    margin: float | None = None
    width: int | None = None
    height: int | None = None
    blank: bool = False
    error: str | None = None
    damaged: tuple = ()


def score_files(detector, sources, threads=None, damages=()):
    """Yield a Score for each image file, in order; files are decoded in threads while the network runs.

    Args:
        detector: detector.model_file.Detector, or KerasDetector.
        sources: iterable of paths or binary files.
        threads: that decode; the number of cores where it is None.
        damages: functions from an image, (h, w, 3) uint8, to a damaged one. Each image is decoded once, then damaged in each way
            as it is, and only then fitted: so is a file that reaches the detector damaged.
    """
    threads = threads or os.cpu_count() or 1
    sources = iter(sources)
    per_batch = max(1, BATCH // (1 + len(damages)))
    chunk = min(CHUNK, per_batch)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()

        def decode_ahead():
            while len(waiting) < max(2 * threads, 3 * per_batch // chunk):
                some = list(islice(sources, chunk))
                if not some:
                    return
                waiting.append((some, pool.submit(_decode_all, some, detector.size, damages)))

        decode_ahead()
        while waiting:
            batch, decoded = [], []
            while waiting and len(batch) < per_batch:
                some, images = waiting.popleft()
                batch += some
                decoded += images.result()
            decode_ahead()
            yield from _score_batch(detector, batch, decoded)


def _decode_all(sources, size, damages):
    return [_decode(source, size, damages) for source in sources]


def _decode(source, size, damages=()):
    """Return ([fitted image, and damaged ones], width, height, blank), or a line that says why the file cannot be read."""
    try:
        image = pixels.read_image(source)
    except InputError as error:
        return str(error)
    except OSError as error:
        return describe_os_error(error)
    fitted = pixels.fit(image, size)
    damaged = [pixels.fit(damage(image), size) for damage in damages]
    return [fitted, *damaged], image.shape[1], image.shape[0], bool(np.ptp(fitted) < BLANK)


def _score_batch(detector, batch, decoded):
    images = [image for item in decoded if not isinstance(item, str) for image in item[0]]
    margins = detector.margins(np.stack(images)) if images else np.empty(0)
    p_fake, margins = model_file.p_fake_of(margins, detector.facts["temperature"]).tolist(), margins.tolist()
    at = 0
    for source, item in zip(batch, decoded, strict=True):
        if isinstance(item, str):
            yield Score(source, error=item)
        else:
            end = at + len(item[0])
            yield Score(source, p_fake[at], margins[at], *item[1:], damaged=tuple(margins[at + 1 : end]))
            at = end


class KerasDetector(model_file.Detector):
    """A detector that scores with Keras, on whatever backend is chosen and on a GPU where there is one.

    Attributes:
        facts, path, size: as of detector.model_file.Detector.
        device: such as 'tensorflow on cpu'.
    """

    def __init__(self, path):
        keras = model_file.import_keras()
        self.path = Path(path)
        self._model, self.facts = model_file.load(path)
        self.size = self.facts["image_size"]
        self._giving_logits = contextlib.ExitStack()  # for good: this model is used for nothing else
        self._giving_logits.enter_context(model_file.giving_logits(self._model))
        self.device = f"{keras.backend.backend()} on {keras.distribution.list_devices()[0].split(':')[0]}"

    def margins(self, images):
        """Return the margins, (n,) float64, of fitted images: (n, s, s, 3) uint8, RGB."""
        found = []
        for start in range(0, len(images), BATCH):
            some = images[start : start + BATCH]
            batch = np.zeros((BATCH, *images.shape[1:]), np.float32)  # always as many: no backend compiles for another number
            batch[: len(some)] = some
            logits = np.asarray(self._model.predict_on_batch(batch))[: len(some)]
            found.append(model_file.margins_of(logits, self.facts["output"]))
        return np.concatenate(found)
