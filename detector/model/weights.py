"""Weights from files: which kind a file is, and loading one file or the mean of several."""

import json
import warnings
from pathlib import Path

import numpy as np

from detector.console import InputError
from detector.model import efficientnet_lite
from detector.model import file as model_file
from detector.model.backend import undistributed

FLIP_LAYER = "mean_of_image_and_mirror_image"  # of architectures.with_test_time_flip


def backbone_of(model):
    """Return the network inside a model that is built on a backbone, or None."""
    import keras

    return next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)


def network_name(architecture):
    """Return the name of an architecture's Keras model: Keras does not allow all characters in it."""
    return architecture.replace(":", "_").lower()


def is_detector(path):
    """Tell whether a file is a detector, as model_training.py writes it, and not only weights."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "detector" in file.attrs
    except OSError:
        return False


def holds_head(path):
    """Tell whether a file holds the weights of a whole network, head included: a detector, or a .npz with a head."""
    return is_detector(path) or efficientnet_lite.holds_head(path)


def _model_config(path):
    import h5py

    with h5py.File(path, "r") as file:
        return json.loads(file.attrs["model_config"])


def _find_layer(config, name):
    """Return the part of a model's configuration that describes the layer of that name, or None."""
    if isinstance(config, dict):
        if "class_name" in config and isinstance(config.get("config"), dict) and config["config"].get("name") == name:
            return config
        config = list(config.values())
    found = (_find_layer(part, name) for part in config) if isinstance(config, list) else ()
    return next((layer for layer in found if layer), None)


def stem_of(path):
    """Return the stem of a detector with a ResNet: 'standard', 'medium', 'small' or 'small_7x7'."""
    config = _model_config(path)
    convolution, pooling = (_find_layer(config, name) for name in ("conv1_conv", "pool1_pool"))
    if convolution is None or convolution["config"].get("strides") != [1, 1]:
        return "medium" if pooling and pooling["class_name"] == "Activation" else "standard"
    return "small" if convolution["config"].get("kernel_size") == [3, 3] else "small_7x7"


def hidden_units_of(path):
    """Return the number of units of the layer 'hidden' in a detector or a .npz with a head; 0 if it has none."""
    if Path(path).suffix == ".npz":
        kernel = efficientnet_lite.read_npz(path).get(efficientnet_lite.HIDDEN[0])
        return 0 if kernel is None else int(kernel.shape[-1])
    layer = _find_layer(_model_config(path), "hidden")
    return layer["config"]["units"] if layer else 0


def load_files(model, paths):
    """Give a model the weights in a file, or the mean of the weights in several files.

    The mean of networks that were trained from the same weights is often better than each of them ("model soup", Wortsman
    et al. 2022, arXiv 2203.05482).

    Args:
        model: a Keras model.
        paths: weights files (.weights.h5, a .h5 with the same layers, or for an EfficientNet-Lite a .npz) or detectors (.h5).

    Raises:
        InputError: there is no such file, or its layers are not the model's.
    """
    sums = [np.zeros(weight.shape, np.float64) for weight in model.weights]
    for path in paths:
        for total, weight in zip(sums, _weights_in(path, model), strict=True):
            total += weight
    model.set_weights([(total / len(paths)).astype(np.float32) for total in sums])


def _weights_in(path, model):
    """Return the weights in a file as a list of arrays in the order of the model's; may change the model's own."""
    if not Path(path).is_file():
        raise InputError(f"--weights {path}: expected imagenet, none or weights files, found no file of that name; check the path")
    try:
        if Path(path).suffix == ".npz":
            efficientnet_lite.assign(model, efficientnet_lite.read_npz(path))
            return model.get_weights()
        if not is_detector(path):
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # Keras only warns of layers that find nothing in the file
                model.load_weights(path)
            return model.get_weights()
        architecture = model_file.read_metadata(path)["architecture"]
        if network_name(architecture) != model.name:
            raise ValueError(f"a detector of {architecture}")
        with undistributed():
            weights = without_test_time_flip(model_file.load(path)[0]).get_weights()
        if [tuple(mine.shape) for mine in model.weights] != [other.shape for other in weights]:
            raise ValueError("arrays of another number or shape, as of another stem or head")
        return weights
    except (ValueError, OSError, KeyError, UserWarning) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"--weights {path}: expected weights of {model.name}, found others ({reason}); choose its own") from None


def without_test_time_flip(model):
    """Return the network inside one of `with_test_time_flip`, without its last activation; any other network unchanged."""
    return (any(layer.name == FLIP_LAYER for layer in model.layers) and backbone_of(model)) or model
