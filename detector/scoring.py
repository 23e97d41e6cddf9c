"""From image files to scores, in one place for evaluation and the app: the same file gets the same score everywhere."""
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from detector import pixels
from detector.console import InputError, describe_os_error
from detector.model_file import p_fake_of

BATCH = 64
BLANK = 8  # grey levels; a plain wall in poor light spans more


@dataclass(frozen=True)
class Score:
    """What a detector says of one image file.

    Attributes:
        source: the path, as given.
        p_fake: calibrated P(Fake) in 0..1; None where the file could not be read.
        margin: logit of Fake before calibration; None likewise.
        width, height: in pixels, as a viewer would show it; None likewise.
        blank: whether it shows hardly anything: fitted, its grey levels span less than BLANK.
        error: one line, where the file could not be read; else None.
    """

    source: object
    p_fake: float | None = None
    margin: float | None = None
    width: int | None = None
    height: int | None = None
    blank: bool = False
    error: str | None = None


def score_files(detector, sources, threads=None):
    """Yield a Score for each image file, in order; files are decoded in threads while the network runs.

    Args:
        detector: detector.model_file.Detector.
        sources: iterable of paths or binary files.
        threads: that decode; the number of cores where it is None.
    """
    threads = threads or os.cpu_count() or 1
    sources = iter(sources)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()

        def decode_ahead():
            for batch in iter(lambda: list(islice(sources, BATCH)), []):
                waiting.append((batch, [pool.submit(_decode, source, detector.size) for source in batch]))
                if len(waiting) > 2:
                    return

        decode_ahead()
        while waiting:
            batch, decoded = waiting.popleft()
            yield from _score_batch(detector, batch, [image.result() for image in decoded])
            decode_ahead()


def _decode(source, size):
    """Return (fitted image, width, height, blank), or a line that says why the file cannot be read."""
    try:
        image = pixels.read_image(source)
    except InputError as error:
        return str(error)
    except OSError as error:
        return describe_os_error(error)
    fitted = pixels.fit(image, size)
    return fitted, image.shape[1], image.shape[0], bool(np.ptp(fitted) < BLANK)


def _score_batch(detector, batch, decoded):
    readable = [item for item in decoded if not isinstance(item, str)]
    margins = iter(detector.margins(np.stack([item[0] for item in readable])) if readable else ())
    temperature = detector.facts["temperature"]
    for source, item in zip(batch, decoded, strict=True):
        if isinstance(item, str):
            yield Score(source, error=item)
        else:
            margin = float(next(margins))
            yield Score(source, float(p_fake_of(margin, temperature)), margin, *item[1:])
