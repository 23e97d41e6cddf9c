import numpy as np
import pytest

from detector.console import InputError
from detector.model import architectures, backend, export, scores, weights
from detector.model import file as model_file
from detector.model.architectures import ARCHITECTURES
from detector.model.runtime import LiteRTDetector
from tests.model.test_file import METADATA

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def resnet():
    """ResNet50V2 at 32 px with random weights, as keras.applications builds it."""
    return architectures.backbone(backend.import_keras().applications.ResNet50V2, 32, "none")


def outputs_of(network, layer, images):
    return backend.import_keras().Model(network.input, network.get_layer(layer).output).predict(images, verbose=0)


def test_the_small_stem_keeps_the_size_of_a_small_image(resnet):
    small = architectures.with_stem(resnet, "small")
    assert small.get_layer("conv1_conv").kernel_size == (3, 3)
    assert small.get_layer("pool1_pool").output.shape == (None, 32, 32, 64)
    assert small.output.shape == (None, 4, 4, 2048) and resnet.output.shape == (None, 1, 1, 2048)


@pytest.mark.parametrize("stem, expected", [("small_7x7", (None, 4, 4, 2048)), ("medium", (None, 2, 2, 2048))])
def test_the_other_stems_keep_the_weights_of_a_pretrained_network(resnet, stem, expected):
    changed = architectures.with_stem(resnet, stem)
    assert changed.get_layer("conv1_conv").kernel_size == (7, 7) and changed.output.shape == expected
    assert all((a == b).all() for a, b in zip(changed.get_weights(), resnet.get_weights(), strict=True))
    images = np.random.default_rng(0).normal(0, 1, (1, 32, 32, 3)).astype(np.float32)
    step = 1 if stem == "medium" else 2  # the same features, with stride 1 twice as dense
    first, standard = (outputs_of(network, "conv1_conv", images) for network in (changed, resnet))
    assert np.abs(first[:, ::step, ::step] - standard).max() < 1e-4
    assert (outputs_of(changed, "pool1_pool", images) == first).all()


def test_resnet101_has_the_stem_asked_for_with_weights_from_a_file(resnet, tmp_path, monkeypatch):
    keras = backend.import_keras()
    monkeypatch.setattr(keras.applications, "ResNet101", keras.applications.ResNet50V2)  # the same layers in question, half as many
    resnet.save_weights(tmp_path / "r.weights.h5")
    model = ARCHITECTURES["resnet101"].build(32, [tmp_path / "r.weights.h5"], 1e-3, "medium")
    inside = weights.backbone_of(model)
    assert inside.output.shape == (None, 2, 2, 2048)
    assert all((a == b).all() for a, b in zip(inside.get_weights(), resnet.get_weights(), strict=True))
    model_file.save(model, tmp_path / "m.h5", {**METADATA, "architecture": "resnet101"})
    assert weights.stem_of(tmp_path / "m.h5") == "medium"


# --- networks of keras.applications --------------------------------------------------------------------------------------
def tiny_convnext(**given):
    from keras.src.applications.convnext import ConvNeXt

    return ConvNeXt(depths=(1, 1, 1, 1), projection_dims=(8, 8, 8, 8), name="tiny", **given)


def tiny_densenet(**given):
    from keras.src.applications.densenet import DenseNet

    return DenseNet([1, 1, 1, 1], name="tiny", **given)


def tiny_efficientnet(**given):
    from keras.src.applications.efficientnet import EfficientNet

    return EfficientNet(0.1, 0.1, 32, name="tiny", **given)


def tiny_mobilenet(**given):
    from keras.src.applications.mobilenet import MobileNet

    return MobileNet(alpha=0.125, **given)


def tiny_vgg(**given):
    """Not a VGG: a layer of each kind of InceptionResNetV2 and Xception, which have no small form, with VGG's normalisation."""
    import keras
    from keras import layers
    from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

    image = keras.Input(given["input_shape"])
    x = layers.SeparableConv2D(4, 3, padding="same", activation="relu")(image)
    y = layers.Conv2D(4, 3, padding="same")(x)
    return keras.Model(image, CustomScaleLayer(scale=0.17)([x, layers.Multiply()([x, y])]), name="tiny")


