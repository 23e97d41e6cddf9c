"""The networks that model_training.py can train. A further one is one function and one line in ARCHITECTURES.

Every network takes (n, s, s, 3) float32, RGB, 0-255, and holds its own normalisation. `weights` is 'imagenet', 'none' or a list
of weights files of the backbone, as `load_files` takes them. Keras is imported on use.
"""
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.console import InputError
from detector.model import file as model_file
from detector.model.backend import undistributed

SMALL_INPUT = 96  # pixels; below, --stem auto takes the small stem
STEMS = ("standard", "small")  # and 'small_7x7', which follows from pretrained weights
FLIP_LAYER = "mean_of_image_and_mirror_image"


def resnet101(image_size, weights, l2, stem="standard"):
    """Build ResNet101 with the head GaussianNoise(0.1), pooling, Dense(1024, L2), Dropout(0.4), softmax(2).

    Architecture: He et al. 2016 (arXiv 1512.03385), as keras.applications.ResNet101 without top.

    Args:
        image_size: side of the input, in pixels.
        weights: as in `backbone`.
        l2: penalty on the kernel of the head's hidden layer.
        stem: one of STEMS, as in `backbone`.
    """
    import keras
    from keras import layers, regularizers

    image = keras.Input((image_size, image_size, 3), name="image")
    x = backbone(keras.applications.ResNet101, image_size, weights, stem)(_caffe_normalisation(image))
    x = layers.GaussianNoise(0.1)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(1024, activation="relu", kernel_regularizer=regularizers.L2(l2))(x)
    x = layers.Dropout(0.4)(x)
    x = layers.Dense(2, activation="softmax", dtype="float32", name="verdict")(x)
    return keras.Model(image, x, name="resnet101")


def resnet50v2(image_size, weights, l2, stem="standard"):
    """Build AIvsReal's network: ResNet50V2 and a head that ends in sigmoid(1) = P(Real). `l2` is not used by it."""
    import keras
    from keras import layers

    image = keras.Input((image_size, image_size, 3), name="image")
    x = backbone(keras.applications.ResNet50V2, image_size, weights, stem)(layers.Rescaling(1 / 127.5, offset=-1)(image))
    x = layers.Dropout(0.25)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5)(x)
    x = layers.Dense(1, activation="sigmoid", dtype="float32", name="verdict")(x)
    return keras.Model(image, x, name="resnet50v2")


