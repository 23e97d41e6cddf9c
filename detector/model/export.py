"""Export a .h5 to LiteRT, once, and cache the result.

An exported model is the same graph up to the logits as a LiteRT flatbuffer. The .h5 stays the reference:
each export is compared with Keras on 16 images. For a detector that ships:

    python -m detector.model.export models/NAME.h5 models/NAME
"""

import atexit
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from detector.console import InputError, stage
from detector.files import atomic_write, digest_of
from detector.model.backend import compute_in_float32, keras_logits, linear_output, quiet_stderr
from detector.model.file import check_is_hdf5, check_metadata, load, read_metadata, upgrade
from detector.model.runtime import LiteRTDetector

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = PROJECT / "models"
EXPORT_FORMAT = 1  # part of the cache key: raise it when the exported files change
KEPT_DAYS = 60  # the cache drops exported models unused for that long
CHECKED_ON = 16  # images on which an exported model is compared with Keras
LOGIT_TOLERANCE = 5e-3  # rounding alone reaches 1.8e-3 (efficientnet_lite2_high_pass); 5e-3 is about 0.1 points of P(Fake)


def open_detector(path, threads=None):
    """Return a LiteRTDetector of a .h5; its exported model comes from models/ or the user's cache, or is made once.

    Raises:
        InputError: as `load`, or there is no exported model and TensorFlow, which makes it, is not installed.
    """
    path = Path(path)
    if shipped := _shipped(path):
        return LiteRTDetector(path, *shipped, threads=threads)
    check_is_hdf5(path)
    key = _key(path)
    stem = _cache() / key
    made = _made(stem)
    if made is None:
        stem = _export_folder() / key
        _export_in_subprocess(path, stem)
        made = _made(stem)
        _prune(stem.parent)
    with contextlib.suppress(OSError):  # of somebody else, or removed meanwhile
        for suffix in (".json", ".tflite"):  # for `_prune`
            os.utime(stem.with_name(f"{stem.name}{suffix}"))
    if made is None or not key.startswith(made["sha256"]):
        stem.with_name(f"{stem.name}.json").unlink(missing_ok=True)
        raise InputError(f"{path}: it changed while it was exported; run the same command again")
    return LiteRTDetector(path, made["metadata"], stem.with_name(f"{stem.name}.tflite"), threads=threads)


def known_metadata(path):
    """Return the metadata of a .h5 from the fastest source: the JSON in models/, the user's cache, or the file itself.

    Raises:
        InputError: as `read_metadata`.
    """
    path = Path(path)
    if shipped := _shipped(path):
        return shipped[0]
    check_is_hdf5(path)
    made = _made(_cache() / _key(path))
    return made["metadata"] if made else _read_metadata(path)


def _read_metadata(path):
    try:
        return read_metadata(path)
    except ModuleNotFoundError:
        needed = f"{path}: its first use needs TensorFlow, which is not installed; run: pip install -r requirements.txt"
        files = f", or get {path.stem}.h5, {path.stem}.json and {path.stem}.tflite again, which belong together"
        raise InputError(needed + files if _in_models(path) else needed) from None


def _in_models(path):
    return path.resolve().parent == SHIPPED


def _shipped(path):
    """Return (metadata, flatbuffer) next to a .h5 in the project's own models/, None unless both are complete and made from it."""
    path = path.resolve()
    made = _made(path.with_suffix("")) if _in_models(path) and path.is_file() else None
    if made is None or made["sha256"] != digest_of(path):
        return None
    return made["metadata"], path.with_suffix(".tflite")


def _made(stem):
    """Return the JSON of an exported model as a dict, or None if the model is missing or damaged; it is then made again."""
    flatbuffer = stem.with_name(f"{stem.name}.tflite")
    try:
        made = json.loads(stem.with_name(f"{stem.name}.json").read_text("utf-8"))
        made["metadata"] = upgrade(made.get("metadata", made.get("facts")))  # 'facts' in files of format 1
        check_metadata(made["metadata"], stem)
        return made if flatbuffer.stat().st_size == made["bytes"] and isinstance(made["sha256"], str) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return None


