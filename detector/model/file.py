"""The detector file (.h5): saving, loading, and the metadata.

The network takes (n, s, s, 3) float32, RGB, 0-255. The HDF5 attribute 'detector' holds its metadata, a JSON object, whose keys
docs/architecture.md lists. Format 1 had the names 'fitting' and 'seen' of RENAMED; such files load, with the new names.

The dataset 'train_digests', (n, 8) uint8, holds the first bytes of the SHA-256 of each train image. It shows whether an image
was trained on without the train images at hand.
"""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np

from detector.console import InputError
from detector.data.tree import CLASSES
from detector.files import atomic_write
from detector.images.pixels import VIEW_POSITIONS
from detector.model.backend import import_keras

FORMAT = 2
RENAMED = {"fitting": "preprocessing", "seen": "training_range"}  # format 1 -> 2
DIGEST_BYTES = 8  # of a train image's SHA-256: among 10^5 and 10^5 images, two that differ agree once in 10^9 models
MAX_IMAGE_SIZE = 4096  # pixels
LIMITS = ("fake", "real", "max_error", "real_called_fake_bound", "fake_called_real_bound")  # numbers of metadata["thresholds"]
PREPROCESSING = ("resize", "views")
OUTPUTS = ("softmax", "sigmoid_real")
# Only layers of Keras itself that the architectures consist of: a model from a stranger cannot bring code.
_LAYERS = {
    "Functional", "InputLayer", "Sequential", "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization",
    "Concatenate", "Conv2D", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "Flatten", "GaussianNoise",
    "GlobalAveragePooling2D", "LayerNormalization", "MaxPooling2D", "Multiply", "Normalization", "Permute", "ReLU",
    "Rescaling", "Reshape", "SeparableConv2D", "ZeroPadding2D",
}  # fmt: skip
_HELPERS = {
    "DTypePolicy", "GlorotUniform", "HeNormal", "L2", "Ones", "VarianceScaling", "Zeros", "__keras_tensor__", "__tensor__",
}  # fmt: skip


def save(model, path, metadata, train_digests=None):
    """Write a Keras model and its metadata to one .h5, atomically; without the optimizer.

    Args:
        train_digests: (n, DIGEST_BYTES) uint8, or None: the first bytes of the SHA-256 of each train image.

    Raises:
        InputError: the metadata are incomplete.
    """
    import h5py

    path = Path(path)
    check_metadata(metadata, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    check_room(path, model.variables)
    with atomic_write(path, suffix=".h5") as temporary:
        model.save(temporary, include_optimizer=False)
        with h5py.File(temporary, "r+") as file:
            file.attrs["detector"] = json.dumps(metadata)
            if train_digests is not None:
                file["train_digests"] = train_digests


def check_room(path, variables):
    """Raise OSError where the disk has no room for variables in a file. (HDF5 ends the process where a write fails.)"""
    needed = sum(np.prod(variable.shape, dtype=int) for variable in variables) * 4 + (8 << 20)
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))


def upgrade(metadata):
    """Return metadata with the names of the present format; of another format than 1, they are returned as they are."""
    if not isinstance(metadata, dict) or metadata.get("format") != 1:
        return metadata
    return {RENAMED.get(name, name): value for name, value in metadata.items()} | {"format": FORMAT}


def check_metadata(metadata, path):
    """Raise InputError unless `metadata` is a detector's metadata that this version understands."""
    found = metadata.get("format") if isinstance(metadata, dict) else type(metadata).__name__
    if found != FORMAT:
        raise InputError(f"{path}: expected a detector of format {FORMAT}, found {found}; train it again with model_training.py")
    if not _sound(metadata):
        found = "values that are missing or of another type or range"
        raise InputError(f"{path}: expected a detector's metadata, found {found}; train it again with model_training.py")


