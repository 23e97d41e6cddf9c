import contextlib
import csv
import json
import os
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
from detector.evaluation import thresholds
from detector.inference import scoring
from detector.model import file as model_file
from detector.model.architectures import ARCHITECTURES
from detector.model.backend import import_keras, keras_logits
from detector.model.runtime import KerasDetector
from detector.model.scores import p_fake_of
from detector.training import history, loop, result
from detector.training.callbacks import Checkpoint, Interruption, StopTrainingOnValidationLoss
from tests import tiny
from tests.conftest import ROOT, draw
from tests.tiny import TRAINING, read_history

pytestmark = pytest.mark.slow

RECIPE = [
    "--head-epochs", "1", "--epochs", "2", "--batch-size", "32", "--stop-rule", "never", "--flip", "--degradation", "0.5",
    "--checkpoint-minutes", "1e-9", "--image-size", "16",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def tiny_networks():
    """Register the tiny networks, and draw one plot instead of seven, which take longer than the training."""
    with tiny.registered() as patch:
        patch.setattr(history, "PLOTTED", ("loss",))
        yield


def arguments(data, folder, *more, architecture="tiny"):
    places = ["--data", str(data), "--output", str(folder / "d.h5"), "--log-dir", str(folder / "log")]
    return [*places, "--architecture", architecture, *map(str, more)]


def weights(path):
    return model_file.load(path)[0].get_weights()


@pytest.fixture(scope="module")
def backbone_weights(tmp_path_factory):
    keras = import_keras()
    path = tmp_path_factory.mktemp("weights") / "b.weights.h5"
    keras.utils.set_random_seed(0)
    tiny.make_backbone(16).save_weights(path)
    return path


@pytest.fixture(scope="module")
def undisturbed(small_data, tmp_path_factory, backbone_weights):
    """The folder of a run of two phases, one epoch of the head and two of all layers."""
    folder = tmp_path_factory.mktemp("undisturbed")
    model_training.main(arguments(small_data, folder, *RECIPE, "--weights", backbone_weights, architecture="tiny_backbone"))
    return folder


def same_run(one, other):
    for row, its in zip(read_history(one), read_history(other), strict=True):
        assert row == pytest.approx(its, rel=1e-4)
    found = zip(weights(one / "d.h5"), weights(other / "d.h5"), strict=True)
    assert max(np.abs(a - b).max() for a, b in found) < 1e-4


def test_what_a_run_leaves(trained, small_data):
    path, log = trained
    assert {file.name for file in log.iterdir()} >= {"history.csv", "architecture.txt", "loss.png"}
    assert not list(log.glob("*.weights.h5"))
    with (log / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    metadata = model_file.read_metadata(path)
    assert metadata["image_size"] == 32
    assert metadata["training_range"] == {"shorter_side": [32, 32], "aspect": [1.0, 1.0]}
    assert metadata["made"]["counts"] == {"train": {"Fake": 64, "Real": 64}, "validation": {"Fake": 32, "Real": 32}}
    assert metadata["made"]["arguments"]["epochs"] == 6
    assert metadata["made"]["arguments"]["data"] == small_data.name  # no folder of this machine is stored
    assert str(small_data.parent) not in json.dumps(metadata)
    assert metadata["thresholds"]["n_fake"] == 32
    losses = [float(row["val_loss"]) for row in rows]
    assert metadata["made"]["best_epoch"] == losses.index(min(losses)) + 1
    exceeds = [int(row["epoch"]) for row in rows if row["exceeds"] == "1"]
    assert metadata["made"]["strict_stop_epoch"] == next(iter(exceeds), None)


def test_the_head_is_trained_first_and_then_all_layers(undisturbed, small_data, tmp_path, backbone_weights, monkeypatch):
    moved, fit = [], loop.fit

    def spied(model, *rest):
        backbone = next(layer for layer in model.layers if layer.name == "backbone")
        before = [weight.copy() for weight in backbone.get_weights()]
        fit(model, *rest)
        moved.append(any((a != b).any() for a, b in zip(before, backbone.get_weights(), strict=True)))

    monkeypatch.setattr(loop, "fit", spied)
    options = [*RECIPE, "--weights", backbone_weights]
    model_training.main(arguments(small_data, tmp_path, *options, architecture="tiny_backbone"))
    assert moved == [False, True]
    same_run(tmp_path, undisturbed)  # the same seed gives the same run


def test_the_file_contains_the_weights_of_the_best_epoch(small_data, tmp_path, run, monkeypatch):
    whole = StopTrainingOnValidationLoss.on_epoch_end
    monkeypatch.setattr(  # makes the second epoch the best
        StopTrainingOnValidationLoss, "on_epoch_end",
        lambda self, epoch, logs: whole(self, epoch, {**logs, "val_loss": logs["val_loss"] - 100 * (epoch == 1)}),
    )  # fmt: skip
    kept, validation_logits = [], result.validation_logits
    monkeypatch.setattr(result, "validation_logits", lambda *given: kept.append(validation_logits(*given)) or kept[0])
    more = ["--epochs", "4", "--batch-size", "16", "--stop-rule", "never"]
    assert run(model_training.main, *arguments(small_data, tmp_path, *more))[0] == 0
    losses = [row["val_cross_entropy"] for row in read_history(tmp_path)]
    assert model_file.read_metadata(tmp_path / "d.h5")["made"]["best_epoch"] == 2
    rows, logits = kept[0]
    is_fake = np.array(data_tree.read_tree(small_data, ("validation",))["validation"][1])[rows] == 0
    assert np.logaddexp(0, np.where(is_fake, -logits, logits)).mean() == pytest.approx(losses[1], rel=1e-4)
    assert losses[1] != pytest.approx(losses[-1], rel=1e-3)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_network_trained_in_16_bits_is_saved_in_32(precision, small_data, tmp_path, run):
    options = ["--epochs", "1", "--tensorboard", "--mixed-precision", precision]
    code, _, err = run(model_training.main, *arguments(small_data, tmp_path, *options))
    assert (code, err) == (0, "") and list((tmp_path / "log/tensorboard/train").glob("events.out.tfevents.*"))
    model, metadata = model_file.load(tmp_path / "d.h5")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert metadata["made"]["arguments"]["mixed_precision"] == precision
    assert import_keras().config.dtype_policy().name == "float32"  # the setting does not outlive the run


def test_the_cross_entropy_is_the_loss_without_penalties_for_uneven_classes_and_sources(tmp_path, run, make_tree):
    data = make_tree(tmp_path / "data", {
        "train/Fake/a": 3, "train/Fake/b": 1, "train/Real": 12,
        "validation/Fake/a": 7, "validation/Fake/b": 2, "validation/Real": 3,
    })  # fmt: skip
    more = ["--epochs", "1", "--l2", "0", "--balance-groups", "--threshold-groups", "folder"]
    assert run(model_training.main, *arguments(data, tmp_path, *more))[0] == 0
    assert model_file.read_metadata(tmp_path / "d.h5")["thresholds"]["groups"]["small"] == 50
    row = read_history(tmp_path)[0]
    for split in ("", "val_"):
        assert row[f"{split}cross_entropy"] == pytest.approx(row[f"{split}loss"], rel=1e-4)


def test_views_are_validated_and_calibrated_as_the_app_scores(small_data, tmp_path):
    options = ["--preprocessing", "views", "--views", "whole", "native", "native", "--photo-degradation", "0.5"]
    options += ["--image-size", "16", "--epochs", "2", "--stop-rule", "never", "--training-range", "20", "4000"]
    model_training.main(arguments(small_data, tmp_path, *options))
    metadata = model_file.read_metadata(tmp_path / "d.h5")
    assert (metadata["preprocessing"], metadata["views"]) == ("views", ["whole", "native", "native"])
    assert metadata["training_range"]["shorter_side"] == [20, 4000] and metadata["training_range"]["aspect"] == [1.0, 1.0]
    assert metadata["trained_on"].endswith("with a shorter side of 32 pixels")
    paths, labels = data_tree.read_tree(small_data, ("validation",))["validation"]
    scores = list(scoring.score_files(KerasDetector(tmp_path / "d.h5"), [small_data / path for path in paths]))
    is_fake, logits = np.array(labels) == 0, np.array([score.logit for score in scores])
    temperature, limits = thresholds.calibrate(is_fake, logits)
    assert metadata["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert [metadata["thresholds"][name] for name in ("fake", "real")] == pytest.approx([limits["fake"], limits["real"]], abs=1e-4)
    best = read_history(tmp_path)[metadata["made"]["best_epoch"] - 1]
    assert best["val_cross_entropy"] == pytest.approx(np.logaddexp(0, np.where(is_fake, -logits, logits)).mean(), rel=1e-3)
    kept = [file.name for file in (small_data / ".decoded").glob("*whole*.rgb")]  # of validation nothing is cached
    assert len(kept) == 1 and kept[0].startswith("train-whole-")


@pytest.fixture(scope="module")
def detector(small_data, tmp_path_factory):
    """A model file of a tiny network."""
    folder = tmp_path_factory.mktemp("detector")
    model_training.main(arguments(small_data, folder, "--epochs", "1"))
    return folder / "d.h5"


def test_the_mean_of_detectors_with_test_time_flip(detector, small_data, tmp_path, run):
    other = ARCHITECTURES["tiny"].build(32, "none", 1e-3)
    model_file.save(other, tmp_path / "other.h5", model_file.read_metadata(detector))
    more = ["--weights", detector, tmp_path / "other.h5", "--epochs", "0", "--test-time-flip"]
    code, out, _ = run(model_training.main, *arguments(small_data, tmp_path, *more))
    assert code == 0 and "warning" not in out
    made, metadata = model_file.load(tmp_path / "d.h5")
    assert metadata["made"]["arguments"]["weights"] == ["d.h5", "other.h5"]
    assert model_file.read_train_digests(tmp_path / "d.h5") is None  # other.h5 has none, and a part would pass for all
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    straight, mirrored = (keras_logits(made, some, "softmax") for some in (images, images[:, :, ::-1].copy()))
    assert np.abs(straight - mirrored).max() < 1e-3
    # training can start from such a file as from any other
    again = ["--data", small_data, "--output", tmp_path / "e.h5", "--log-dir", tmp_path / "again", "--architecture", "tiny"]
    assert run(model_training.main, *again, "--weights", tmp_path / "d.h5", "--epochs", "0")[0] == 0
    three = zip(weights(tmp_path / "e.h5"), weights(detector), other.get_weights(), strict=True)
    assert all(np.abs(mean - (a + b) / 2).max() < 1e-6 for mean, a, b in three)


def test_a_detector_provides_the_head_too(undisturbed, small_data, tmp_path, run):
    more = ["--image-size", "16", "--weights", undisturbed / "d.h5", "--epochs", "0"]
    assert run(model_training.main, *arguments(small_data, tmp_path, *more, architecture="tiny_backbone"))[::2] == (0, "")
    assert all((a == b).all() for a, b in zip(weights(undisturbed / "d.h5"), weights(tmp_path / "d.h5"), strict=True))
    assert model_file.read_metadata(tmp_path / "d.h5")["made"]["arguments"]["head_epochs"] == 0


def test_earlier_train_images_are_known_and_warned_of(detector, small_data, make_tree, tmp_path, run):
    # what was validation for the first detector is train now, and half of its train images are validation
    data = make_tree(tmp_path / "data", {"train/Fake": 4, "train/Real": 4, "validation/Fake": 0, "validation/Real": 0}, ".png")
    for name in data_tree.CLASSES:
        for file in sorted((small_data / "train" / name).iterdir())[:32]:
            shutil.copy(file, data / "validation" / name / f"seen-{file.name}")
    more = ["--weights", detector, "--epochs", "1", "--image-size", "32"]
    code, out, err = run(model_training.main, *arguments(data, tmp_path, *more))
    assert (code, err) == (0, "")
    assert f"warning: {detector} was trained on 64 images of these validation images" in out
    metadata, before = model_file.read_metadata(tmp_path / "d.h5"), model_file.read_metadata(detector)
    assert metadata["made"]["started_from"] == [
        {"name": "d.h5", "sha256": files.digest_of(detector), "trained_on": before["trained_on"]}
    ]
    assert metadata["trained_on"] == (
        f"the images of data: 4 Fake and 4 Real images with a shorter side of 32 pixels; before that: {before['trained_on']}"
    )
    images = [*(small_data / "train").rglob("*.png"), *(data / "train").rglob("*.png")]
    own = {bytes.fromhex(files.digest_of(path))[: model_file.DIGEST_BYTES] for path in images}
    assert set(map(bytes, model_file.read_train_digests(tmp_path / "d.h5"))) == own and len(own) == 128 + 8


def test_a_detector_trained_on_jax_without_tensorflow_scores_the_same_on_tensorflow(small_data, tmp_path):
    pytest.importorskip("jax")
    (tmp_path / "tensorflow.py").write_text("raise ModuleNotFoundError('No module named tensorflow', name='tensorflow')\n")
    code = f"""
{TRAINING}
import sys, keras, numpy as np
from detector.model import backend, file
assert keras.backend.backend() == "jax"
model, metadata = file.load(sys.argv[4])
images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
print(backend.keras_logits(model, images, metadata["output"]).tolist())
"""
    command = [sys.executable, "-c", code, *arguments(small_data, tmp_path, "--epochs", "2", "--batch-size", "16")]
    environ = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=environ)
    model, metadata = model_file.load(tmp_path / "d.h5")
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    assert metadata["made"]["versions"]["jax"]
    there = json.loads(done.stdout.splitlines()[-1])
    assert p_fake_of(keras_logits(model, images, metadata["output"]), 1) == pytest.approx(p_fake_of(there, 1), abs=1e-5)


@pytest.mark.kill
def test_a_killed_run_continues_within_the_epoch_and_ends_the_same(undisturbed, small_data, tmp_path, backbone_weights, run):
    command = arguments(small_data, tmp_path, *RECIPE, "--weights", backbone_weights, architecture="tiny_backbone")
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    state, found = tmp_path / "log" / "state.json", {"history": [], "step": 0}
    while len(found["history"]) < 1 or found["step"] < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
        if state.exists():
            found = json.loads(state.read_text())
    process.kill()
    process.wait()
    code, out, _ = run(model_training.main, *command)
    assert code == 0 and "continuing the run in" in out
    same_run(tmp_path, undisturbed)


def test_a_run_that_dies_between_its_two_phases_ends_the_same(undisturbed, small_data, tmp_path, backbone_weights, run):
    write = Checkpoint.write

    def dies(self, step, metrics):
        write(self, step, metrics)
        if len(self.history) == 1:
            raise SystemExit("killed")

    command = arguments(small_data, tmp_path, *RECIPE, "--weights", backbone_weights, architecture="tiny_backbone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "write", dies)
        assert run(model_training.main, *command)[0] == 1
    assert run(model_training.main, *command)[0] == 0
    same_run(tmp_path, undisturbed)


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_interrupted_run_saves_the_best_so_far_and_continues(epoch, tmp_path, run, small_data, monkeypatch):
    whole = Checkpoint.on_epoch_end

    def interrupted(self, at, logs=None):
        if at == epoch:
            raise KeyboardInterrupt
        whole(self, at, logs)

    monkeypatch.setattr(Checkpoint, "on_epoch_end", interrupted)
    command = arguments(small_data, tmp_path, "--epochs", "3", "--batch-size", "32", "--stop-after-epoch", "3")
    code, _, err = run(model_training.main, *command)
    assert code == 1 and err.startswith("error: interrupted") and err.count("\n") == 1
    assert (tmp_path / "d.h5").exists() == (epoch > 0)
    monkeypatch.undo()
    code, out, _ = run(model_training.main, *command)
    assert code == 0 and ("continuing the run in" in out) == (epoch > 0)
    assert model_file.read_metadata(tmp_path / "d.h5")["made"]["epochs_run"] == 3


def test_ctrl_c_is_not_lost_in_a_library(tmp_path, run, small_data, monkeypatch):
    steps = []

    def interrupted(self, batch, logs=None):
        steps.append(batch)
        if len(steps) == 6:  # the second step of epoch 2
            with contextlib.suppress(KeyboardInterrupt):  # as C code that calls Python does
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoint, "on_train_batch_begin", interrupted)
    command = arguments(small_data, tmp_path, "--epochs", "3", "--batch-size", "32", "--stop-after-epoch", "3")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in tests that run in the background it is ignored
    try:
        code, _, err = run(model_training.main, *command)
        with pytest.raises(KeyboardInterrupt), Interruption().handled():  # if no step follows
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 1 and err.startswith("error: interrupted") and (steps[-1], len(steps)) == (1, 6)
    assert model_file.read_metadata(tmp_path / "d.h5")["made"]["epochs_run"] == 1


def test_a_run_is_not_continued_with_other_images_or_options(small_data, tmp_path, run):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    more = arguments(data, tmp_path, "--epochs", "0")
    log = tmp_path / "log"
    log.mkdir()
    (log / "state.json").write_text(json.dumps({"resume_key": {"--epochs": "7"}}))
    code, _, err = run(model_training.main, *more)
    assert code == 1 and err.startswith(f"error: {log}: ") and "--architecture" in err and "--epochs" in err
    assert run(model_training.main, *more, "--overwrite")[0] == 0
    fingerprint = model_file.read_metadata(tmp_path / "d.h5")["made"]["data_fingerprint"]
    (log / "state.json").write_text(json.dumps({"resume_key": {"the images": fingerprint}, "step": 0, "history": [], "rule": {}}))
    draw("another").save(data / "train/Fake/0.png")
    code, _, err = run(model_training.main, *more)
    assert code == 1 and err.startswith(f"error: {log}: ") and "the images" in err


def test_nothing_is_overwritten_unasked(tmp_path, run, small_data):
    (tmp_path / "d.h5").write_text("mine")
    mine = tmp_path / "log" / "imagenet.weights.h5"
    mine.parent.mkdir()
    mine.write_text("mine")
    short = arguments(small_data, tmp_path, "--epochs", "0")
    code, _, err = run(model_training.main, *short)
    assert code == 1 and err.startswith(f"error: {tmp_path / 'd.h5'}: ") and "--overwrite" in err
    assert (tmp_path / "d.h5").read_text() == "mine"
    assert run(model_training.main, *short, "--overwrite")[0] == 0
    assert (tmp_path / "d.h5").read_bytes()[:4] == b"\x89HDF" and mine.read_text() == "mine"
    (tmp_path / "log" / "history.csv").write_text("mine")
    other = ["--data", small_data, "--output", tmp_path / "e.h5", "--log-dir", tmp_path / "log", "--architecture", "tiny"]
    code, _, err = run(model_training.main, *other)
    assert code == 1 and err.startswith(f"error: {tmp_path / 'log'}: ") and "--overwrite" in err
    state = tmp_path / "log" / "state.json"
    state.write_text("also mine")
    code, _, err = run(model_training.main, *other)
    assert code == 1 and err.startswith(f"error: {state}: ") and state.read_text() == "also mine"


def test_the_model_of_another_run_is_not_replaced_by_a_continued_one(detector, small_data, tmp_path, run, monkeypatch):
    def interrupted(self, epoch, logs=None):
        Checkpoint.write(self, 0, [])
        raise KeyboardInterrupt

    command = arguments(small_data, tmp_path, "--epochs", "1", "--seed", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_begin", interrupted)
        assert run(model_training.main, *command)[0] == 1
    shutil.copy(detector, tmp_path / "d.h5")
    code, _, err = run(model_training.main, *command)
    assert code == 1 and err.startswith(f"error: {tmp_path / 'd.h5'}: ") and "--overwrite" in err
    assert (tmp_path / "d.h5").read_bytes() == detector.read_bytes()


def test_a_read_only_folder_is_reported_before_training(small_data, small_disk, run):
    disk, remount = small_disk
    remount("ro")
    code, _, err = run(model_training.main, *arguments(small_data, disk, "--epochs", "1"))
    assert code == 1 and "Read-only file system" in err and err.count("\n") == 1


def test_bad_input_is_one_line(tmp_path, run, small_data, make_tree, monkeypatch):
    def fails(data, *more, architecture="tiny"):
        code, _, err = run(model_training.main, *arguments(data, tmp_path, *more, architecture=architecture))
        assert code == 1 and err.count("\n") == 1 and not (tmp_path / "d.h5").exists()
        return err

    nowhere = tmp_path / "nowhere"
    assert fails(nowhere).startswith(f"error: {nowhere}: ")
    one_class = make_tree(tmp_path / "one", {"train/Fake": 3, "validation/Fake": 2})
    assert fails(one_class).startswith(f"error: {one_class / 'train/Real'}: ")
    missing = tmp_path / "none.h5"
    assert fails(small_data, "--weights", missing).startswith(f"error: --weights {missing}: ")
    assert fails(small_data, "--weights", "imagenet", architecture="compact").startswith("error: --weights imagenet: ")
    assert fails(small_data, "--output", tmp_path / "d.keras").startswith(f"error: --output {tmp_path / 'd.keras'}: ")
    together = ["--coordinator", "127.0.0.1:7000", "--processes", "2", "--process-id", "1"]
    assert "KERAS_BACKEND=jax" in fails(small_data, *together)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert fails(small_data).startswith("error: KERAS_BACKEND=torch: ")


def test_an_unreadable_image_is_left_out_and_reported(tmp_path, run, make_tree):
    data = make_tree(tmp_path / "data", {"train/Fake": 8, "train/Real": 8, "validation/Fake": 8, "validation/Real": 8})
    broken = [data / split / "Fake/broken.jpg" for split in ("train", "validation")]
    for path in broken:
        path.write_bytes((path.parent / "0.jpg").read_bytes()[:200])
    code, out, err = run(model_training.main, *arguments(data, tmp_path, "--epochs", "1", "--batch-size", "4"))
    assert (code, err) == (0, "")
    assert all(f"not read: {path}: " in out for path in broken) and "2 images could not be read and were left out" in out


@pytest.mark.parametrize("split, more", [("train", []), ("validation", []), ("train", ["--no-cache"])])
def test_a_class_without_a_readable_image_is_one_line(split, more, tmp_path, run, make_tree):
    data = make_tree(tmp_path / "data", {"train/Fake": 4, "train/Real": 4, "validation/Fake": 4, "validation/Real": 4})
    for path in (data / split / "Real").iterdir():
        path.write_text("no image")
    code, _, err = run(model_training.main, *arguments(data, tmp_path, "--epochs", "1", *more))
    assert code == 1 and err.startswith(f"error: {data / split / 'Real'}: ") and err.count("\n") == 1


def test_images_that_vanish_during_training_end_it_with_one_line(tmp_path, run, make_tree, monkeypatch):
    data = make_tree(tmp_path / "data", {"train/Fake": 8, "train/Real": 8, "validation/Fake": 4, "validation/Real": 4})
    whole = Checkpoint.on_epoch_begin

    def vanish(self, epoch, logs=None):
        whole(self, epoch, logs)
        if epoch == 1:
            shutil.rmtree(data / "train")

    monkeypatch.setattr(Checkpoint, "on_epoch_begin", vanish)
    more = ["--no-cache", "--epochs", "3", "--batch-size", "4", "--stop-rule", "never"]
    code, _, err = run(model_training.main, *arguments(data, tmp_path, *more))
    assert code == 1 and err.startswith("error: ") and err.endswith("run data_audit.py\n") and err.count("\n") == 1


def test_a_lack_of_memory_is_one_line(small_data, tmp_path, run, monkeypatch):
    keras = import_keras()

    def fit(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes")

    monkeypatch.setattr(keras.Model, "fit", fit)
    code, _, err = run(model_training.main, *arguments(small_data, tmp_path, "--epochs", "1"))
    assert code == 1 and err.startswith("error: out of memory") and "--batch-size" in err and err.count("\n") == 1
