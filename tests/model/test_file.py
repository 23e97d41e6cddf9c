import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from detector.console import InputError
from detector.model import backend, export, scores
from detector.model import file as model_file
from tests.conftest import ROOT

METADATA = {
    "format": model_file.FORMAT,
    "architecture": "compact",
    "class_names": ["Fake", "Real"],
    "output": "softmax",
    "preprocessing": "resize",
    "image_size": 8,
    "temperature": 2.0,
    "thresholds": {"fake": 0.9, "real": 0.2, "max_error": 0.01, "real_called_fake_bound": 0.009, "fake_called_real_bound": 0.008},
    "training_range": {"shorter_side": [8, 8], "aspect": [1.0, 1.0]},
    "trained_on": "nothing",
    "made": {},
}


def bias_model(bias, activation="softmax"):
    """A network whose logits are its bias for every image."""
    keras = backend.import_keras()
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Dense(len(bias), activation=activation, kernel_initializer="zeros")(x)
    model = keras.Model(image, x)
    model.layers[-1].set_weights([np.zeros((3, len(bias)), np.float32), np.array(bias, np.float32)])
    return model


def test_logit_of_both_kinds_of_output_by_hand():
    # softmax: columns Fake, Real. sigmoid_real: the logit of Real.
    assert scores.fake_logits([[3.0, 1.0]], "softmax") == [2.0]
    assert scores.fake_logits([[-2.0]], "sigmoid_real") == [2.0]
    assert scores.p_fake_of(2.0, 1.0) == pytest.approx(np.exp(2) / (1 + np.exp(2)))
    assert scores.p_fake_of(2.0, 2.0) == pytest.approx(np.exp(1) / (1 + np.exp(1)))


def test_probabilities_do_not_saturate_before_the_temperature():
    cold, colder = scores.p_fake_of([40.0, 60.0], 20.0)
    assert cold < colder < 1
    assert scores.p_fake_of([-1e6, 1e6], 1.0).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("p, said", [(0.9, "Fake"), (0.89, "uncertain"), (0.2, "Real"), (0.21, "uncertain"), (0.0, "Real")])
def test_three_way_verdict(p, said):
    assert scores.verdict_of(p, METADATA["thresholds"]) == said


@pytest.mark.parametrize("bias, activation, output, logit", [
    ([1.5, 0.5], "softmax", "softmax", 1.0),
    ([0.75], "sigmoid", "sigmoid_real", -0.75),
])  # fmt: skip
def test_score_direction_survives_saving_exporting_and_loading(tmp_path, bias, activation, output, logit):
    path = tmp_path / "m.h5"
    model_file.save(bias_model(bias, activation), path, {**METADATA, "output": output})
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    assert export.open_detector(path).logits(images) == pytest.approx([logit] * 5, abs=1e-6)
    model, metadata = model_file.load(path)
    assert metadata == {**METADATA, "output": output}
    assert backend.keras_logits(model, images, output) == pytest.approx([logit] * 5, abs=1e-6)


def test_threads_that_silence_stderr_at_the_same_time_bring_it_back(capfd):
    inside = threading.Event()

    def silence(seconds):
        with backend.quiet_stderr():
            inside.set()
            time.sleep(seconds)

    first, second = (threading.Thread(target=silence, args=[seconds]) for seconds in (0.1, 0.3))
    first.start()
    inside.wait()
    second.start()
    first.join()
    second.join()
    os.write(2, b"back")
    assert capfd.readouterr().err == "back"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of this test's own."""
    monkeypatch.setattr(export, "_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.h5"
    model_file.save(bias_model([1.5, 0.5]), path, METADATA)
    return path


@pytest.fixture
def exported(small, tmp_path_factory, monkeypatch):
    """A list of what was exported; it is exported at the first time only, and copied from then on, to be quick."""
    folder, calls = tmp_path_factory.getbasetemp() / "exported", []
    if not folder.exists():
        export.export_detector(small, folder / "form")

    def copy(path, stem):
        calls.append(path)
        stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".tflite", ".json"):
            shutil.copy(folder / f"form{suffix}", stem.with_name(stem.name + suffix))

    monkeypatch.setattr(export, "_export_in_subprocess", copy)
    return calls


def logit(path):
    return export.open_detector(path).logits(np.zeros((1, 8, 8, 3), np.uint8)).tolist()


