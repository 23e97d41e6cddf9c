import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import model_training
from detector import files
from detector.data import tree as data_tree
from detector.model import export
from detector.model import file as model_file
from detector.model.architectures import ARCHITECTURES
from detector.model.backend import import_keras, keras_logits
from detector.model.scores import p_fake_of
from tests.conftest import ROOT, draw


def arguments(data, folder, *more):
    places = ["--data", str(data), "--output", str(folder / "d.h5"), "--log-dir", str(folder / "log")]
    return [*places, "--architecture", "compact", *more]


def test_what_a_run_leaves(trained, small_data):
    path, log = trained
    assert {file.name for file in log.iterdir()} >= {
        "history.csv", "architecture.txt", "loss.png", "accuracy.png", "precision.png", "recall.png", "auc.png", "f1.png",
    }  # fmt: skip
    assert not list(log.glob("*.weights.h5"))
    with (log / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2", "3", "4", "5", "6"]
    metadata = model_file.read_metadata(path)
    assert metadata["image_size"] == 32
    assert metadata["training_range"] == {"shorter_side": [32, 32], "aspect": [1.0, 1.0]}
    assert metadata["made"]["counts"] == {"train": {"Fake": 64, "Real": 64}, "validation": {"Fake": 32, "Real": 32}}
    assert metadata["made"]["arguments"]["epochs"] == 6
    assert metadata["made"]["arguments"]["data"] == small_data.name  # no folder of this machine goes into the file
    assert str(small_data.parent) not in json.dumps(metadata)
    assert metadata["thresholds"]["n_fake"] == 32
    losses = [float(row["val_loss"]) for row in history]
    assert metadata["made"]["best_epoch"] == losses.index(min(losses)) + 1


def test_the_loss_is_the_cross_entropy_of_the_probabilities_plus_the_penalty():
    keras = import_keras()
    model = ARCHITECTURES["compact"].build(32, "none", 0.5)
    model_training.compile_model(model, "softmax", model_training.Phase(0, 1, 1e-3, 1e-5), parsed(), 10)
    images = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3)).astype(np.float32)
    targets = np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1, 0]]
    by_hand = -np.log(model.predict(images, verbose=0)[targets == 1]).mean()
    penalty = 0.5 * float((np.asarray(model.layers[-1].kernel) ** 2).sum())
    found = model.evaluate(images, targets, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(by_hand + penalty, rel=1e-4)
    assert found["cross_entropy"] == pytest.approx(by_hand, rel=1e-4)
    assert keras.backend.backend() == "tensorflow"


def parsed(*more):
    return model_training.make_parser().parse_args([str(one) for one in more])


def rates(*more, epochs=4, steps=10, head_only=False):
    phase = model_training.Phase(0, epochs, 1e-2, 1e-4, head_only)
    schedule = model_training.make_schedule(phase, parsed(*more), steps)
    return np.array([float(schedule(step)) for step in range(epochs * steps + 1)])


def test_the_polynomial_rate_ends_where_it_should_by_the_formula():
    found = rates("--power", 3)
    assert found == pytest.approx((1e-2 - 1e-4) * (1 - np.arange(41) / 40) ** 3 + 1e-4, rel=1e-5)


def test_the_cosine_rate_rises_for_the_warm_up_and_falls_to_its_end():
    found = rates("--schedule", "cosine", "--warmup-epochs", 0.5)
    assert found[:6] == pytest.approx(np.arange(6) * 2e-3, abs=1e-8)
    wave = (1 + np.cos(np.pi * np.arange(36) / 35)) / 2
    assert found[5:] == pytest.approx(1e-4 + (1e-2 - 1e-4) * wave, rel=1e-4)
    assert rates("--schedule", "cosine")[0] == pytest.approx(1e-2)
    assert rates("--schedule", "cosine", head_only=True) == pytest.approx(rates(head_only=True))


def test_weight_decay_shrinks_kernels_alone():
    import_keras()
    model = ARCHITECTURES["compact"].build(32, "none", 0.0)
    phase = model_training.Phase(0, 1, 1e-2, 1e-2)
    model_training.compile_model(model, "softmax", phase, parsed("--weight-decay", 0.5), 10)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    model.optimizer.apply([np.zeros(v.shape, np.float32) for v in model.trainable_variables], model.trainable_variables)
    for variable in model.trainable_variables:
        expected = 1 - 1e-2 * 0.5 if variable.name == "kernel" else 1
        assert np.asarray(variable) == pytest.approx(expected, rel=1e-6), variable.path


def test_label_smoothing_spreads_the_target():
    import_keras()
    model = ARCHITECTURES["compact"].build(32, "none", 0.0)
    model_training.compile_model(model, "softmax", model_training.Phase(0, 1, 1e-3, 1e-5), parsed("--label-smoothing", 0.2), 10)
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    targets = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]
    by_hand = -(np.log(model.predict(images, verbose=0)) * (0.8 * targets + 0.1)).sum(axis=1).mean()
    assert model.evaluate(images, targets, verbose=0, return_dict=True)["loss"] == pytest.approx(by_hand, rel=1e-4)


def test_a_warm_up_without_the_cosine_is_refused(small_data, tmp_path, run):
    code, _, err = run(model_training.main, *arguments(small_data, tmp_path, "--warmup-epochs", "1"))
    assert (code, err) == (1, "error: --warmup-epochs 1: expected --schedule cosine, found polynomial; leave it out\n")