def _prune(folder):
    """Remove from the cache what was not used for KEPT_DAYS; a model that another process needs is exported again."""
    for path in sorted(folder.iterdir()):  # the JSON first: without it a model does not count
        with contextlib.suppress(OSError):  # gone meanwhile, or of somebody else
            if path.stat().st_mtime < time.time() - KEPT_DAYS * 86_400:
                path.unlink()


def _cache():
    from platformdirs import user_cache_path

    return user_cache_path("real-or-fake-detector", appauthor=False)


def _export_folder():
    """Return the cache folder, or if it is not writable, a temporary folder that is removed when this process ends."""
    folder = _cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        print(f"{folder}: {error.strerror}; the exported model is kept for this run only", file=sys.stderr)
        temporary = tempfile.mkdtemp(prefix="real-or-fake-detector-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return Path(temporary)


def _key(path):
    """Return the cache key of a .h5, from its SHA-256."""
    return f"{digest_of(path)}-{EXPORT_FORMAT}"


def _export_in_subprocess(path, stem):
    """Export in a process of its own, so that TensorFlow's gigabyte of memory is freed afterwards."""
    _read_metadata(path)
    print(f"{path}: exporting it for fast use, once (about half a minute) ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "detector.model.export", os.fspath(path.resolve()), os.fspath(stem)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONIOENCODING": "utf-8"}
    # Run in the project's folder: `-m` imports from the current folder first, which may hold anything.
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        encoding="utf-8", errors="backslashreplace",
    )  # fmt: skip
    if done.returncode:
        messages = list(filter(None, done.stderr.splitlines())) or ["no message"]
        errors = [line.removeprefix("error: ") for line in messages if line.startswith("error: ")]
        raise InputError(errors[-1] if errors else f"{path}: export failed: {messages[-1]}")


def export_detector(path, stem):
    """Write <stem>.tflite and <stem>.json for a .h5, checked against Keras on 16 images, the JSON last.

    The JSON is {'sha256': of the .h5, 'bytes': of the flatbuffer, 'metadata': the .h5's}.

    Args:
        path: the .h5.
        stem: path without suffix for the two files.

    Raises:
        InputError: the exported model's logits differ from Keras's by more than LOGIT_TOLERANCE.
    """
    sha256 = digest_of(path)
    compute_in_float32()
    model, metadata = load(path)
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    flatbuffer = stem.with_name(f"{stem.name}.tflite")
    try:
        with atomic_write(flatbuffer, unique=True) as temporary:
            _convert_and_check(model, metadata, path, temporary)
    except PermissionError:
        if not flatbuffer.exists():  # on Windows another process may have made the same file and use it already
            raise
    made = {"sha256": sha256, "bytes": flatbuffer.stat().st_size, "metadata": metadata}
    with atomic_write(stem.with_name(f"{stem.name}.json"), unique=True) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n", "utf-8")


def _convert_and_check(model, metadata, path, flatbuffer):
    flatbuffer.write_bytes(_to_flatbuffer(model))
    size = metadata["image_size"]
    images = np.random.default_rng(0).integers(0, 256, (CHECKED_ON, size, size, 3), np.uint8)
    images[: CHECKED_ON // 2] = images[: CHECKED_ON // 2, :1, :1]  # half of them flat: noise and flat images are the two extremes
    expected = keras_logits(model, images, metadata["output"])
    difference = np.abs(LiteRTDetector(path, metadata, flatbuffer).logits(images) - expected).max()
    if not difference <= LOGIT_TOLERANCE:
        raise InputError(f"{path}: expected exported logits that differ from Keras's by {LOGIT_TOLERANCE}, found {difference:.2g}")


def _to_flatbuffer(model):
    import tensorflow as tf

    with linear_output(model), quiet_stderr(), contextlib.redirect_stdout(io.StringIO()):
        return tf.lite.TFLiteConverter.from_keras_model(model).convert()


if __name__ == "__main__":
    stage(lambda argv: export_detector(*sys.argv[1:]))()