def _sound(metadata):
    """Tell whether all metadata are there and have the right types and ranges. (The file may come from a stranger.)"""

    def number(value, low, high):
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high

    def count(value, high):
        return isinstance(value, int) and number(value, 1, high)

    def views(kinds):  # that detector.images.pixels.views can cut
        known = isinstance(kinds, list) and kinds and set(kinds) <= set(VIEW_POSITIONS)
        return known and all(kinds.count(kind) <= len(places) for kind, places in VIEW_POSITIONS.items())

    try:
        limits, extent = metadata["thresholds"], metadata["training_range"]
        return (
            metadata["class_names"] == list(CLASSES)
            and metadata["output"] in OUTPUTS
            and metadata["preprocessing"] in PREPROCESSING
            and (metadata["preprocessing"] != "views" or views(metadata["views"]))
            and (metadata.get("view_weights") is None or len(metadata["view_weights"]) == len(metadata["views"]))
            and all(number(weight, 1e-3, 1e3) for weight in metadata.get("view_weights") or ())
            and count(metadata["image_size"], MAX_IMAGE_SIZE)
            and number(metadata["temperature"], 1e-3, 1e3)
            and all(number(limits[name], 0, 2) for name in LIMITS)
            and (not limits.get("groups") or all(number(limits["groups"][name]["worst_error"], 0, 1) for name in ("real", "fake")))
            and all(number(value, 0, 1e9) for name in ("shorter_side", "aspect") for value in extent[name])
            and len(extent["shorter_side"]) == len(extent["aspect"]) == 2
            and all(isinstance(metadata[name], str) for name in ("architecture", "trained_on"))
            and isinstance(metadata["made"], dict)
        )
    except (KeyError, TypeError):
        return False


def read_metadata(path):
    """Return the metadata in a .h5 as a dict, without loading the network.

    Raises:
        InputError: there is no such file, it is no HDF5 file, is cut off, or is no detector of this project.
    """
    import h5py

    check_is_hdf5(path)
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("detector")
            is_model = "model_config" in file.attrs
    except OSError:
        raise InputError(f"{path}: expected a whole HDF5 file, found a damaged or cut one; get or train it again") from None
    if text is None:
        came = "a Keras model without a detector's metadata" if is_model else "an HDF5 file that is no model"
        raise InputError(f"{path}: expected a detector that model_training.py saved, found {came}; train it with model_training.py")
    try:
        metadata = upgrade(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{path}: expected a detector's metadata as JSON, found something else; train it again") from None
    check_metadata(metadata, path)
    return metadata


def read_train_digests(path):
    """Return the digests of a detector's train images, (n, DIGEST_BYTES) uint8, or None for an older one that holds none.

    Raises:
        InputError: the file is no detector, or holds digests of another kind.
    """
    import h5py

    read_metadata(path)
    with h5py.File(path, "r") as file:
        digests = file.get("train_digests")
        if digests is None:
            return None
        stored = isinstance(digests, h5py.Dataset) and digests.nbytes <= os.path.getsize(path)  # packed, it could grow to any size
        if not stored or digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != DIGEST_BYTES:
            raise InputError(f"{path}: expected train_digests of (n, {DIGEST_BYTES}) uint8, found another kind; train it again")
        return digests[:]


def check_is_hdf5(path):
    """Raise InputError unless the file is there, is named .h5 and begins as an HDF5 file does.

    The name matters: Keras chooses by it how to load, and what was checked must be what is loaded.
    """
    path = Path(path)
    if not path.is_file():
        came = "a folder" if path.is_dir() else "nothing of that name"
        raise InputError(f"{path}: expected a model file (.h5), found {came}; train one with model_training.py or check the path")
    with path.open("rb") as file:
        if path.suffix != ".h5" or file.read(8) != b"\x89HDF\r\n\x1a\n":
            raise InputError(
                f"{path}: expected a model file (.h5) of model_training.py, found another kind of file; choose another"
            )


def load(path):
    """Load a detector's network for use or further training.

    Returns:
        (model, metadata): the Keras model, not compiled, and its metadata as a dict.

    Raises:
        InputError: as `read_metadata`, or a layer is not one of those that this project uses (a model must not bring code).
    """
    import h5py

    metadata = read_metadata(path)
    keras = import_keras()
    try:
        with h5py.File(path, "r") as file:
            _check_layers(json.loads(file.attrs["model_config"]), path)
        return keras.models.load_model(path, compile=False), metadata
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: expected a whole detector, found one that does not load ({reason}); train it again") from None


def _check_layers(config, path):
    """Raise InputError where a model's configuration names a class that no architecture of this project uses."""
    if isinstance(config, dict):
        name, module = config.get("class_name"), str(config.get("module") or "keras")
        foreign = config.get("registered_name") not in (None, name) or not (module == "keras" or module.startswith("keras."))
        if name is not None and (foreign or not isinstance(name, str) or name not in _LAYERS | _HELPERS):
            raise InputError(
                f"{path}: expected only layers of this project, found {name!r}; it could run code, so it is not loaded"
            )
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            _check_layers(part, path)
