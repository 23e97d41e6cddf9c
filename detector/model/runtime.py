"""Detectors that score images: an exported LiteRT model on the CPU, and Keras on any backend, behind one Protocol."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from detector.console import InputError
from detector.model import backend
from detector.model import file as model_file
from detector.model.backend import quiet_stderr
from detector.model.scores import fake_logits

BATCH = 64  # inputs in a batch at most; for large inputs, as many as have this many pixels:
BATCH_PIXELS = 4 * 224 * 224
ENGINES_BYTES = 512 << 20  # memory for the copies of the weights when several threads each have an engine


class Detector(Protocol):
    """What scoring, attribution and evaluation need of a detector: its metadata, and how many inputs it computes together."""

    metadata: dict
    batch: int

    def logits(self, images: np.ndarray, concurrency: int = 1) -> np.ndarray:
        """Return the logit of Fake, (n,) float64, of each input.

        Args:
            images: (n, s, s, 3) uint8, RGB, as detector.images.pixels.preprocess returns them.
            concurrency: number of threads that call this at the same time; the logits do not depend on it.
        """


def batch_of(metadata):
    """Return the number of inputs that a detector computes together."""
    return max(1, min(BATCH, BATCH_PIXELS // metadata["image_size"] ** 2))


class LiteRTDetector:
    """A Detector that runs an exported model on the CPU with LiteRT. Several threads may use it at once.

    Attributes:
        path: the .h5 that the model was exported from.
    """

    def __init__(self, path, metadata, flatbuffer, threads=None):
        self.path, self.metadata = Path(path), metadata
        self.batch = batch_of(metadata)
        self._flatbuffer, self._threads = flatbuffer, threads or os.cpu_count() or 1
        self._lock, self._idle = threading.Lock(), {}

    @contextlib.contextmanager
    def _engine(self, concurrency):
        """Give one of `concurrency` callers an engine with its part of the cores; wait if all engines are in use."""
        number = max(1, min(concurrency, self._threads, ENGINES_BYTES // max(os.path.getsize(self._flatbuffer), 1)))
        with self._lock:
            if number not in self._idle:
                self._idle[number] = queue.LifoQueue()  # an engine that exists is taken before a new one is made
                for _ in range(number):
                    self._idle[number].put(None)
        engine = self._idle[number].get()
        try:
            engine = engine or _Engine(self._flatbuffer, max(1, self._threads // number))
            yield engine
        finally:
            self._idle[number].put(engine)

    def logits(self, images, concurrency=1):
        """Return the logit of Fake of each input, as Detector.logits."""
        with self._engine(concurrency) as engine:
            outputs = [engine.outputs(images[start : start + self.batch]) for start in range(0, len(images), self.batch)]
        return fake_logits(np.concatenate(outputs), self.metadata["output"])


class _Engine:
    """A LiteRT interpreter, for one thread at a time."""

    def __init__(self, flatbuffer, threads):
        try:
            from ai_edge_litert.interpreter import Interpreter

            with quiet_stderr():
                self._interpreter = Interpreter(model_path=os.fspath(flatbuffer), num_threads=threads)
                self._input = self._interpreter.get_input_details()[0]["index"]
                self._output = self._interpreter.get_output_details()[0]["index"]
                self._interpreter.allocate_tensors()  # now, since it prints a line the first time
        except ModuleNotFoundError:
            cure = "run: pip install -r requirements-app.txt"
            raise InputError(f"classifying an image needs the package ai-edge-litert; {cure}") from None
        except (ValueError, RuntimeError, OSError):
            cure = "delete it and run the same command again"
            raise InputError(f"{flatbuffer}: expected an exported model, but it is missing or damaged; {cure}") from None
        self._shape = None

    def outputs(self, images):
        """Return the network's outputs before the activation, (n, outputs) float32, of (n, s, s, 3) uint8."""
        if images.shape != self._shape:
            self._shape = images.shape
            self._interpreter.resize_tensor_input(self._input, self._shape)
            self._interpreter.allocate_tensors()
        self._interpreter.tensor(self._input)()[:] = images  # written as float32 to where the network reads
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)


class FunctionDetector:
    """A Detector that computes with a function, one caller at a time.

    Args:
        function: from (batch, s, s, 3) float32 in 0..255 to (batch,) logits of Fake. The last batch is filled up with zeros,
            so that the shape is always the same and a backend compiles for one shape only.
        metadata, batch: as in Detector.
    """

    def __init__(self, function: Callable, metadata, batch=BATCH):
        self.metadata, self.batch = metadata, batch
        self._function, self._lock = function, threading.Lock()

    def logits(self, images, concurrency=1):
        """Return the logit of Fake of each input, as Detector.logits."""
        found = []
        for start in range(0, len(images), self.batch):
            some = images[start : start + self.batch]
            batch = np.zeros((self.batch, *images.shape[1:]), np.float32)
            batch[: len(some)] = some
            with self._lock:
                found.append(np.asarray(self._function(batch), np.float64)[: len(some)])
        return np.concatenate(found)


class KerasDetector(FunctionDetector):
    """A Detector that runs the .h5 with Keras, on any backend and on a GPU if there is one (`device`: 'tensorflow on cpu')."""

    def __init__(self, path):
        keras = backend.import_keras()
        backend.compute_in_float32()
        self.path = Path(path)
        model, metadata = model_file.load(path)
        super().__init__(lambda batch: fake_logits(model.predict_on_batch(batch), metadata["output"]), metadata)
        self._linear_output = contextlib.ExitStack()  # never closed: the model serves nothing else
        self._linear_output.enter_context(backend.linear_output(model))
        self.device = f"{keras.backend.backend()} on {keras.distribution.list_devices()[0].split(':')[0]}"