def test_the_same_seed_gives_the_same_history(small_data, tmp_path):
    histories = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        model_training.main(arguments(small_data, tmp_path / name, "--epochs", "2", "--batch-size", "16", "--damage", "0.3"))
        histories.append((tmp_path / name / "log" / "history.csv").read_text())
    assert histories[0] == histories[1]


def test_resnet101_is_the_specified_network(small_data, tmp_path, run):
    code, out, err = run(
        model_training.main, "--data", small_data, "--output", tmp_path / "r.h5", "--log-dir", tmp_path / "log",
        "--architecture", "resnet101", "--weights", "none", "--epochs", "0",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "no epoch was trained" in out
    model, _ = model_file.load(tmp_path / "r.h5")
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["InputLayer", "Conv2D", "Functional", "GaussianNoise", "GlobalAveragePooling2D", "Dense", "Dropout", "Dense"]
    assert model.layers[3].stddev == 0.1 and model.layers[6].rate == 0.4
    assert model.layers[5].units == 1024 and float(model.layers[5].kernel_regularizer.l2) == pytest.approx(1e-3)
    assert not model.layers[1].trainable and model.layers[2].trainable


def test_the_file_holds_the_weights_of_the_best_epoch(small_data, tmp_path, run, monkeypatch):
    from detector.training import batches, dataset
    from detector.training.callbacks import StopTrainingOnValidationLoss

    whole = StopTrainingOnValidationLoss.on_epoch_end
    monkeypatch.setattr(  # the second epoch is made the best
        StopTrainingOnValidationLoss, "on_epoch_end",
        lambda self, epoch, logs: whole(self, epoch, {**logs, "val_loss": logs["val_loss"] - 100 * (epoch == 1)}),
    )  # fmt: skip
    more = ["--epochs", "4", "--batch-size", "16", "--stop-rule", "never"]
    assert run(model_training.main, *arguments(small_data, tmp_path, *more))[0] == 0
    with (tmp_path / "log" / "history.csv").open() as file:
        losses = [float(row["val_cross_entropy"]) for row in csv.DictReader(file)]
    model, metadata = model_file.load(tmp_path / "d.h5")
    assert metadata["made"]["best_epoch"] == 2
    paths, labels = data_tree.read_tree(small_data, ("validation",))["validation"]
    images = dataset.Decoded(dataset.look_at(small_data, "validation", paths, labels), 32)
    is_fake, logits = model_training.score_validation(model, batches.ImageFeed(images, "softmax", 16))
    found = np.logaddexp(0, np.where(is_fake, -logits, logits)).mean()
    assert found == pytest.approx(losses[1], rel=1e-4)
    assert found != pytest.approx(losses[-1], rel=1e-2)


def test_saving_and_loading_keeps_the_scores(tmp_path):
    model = ARCHITECTURES["resnet50v2"].build(32, "none", 1e-3)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    metadata = {**model_file.read_metadata(ROOT / "models" / "compact.h5"), "output": "sigmoid_real", "architecture": "resnet50v2"}
    model_file.save(model, tmp_path / "r.h5", metadata)
    again, _ = model_file.load(tmp_path / "r.h5")
    one, other = (keras_logits(m, images, "sigmoid_real") for m in (model, again))
    assert one.tolist() == other.tolist() and len(set(one)) == 2


def test_bad_input_is_one_line(tmp_path, run, small_data, make_tree):
    log = ["--log-dir", tmp_path / "log", "--output", tmp_path / "x.h5", "--architecture", "compact"]
    nowhere = tmp_path / "nowhere"
    assert run(model_training.main, "--data", nowhere, *log) == (
        1, "", f"error: {nowhere}: expected a folder with train, validation and test, found nothing of that name; check the path\n"
    )  # fmt: skip
    one_class = make_tree(tmp_path / "one", {"train/Fake": 3, "validation/Fake": 2})
    assert run(model_training.main, "--data", one_class, *log) == (
        1, "", f"error: {one_class / 'train/Real'}: expected images of class Real, found no such folder; run data_split.py first\n"
    )  # fmt: skip
    code, _, err = run(model_training.main, "--data", small_data, *log, "--weights", tmp_path / "none.h5")
    assert (code, err) == (1, f"error: --weights {tmp_path / 'none.h5'}: expected imagenet, none or a weights file, "
                              "found nothing of that name; check the path\n")  # fmt: skip
    code, _, err = run(model_training.main, "--data", small_data, *log, "--weights", "imagenet")
    assert (code, err) == (1, "error: --weights imagenet: expected none or a file for compact, which nobody has trained on "
                              "ImageNet; use --weights none\n")  # fmt: skip
    assert not (tmp_path / "x.h5").exists()


def test_nothing_is_overwritten_unasked(tmp_path, run, small_data):
    (tmp_path / "d.h5").write_text("mine")
    short = arguments(small_data, tmp_path, "--epochs", "0")
    assert run(model_training.main, *short) == (
        1, "", f"error: {tmp_path / 'd.h5'}: a model is there already; give another --output, or --overwrite\n"
    )  # fmt: skip
    assert (tmp_path / "d.h5").read_text() == "mine"
    log = tmp_path / "log"
    log.mkdir()
    (log / "state.json").write_text(json.dumps({"metadata": {"--epochs": "7"}}))
    code, _, err = run(model_training.main, *short)
    assert code == 1
    assert err.startswith(f"error: {log}: expected the checkpoint of this run, found one that differs in --arch")
    assert err.endswith("run its command again, give another --log-dir, or start anew with --overwrite\n")
    assert run(model_training.main, *short, "--overwrite")[0] == 0
    assert (tmp_path / "d.h5").read_bytes()[:4] == b"\x89HDF"
    other = ["--log-dir", log, "--output", tmp_path / "e.h5", "--architecture", "compact", "--epochs", "1", "--batch-size", "64"]
    assert run(model_training.main, "--data", small_data, *other)[0] == 0
    again = ["--log-dir", log, "--output", tmp_path / "f.h5", "--architecture", "compact"]
    assert run(model_training.main, "--data", small_data, *again) == (
        1, "", f"error: {log}: the history of another run is there; give another --log-dir, or --overwrite\n"
    )  # fmt: skip


def test_files_of_the_user_in_the_folder_are_left_alone(tmp_path, run, small_data):
    log = tmp_path / "log"
    log.mkdir()
    mine = log / "imagenet.weights.h5"
    mine.write_text("mine")
    assert run(model_training.main, *arguments(small_data, tmp_path, "--epochs", "0", "--overwrite"))[0] == 0
    assert mine.read_text() == "mine"
    (log / "state.json").write_text("also mine")
    code, _, err = run(model_training.main, *arguments(small_data, tmp_path, "--epochs", "0"))
    assert (code, err) == (
        1, f"error: {log / 'state.json'}: expected a checkpoint of this script, found another file; give another --log-dir\n"
    )  # fmt: skip
    assert (log / "state.json").read_text() == "also mine"


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_interrupted_run_says_so_and_goes_on(epoch, tmp_path, run, small_data, monkeypatch):
    from detector.training.callbacks import Checkpoint

    whole = Checkpoint.on_epoch_end

    def interrupted(self, at, logs=None):
        if at == epoch:
            raise KeyboardInterrupt
        whole(self, at, logs)

    monkeypatch.setattr(Checkpoint, "on_epoch_end", interrupted)
    command = arguments(small_data, tmp_path, "--epochs", "3", "--batch-size", "32", "--stop-after-epoch", "3")
    code, _, err = run(model_training.main, *command)
    assert (code, err) == (1, "error: interrupted; run the same command again to finish it\n")
    assert (tmp_path / "d.h5").exists() == (epoch > 0)  # after an epoch, the best so far is saved
    monkeypatch.undo()
    code, out, _ = run(model_training.main, *command)
    assert code == 0
    assert ("taking up the run in" in out) == (epoch > 0)
    assert model_file.read_metadata(tmp_path / "d.h5")["made"]["epochs_run"] == 3


def test_ctrl_c_is_not_lost_in_a_library(tmp_path, run, small_data, monkeypatch):
    from detector.training.callbacks import Checkpoint, Interruption

    steps = []

    def interrupted(self, batch, logs=None):
        steps.append(batch)
        if len(steps) == 6:  # the second of epoch 2
            with contextlib.suppress(KeyboardInterrupt):  # as C code does that calls Python
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoint, "on_train_batch_begin", interrupted)
    command = arguments(small_data, tmp_path, "--epochs", "3", "--batch-size", "32", "--stop-after-epoch", "3")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background, it is ignored
    try:
        code, _, err = run(model_training.main, *command)
        with pytest.raises(KeyboardInterrupt), Interruption().heard():  # where no step follows
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, err, steps[-1], len(steps)) == (1, "error: interrupted; run the same command again to finish it\n", 1, 6)
    assert model_file.read_metadata(tmp_path / "d.h5")["made"]["epochs_run"] == 1


