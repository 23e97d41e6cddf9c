"""The benchmark that compares engines: what of it can be tested without the engines that the project does not use."""
import importlib.util

import pytest

from benchmarks import engines
from detector.model import file as model_file
from tests.model.test_file import FACTS, bias_model


def test_missing_packages_are_one_line(tmp_path, run, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("onnxruntime", "openvino") else there("os"))
    assert run(engines.main, tmp_path / "x.h5") == (
        1, "", "error: expected the packages ai-edge-litert, onnx, onnxruntime, openvino, tf2onnx, found no onnxruntime, openvino; "
        "run: pip install onnxruntime openvino\n",
    )  # fmt: skip
    assert run(engines.main, tmp_path / "x.h5", "--engines", "LiteRT", "OpenVINO f32") == (
        1, "", "error: expected the packages ai-edge-litert, openvino, found no openvino; run: pip install openvino\n",
    )  # fmt: skip


def test_an_engine_is_compared_with_keras_and_the_converted_network_kept(tmp_path, run, monkeypatch):
    model, keep = tmp_path / "small.h5", tmp_path / "keep"
    model_file.save(bias_model([1.5, 0.5]), model, FACTS)
    options = ("--engines", "LiteRT", "--rounds", 1, "--seconds", 0.01, "--keep", keep)
    for _ in range(2):
        code, out, err = run(engines.main, model, *options)
        row = out.splitlines()[1].split()
        assert code == 0 and row[:4] == ["compact,", "8", "px", "LiteRT"] and row[8] == "yes", err
        assert float(row[4]) > 0 < float(row[5].replace(",", "")) and 0 < int(row[9]) <= int(row[10])
        assert sorted(path.name for path in keep.iterdir()) == ["small-8.json", "small-8.tflite"]
        monkeypatch.setattr(engines, "network", None)  # it is not made again
    told = keep / "small-8.json"
    told.write_text(told.read_text().replace("1.0", "1.1"))
    assert run(engines.main, model, *options)[1].splitlines()[1].split()[8] == "no"
    (keep / "small-8.tflite").write_bytes(b"cut")
    code, _, err = run(engines.main, model, *options)
    assert code == 1 and err.startswith("error: LiteRT, compact, 8 px: ") and err.count("\n") == 1


def test_what_a_package_requires_is_counted_once_and_numpy_not():
    names = engines.required("ai-edge-litert")
    assert names[0] == "ai-edge-litert" and "tqdm" in names and len(set(names)) == len(names) and "numpy" not in names
    alone, whole = engines.megabytes("ai-edge-litert")
    assert 0 < alone < whole
    assert engines.required("no such package") == []


@pytest.mark.parametrize("number", [1, 7])
def test_drawn_images_are_the_same_each_time(number):
    images = engines.drawn(8, number)
    assert images.shape == (number, 8, 8, 3) and (images == engines.drawn(8, number)).all()
    assert images[0].std(axis=(0, 1)).max() == 0 and images.min() >= 0 and images.max() <= 255
