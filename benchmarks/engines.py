"""LiteRT, ONNX Runtime and OpenVINO on the same networks: start, images per second, agreement with Keras, room on the disk.

    pip install -r requirements.txt onnx onnxruntime openvino tf2onnx
    python benchmarks/engines.py models/compact.h5 resnet101.h5 --size 224

reads   detectors (.h5); with --size, their networks with that input besides, where it changes nothing of the weights; writes what
        it converts them to, for the next time, into --keep where that is given
prints  for each network and engine, the median of --rounds processes of its own: seconds to import the engine, open the network and
        score one image; images per second in batches as large as the app's, on all cores. Then the largest difference from Keras in
        logits and in P(Fake) before calibration, on drawn images; and the MB of the engine's packages and of all that they require,
        numpy aside, which the app needs anyway

The engines are no requirements of the project, LiteRT aside: install them in an environment of their own. ONNX comes out of Keras
by way of tf2onnx; OpenVINO reads LiteRT's flatbuffer. All compute in float32; OpenVINO does so only when told, and is also shown in
bf16, which it picks by itself where the processor has it.
"""
import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from detector.console import InputError, stage, table  # noqa: E402
from detector.model import backend, export, runtime, scores  # noqa: E402
from detector.model import file as model_file  # noqa: E402

LOGITS, P_FAKE = 1e-3, 1e-5  # agreement that is asked for
PACKAGES = {  # of each engine: what is imported, and what is installed
    "LiteRT": ("ai_edge_litert", "ai-edge-litert"),
    "ONNX Runtime": ("onnxruntime", "onnxruntime"),
    "OpenVINO f32": ("openvino", "openvino"),
    "OpenVINO bf16": ("openvino", "openvino"),
}


# --- the engines: functions from the path without suffix to a function from (n, s, s, 3) float32 to logits ------------------


def open_litert(stem):
    """Open a flatbuffer with LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=f"{stem}.tflite", num_threads=os.cpu_count())
    into, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    shape = None

    def run(images):
        nonlocal shape
        if images.shape != shape:
            interpreter.resize_tensor_input(into, images.shape)
            interpreter.allocate_tensors()
            shape = images.shape
        interpreter.set_tensor(into, images)
        interpreter.invoke()
        return interpreter.get_tensor(out)

    return run


def open_onnx(stem):
    """Open an ONNX file with ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(f"{stem}.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def open_openvino(stem, precision="f32"):
    """Open a flatbuffer with OpenVINO."""
    import openvino

    model = openvino.Core().read_model(f"{stem}.tflite")
    model.reshape([-1, *list(model.inputs[0].partial_shape)[1:]])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"})
    return lambda images: compiled(images)[0]


ENGINES = {
    "LiteRT": open_litert,
    "ONNX Runtime": open_onnx,
    "OpenVINO f32": open_openvino,
    "OpenVINO bf16": lambda stem: open_openvino(stem, "bf16"),
}


# --- one engine, in a process of its own -----------------------------------------------------------------------------------


def drawn(size, number):
    """Return (n, s, s, 3) float32, RGB, 0-255: half of them noise, half of them plain."""
    images = np.random.default_rng(0).integers(0, 256, (number, size, size, 3))
    images[::2] = images[::2, :1, :1]
    return images.astype(np.float32)


def measure_one(engine, stem, size, batch, seconds):
    """Return {"start": seconds, "rate": images per second, "logits": of the drawn images}."""
    images = drawn(size, batch)
    began = time.perf_counter()
    run = ENGINES[engine](stem)
    run(images[:1])
    start = time.perf_counter() - began
    logits = run(images)  # warms up
    times, until = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - began)
    return {"start": start, "rate": batch / statistics.median(times), "logits": logits.tolist()}


# --- the networks ----------------------------------------------------------------------------------------------------------


def prepare(path, size, folder, engines):
    """Convert a detector's network for engines, with another input where `size` is given, unless that was done; return the stem.

    None is returned where there is no such network. What is to be known of the converted one stands beside it and is written last:
    <stem>.json {name, size, batch, output, margins}.
    """
    metadata = model_file.read_metadata(path)
    if size == metadata["image_size"]:
        return None
    size = size or metadata["image_size"]
    stem = Path(folder, f"{Path(path).stem}-{size}")
    for_onnx = "ONNX Runtime" in engines
    if stem.with_suffix(".json").is_file() and (stem.with_suffix(".onnx").is_file() or not for_onnx):
        return stem
    model = network(path, size)
    if model is None:
        return None
    batch = runtime.batch_of({"image_size": size})
    margins = backend.keras_logits(model, drawn(size, batch), metadata["output"])
    if for_onnx:
        with backend.linear_output(model), backend.quiet_stderr():
            model.export(f"{stem}.onnx", format="onnx", verbose=False)
    stem.with_suffix(".tflite").write_bytes(export._to_flatbuffer(model))
    told = {"name": f"{metadata['architecture']}, {size} px", "size": size, "batch": batch, "output": metadata["output"],
            "margins": margins.tolist()}  # fmt: skip
    stem.with_suffix(".json").write_text(json.dumps(told), "utf-8")
    return stem


