"""Keras and its backends: importing it quietly, computing logits, recording versions."""

import contextlib
import os
import sys
import threading
import time

import numpy as np

from detector.console import InputError
from detector.model.scores import fake_logits

BACKENDS = {"tensorflow": "requirements.txt", "jax": "requirements-jax.txt"}  # of Keras, and what installs them


def import_keras():
    """Import Keras, by default on TensorFlow, without the backend's start-up messages; return the module."""
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS:
        raise InputError(f"KERAS_BACKEND={backend}: expected {' or '.join(BACKENDS)}; set it to one of them, or not at all")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet_stderr():
        try:
            import keras
        except ModuleNotFoundError as error:
            cure = f"run: pip install -r {BACKENDS[backend]}"
            raise InputError(f"this needs the package {error.name}, which is not installed; {cure}") from None
    import absl.logging

    absl.logging.set_verbosity("error")
    return keras


_quiet = threading.RLock()  # held by one thread at a time: a second one would keep /dev/null and restore that for good


@contextlib.contextmanager
def quiet_stderr():
    """Keep what C++ libraries write to stderr while they start off the user's screen; Python's own errors still pass."""
    with _quiet, open(os.devnull, "w") as nowhere:
        try:
            kept = os.dup(2)
        except OSError:
            yield
            return
        sys.stderr.flush()
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def linear_output(model):
    """Within the context, a model's last layer has no activation: the model returns its outputs before the activation."""
    keras = import_keras()
    layer = model.layers[-1]
    layer.activation, activation = keras.activations.linear, layer.activation
    model.predict_function = None  # a cached one would keep the old activation
    try:
        yield model
    finally:
        layer.activation, model.predict_function = activation, None


def compute_in_float32():
    """Keep GPUs from rounding float32 to the 10 bits of TF32, as Keras's backends do unasked: scores are to be those of LiteRT."""
    backend = import_keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "float32")


def keras_logits(model, images, output, batch_size=128):
    """Return the logits of Fake, (n,) float64, of preprocessed images with Keras.

    Args:
        model: a Keras model, as `load` returns it.
        images: (n, s, s, 3) uint8, or an iterable of such batches.
    """
    batches = images if not isinstance(images, np.ndarray) else np.split(images, range(batch_size, len(images), batch_size))
    with linear_output(model):
        outputs = [np.asarray(model.predict_on_batch(np.asarray(batch, np.float32))) for batch in batches]
    return fake_logits(np.concatenate(outputs), output)


def versions(*others):
    """Return {package: version} of what a model was made with, for its metadata, and of other packages; and Python and the date."""
    from importlib import metadata

    found = {}
    for name in ("keras", "tensorflow", "jax", "numpy", "pillow", *others):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {"python": sys.version.split()[0], **found, "date": time.strftime("%Y-%m-%d")}


@contextlib.contextmanager
def undistributed():
    """Give a context in which Keras makes new variables of this process alone.

    To save and to load weights it makes an optimizer aside; of a distributed one all processes would have to know.
    """
    import keras

    kept = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(kept)