def test_a_compiled_form_that_is_deleted_or_damaged_is_made_again(cache, small, exported):
    assert logit(small) == logit(small) == pytest.approx([1.0])
    assert exported == [small]
    assert sorted(path.name[64:] for path in cache.iterdir()) == ["-1.json", "-1.tflite"]
    metadata, flatbuffer = sorted(cache.iterdir())
    for damage in (
        flatbuffer.unlink, metadata.unlink, lambda: flatbuffer.write_bytes(b"cut"), lambda: metadata.write_text("{}"),
        lambda: metadata.write_text("cut"), lambda: shutil.rmtree(cache),
    ):  # fmt: skip
        exported.clear()
        damage()
        assert logit(small) == logit(small) == pytest.approx([1.0])
        assert exported == [small]


def test_another_model_in_the_same_place_is_exported_anew(cache, small, exported, tmp_path):
    path = Path(shutil.copy(small, tmp_path / "m.h5"))
    assert logit(path) == logit(path) == pytest.approx([1.0]) and len(exported) == 1
    model_file.save(bias_model([2.5, 0.5]), path, METADATA)
    with pytest.raises(InputError, match="it changed while it was exported"):  # the fixture exports the first one
        logit(path)
    assert len(exported) == 2


def test_a_compiled_form_that_vanishes_in_use_is_one_line(cache, small, exported):
    detector = export.open_detector(small)
    flatbuffer = next(cache.glob("*.tflite"))
    flatbuffer.write_bytes(b"x" * flatbuffer.stat().st_size)
    with pytest.raises(InputError) as caught:
        detector.logits(np.zeros((1, 8, 8, 3), np.uint8))
    assert str(caught.value).startswith(f"{flatbuffer}: expected an exported model, but it is missing or damaged")


@pytest.mark.slow
def test_without_a_cache_an_exported_model_goes_with_its_process(tmp_path, small):
    cache = tmp_path / "cache"
    cache.write_text("a file stands where the folder should be")
    program = (
        "import sys, pathlib; from detector.model import export as m; m._cache = lambda: pathlib.Path(sys.argv[2]);"
        "print(m.open_detector(sys.argv[1])._flatbuffer)"
    )
    command = [sys.executable, "-c", program, str(small), str(cache)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        f"{cache}: File exists; the exported model is kept for this run only",
        f"{small}: exporting it for fast use, once (about half a minute) ...",
    ]
    made = done.stdout.strip()
    assert "real-or-fake-detector-" in made and not os.path.exists(os.path.dirname(made))
    assert cache.read_text().startswith("a file")


@pytest.mark.multiprocess
def test_two_processes_that_export_at_once(tmp_path, small):
    program = (
        "import sys, pathlib, numpy; from detector.model import export as m; m._cache = lambda: pathlib.Path(sys.argv[2]);"
        "print(m.open_detector(sys.argv[1]).logits(numpy.zeros((1, 8, 8, 3), numpy.uint8)).tolist())"
    )
    command = [sys.executable, "-c", program, str(small), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [json.loads(out)[0] for out, _ in said] == pytest.approx([1.0, 1.0]), said
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".tflite"]


def test_what_is_long_unused_goes_from_the_cache_when_something_new_is_exported(cache, small, exported, monkeypatch):
    cache.mkdir()
    for name, days in (("other-1.json", 59), ("old-1.json", 61), ("old-1.tflite", 61), ("old.1.part", 61)):
        (cache / name).write_text("x")
        os.utime(cache / name, (time.time() - days * 86_400,) * 2)
    logit(small)
    assert exported == [small] and [path.name for path in cache.glob("o*")] == ["other-1.json"]
    form = next(cache.glob("*.tflite"))
    for path in (form, form.with_suffix(".json")):
        os.utime(path, (0, 0))
    logit(small)  # used again: it is not the oldest any more
    assert exported == [small] and time.time() - form.stat().st_mtime < 60
    monkeypatch.setattr(os, "utime", lambda *_: (_ for _ in ()).throw(PermissionError))
    assert logit(small) == pytest.approx([1.0]) and exported == [small]


