import numpy as np
import pytest

from detector.console import InputError
from detector.model.backend import import_keras
from detector.model.weights import backbone_of
from detector.training.config import for_images, parse
from detector.training.networks import build_network, compile_network
from detector.training.schedules import Phase
from tests import tiny

IMAGES = np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 3)).astype(np.float32)
TARGETS = np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1, 0]]


def compiled(*options, architecture="tiny", phase=Phase(0, 1, 1e-2, 1e-2)):  # noqa: B008
    config = parse(["--architecture", architecture, "--image-size", "8", *options])
    model = build_network(config)
    compile_network(model, phase, config, 10)
    return model


def test_the_loss_is_the_smoothed_cross_entropy_of_the_probabilities_plus_the_penalty():
    model = compiled("--l2", "0.5", "--label-smoothing", "0.2")
    logs = np.log(model.predict(IMAGES, verbose=0))
    smoothed = -(logs * (0.8 * TARGETS + 0.1)).sum(axis=1).mean()
    penalty = 0.5 * float((np.asarray(model.layers[-1].kernel) ** 2).sum())
    found = model.evaluate(IMAGES, TARGETS, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(smoothed + penalty, rel=1e-4)
    assert found["cross_entropy"] == pytest.approx(-logs[TARGETS == 1].mean(), rel=1e-4)


def test_weight_decay_shrinks_only_kernels():
    model = compiled("--weight-decay", "0.5")
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    model.optimizer.apply([np.zeros(v.shape, np.float32) for v in model.trainable_variables], model.trainable_variables)
    for variable in model.trainable_variables:
        expected = 1 - 1e-2 * 0.5 if variable.name == "kernel" else 1
        assert np.asarray(variable) == pytest.approx(expected, rel=1e-6), variable.path


@pytest.mark.slow
def test_frozen_batch_norm_keeps_its_scales_and_averages(tmp_path):
    import_keras()
    weights = tmp_path / "b.weights.h5"
    tiny.make_backbone(8).save_weights(weights)
    for options, moves in (([], True), (["--freeze-batch-norm"], False)):
        model = compiled("--weights", str(weights), *options, architecture="tiny_backbone")
        convolution, norm = backbone_of(model).layers[1:3]
        before = [layer.get_weights() for layer in (convolution, norm)]
        model.train_on_batch(IMAGES, TARGETS)
        changed = [any((a != b).any() for a, b in zip(old, layer.get_weights(), strict=True))
                   for old, layer in zip(before, (convolution, norm), strict=True)]  # fmt: skip
        assert changed == [True, moves]


def test_a_size_that_a_network_cannot_be_built_for_is_refused():
    with pytest.raises(InputError, match=r"^--image-size 16: .*mobilenetv2"):
        build_network(parse(["--architecture", "mobilenetv2", "--weights", "none", "--image-size", "16"]))


def test_imagenet_weights_that_cannot_be_downloaded_are_refused(monkeypatch):
    keras = import_keras()

    def no_network(*_, **__):
        raise Exception("URL fetch failure on https://example.org/w.h5: None -- [Errno -2] Name or service not known")

    no_network.__module__ = keras.applications.MobileNetV2.__module__
    monkeypatch.setattr(keras.applications, "MobileNetV2", no_network)
    with pytest.raises(InputError, match=r"^--weights imagenet: .*Name or service not known"):
        build_network(parse(["--architecture", "mobilenetv2", "--image-size", "32"]))


@pytest.mark.slow
def test_resnet101_is_the_specified_network():
    config = for_images(parse(["--weights", "none"]), np.full((1, 2), 32))
    model = build_network(config)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["InputLayer", "Conv2D", "Functional", "GaussianNoise", "GlobalAveragePooling2D", "Dense", "Dropout", "Dense"]
    assert model.layers[3].stddev == 0.1 and model.layers[6].rate == 0.4
    assert model.layers[5].units == 1024 and float(model.layers[5].kernel_regularizer.l2) == pytest.approx(1e-3)
    assert not model.layers[1].trainable and model.layers[2].trainable