def compact(image_size, weights, l2):
    """Build a small residual network for native 32 px images: 1.2 million parameters, no early downsampling.

    Four stages of 32 to 256 channels with one residual block each; `weights` must be 'none'.
    """
    import keras
    from keras import layers, regularizers

    def convolution(x, channels, size=3, strides=1):
        x = layers.Conv2D(channels, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
        return layers.BatchNormalization(momentum=0.9)(x)  # Keras's 0.99 needs hundreds of steps: a small set has not so many

    def residual_block(x, channels, strides):
        y = layers.ReLU()(convolution(x, channels, strides=strides))
        y = convolution(y, channels)
        if strides != 1 or x.shape[-1] != channels:
            x = convolution(x, channels, size=1, strides=strides)
        return layers.ReLU()(layers.Add()([x, y]))

    if weights != "none":
        raise InputError(
            f"--weights {weights}: expected none or a file for compact, which nobody has trained on ImageNet; "
            "use --weights none"
        )
    image = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.ReLU()(convolution(x, 32))
    for channels, strides in [(32, 1), (64, 2), (128, 2), (256, 2)]:
        x = residual_block(x, channels, strides)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    x = layers.Dense(2, activation="softmax", kernel_regularizer=regularizers.L2(l2), dtype="float32", name="verdict")(x)
    return keras.Model(image, x, name="compact")


def mobilenetv2(image_size, weights, l2):
    """Build MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) with pooling, Dropout(0.2) and softmax(2)."""
    import keras
    from keras import layers, regularizers

    image = keras.Input((image_size, image_size, 3), name="image")
    x = backbone(keras.applications.MobileNetV2, image_size, weights)(layers.Rescaling(1 / 127.5, offset=-1)(image))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    x = layers.Dense(2, activation="softmax", kernel_regularizer=regularizers.L2(l2), dtype="float32", name="verdict")(x)
    return keras.Model(image, x, name="mobilenetv2")


def mobilenetv2_early(image_size, weights, l2):
    """Build the first blocks of MobileNetV2, to the expansion of block 3 (144 channels, a quarter of the input's side), with
    pooling, standardisation, Dropout(0.2) and softmax(2): textures, and hardly anything of what an image shows.

    Deeper features tell the images of one source apart better and carry over to other sources worse (docs/experiments_photos.md).
    A weights file is that of the whole backbone.
    """
    import keras
    from keras import layers, regularizers

    image = keras.Input((image_size, image_size, 3), name="image")
    whole = backbone(keras.applications.MobileNetV2, image_size, weights)
    early = keras.Model(whole.input, whole.get_layer("block_3_expand_relu").output, name="mobilenetv2_early_backbone")
    x = early(layers.Rescaling(1 / 127.5, offset=-1)(image))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.BatchNormalization(momentum=0.9, center=False, scale=False)(x)  # channels differ a hundredfold in their range
    x = layers.Dropout(0.2)(x)
    x = layers.Dense(2, activation="softmax", kernel_regularizer=regularizers.L2(l2), dtype="float32", name="verdict")(x)
    return keras.Model(image, x, name="mobilenetv2_early")


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and what it is trained with where nothing else is asked for.

    Attributes:
        build: function of image_size, weights, l2 and, where it has stems, stem.
        output: what the last layer gives, 'softmax' or 'sigmoid_real'.
        weights: 'imagenet' or 'none'.
        learning_rate: of the first step.
        stop_rule: one of training.StopTrainingOnValidationLoss.RULES.
        stop_patience: its patience.
        has_stems: whether there is a choice of stem.
        has_backbone: whether a part of it is a network of keras.applications, for which there are weights.
    """

    build: callable
    output: str = "softmax"
    weights: str = "imagenet"
    learning_rate: float = 1e-4
    stop_rule: str = "exceeds"
    stop_patience: int = 1
    has_stems: bool = False
    has_backbone: bool = True

ARCHITECTURES = {
    "resnet101": Architecture(resnet101, has_stems=True),
    "resnet50v2": Architecture(resnet50v2, "sigmoid_real", stop_rule="plateau", stop_patience=3, has_stems=True),
    "compact": Architecture(compact, weights="none", learning_rate=3e-3, has_backbone=False),
    "mobilenetv2": Architecture(mobilenetv2),
    "mobilenetv2_early": Architecture(mobilenetv2_early, learning_rate=3e-4),
}


def backbone(application, image_size, weights, stem="standard"):
    """Build a network of keras.applications without top.

    Args:
        application: such as keras.applications.ResNet101.
        image_size: side of the input, in pixels.
        weights: 'imagenet' (downloaded and cached by Keras), 'none', or a list of weights files.
        stem: 'standard', or 'small' or 'small_7x7', for which see `with_small_stem`.

    Raises:
        InputError: the download is impossible or the file does not fit.
    """
    arguments = {"include_top": False, "input_shape": (image_size, image_size, 3)}
    if weights == "imagenet":
        network = _with_imagenet_weights(application, arguments)
    else:
        network = application(weights=None, **arguments)
        if weights != "none":
            load_files(network, weights)
    return network if stem == "standard" else with_small_stem(network, weights != "none" or stem == "small_7x7")


def _with_imagenet_weights(application, arguments):
    try:
        return application(weights="imagenet", **arguments)
    except ValueError as error:
        application(weights=None, **arguments)  # raises the same where the input is too small
        raise InputError(
            f"--weights imagenet: expected to download them whole, but {' '.join(str(error).split())[:100]}; "
            "run the same command again, or give --weights FILE with a copy"
        ) from None
    except Exception as error:  # Keras raises a bare Exception where the download fails
        reason = str(error).split("--")[-1].strip()[:100]
        raise InputError(
            f"--weights imagenet: expected to download them, but {reason}; connect to the internet, "
            "give --weights FILE with a copy, or train from scratch with --weights none"
        ) from None


def with_small_stem(network, pretrained):
    """Return a ResNet of keras.applications that does not shrink a small image at once: stride 1 and no max-pool.

    At 32 px the standard stem leaves the last stage a map of one pixel, this one of four by four. From scratch the first
    convolution is 3x3 (He et al. 2016, section 4.2); with weights its 7x7 kernel is kept.
    """
    import keras
    from keras import layers

    def changed(layer):
        settings = layer.get_config()
        if layer.name == "conv1_pad" and not pretrained:
            settings["padding"] = ((1, 1), (1, 1))
        if layer.name == "conv1_conv":
            settings |= {"strides": (1, 1), "kernel_size": (7, 7) if pretrained else (3, 3)}
        if layer.name in ("pool1_pad", "pool1_pool"):
            return layers.Activation("linear", name=layer.name)
        return type(layer).from_config(settings)

    small = keras.models.clone_model(network, clone_function=changed)
    if pretrained:
        small.set_weights(network.get_weights())
    return small


def backbone_of(model):
    """Return the network of keras.applications inside a model, or None."""
    import keras

    return next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)


def is_detector(path):
    """Tell whether a file is a whole detector, as model_training.py writes it, and not the weights of a network."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "detector" in file.attrs
    except OSError:
        return False


def stem_of(path):
    """Return the stem of a detector with a ResNet: 'standard', 'small', or 'small_7x7'."""
    import h5py

    def first_convolution(part):
        if isinstance(part, dict):
            if part.get("class_name") == "Conv2D" and part["config"].get("name") == "conv1_conv":
                return part["config"]
            part = list(part.values())
        found = (first_convolution(inside) for inside in part) if isinstance(part, list) else ()
        return next((one for one in found if one), None)

    with h5py.File(path, "r") as file:
        settings = first_convolution(json.loads(file.attrs["model_config"])) or {}
    if settings.get("strides") != [1, 1]:
        return "standard"
    return "small" if settings.get("kernel_size") == [3, 3] else "small_7x7"


def load_files(model, paths):
    """Give a model the weights in some files, of several their mean.

    The mean of networks that were trained from the same weights is often better than each of them ("model soup", Wortsman
    et al. 2022, arXiv 2203.05482).

    Args:
        model: a Keras model.
        paths: list of names of weights files (.weights.h5, or a .h5 with the same layers) or detectors (.h5) of the same network.

    Raises:
        InputError: there is no such file, or its layers are not the model's.
    """
    sums = [np.zeros(weight.shape, np.float64) for weight in model.weights]
    for path in paths:
        for total, weight in zip(sums, _weights_in(path, model), strict=True):
            total += weight
    model.set_weights([(total / len(paths)).astype(np.float32) for total in sums])


def _weights_in(path, model):
    """Return the weights in a file as a list of arrays in the order of the model's; these may have changed then."""
    if not Path(path).is_file():
        raise InputError(f"--weights {path}: expected imagenet, none or a weights file, found nothing of that name; check the path")
    try:
        if not is_detector(path):
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # Keras only warns of layers that find nothing in the file
                model.load_weights(path)
            return model.get_weights()
        made_as = model_file.read_metadata(path)["architecture"]
        if made_as != model.name:
            raise ValueError(f"a detector of {made_as}")
        with undistributed():
            weights = without_test_time_flip(model_file.load(path)[0]).get_weights()
        shapes, others = [tuple(mine.shape) for mine in model.weights], [other.shape for other in weights]
        if shapes != others:
            different = sum(a != b for a, b in zip(shapes, others, strict=False))
            raise ValueError(f"{len(others)} arrays where it has {len(shapes)}, {different} of another shape")
        return weights
    except (ValueError, OSError, KeyError, UserWarning) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"--weights {path}: expected weights of {model.name}, found others ({reason}); "
            "choose its own file"
        ) from None