@pytest.mark.parametrize("damage", [
    lambda metadata, flatbuffer: metadata.write_text('{"sha256": "12'),
    lambda metadata, flatbuffer: metadata.write_text("[]"),
    lambda metadata, flatbuffer: metadata.write_text(metadata.read_text().replace('"format": 2', '"format": 99')),
    lambda metadata, flatbuffer: metadata.write_text(metadata.read_text().replace('"temperature": 2.0', '"temperature": "high"')),
    lambda metadata, flatbuffer: metadata.unlink(),
    lambda metadata, flatbuffer: flatbuffer.write_bytes(flatbuffer.read_bytes()[:200]),
    lambda metadata, flatbuffer: flatbuffer.unlink(),
])  # fmt: skip
def test_what_ships_damaged_is_compiled_anew_or_told(cache, small, exported, tmp_path, monkeypatch, damage):
    shipped = tmp_path / "models"
    shipped.mkdir()
    path = Path(shutil.copy(small, shipped / "small.h5"))
    monkeypatch.setattr(export, "SHIPPED", shipped.resolve())
    export._export_in_subprocess(path, path.with_suffix(""))
    exported.clear()
    assert logit(path) == pytest.approx([1.0]) and exported == []
    damage(path.with_suffix(".json"), path.with_suffix(".tflite"))
    with pytest.raises(InputError) as caught, monkeypatch.context() as patch:
        patch.setitem(sys.modules, "h5py", None)
        export.known_metadata(path)
    assert "pip install -r requirements.txt, or get small.h5, small.json and small.tflite again" in str(caught.value)
    assert export.known_metadata(path) == METADATA
    assert logit(path) == pytest.approx([1.0]) and exported == [path]


def test_known_metadata_are_those_of_the_file_before_and_after_exporting(cache, small, exported):
    assert export.known_metadata(small) == METADATA
    assert not list(cache.glob("*.tflite"))
    logit(small)
    assert export.known_metadata(small) == METADATA


def test_save_leaves_nothing_unfinished_and_no_optimizer(trained):
    path, _ = trained
    assert [file.name for file in path.parent.glob("*detector*")] == ["detector.h5"]
    with h5py.File(path) as file:
        assert "optimizer_weights" not in file


def refused(path):
    with pytest.raises(InputError) as caught:
        export.open_detector(path)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(str(path), "M")


def changed(tmp_path, small, **attributes):
    """Return a copy of a model file with other attributes."""
    path = Path(shutil.copy(small, tmp_path / "m.h5"))
    with h5py.File(path, "r+") as file:
        file.attrs.update(attributes)
    return path


def test_what_is_no_detector_is_refused_in_one_line(tmp_path, trained):
    path = tmp_path / "m.h5"
    assert refused(path).startswith("M: expected a model file (.h5), found nothing of that name")
    path.write_text("hello")
    assert refused(path).startswith("M: expected a model file (.h5) of model_training.py, found another kind of file")
    path.write_bytes(trained[0].read_bytes()[:5000])
    assert refused(path).startswith("M: expected a whole HDF5 file, found a damaged or cut one")
    h5py.File(path, "w").close()
    assert "found an HDF5 file that is no model" in refused(path)
    bias_model([1.0, 0.0]).save(path)
    assert "found a Keras model without a detector's metadata" in refused(path)


