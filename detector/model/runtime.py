"""Predictors: the exported LiteRT model on the CPU, and Keras on any backend."""
import contextlib
import os
import queue
import threading
from pathlib import Path

import numpy as np

from detector.console import InputError
from detector.model import backend, scores
from detector.model import file as model_file
from detector.model.backend import quiet_stderr
from detector.model.scores import margins_of, p_fake_of, unlike_seen, verdict_of

BATCH = 64  # fitted images at a stretch at most, and for large ones as many as have so many pixels:
BATCH_PIXELS = 4 * 224 * 224
ENGINES_BYTES = 512 << 20  # of networks in memory for several threads: each engine keeps a copy of the weights


def batch_of(facts):
    """Return how many fitted images a detector computes at a stretch."""
    return max(1, min(BATCH, BATCH_PIXELS // facts["image_size"] ** 2))


class Detector:
    """A compiled detector, ready to score images on the CPU with LiteRT, from several threads at once if need be.

    Attributes:
        facts: dict, as in the .h5.
        path: the .h5 it was made from.
        size: side of the network's input, in pixels.
        batch: so many fitted images are computed at a stretch.
    """

    def __init__(self, path, facts, flatbuffer, threads=None):
        self.path, self.facts = Path(path), facts
        self.size = facts["image_size"]
        self.batch = batch_of(facts)
        self._flatbuffer, self._threads = flatbuffer, threads or os.cpu_count() or 1
        self._making, self._idle = threading.Lock(), {}

    @contextlib.contextmanager
    def _lent(self, share):
        """Lend an engine to one of `share` callers at once: each has that part of the cores, and waits where none is idle."""
        share = max(1, min(share, self._threads, ENGINES_BYTES // max(os.path.getsize(self._flatbuffer), 1)))
        with self._making:
            if share not in self._idle:
                self._idle[share] = queue.LifoQueue()  # one that was used comes before one that is yet to be made
                for _ in range(share):
                    self._idle[share].put(None)
        engine = self._idle[share].get()
        try:
            engine = engine or _Engine(self._flatbuffer, max(1, self._threads // share))
            yield engine
        finally:
            self._idle[share].put(engine)

    def margins(self, images, share=1):
        """Return the margins, (n,) float64, of fitted images.

        Args:
            images: (n, s, s, 3) uint8, RGB.
            share: number of threads that call this at once, each to have its part of the cores. The margins do not depend on it.
        """
        with self._lent(share) as engine:
            logits = [engine.logits(images[start : start + self.batch]) for start in range(0, len(images), self.batch)]
        return margins_of(np.concatenate(logits), self.facts["output"])

    def p_fake(self, images):
        """Return the calibrated P(Fake), (n,) float64, of fitted images: (n, s, s, 3) uint8, RGB."""
        return p_fake_of(self.margins(images), self.facts["temperature"])

    def verdict(self, p_fake):
        """Return 'Fake', 'Real' or 'uncertain' for a calibrated P(Fake)."""
        return verdict_of(p_fake, self.facts["thresholds"])

    def unlike_seen(self, width, height, blank=False):
        """Return why an image is unlike what this detector was trained on, in words, or None."""
        return unlike_seen(self.facts, width, height, blank)


# --- the compiled form ---------------------------------------------------------------------------------------------------
class _Engine:
    """A LiteRT interpreter, for one thread at a time."""

    def __init__(self, flatbuffer, threads):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError:
            raise InputError(
                "judging an image needs the package ai-edge-litert; "
                "run: pip install -r requirements-app.txt"
            ) from None
        with quiet_stderr():
            self._interpreter = self._opened(Interpreter, flatbuffer, threads)
            self._input = self._interpreter.get_input_details()[0]["index"]
            self._output = self._interpreter.get_output_details()[0]["index"]
            self._allocate((1, *self._interpreter.get_input_details()[0]["shape"][1:]))

    def _opened(self, interpreter, flatbuffer, threads):
        try:
            return interpreter(model_path=os.fspath(flatbuffer), num_threads=threads)
        except (ValueError, RuntimeError, OSError):
            raise InputError(
                f"{flatbuffer}: expected a compiled detector, found none or a damaged one; "
                "delete it and run the same command again"
            ) from None

    def _allocate(self, shape):
        self._shape = shape
        self._interpreter.resize_tensor_input(self._input, shape)
        self._interpreter.allocate_tensors()

    def logits(self, images):
        """Return the network's logits, (n, outputs) float32, of (n, s, s, 3) uint8."""
        if images.shape != self._shape:
            self._allocate(images.shape)
        self._interpreter.tensor(self._input)()[:] = images  # straight to where the network reads, as float32
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)


class KerasDetector(Detector):
    """A detector that scores with Keras, on whatever backend is chosen and on a GPU where there is one.

    Attributes:
        facts, path, size: as of detector.model.runtime.Detector.
        device: such as 'tensorflow on cpu'.
    """

    def __init__(self, path):
        keras = backend.import_keras()
        backend.compute_in_float32()
        self.path = Path(path)
        self._model, self.facts = model_file.load(path)
        self.size, self.batch = self.facts["image_size"], BATCH
        self._one_at_a_time = threading.Lock()
        self._giving_logits = contextlib.ExitStack()  # for good: this model is used for nothing else
        self._giving_logits.enter_context(backend.giving_logits(self._model))
        self.device = f"{keras.backend.backend()} on {keras.distribution.list_devices()[0].split(':')[0]}"

    def margins(self, images, share=1):
        """Return the margins, (n,) float64, of fitted images: (n, s, s, 3) uint8, RGB; `share` as of the other detector."""
        found = []
        for start in range(0, len(images), self.batch):
            some = images[start : start + self.batch]
            batch = np.zeros((self.batch, *images.shape[1:]), np.float32)  # always as many: no backend compiles for another number
            batch[: len(some)] = some
            with self._one_at_a_time:
                logits = np.asarray(self._model.predict_on_batch(batch))[: len(some)]
            found.append(scores.margins_of(logits, self.facts["output"]))
        return np.concatenate(found)
