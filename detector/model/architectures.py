"""The networks that model_training.py can train: those in ARCHITECTURES, and `keras:NAME`, any network of keras.applications.

Every network takes (n, s, s, 3) float32, RGB, 0-255, and holds its own normalisation. `weights` is 'imagenet', 'none' or a list
of weights files of the backbone, as `weights.load_files` takes them. A further network is one function and one line in
ARCHITECTURES. Keras is imported on use.
"""

import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detector.console import InputError
from detector.model import efficientnet_lite
from detector.model.weights import FLIP_LAYER, load_files, network_name

HIDDEN_UNITS = 256  # of the head of an EfficientNet-Lite
SMALL_INPUT = 96  # pixels; below, --stem auto takes the small stem
STEMS = ("standard", "medium", "small")  # and 'small_7x7', which follows from pretrained weights


def resnet101(image_size, weights, l2, stem="standard"):
    """Build ResNet101 (arXiv 1512.03385) with GaussianNoise(0.1), pooling, Dense(1024, L2), Dropout(0.4) and softmax(2).

    Args:
        image_size: side of the input, in pixels.
        weights, stem: as in `backbone`.
        l2: penalty on the kernel of the head's hidden layer.
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
    x = backbone(keras.applications.ResNet50V2, image_size, weights, stem)(_tf_normalisation(image))
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
    from keras import layers

    def convolution(x, channels, size=3, strides=1):
        x = layers.Conv2D(channels, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
        return layers.BatchNormalization(momentum=0.9)(x)  # Keras's 0.99 needs hundreds of steps, more than a small set has

    def residual_block(x, channels, strides):
        y = layers.ReLU()(convolution(x, channels, strides=strides))
        y = convolution(y, channels)
        if strides != 1 or x.shape[-1] != channels:
            x = convolution(x, channels, size=1, strides=strides)
        return layers.ReLU()(layers.Add()([x, y]))

    if weights != "none":
        raise InputError(f"--weights {weights}: expected none or a file for compact, which has no ImageNet weights")
    image = keras.Input((image_size, image_size, 3), name="image")
    x = layers.ReLU()(convolution(_tf_normalisation(image), 32))
    for channels, strides in [(32, 1), (64, 2), (128, 2), (256, 2)]:
        x = residual_block(x, channels, strides)
    return keras.Model(image, _head(layers.GlobalAveragePooling2D()(x), l2), name="compact")


def efficientnet(name, image_size, weights, l2, hidden_units=HIDDEN_UNITS):
    """Build the first blocks of an EfficientNet-Lite, one of efficientnet_lite.VARIANTS: the means of the channels of three of
    them, standardisation, a hidden layer of `hidden_units` (0: none), dropout and softmax(2).

    Weights files: a .npz as in detector.model.efficientnet_lite.assign, or a .weights.h5 that Keras wrote of the backbone.
    """
    import keras
    from keras import layers

    image = keras.Input((image_size, image_size, 3), name="image")
    high_pass = name.endswith(efficientnet_lite.HIGH_PASS)
    network = efficientnet_lite.backbone(name, None if high_pass else image_size)
    if weights == "imagenet":
        efficientnet_lite.assign(network, efficientnet_lite.imagenet_arrays(name))
    elif weights != "none":
        load_files(network, weights)
    scaled = layers.Rescaling(1 / 128, offset=-127 / 128)(image)
    x = network(scaled)
    if high_pass:
        x = layers.Concatenate(name="with_high_pass")([x, network(efficientnet_lite.high_pass(scaled))])
    x = layers.BatchNormalization(momentum=0.9, epsilon=efficientnet_lite.EPSILON, center=False, scale=False,
                                  name="standardisation")(x)  # fmt: skip
    if hidden_units:
        x = layers.Dense(hidden_units, activation="relu", name="hidden")(layers.Dropout(0.1)(x))
    return keras.Model(image, _head(x, l2, dropout=0.6 if hidden_units else 0.2), name=name)


def application(name, image_size, weights, l2, label=None):
    """Build a network of keras.applications by its name there, with pooling, Dropout(0.2) and softmax(2).

    Raises:
        InputError: keras.applications has no network of that name.
    """
    import keras
    from keras import layers

    builders = {one: build for one, build in vars(keras.applications).items() if one[0].isupper()}
    normalisation = name in builders and NORMALISATIONS.get(builders[name].__module__.rsplit(".", 1)[-1])
    if not normalisation:
        similar = ", ".join(difflib.get_close_matches(name, builders, 3, 0.3))
        raise InputError(f"--architecture {KERAS}{name}: expected a network of keras.applications (similar: {similar or 'none'})")
    image = keras.Input((image_size, image_size, 3), name="image")
    x = _with_core_layers(backbone(builders[name], image_size, weights))(normalisation(image))
    return keras.Model(image, _head(layers.GlobalAveragePooling2D()(x), l2), name=label or network_name(f"{KERAS}{name}"))


def _head(x, l2, dropout=0.2):
    """Apply dropout and a softmax(2) with an L2 penalty on its kernel."""
    from keras import layers, regularizers

    x = layers.Dropout(dropout)(x)
    return layers.Dense(2, activation="softmax", kernel_regularizer=regularizers.L2(l2), dtype="float32", name="verdict")(x)


@dataclass(frozen=True)
class Architecture:
    """A network: the function that builds it, and its default training settings.

    Attributes:
        build: function of image_size, weights, l2 and the `options`.
        output: what the last layer gives, 'softmax' or 'sigmoid_real'.
        has_backbone: whether a part of it is a network for which there are weights.
        options: which options of a TrainingConfig it has: 'stem' and 'hidden_units'.
    """

    build: Callable
    output: str = "softmax"
    weights: str = "imagenet"
    learning_rate: float = 1e-4
    stop_rule: str = "exceeds"
    stop_patience: int = 1
    has_backbone: bool = True
    options: tuple = ()


ARCHITECTURES = {
    "resnet101": Architecture(resnet101, options=("stem",)),
    "resnet50v2": Architecture(resnet50v2, "sigmoid_real", stop_rule="plateau", stop_patience=3, options=("stem",)),
    "compact": Architecture(compact, weights="none", learning_rate=3e-3, has_backbone=False),
    "mobilenetv2": Architecture(functools.partial(application, "MobileNetV2", label="mobilenetv2")),  # arXiv 1801.04381
} | {name: Architecture(functools.partial(efficientnet, name), options=("hidden_units",)) for name in efficientnet_lite.VARIANTS}
KERAS = "keras:"  # prefix of the name of a network of keras.applications


def find(name):
    """Return the Architecture of that name: one of ARCHITECTURES, or 'keras:' and the name of a network of keras.applications.

    Raises KeyError for another name. Whether keras.applications has a network shows when it is built.
    """
    if name.startswith(KERAS):
        return Architecture(functools.partial(application, name.removeprefix(KERAS)))
    return ARCHITECTURES[name]


def backbone(application, image_size, weights, stem="standard"):
    """Build a network of keras.applications, such as keras.applications.ResNet101, without top.

    Args:
        weights: 'imagenet' (downloaded and cached by Keras), 'none', or a list of weights files.
        stem: 'standard', or another, for which see `with_stem`.

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
    if stem == "small" and weights != "none":
        stem = "small_7x7"
    return network if stem == "standard" else with_stem(network, stem)