def with_test_time_flip(model):
    """Return a network that gives the mean of a trained one's logits for an image and for its mirror image.

    It has the same last activation, layers that every Keras loads, and takes twice as long. Of `model`, the last layer's activation
    is gone afterwards.
    """
    import keras
    from keras import layers

    last = model.layers[-1]
    last.activation, activation = keras.activations.linear, last.activation
    image = keras.Input(model.input_shape[1:], name="image")
    width = image.shape[2]
    mirror = layers.Dense(width, use_bias=False, trainable=False, dtype="float32", name="mirror_matrix")
    mirrored = layers.Permute((1, 3, 2), name="width_last")(image)
    mirrored = layers.Permute((1, 3, 2), name="mirrored")(mirror(mirrored))
    mirror.set_weights([np.eye(width, dtype=np.float32)[::-1]])
    logits = layers.Average(dtype="float32", name=FLIP_LAYER)([model(image), model(mirrored)])
    return keras.Model(image, layers.Activation(activation, dtype="float32", name="verdict")(logits), name=f"{model.name}_flip")


def without_test_time_flip(model):
    """Return the network inside one of `with_test_time_flip`, without its last activation; any other as it is."""
    return (any(layer.name == FLIP_LAYER for layer in model.layers) and backbone_of(model)) or model


def _caffe_normalisation(image):
    """Apply what ResNet's ImageNet weights were trained with, RGB to BGR minus the channel means, as a frozen 1x1 Conv2D.

    Bit-identical to keras.applications.resnet.preprocess_input, which does not survive saving inside a graph.
    """
    from keras import layers

    swap = layers.Conv2D(3, 1, name="rgb_to_bgr_minus_mean")
    normalised = swap(image)
    kernel = np.eye(3, dtype=np.float32)[::-1].reshape(1, 1, 3, 3)
    swap.set_weights([kernel, -np.array([103.939, 116.779, 123.68], np.float32)])
    swap.trainable = False
    return normalised
