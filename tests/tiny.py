"""Networks of a few hundred parameters, `--architecture tiny` and `tiny_backbone`: training takes seconds, not minutes."""

import csv

from detector.model.architectures import ARCHITECTURES, Architecture
from detector.model.weights import load_files


def tiny(image_size, weights, l2):
    import keras
    from keras import layers

    image = keras.Input((image_size, image_size, 3), name="image")
    return keras.Model(image, _head(_features(layers.Rescaling(1 / 127.5, offset=-1)(image)), l2), name="tiny")


def tiny_backbone(image_size, weights, l2):
    import keras
    from keras import layers

    image = keras.Input((image_size, image_size, 3), name="image")
    backbone = make_backbone(image_size)
    if weights != "none":
        load_files(backbone, weights)
    return keras.Model(image, _head(backbone(layers.Rescaling(1 / 127.5, offset=-1)(image)), l2), name="tiny_backbone")


def make_backbone(image_size):
    import keras

    image = keras.Input((image_size, image_size, 3))
    return keras.Model(image, _features(image), name="backbone")


def _features(x):
    from keras import layers

    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def _head(x, l2):
    from keras import layers, regularizers

    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return layers.Dense(2, activation="softmax", kernel_regularizer=regularizers.L2(l2), dtype="float32", name="verdict")(x)


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