def test_a_model_that_brings_code_is_refused(tmp_path):
    keras = backend.import_keras()
    image = keras.Input((8, 8, 3))
    x = keras.layers.Lambda(lambda values: values / 255)(image)
    x = keras.layers.Dense(2, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    path = tmp_path / "lambda.h5"
    model_file.save(keras.Model(image, x), path, METADATA)
    assert "found 'Lambda'; it could run code, so it is not loaded" in refused(path)


def test_what_was_checked_is_what_is_loaded(tmp_path, small):
    """A file can be an HDF5 file and, from its end, a .keras archive; Keras would choose by the name."""
    other, both = tmp_path / "other.keras", tmp_path / "both.keras"
    bias_model([5.0, 0.0]).save(other)
    both.write_bytes(small.read_bytes() + other.read_bytes())
    with pytest.raises(InputError, match="expected a model file"):
        model_file.load(both)
    assert refused(both).startswith("M: expected a model file (.h5)")


@pytest.mark.slow
def test_exporting_imports_nothing_from_the_current_folder(tmp_path, small, cache, monkeypatch):
    shutil.copy(small, tmp_path / "m.h5")
    (tmp_path / "detector" / "model").mkdir(parents=True)
    for name in ("detector/__init__.py", "detector/model/__init__.py", "numpy.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('error: code of the current folder was run')")
    monkeypatch.chdir(tmp_path)
    assert export.open_detector("m.h5").metadata == METADATA


@pytest.mark.parametrize("change", [
    {"thresholds": {}}, {"temperature": "x"}, {"temperature": 0}, {"image_size": 10**9}, {"training_range": {}}, {"output": "tanh"},
    {"preprocessing": "crop"}, {"preprocessing": "views", "views": ["whole"], "view_weights": [1, 2]},
    {"preprocessing": "views", "views": []}, {"preprocessing": "views", "views": ["native"] * 6},
    {"preprocessing": "views", "views": ["whole"] * 4}, {"preprocessing": "views", "views": ["between"] * 6},
    {"preprocessing": "views", "views": [["whole"]]}, {"preprocessing": "views", "views": "whole"},
    {"class_names": ["Real", "Fake"]}, {"thresholds": {**METADATA["thresholds"], "fake": float("nan")}},
    {"architecture": {"a": 1}}, {"trained_on": None}, {"made": "missing"}, {"thresholds": "missing"},
])  # fmt: skip
def test_metadata_out_of_their_range_are_refused(tmp_path, small, change):
    metadata = {name: value for name, value in {**METADATA, **change}.items() if value != "missing"}
    path = changed(tmp_path, small, detector=json.dumps(metadata))
    assert refused(path).startswith("M: expected a detector's metadata, found values that are missing or of another type or range")


@pytest.mark.parametrize(
    "text, found", [("[" * 50_000, "as JSON, found something else"), ('{"format": 99}', "of format 2, found 99")]
)
def test_metadata_of_another_kind_are_refused(tmp_path, small, text, found):
    assert found in refused(changed(tmp_path, small, detector=text))


@pytest.mark.parametrize("config", ["no json", '{"class_name": ["a", "list"]}', '{"class_name": "Functional"}', "[" * 9999])
def test_a_damaged_configuration_is_one_line(tmp_path, small, config):
    assert refused(changed(tmp_path, small, model_config=config)).startswith("M: expected ")


def test_digests_of_a_stranger_take_no_more_memory_than_the_file(tmp_path):
    path = tmp_path / "m.h5"
    model_file.save(bias_model([1.0, 0.0]), path, METADATA, np.zeros((5, 8), np.uint8))
    assert model_file.read_train_digests(path).shape == (5, 8)
    for put in (
        lambda file: file.create_dataset("train_digests", (2**40, 8), np.uint8, chunks=(2**20, 8), compression="gzip"),
        lambda file: file.create_dataset("train_digests", data=np.zeros((3, 4), np.uint8)),
        lambda file: file.create_group("train_digests"),
    ):
        with h5py.File(path, "r+") as file:
            del file["train_digests"]
            put(file)
        with pytest.raises(InputError, match="expected train_digests of"):
            model_file.read_train_digests(path)


def test_a_file_of_format_1_loads_with_the_new_names(tmp_path, small):
    former = {"preprocessing": "fitting", "training_range": "seen"}
    metadata = {former.get(name, name): value for name, value in METADATA.items()} | {"format": 1}
    path = changed(tmp_path, small, detector=json.dumps(metadata))
    assert model_file.read_metadata(path) == model_file.load(path)[1] == METADATA
    made = {"sha256": "0", "bytes": 1, "facts": metadata}  # as next to the shipped models
    (tmp_path / "m.json").write_text(json.dumps(made))
    (tmp_path / "m.tflite").write_bytes(b"1")
    assert export._made(tmp_path / "m")["metadata"] == METADATA


def test_an_unlike_image_is_said_to_be_so():
    assert scores.out_of_range(METADATA, 8, 8) is None
    assert scores.out_of_range(METADATA, 640, 427) == (
        "it is 640 x 427 pixels; the detector is made for images with a shorter side of 8 pixels"
    )
    assert scores.out_of_range(METADATA, 16, 8) == "its sides are 2 to 1; the detector is made for images of 1 to 1"
    assert scores.out_of_range(METADATA, 8, 8, blank=True) == "it is blank: there is nothing in it to classify"