def network(path, size):
    """Return the Keras network of a detector with an input of `size`; None where its weights depend on that."""
    from detector.model.architectures import ARCHITECTURES

    model, metadata = model_file.load(path)
    if size == metadata["image_size"]:
        return model
    one = ARCHITECTURES[metadata["architecture"]]
    stem = metadata["made"].get("arguments", {}).get("stem") or "standard"
    if metadata["architecture"] == "compact" or stem.startswith("small"):
        return None  # made for small images: of a larger one they compute far too much
    larger = one.build(size, "none", 0.0)
    try:
        larger.set_weights(model.get_weights())
    except ValueError:
        return None
    return larger


# --- what is told ----------------------------------------------------------------------------------------------------------


def compare(stem, engines, rounds, seconds):
    """Return the table's rows of one network."""
    told = json.loads(Path(stem).with_suffix(".json").read_text("utf-8"))
    expected, found = np.array(told["margins"]), {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine in engines:
            more = [str(stem), str(told["size"]), str(told["batch"]), str(seconds)]
            done = subprocess.run([sys.executable, __file__, "--one", engine, *more], capture_output=True, text=True)
            if done.returncode:
                raise InputError(f"{engine}, {told['name']}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
            found[engine].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for engine, measured in found.items():
        margins = scores.fake_logits(measured[0]["logits"], told["output"])
        apart = abs(margins - expected).max()
        p_apart = abs(scores.p_fake_of(margins, 1.0) - scores.p_fake_of(expected, 1.0)).max()
        start, rate = (statistics.median(one[name] for one in measured) for name in ("start", "rate"))
        alone, whole = megabytes(PACKAGES[engine][1])
        rows.append([told["name"], engine, f"{start:.3f}", f"{rate:,.1f}", f"{apart:.1e}", f"{p_apart:.1e}",
                     "yes" if apart <= LOGITS and p_apart <= P_FAKE else "no", f"{alone:.0f}", f"{whole:.0f}"])  # fmt: skip
    return rows


def megabytes(package):
    """Return the MB of a package, and of it with all that it requires, numpy aside."""
    sizes = {name: size_of(name) for name in required(package)}
    return sizes[package], sum(sizes.values())


def required(package):
    """Return the names of a package and of all that it requires here, optional extras and numpy aside."""
    found, waiting = [], [package]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found or name == "numpy":
            continue
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system, or another Python
            continue
        found.append(name)
        waiting += [re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line]
    return found


def size_of(package):
    """Return the MB of an installed package's files."""
    paths = [Path(metadata.distribution(package).locate_file(file)) for file in metadata.files(package) or ()]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def check_installed(engines):
    """Raise InputError unless the engines, and what converts networks for them, are installed."""
    needed = {PACKAGES[engine] for engine in engines}
    if "ONNX Runtime" in engines:
        needed |= {("onnx", "onnx"), ("tf2onnx", "tf2onnx")}
    missing = sorted(name for module, name in needed if importlib.util.find_spec(module) is None)
    if missing:
        expected = f"expected the packages {', '.join(sorted(name for _, name in needed))}, found no {', '.join(missing)}"
        raise InputError(f"{expected}; run: pip install {' '.join(missing)}")


@stage
def main(argv=None):
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", type=Path, nargs="*", help="detectors (.h5)")
    add("--size", type=int, help="measure their networks with an input of so many pixels, too")
    add("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES), help="(default: all)")
    add("--rounds", type=int, default=3, help="processes for each figure (default: %(default)s)")
    add("--seconds", type=float, default=5, help="of computing for each rate (default: %(default)s)")
    add("--keep", type=Path, metavar="FOLDER", help="keep the converted networks there, and take those that are there")
    add("--one", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        engine, stem, size, batch, seconds = args.one
        return print(json.dumps(measure_one(engine, stem, int(size), int(batch), float(seconds))))
    check_installed(args.engines)
    with tempfile.TemporaryDirectory(prefix="engines-") as work:
        folder = args.keep or Path(work)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = [None, args.size] if args.size else [None]
        stems = [prepare(path, size, folder, args.engines) for path in args.models for size in sizes]
        rows = [row for stem in stems if stem for row in compare(stem, args.engines, args.rounds, args.seconds)]
    header = ["network", "engine", "start, s", "images per second", "logits apart", "P apart", "agrees", "MB", "MB in all"]
    print(table(rows, header))
    return None


if __name__ == "__main__":
    main()