@pytest.mark.parametrize("option, value, said", [
    ("--max-error", "0.5", "expected a number from 0 to below 0.5, found 0.5"),
    ("--learning-rate", "0", "expected a number above 0, found 0"),
    ("--seed", "-1", "expected a whole number from 0 to 4294967295, found -1"),
    ("--image-size", "0", "expected a whole number from 1 to 4096, found 0"),
])  # fmt: skip
def test_arguments_out_of_range_are_a_usage_error(option, value, said, tmp_path, run, small_data):
    code, _, err = run(model_training.main, *arguments(small_data, tmp_path, option, value))
    assert code == 2 and err.endswith(f"argument {option}: {said}\n")


def test_a_size_that_a_network_cannot_be_built_for_is_one_line(tmp_path, run, small_data):
    code, _, err = run(model_training.main, "--data", small_data, "--output", tmp_path / "x.h5", "--log-dir", tmp_path / "log",
                       "--architecture", "mobilenetv2", "--weights", "none", "--image-size", "16")  # fmt: skip
    assert code == 1
    assert err.startswith("error: --image-size 16: expected a size that mobilenetv2 can be built for (")


def test_imagenet_weights_that_cannot_be_had_are_one_line(tmp_path, run, small_data, monkeypatch):
    keras = import_keras()

    def no_network(*_, **__):
        raise Exception("URL fetch failure on https://example.org/w.h5: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(keras.applications, "MobileNetV2", no_network)
    code, _, err = run(model_training.main, "--data", small_data, "--output", tmp_path / "x.h5", "--log-dir", tmp_path / "log",
                       "--architecture", "mobilenetv2")  # fmt: skip
    assert (code, err) == (
        1, "error: --weights imagenet: expected to download them, but [Errno -2] Name or service not known; connect to the "
           "internet, give --weights FILE with a copy, or train from scratch with --weights none\n"
    )  # fmt: skip


def test_an_image_that_cannot_be_read_is_left_out_and_told(tmp_path, run, make_tree):
    data = make_tree(tmp_path / "data", {"train/Fake": 8, "train/Real": 8, "validation/Fake": 8, "validation/Real": 8})
    (data / "train/Fake/broken.jpg").write_bytes((data / "train/Fake/0.jpg").read_bytes()[:200])
    code, out, err = run(model_training.main, *arguments(data, tmp_path, "--epochs", "1", "--batch-size", "4"))
    assert (code, err) == (0, "")
    assert f"not read: {data / 'train/Fake/broken.jpg'}: expected " in out
    assert "1 image could not be read and were left out" in out


def numbers(folder):
    with (folder / "log" / "history.csv").open() as file:
        return np.array([[float(value) for value in row.values()] for row in csv.DictReader(file)])


def weights(folder):
    return model_file.load(folder / "d.h5")[0].get_weights()


def same_run(one, other):
    assert numbers(one) == pytest.approx(numbers(other), rel=1e-4)
    assert max(np.abs(a - b).max() for a, b in zip(weights(one), weights(other), strict=True)) < 1e-4


def command(data, folder, *more):
    folder.mkdir(exist_ok=True)
    return [sys.executable, str(ROOT / "model_training.py"), *arguments(data, folder, *more)]


def killed_when(process, state, done):
    """Kill a training process as soon as its checkpoint is as `done` wants it."""
    while not (state.exists() and done(json.loads(state.read_text()))):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()


def without_tensorflow(folder):
    """Return an environment in which Keras runs on JAX and TensorFlow cannot be imported."""
    (folder / "tensorflow.py").write_text("raise ModuleNotFoundError('No module named tensorflow', name='tensorflow')\n")
    return {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(folder)}


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_killed_within_an_epoch_it_goes_on_there_and_ends_the_same(backend, small_data, tmp_path):
    environment = None
    if backend == "jax":
        pytest.importorskip("jax")
        environment = without_tensorflow(tmp_path)
    more = ["--epochs", "2", "--batch-size", "2", "--stop-rule", "never", "--flip", "--damage", "0.5"]
    more += ["--checkpoint-minutes", "3e-3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(small_data, whole, *more), check=True, capture_output=True, env=environment)
    process = subprocess.Popen(
        command(small_data, killed, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    killed_when(process, killed / "log" / "state.json", lambda state: state["step"] > 5 and len(state["history"]) == 1)
    again = subprocess.run(command(small_data, killed, *more), check=True, capture_output=True, text=True, env=environment)
    assert re.search(r"taking up the run in .* after 1 epoch and \d+ steps", again.stdout)
    same_run(killed, whole)


def test_trained_on_jax_without_tensorflow_it_scores_the_same_on_tensorflow(small_data, tmp_path):
    pytest.importorskip("jax")
    environment, folder = without_tensorflow(tmp_path), tmp_path / "jax"
    more = ["--epochs", "2", "--batch-size", "16"]
    subprocess.run(command(small_data, folder, *more), check=True, capture_output=True, env=environment)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import numpy as np; from detector.model import backend, file as m\n"
        "model, metadata = m.load(sys.argv[2]); import keras; assert keras.backend.backend() == 'jax'\n"
        "print(backend.keras_logits(model, np.load(sys.argv[3]), metadata['output']).tolist())"
    )
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    given = [sys.executable, "-c", code, str(ROOT), str(folder / "d.h5"), str(tmp_path / "images.npy")]
    there = subprocess.run(given, check=True, capture_output=True, text=True, env=environment)
    model, metadata = model_file.load(folder / "d.h5")
    here = keras_logits(model, images, metadata["output"])
    assert metadata["made"]["versions"]["jax"]
    assert p_fake_of(here, 1) == pytest.approx(p_fake_of(json.loads(there.stdout), 1), abs=1e-5)


@pytest.fixture(scope="module")
def mobilenet_weights(tmp_path_factory):
    keras = import_keras()
    path = tmp_path_factory.mktemp("weights") / "m.weights.h5"
    keras.utils.set_random_seed(0)
    keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(path)
    return path


def test_the_head_is_trained_first_and_then_all_layers(small_data, tmp_path, mobilenet_weights, monkeypatch):
    trained = []
    whole = model_training.train

    def spied(model, feed, validation, callbacks, first, end, step):
        backbone = next(layer for layer in model.layers if layer.name.startswith("mobilenetv2"))
        before = [weight.copy() for weight in backbone.get_weights()]
        rate = float(model.optimizer.learning_rate)
        whole(model, feed, validation, callbacks, first, end, step)
        moved = any((a != b).any() for a, b in zip(before, backbone.get_weights(), strict=True))
        trained.append((first, end, moved, round(rate, 6)))

    monkeypatch.setattr(model_training, "train", spied)
    places = ["--data", str(small_data), "--output", str(tmp_path / "d.h5"), "--log-dir", str(tmp_path / "log")]
    more = ["--architecture", "mobilenetv2", "--weights", str(mobilenet_weights), "--stop-rule", "never", "--batch-size", "32"]
    model_training.main([*places, *more, "--head-epochs", "2", "--epochs", "1", "--learning-rate", "5e-4"])
    assert trained == [(0, 2, False, 0.001), (2, 3, True, 0.0005)]
    metadata = model_file.read_metadata(tmp_path / "d.h5")
    assert metadata["made"]["epochs_run"] == 3
    assert metadata["made"]["arguments"]["head_epochs"] == 2


def test_a_run_killed_between_its_two_phases_ends_the_same(small_data, tmp_path, mobilenet_weights):
    more = ["--architecture", "mobilenetv2", "--weights", str(mobilenet_weights), "--head-epochs", "1", "--epochs", "2"]
    more += ["--batch-size", "32", "--stop-rule", "never"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(small_data, whole, *more), check=True, capture_output=True)
    process = subprocess.Popen(command(small_data, killed, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed_when(process, killed / "log" / "state.json", lambda state: len(state["history"]) >= 1)
    again = subprocess.run(command(small_data, killed, *more), check=True, capture_output=True, text=True)
    assert "taking up the run in" in again.stdout
    same_run(killed, whole)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_what_was_trained_in_16_bits_is_saved_in_32(precision, small_data, tmp_path, run):
    code, _, err = run(model_training.main, *arguments(small_data, tmp_path, "--epochs", "1", "--mixed-precision", precision))
    assert (code, err) == (0, "")
    model, metadata = model_file.load(tmp_path / "d.h5")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert metadata["made"]["arguments"]["mixed_precision"] == precision
    assert import_keras().config.dtype_policy().name == "float32"  # nothing is left behind for the next one


def test_a_changed_data_set_is_not_gone_on_with(small_data, tmp_path, run):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    more = arguments(data, tmp_path, "--epochs", "1", "--batch-size", "32")
    log = tmp_path / "log"
    log.mkdir()
    assert run(model_training.main, *more)[0] == 0
    metadata = model_file.read_metadata(tmp_path / "d.h5")["made"]
    state = {"metadata": {"the images": metadata["data_fingerprint"]}, "step": 0, "history": [], "rule": {}}
    (log / "state.json").write_text(json.dumps(state))
    draw("another").save(data / "train/Fake/0.png")
    code, _, err = run(model_training.main, *more)
    assert code == 1
    assert re.match(rf"error: {log}: expected the checkpoint of this run, found one that differs in .*the images; run its", err)


def test_the_model_file_knows_the_train_images(small_data, trained):
    import h5py

    with h5py.File(trained[0]) as file:
        kept = {row.tobytes() for row in file["train_digests"][:]}
    own = {bytes.fromhex(files.digest_of(path))[: model_file.DIGEST_BYTES] for path in (small_data / "train").rglob("*.png")}
    assert kept == own and len(own) == 128


def test_memory_that_runs_out_is_one_line(small_data, tmp_path, run, monkeypatch):
    keras = import_keras()

    def fit(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes")

    monkeypatch.setattr(keras.Model, "fit", fit)
    assert run(model_training.main, *arguments(small_data, tmp_path, "--epochs", "1"))[::2] == (
        1, "error: memory ran out; run the same command with a smaller --batch-size or --image-size\n"
    )  # fmt: skip


def test_the_mean_of_trained_detectors_with_test_time_flip(trained, small_data, tmp_path, run):
    one, _ = model_file.load(trained[0])
    other = ARCHITECTURES["compact"].build(32, "none", 1e-3)
    model_file.save(other, tmp_path / "other.h5", model_file.read_metadata(trained[0]))
    mean = [(a + b) / 2 for a, b in zip(one.get_weights(), other.get_weights(), strict=True)]
    more = ["--weights", trained[0], tmp_path / "other.h5", "--epochs", "0", "--test-time-flip"]
    assert run(model_training.main, *arguments(small_data, tmp_path, *more))[::2] == (0, "")
    made, metadata = model_file.load(tmp_path / "d.h5")
    assert metadata["made"]["arguments"]["weights"] == [trained[0].name, "other.h5"]
    other.set_weights(mean)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    straight, mirrored = (keras_logits(other, some, "softmax") for some in (images, images[:, :, ::-1].copy()))
    assert np.abs(keras_logits(made, images, "softmax") - (straight + mirrored) / 2).max() < 1e-3
    # such a file is where training can go on from, as any other
    again = ["--data", small_data, "--output", tmp_path / "e.h5", "--log-dir", tmp_path / "again", "--architecture", "compact"]
    assert run(model_training.main, *again, "--weights", tmp_path / "d.h5", "--epochs", "0")[::2] == (0, "")
    inside = model_file.load(tmp_path / "e.h5")[0].get_weights()
    assert all(np.abs(a - b).max() < 1e-6 for a, b in zip(inside, mean, strict=True))


def test_a_detector_gives_the_head_too(small_data, tmp_path, run):
    model = ARCHITECTURES["mobilenetv2"].build(32, "none", 1e-3)
    metadata = {**model_file.read_metadata(ROOT / "models" / "compact.h5"), "architecture": "mobilenetv2"}
    model_file.save(model, tmp_path / "before.h5", metadata)
    more = ["--architecture", "mobilenetv2", "--image-size", "32", "--weights", tmp_path / "before.h5", "--epochs", "0"]
    places = ["--data", small_data, "--output", tmp_path / "d.h5", "--log-dir", tmp_path / "log"]
    assert run(model_training.main, *places, *more)[::2] == (0, "")
    after, metadata = model_file.load(tmp_path / "d.h5")
    assert all((a == b).all() for a, b in zip(model.get_weights(), after.get_weights(), strict=True))
    assert metadata["made"]["arguments"]["head_epochs"] == 0


def test_what_was_seen_before_is_known_and_told(trained, small_data, make_tree, tmp_path, run):
    # what was validation to the first detector is train now, and half of its train images are validation
    data = make_tree(tmp_path / "data", {"train/Fake": 4, "train/Real": 4, "validation/Fake": 0, "validation/Real": 0}, ".png")
    for name in data_tree.CLASSES:
        for file in sorted((small_data / "train" / name).iterdir())[:32]:
            shutil.copy(file, data / "validation" / name / f"seen-{file.name}")
    more = ["--weights", trained[0], "--epochs", "1", "--image-size", "32"]
    code, out, err = run(model_training.main, *arguments(data, tmp_path, *more))
    assert (code, err) == (0, "")
    assert (
        f"warning: {trained[0]} was trained on 64 images of these validation images: what is fitted on them, temperature, "
        "thresholds and the best epoch, will look better than it is\n"
    ) in out
    metadata, before = model_file.read_metadata(tmp_path / "d.h5"), model_file.read_metadata(trained[0])
    assert metadata["made"]["started_from"] == [
        {"name": trained[0].name, "sha256": files.digest_of(trained[0]), "trained_on": before["trained_on"]}
    ]
    assert metadata["trained_on"] == (
        f"the images of data: 4 Fake and 4 Real images with a shorter side of 32 pixels; before that: {before['trained_on']}"
    )
    images = [*(small_data / "train").rglob("*.png"), *(data / "train").rglob("*.png")]
    own = {bytes.fromhex(files.digest_of(path))[: model_file.DIGEST_BYTES] for path in images}
    assert set(map(bytes, model_file.read_train_digests(tmp_path / "d.h5"))) == own and len(own) == 128 + 8


def test_without_digests_of_what_it_started_from_a_detector_has_none(trained, small_data, tmp_path, run):
    model, metadata = model_file.load(trained[0])
    model_file.save(model, tmp_path / "older.h5", metadata)
    more = ["--weights", trained[0], tmp_path / "older.h5", "--epochs", "0"]
    code, out, _ = run(model_training.main, *arguments(small_data, tmp_path, *more))
    assert code == 0 and "warning" not in out
    assert model_file.read_train_digests(tmp_path / "d.h5") is None  # a part would pass for all


@pytest.mark.parametrize("stem", ["standard", "small", "small_7x7"])
def test_a_resnets_detector_given_back_keeps_its_stem(stem, small_data, tmp_path, run):
    model = ARCHITECTURES["resnet50v2"].build(32, "none", 0.0, stem=stem)
    metadata = model_file.read_metadata(ROOT / "models" / "compact.h5") | {"architecture": "resnet50v2", "output": "sigmoid_real"}
    model_file.save(model, tmp_path / "before.h5", metadata)
    more = ["--architecture", "resnet50v2", "--image-size", "32", "--weights", tmp_path / "before.h5", "--epochs", "0"]
    places = ["--data", small_data, "--output", tmp_path / "d.h5", "--log-dir", tmp_path / "log"]
    other = "small" if stem == "standard" else "standard"
    assert run(model_training.main, *places, *more, "--stem", other)[::2] == (
        1, f"error: --stem {other}: expected that of {tmp_path / 'before.h5'}, {stem.removesuffix('_7x7')}; leave it out\n"
    )  # fmt: skip
    assert run(model_training.main, *places, *more)[::2] == (0, "")
    after, metadata = model_file.load(tmp_path / "d.h5")
    assert metadata["made"]["arguments"]["stem"] == stem
    assert all((a == b).all() for a, b in zip(model.get_weights(), after.get_weights(), strict=True))


def test_a_detector_and_a_backbone_together_are_one_line(small_data, tmp_path, run):
    model = ARCHITECTURES["mobilenetv2"].build(32, "none", 1e-3)
    metadata = model_file.read_metadata(ROOT / "models" / "compact.h5") | {"architecture": "mobilenetv2"}
    model_file.save(model, tmp_path / "whole.h5", metadata)
    backbone = tmp_path / "backbone.weights.h5"
    model.save_weights(backbone)
    more = ["--architecture", "mobilenetv2", "--weights", backbone, tmp_path / "whole.h5"]
    expected = f"expected a detector as {tmp_path / 'whole.h5'}, found another kind of file; give one kind"
    places = ["--data", small_data, "--output", tmp_path / "d.h5", "--log-dir", tmp_path / "log"]
    assert run(model_training.main, *places, *more) == (1, "", f"error: --weights {backbone}: {expected}\n")


@pytest.mark.parametrize("more, said", [
    (["--stem", "small"], "--stem small: expected auto for compact; only resnet101, resnet50v2 have a choice"),
    (["--head-epochs", "1"], "--head-epochs 1: expected a pretrained backbone, found none; give --weights, or 0"),
    (["--weights", "none", "a.h5"], "--weights none a.h5: expected files where there are several, found none; leave it out"),
])  # fmt: skip
def test_what_an_architecture_does_not_have_is_one_line(more, said, small_data, tmp_path, run):
    assert run(model_training.main, *arguments(small_data, tmp_path, *more)) == (1, "", f"error: {said}\n")


def test_augmentation_is_what_the_flags_say():
    parse = model_training.make_parser().parse_args
    assert model_training.augmentation_of(parse([])) is None
    given = ["--flip", "--shift", "0.1", "--damage", "0.3", "--max-blur", "2", "--min-jpeg", "40"]
    wanted = model_training.augmentation_of(parse(given))
    assert wanted.flip and wanted.moves == {"rotation": 0, "shift": 0.1, "shear": 0, "zoom": 0}
    expected = {"probability": 0.3, "max_blur": 2, "min_scale": 0.25, "max_noise": 0.1, "min_quality": 40}
    assert wanted.damages == expected


def test_the_log_for_tensorboard(small_data, tmp_path, run):
    assert run(model_training.main, *arguments(small_data, tmp_path, "--epochs", "1", "--tensorboard"))[0] == 0
    assert list((tmp_path / "log" / "tensorboard" / "train").glob("events.out.tfevents.*"))


def test_the_second_start_decodes_nothing(small_data, tmp_path, run, monkeypatch):
    from detector.images import pixels

    data = tmp_path / "data"
    shutil.copytree(small_data, data, ignore=shutil.ignore_patterns(".*"))
    decoded, whole = [], pixels.read_resized
    monkeypatch.setattr(pixels, "read_resized", lambda *given: decoded.append(given) or whole(*given))
    counts = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        _, out, _ = run(model_training.main, *arguments(data, tmp_path / name, "--epochs", "1", *["--no-cache"] * (name == "c")))
        told = "not kept, as asked; each is" if name == "c" else f"1 MiB in {data / '.decoded'}, which may be deleted\n"
        assert f"decoded images: {told}" in out
        counts.append(len(decoded))
    assert counts[:2] == [192, 192] and counts[2] > 192
    histories = [numbers(tmp_path / name) for name in "abc"]
    assert (histories[0] == histories[1]).all() and (histories[0] == histories[2]).all()


def test_killed_in_the_validation_after_the_last_step_it_goes_on(small_data, tmp_path, run, monkeypatch):
    keras = import_keras()
    evaluate = keras.Model.evaluate

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "evaluate", killed)
    more = arguments(small_data, tmp_path, "--epochs", "1", "--batch-size", "32", "--checkpoint-minutes", "1e-9")
    assert run(model_training.main, *more)[0] == 1
    assert json.loads((tmp_path / "log" / "state.json").read_text())["step"] == 3  # of 4
    monkeypatch.setattr(keras.Model, "evaluate", evaluate)
    code, out, _ = run(model_training.main, *more)
    assert code == 0 and "after 0 epochs and 3 steps" in out


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("more", [[], ["--no-cache"]])
def test_a_class_of_which_nothing_can_be_read_is_one_line(split, more, tmp_path, run, make_tree):
    data = make_tree(tmp_path / "data", {"train/Fake": 4, "train/Real": 4, "validation/Fake": 4, "validation/Real": 4})
    for path in (data / split / "Real").iterdir():
        path.write_text("no image")
    code, _, err = run(model_training.main, *arguments(data, tmp_path, "--epochs", "1", *more))
    assert (code, err) == (1, f"error: {data / split / 'Real'}: expected images that can be read, found none; run data_audit.py\n")


def test_images_that_vanish_while_it_trains_end_in_one_line(tmp_path, run, make_tree):
    data = make_tree(tmp_path / "data", {"train/Fake": 8, "train/Real": 8, "validation/Fake": 4, "validation/Real": 4})
    from detector.training.callbacks import Checkpoint

    whole = Checkpoint.on_epoch_begin

    def vanish(self, epoch, logs=None):
        whole(self, epoch, logs)
        if epoch == 1:
            shutil.rmtree(data / "train")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_begin", vanish)
        more = ["--no-cache", "--epochs", "3", "--batch-size", "4", "--stop-rule", "never"]
        code, _, err = run(model_training.main, *arguments(data, tmp_path, *more))
    assert code == 1 and err.startswith("error: ") and err.endswith("no image of the split can be read: run data_audit.py\n")


def test_the_cross_entropy_is_the_loss_without_penalties_for_uneven_classes(tmp_path, run, make_tree):
    data = make_tree(tmp_path / "data", {"train/Fake": 4, "train/Real": 12, "validation/Fake": 9, "validation/Real": 3})
    assert run(model_training.main, *arguments(data, tmp_path, "--epochs", "1", "--l2", "0"))[0] == 0
    with (tmp_path / "log" / "history.csv").open() as file:
        row = next(csv.DictReader(file))
    for of in ("", "val_"):
        assert float(row[f"{of}cross_entropy"]) == pytest.approx(float(row[f"{of}loss"]), rel=1e-4)


def test_another_runs_model_is_not_replaced_when_a_run_is_taken_up(small_data, tmp_path, run, monkeypatch):
    from detector.training.callbacks import Checkpoint

    def interrupted(self, epoch, logs=None):
        Checkpoint.write(self, 0, [])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_begin", interrupted)
        assert run(model_training.main, *arguments(small_data, tmp_path, "--epochs", "1"))[0] == 1
    other = ["--data", small_data, "--output", tmp_path / "d.h5", "--log-dir", tmp_path / "other", "--architecture", "compact"]
    assert run(model_training.main, *other, "--epochs", "0")[0] == 0
    before = (tmp_path / "d.h5").read_bytes()
    code, _, err = run(model_training.main, *arguments(small_data, tmp_path, "--epochs", "1"))
    assert (code, err) == (1, f"error: {tmp_path / 'd.h5'}: another run's model is there; give another --output, or --overwrite\n")
    assert (tmp_path / "d.h5").read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_told_before_training(small_data, small_disk, run):
    disk, remount = small_disk
    remount("ro")
    code, _, err = run(model_training.main, *arguments(small_data, disk, "--epochs", "1"))
    assert code == 1 and "Read-only file system" in err and err.count("\n") == 1


@pytest.mark.parametrize("backend, said", [
    ("tensorflwo", "KERAS_BACKEND=tensorflwo: expected tensorflow or jax; set it to one of them, or not at all"),
    ("torch", "KERAS_BACKEND=torch: expected tensorflow or jax; set it to one of them, or not at all"),
])  # fmt: skip
def test_a_backend_that_is_not_supported_is_one_line(backend, said, small_data, tmp_path, run, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    assert run(model_training.main, *arguments(small_data, tmp_path)) == (1, "", f"error: {said}\n")


PATCHES = [
    "--preprocessing", "patches", "--patches", "3", "--image-size", "16", "--resize-range", "0.75", "1.5", "--batch-size", "16",
    "--epochs", "3", "--flip", "--damage", "0.1", "--stop-rule", "never",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained_on_patches(small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("patches")
    model_training.main(arguments(small_data, folder, *PATCHES))
    return folder


def test_patches_are_validated_and_calibrated_as_the_app_scores(trained_on_patches, small_data):
    from detector.evaluation import thresholds
    from detector.inference import scoring

    metadata = model_file.read_metadata(trained_on_patches / "d.h5")
    assert (metadata["preprocessing"], metadata["patches"], metadata["image_size"]) == ("patches", 3, 16)
    detector = export.open_detector(trained_on_patches / "d.h5")
    paths, labels = data_tree.read_tree(small_data, ("validation",))["validation"]
    scores = list(scoring.score_files(detector, [small_data / path for path in paths]))
    is_fake, logits = np.array(labels) == 0, np.array([score.logit for score in scores])
    temperature, limits = thresholds.calibrate(is_fake, logits)
    assert metadata["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert [metadata["thresholds"][name] for name in ("fake", "real")] == pytest.approx([limits["fake"], limits["real"]], abs=1e-4)
    with (trained_on_patches / "log" / "history.csv").open() as file:
        best = list(csv.DictReader(file))[metadata["made"]["best_epoch"] - 1]
    loss = np.logaddexp(0, np.where(is_fake, -logits, logits)).mean()
    assert float(best["val_cross_entropy"]) == pytest.approx(loss, rel=1e-3)
    assert float(best["val_accuracy"]) == pytest.approx(((logits >= 0) == is_fake).mean())


def test_what_was_seen_is_what_the_resize_made_of_the_images(trained_on_patches):
    metadata = model_file.read_metadata(trained_on_patches / "d.h5")
    assert metadata["training_range"] == {"shorter_side": [24, 48], "aspect": [1.0, 1.0]}
    assert metadata["trained_on"].endswith("with a shorter side of 32 pixels")


def test_the_sizes_to_judge_can_be_given(small_data, tmp_path):
    model_training.main(arguments(small_data, tmp_path, "--epochs", "0", "--judge-sides", "20", "4000"))
    metadata = model_file.read_metadata(tmp_path / "d.h5")
    assert metadata["training_range"] == {"shorter_side": [20, 4000], "aspect": [1.0, 1.0]}
    assert metadata["trained_on"].endswith("with a shorter side of 32 pixels")


def test_of_patches_whole_train_images_alone_are_kept(trained_on_patches, small_data):
    names = [file.name for file in (small_data / ".decoded").glob("*whole*.rgb")]
    assert len(names) == 1 and names[0].startswith("train-whole-")


def test_patches_killed_within_an_epoch_end_the_same(trained_on_patches, small_data, tmp_path):
    more = [*PATCHES, "--checkpoint-minutes", "3e-4"]
    killed = tmp_path / "killed"
    process = subprocess.Popen(command(small_data, killed, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed_when(process, killed / "log" / "state.json", lambda state: state["step"] > 2 and len(state["history"]) == 1)
    again = subprocess.run(command(small_data, killed, *more), check=True, capture_output=True, text=True)
    assert re.search(r"taking up the run in .* after 1 epoch and \d+ steps", again.stdout)
    same_run(killed, trained_on_patches)


@pytest.mark.parametrize("more, said", [
    (["--resize-range", "0.5", "1"], "--resize-range 0.5 1: expected --preprocessing patches, found resize; leave it out"),
    (["--preprocessing", "patches", "--resize-range", "2", "1"],
     "--resize-range 2 1: expected the smaller factor first; turn them round"),
    (["--judge-sides", "9", "8"], "--judge-sides 9 8: expected the smaller side first; turn them round"),
])  # fmt: skip
def test_a_resize_range_that_makes_no_sense_is_one_line(more, said, small_data, tmp_path, run):
    assert run(model_training.main, *arguments(small_data, tmp_path, *more)) == (1, "", f"error: {said}\n")


def test_too_many_patches_are_a_usage_error(small_data, tmp_path, run):
    code, _, err = run(model_training.main, *arguments(small_data, tmp_path, "--patches", "257"))
    assert code == 2 and err.endswith("argument --patches: expected a whole number from 1 to 256, found 257\n")