def _with_imagenet_weights(application, arguments):
    try:
        return application(weights="imagenet", **arguments)
    except Exception as error:  # Keras raises a bare Exception where the download fails, and ValueError where it is damaged
        if isinstance(error, ValueError):
            application(weights=None, **arguments)  # raises the same where the input is too small
        reason = " ".join(str(error).split("--")[-1].split())[:100]
        cure = "run the same command again, connected to the internet, give --weights FILE with a copy, or --weights none"
        raise InputError(f"--weights imagenet: expected to download them, but {reason}; {cure}") from None


def with_stem(network, stem):
    """Return a ResNet of keras.applications with another stem, for images that the standard stem would shrink too far.

    - 'small': a 3x3 convolution with stride 1 (He et al. 2016, section 4.2), no max-pooling. At 32 px the last stage has 4x4
      positions, with the standard stem one.
    - 'small_7x7': the same with the standard 7x7 kernel, so that the network's weights are kept.
    - 'medium': the standard stem without max-pooling: 2x2 positions at a quarter of the cost of 'small'; the weights are kept.
    """
    import keras
    from keras import layers

    def changed(layer):
        settings = layer.get_config()
        if layer.name == "conv1_pad" and stem == "small":
            settings["padding"] = ((1, 1), (1, 1))
        if layer.name == "conv1_conv" and stem != "medium":
            settings |= {"strides": (1, 1), "kernel_size": (3, 3) if stem == "small" else (7, 7)}
        if layer.name in ("pool1_pad", "pool1_pool"):
            return layers.Activation("linear", name=layer.name)
        return type(layer).from_config(settings)

    changed_network = keras.models.clone_model(network, clone_function=changed)
    if stem != "small":
        changed_network.set_weights(network.get_weights())
    return changed_network


