"""Networks of a few hundred parameters, `--architecture tiny` and `tiny_backbone`: training takes seconds, not minutes."""

import contextlib
import csv

import pytest

from detector.model.architectures import ARCHITECTURES, Architecture
from detector.model.weights import load_files


def tiny(image_size, weights, l2):
    return _network(image_size, _features, l2, "tiny")


def tiny_backbone(image_size, weights, l2):
    backbone = make_backbone(image_size)
    if weights != "none":
        load_files(backbone, weights)
    return _network(image_size, backbone, l2, "tiny_backbone")


def make_backbone(image_size):
    import keras

    image = keras.Input((image_size, image_size, 3))
    return keras.Model(image, _features(image), name="backbone")


def _features(x):
    from keras import layers

    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def _network(image_size, features, l2, name):
    import keras
    from keras import layers

    image = keras.Input((image_size, image_size, 3), name="image")
    x = layers.GlobalAveragePooling2D()(features(layers.Rescaling(1 / 127.5, offset=-1)(image)))
    x = layers.Dropout(0.2)(x)
    head = layers.Dense(2, "softmax", kernel_regularizer=keras.regularizers.L2(l2), dtype="float32", name="verdict")
    return keras.Model(image, head(x), name=name)


# Trains in a process of its own, without TensorFlow on JAX and without plots, which take longer than the training.
TRAINING = """
from tests import tiny
tiny.register()
from detector.training import history
history.PLOTTED = ()
import model_training
model_training.main()
"""


def read_history(folder):
    """Return history.csv in `folder`/log as a list of dicts of float."""
    with (folder / "log" / "history.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def register():
    ARCHITECTURES["tiny"] = Architecture(tiny, weights="none", learning_rate=3e-3, has_backbone=False)
    ARCHITECTURES["tiny_backbone"] = Architecture(tiny_backbone)


@contextlib.contextmanager
def registered():
    """Register the networks within the block, and undo that and what is done with the MonkeyPatch that it gives."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("tiny", "tiny_backbone"):
            patch.setitem(ARCHITECTURES, name, None)
        register()
        yield patch