FAMILIES = {
    "ConvNeXtTiny": ("convnext", tiny_convnext), "DenseNet121": ("densenet", tiny_densenet), "VGG16": ("vgg16", tiny_vgg),
    "EfficientNetB0": ("efficientnet", tiny_efficientnet), "MobileNet": ("mobilenet", tiny_mobilenet),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_keras_applications_survives_saving_loading_and_exporting(name, tmp_path, monkeypatch):
    keras = backend.import_keras()
    family, build = FAMILIES[name]
    assert getattr(keras.applications, name).__module__ == f"keras.src.applications.{family}"
    monkeypatch.setattr(build, "__module__", f"keras.src.applications.{family}")
    monkeypatch.setattr(keras.applications, name, build)
    whole, rng = build(weights=None, include_top=False, input_shape=(32, 32, 3)), np.random.default_rng(0)
    whole.set_weights([weight + rng.uniform(0.05, 0.2, weight.shape) for weight in whole.get_weights()])  # LayerScale is 1e-6
    whole.save_weights(tmp_path / "b.weights.h5")
    model = architectures.find(f"keras:{name}").build(32, [tmp_path / "b.weights.h5"], 1e-3)
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    preprocess = getattr(keras.applications, family).preprocess_input  # of Keras itself
    features = whole.predict(preprocess(images.astype(np.float32)), verbose=0).mean(axis=(1, 2))
    kernel, bias = model.layers[-1].get_weights()
    expected = scores.fake_logits(features @ kernel + bias, "softmax")
    tolerance = 1e-4 * max(1, np.abs(features @ kernel).max())
    path = tmp_path / "m.h5"
    model_file.save(model, path, {**METADATA, "architecture": f"keras:{name}"})
    again, metadata = model_file.load(path)
    assert np.abs(backend.keras_logits(again, images, "softmax") - expected).max() < tolerance
    (tmp_path / "m.tflite").write_bytes(export._to_flatbuffer(again))
    exported = LiteRTDetector(path, metadata, tmp_path / "m.tflite")
    assert np.abs(exported.logits(images) - expected).max() < tolerance
    weights.load_files(model, [path])  # as --weights detector.h5


def test_a_network_that_keras_does_not_have_is_one_line():
    with pytest.raises(InputError, match=r"--architecture keras:ResNet102: .* ResNet101"):
        architectures.find("keras:ResNet102").build(32, "none", 1e-3)


def test_every_family_of_keras_has_a_normalisation():
    keras = backend.import_keras()
    builders = [getattr(keras.applications, name) for name in dir(keras.applications) if name[0].isupper()]
    assert {build.__module__.rsplit(".", 1)[-1] for build in builders} == set(architectures.NORMALISATIONS)
    image = keras.Input((2, 2, 3))
    images = np.random.default_rng(0).integers(0, 256, (2, 2, 2, 3)).astype(np.float32)
    for family, normalise in architectures.NORMALISATIONS.items():
        if normalise is not architectures._own_normalisation:
            ours = keras.Model(image, normalise(image)).predict_on_batch(images)
            difference = np.abs(ours - getattr(keras.applications, family).preprocess_input(images.copy())).max()
            assert difference == 0 if family == "resnet" else difference < 1e-5, family


@pytest.mark.parametrize("name", ["compact", "resnet50v2"])
def test_with_test_time_flip_a_mirror_image_gets_the_same_score(tmp_path, name):
    model, output = ARCHITECTURES[name].build(32, "none", 1e-3), ARCHITECTURES[name].output
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    straight, mirrored = (backend.keras_logits(model, some, output) for some in (images, images[:, :, ::-1].copy()))
    assert np.abs(straight - mirrored).max() > 1e-4
    model_file.save(architectures.with_test_time_flip(model), tmp_path / "m.h5", {**METADATA, "output": output})
    again, _ = model_file.load(tmp_path / "m.h5")
    for some in (images, images[:, :, ::-1].copy()):
        assert np.abs(backend.keras_logits(again, some, output) - (straight + mirrored) / 2).max() < 1e-4
    probabilities = again.predict(images.astype(np.float32), verbose=0)
    p_fake = probabilities[:, 0] if output == "softmax" else 1 - probabilities[:, 0]
    assert np.abs(p_fake - 1 / (1 + np.exp(-(straight + mirrored) / 2))).max() < 1e-5
    inside = weights.without_test_time_flip(again)
    assert np.abs(scores.fake_logits(inside.predict(images.astype(np.float32), verbose=0), output) - straight).max() < 1e-4