def _with_core_layers(network):
    """Return a network of keras.applications without layers and operations of its own, which a .h5 cannot bring back."""
    import keras
    from keras import layers

    if not {type(layer).__name__ for layer in network.operations} & {"LayerScale", "CustomScaleLayer"}:
        return network

    def clone(layer):
        if type(layer).__name__ == "LayerScale":  # of ConvNeXt: a factor for each channel
            return layers.DepthwiseConv2D(1, use_bias=False, name=layer.name)
        if type(layer).__name__ == "CustomScaleLayer":  # of InceptionResNetV2: x + scale * y
            return layers.Rescaling(layer.scale, name=layer.name)
        if type(layer).__name__ == "Add":
            return layers.Add(name=layer.name)
        return type(layer).from_config(layer.get_config())

    def call(layer, *inputs, **more):
        if isinstance(layer, layers.Rescaling) and isinstance(inputs[0], list | tuple):
            return layers.Add(name=f"{layer.name}_sum")([inputs[0][0], layer(inputs[0][1])])
        if isinstance(layer, layers.Add) and len(inputs) == 2:
            return layer(list(inputs))
        return layer(*inputs, **more)

    core = keras.models.clone_model(network, clone_function=clone, call_function=call)
    arrays = zip(network.get_weights(), core.weights, strict=True)
    core.set_weights([array.reshape(weight.shape) for array, weight in arrays])
    return core


def with_test_time_flip(model):
    """Return a network that gives the mean of a trained one's logits for an image and for its mirror image, in twice the time.

    Of `model`, the last layer's activation is gone afterwards.
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


def _torch_normalisation(image):
    """Subtract ImageNet's channel means and divide by its standard deviations, as keras.applications' mode 'torch'."""
    from keras import layers

    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return layers.Normalization(mean=(255 * mean).tolist(), variance=((255 * deviation) ** 2).tolist())(image)


def _tf_normalisation(image):
    """Scale to -1 to 1."""
    from keras import layers

    return layers.Rescaling(1 / 127.5, offset=-1)(image)


def _own_normalisation(image):
    """Return the image unchanged: the network of keras.applications holds its own normalisation."""
    return image


NORMALISATIONS = {  # by module of keras.applications
    **dict.fromkeys(("resnet", "vgg16", "vgg19"), _caffe_normalisation),
    **dict.fromkeys(("convnext", "efficientnet", "efficientnet_v2", "mobilenet_v3"), _own_normalisation),
    **dict.fromkeys(("inception_resnet_v2", "inception_v3", "mobilenet", "mobilenet_v2", "nasnet", "resnet_v2", "xception"),
                    _tf_normalisation),
    "densenet": _torch_normalisation,
}  # fmt: skip
