import numpy as np
import pytest

from detector.console import InputError
from detector.model import architectures, backend, scores
from detector.model import file as model_file
from detector.model.architectures import ARCHITECTURES
from tests.conftest import ROOT


def test_resnets_normalisation_is_bit_identical_to_that_of_its_weights():
    keras = backend.import_keras()
    from detector.model.architectures import _caffe_normalisation

    image = keras.Input((4, 4, 3))
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)
    ours = keras.Model(image, _caffe_normalisation(image)).predict(images, verbose=0)
    assert (ours == keras.applications.resnet.preprocess_input(images.copy())).all()


@pytest.mark.parametrize("name, output", [("resnet50v2", (None, 1)), ("mobilenetv2", (None, 2))])
def test_the_other_architectures(name, output):
    backend.import_keras()
    assert ARCHITECTURES[name].build(32, "none", 1e-3).output_shape == output


def test_weights_from_a_file_are_really_loaded(tmp_path):
    keras = backend.import_keras()
    backbone = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    backbone.save_weights(tmp_path / "b.weights.h5")
    model = ARCHITECTURES["mobilenetv2"].build(32, [tmp_path / "b.weights.h5"], 1e-3)
    inside = next(layer for layer in model.layers if layer.name.startswith("mobilenetv2"))
    assert all((a == b).all() for a, b in zip(inside.get_weights(), backbone.get_weights(), strict=True))


def test_the_early_blocks_are_those_of_the_whole_backbone(tmp_path):
    keras = backend.import_keras()
    whole = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    whole.save_weights(tmp_path / "b.weights.h5")
    model = ARCHITECTURES["mobilenetv2_early"].build(32, [tmp_path / "b.weights.h5"], 1e-3)
    inside = architectures.backbone_of(model)
    assert inside.output.shape == (None, 8, 8, 144) and model.output_shape == (None, 2)
    assert model.count_params() < 25_000
    images = np.random.default_rng(0).normal(0, 1, (2, 32, 32, 3)).astype(np.float32)
    same = keras.Model(whole.input, whole.get_layer("block_3_expand_relu").output)
    assert (inside.predict(images, verbose=0) == same.predict(images, verbose=0)).all()
    metadata = {**model_file.read_metadata(ROOT / "models" / "compact.h5"), "architecture": "mobilenetv2_early"}
    model_file.save(model, tmp_path / "m.h5", metadata)
    again, _ = model_file.load(tmp_path / "m.h5")
    assert (again.predict(images, verbose=0) == model.predict(images, verbose=0)).all()


@pytest.mark.parametrize("name", ["ResNet50V2", "ResNet50"])
def test_the_small_stem_keeps_the_size_of_a_small_image(name):
    keras = backend.import_keras()
    application = getattr(keras.applications, name)
    network = architectures.backbone(application, 32, "none", "small")
    first = network.get_layer("conv1_conv")
    assert (first.kernel_size, first.strides) == ((3, 3), (1, 1))
    assert network.get_layer("pool1_pool").output.shape == (None, 32, 32, 64)
    assert network.output.shape == (None, 4, 4, 2048)
    assert architectures.backbone(application, 32, "none").output.shape == (None, 1, 1, 2048)


def test_the_small_stem_keeps_the_weights_of_a_pretrained_network(tmp_path):
    keras = backend.import_keras()
    standard = architectures.backbone(keras.applications.ResNet50V2, 32, "none")
    standard.save_weights(tmp_path / "r.weights.h5")
    small = architectures.backbone(keras.applications.ResNet50V2, 32, [tmp_path / "r.weights.h5"], "small")
    assert small.get_layer("conv1_conv").kernel_size == (7, 7) and small.output.shape == (None, 4, 4, 2048)
    assert all((a == b).all() for a, b in zip(small.get_weights(), standard.get_weights(), strict=True))
    images = np.random.default_rng(0).normal(0, 1, (1, 32, 32, 3)).astype(np.float32)
    first = keras.Model(small.input, small.get_layer("conv1_conv").output).predict(images, verbose=0)
    strided = keras.Model(standard.input, standard.get_layer("conv1_conv").output).predict(images, verbose=0)
    assert np.abs(first[:, ::2, ::2] - strided).max() < 1e-4  # the same features, twice as dense


def test_weights_that_do_not_fit_are_one_line(tmp_path):
    keras = backend.import_keras()
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(InputError, match=r"--weights .*other\.weights\.h5: expected weights of .*, found others \("):
        architectures.load_files(ARCHITECTURES["compact"].build(32, "none", 1e-3), [tmp_path / "other.weights.h5"])
    photo = ROOT / "models" / "photo.h5"
    with pytest.raises(InputError, match=r"photo\.h5: expected weights of compact, found others \(a detector of mobilenetv2"):
        architectures.load_files(ARCHITECTURES["compact"].build(32, "none", 1e-3), [photo])


def moved(seed):
    """Return a compact of which no two weights, moving averages among them, are as they are made."""
    model = ARCHITECTURES["compact"].build(32, "none", 1e-3)
    rng = np.random.default_rng(seed)
    model.set_weights([weight + rng.uniform(0.01, 0.1, weight.shape).astype(np.float32) for weight in model.get_weights()])
    return model


def test_of_several_files_the_mean_is_taken(tmp_path):
    metadata = model_file.read_metadata(ROOT / "models" / "compact.h5")
    some = [moved(0), moved(1), moved(2)]
    some[0].save_weights(tmp_path / "0.weights.h5")
    model_file.save(some[1], tmp_path / "1.h5", metadata)
    weights = [model.get_weights() for model in some]
    model_file.save(architectures.with_test_time_flip(some[2]), tmp_path / "2.h5", metadata)
    mean = ARCHITECTURES["compact"].build(32, "none", 1e-3)
    architectures.load_files(mean, [tmp_path / name for name in ("0.weights.h5", "1.h5", "2.h5")])
    for found, *three in zip(mean.get_weights(), *weights, strict=True):
        assert np.abs(found - sum(three) / 3).max() < 1e-6 and np.abs(found - three[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["compact", "resnet50v2"])
def test_with_test_time_flip_a_mirror_image_gets_the_same_score(tmp_path, name):
    model, output = ARCHITECTURES[name].build(32, "none", 1e-3), ARCHITECTURES[name].output
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    straight, mirrored = (backend.keras_logits(model, some, output) for some in (images, images[:, :, ::-1].copy()))
    assert np.abs(straight - mirrored).max() > 1e-4
    metadata = {**model_file.read_metadata(ROOT / "models" / "compact.h5"), "output": output, "architecture": name}
    model_file.save(architectures.with_test_time_flip(model), tmp_path / "m.h5", metadata)
    again, _ = model_file.load(tmp_path / "m.h5")
    for some in (images, images[:, :, ::-1].copy()):
        assert np.abs(backend.keras_logits(again, some, output) - (straight + mirrored) / 2).max() < 1e-4
    probabilities = again.predict(images.astype(np.float32), verbose=0)
    p_fake = probabilities[:, 0] if output == "softmax" else 1 - probabilities[:, 0]
    assert np.abs(p_fake - 1 / (1 + np.exp(-(straight + mirrored) / 2))).max() < 1e-5
    inside = architectures.without_test_time_flip(again)
    assert np.abs(scores.fake_logits(inside.predict(images.astype(np.float32), verbose=0), output) - straight).max() < 1e-4
