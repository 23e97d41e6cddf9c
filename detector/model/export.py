"""Export a .h5 to LiteRT, once, and cache the result.

An exported model is the same graph up to the logits as a LiteRT flatbuffer. The .h5 stays the reference:
each export is compared with Keras on 16 images. For a detector that ships:

    python -m detector.model.export models/NAME.h5 models/NAME
"""
import atexit
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from detector.console import InputError, describe_os_error, progress
from detector.files import UNFINISHED
from detector.model.backend import compute_in_float32, giving_logits, keras_margins, quiet_stderr
from detector.model.file import check_facts, check_is_hdf5, load, read_facts
from detector.model.runtime import Detector

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = PROJECT / "models"
COMPILED_FORMAT = 1  # part of the cache key: raise it when the compiled form changes
STEP = "step: "  # begins a line by which the compiling process tells how far it is
STEPS = ("loading the network", "converting it", "comparing it with Keras")
KEPT_DAYS, KEPT_FORMS = 180, 50  # compiled forms that were not used for so long go, and of more than so many those used longest ago
CHECKED_ON = 16  # images on which a compiled form is compared with Keras
LOGIT_TOLERANCE = 1e-3


def open_detector(path, threads=None):
    """Open a .h5 for scoring; its compiled form is taken from models/ or the user's cache, or made once.

    Raises:
        InputError: as `load`, or no compiled form is there and TensorFlow, which makes it, is not installed.
    """
    path = Path(path)
    shipped = _shipped(path)
    if shipped:
        return Detector(path, *shipped, threads=threads)
    check_is_hdf5(path)
    key = _key(path)
    stem = _cache() / key
    made = _made(stem)
    if made is None:
        stem = _place_to_compile() / key
        _compile_in_subprocess(path, stem)
        made = _made(stem)
        _prune(stem.parent)
    else:
        _mark_used(stem)
    if made is None or not key.startswith(made["sha256"]):
        stem.with_name(f"{stem.name}.json").unlink(missing_ok=True)
        raise InputError(f"{path}: it was replaced while it was compiled; run the same command again")
    return Detector(path, made["facts"], stem.with_name(f"{stem.name}.tflite"), threads=threads)


def known_facts(path):
    """Return the facts of a .h5 by the fastest way: beside it in models/, from the user's cache, or out of the file itself.

    Raises:
        InputError: as `read_facts`.
    """
    path = Path(path)
    shipped = _shipped(path)
    if shipped:
        return shipped[0]
    check_is_hdf5(path)
    made = _made(_cache() / _key(path))
    try:
        return made["facts"] if made else read_facts(path)
    except ModuleNotFoundError:
        raise _needs_tensorflow(path) from None


def _needs_tensorflow(path):
    if _in_models(path):
        return InputError(
            f"{path}: expected {path.stem}.json and {path.stem}.tflite beside it, whole and made from it, found other ones or "
            "none; get the three files again, or let TensorFlow make them, which is not installed: pip install -r requirements.txt"
        )
    return InputError(f"{path}: its first use needs TensorFlow, which is not installed; run: pip install -r requirements.txt")


def _in_models(path):
    return path.resolve().parent == SHIPPED


def _shipped(path):
    """Return (facts, flatbuffer) that lie, whole, beside a .h5 in the project's own models/ and were made from these very bytes.

    Where they do not it is None, and the .h5 is compiled as any other.
    """
    made = _made(path.with_suffix("")) if _in_models(path) and path.is_file() else None
    if made is None or made["sha256"] != hashlib.sha256(path.read_bytes()).hexdigest():
        return None
    return made["facts"], path.with_suffix(".tflite")


def _made(stem):
    """Return what the JSON of a compiled form says, or None where the form is missing or damaged: it is then made again."""
    flatbuffer = stem.with_name(f"{stem.name}.tflite")
    try:
        made = json.loads(stem.with_name(f"{stem.name}.json").read_text("utf-8"))
        check_facts(made["facts"], stem)
        return made if flatbuffer.stat().st_size == made["bytes"] and isinstance(made["sha256"], str) else None
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None


def _mark_used(stem):
    """Set the time of a compiled form to now: it tells `_prune` when it was last used."""
    with contextlib.suppress(OSError):  # of somebody else, or removed meanwhile
        for suffix in (".json", ".tflite"):
            os.utime(stem.with_name(f"{stem.name}{suffix}"))


def _prune(folder):
    """Remove from the cache what was not used for KEPT_DAYS, and of compiled forms all but the KEPT_FORMS used last.

    Other processes may do the same, or use the cache: what is gone meanwhile, or cannot be removed, is passed over, and a form that
    somebody misses is made again.
    """
    used = {}
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            used[path] = path.stat().st_mtime
    forms = sorted((path for path in used if path.suffix == ".tflite"), key=used.get, reverse=True)
    old = {path for path, time_of_use in used.items() if time_of_use < time.time() - KEPT_DAYS * 86_400}
    old.update(path for form in forms[KEPT_FORMS:] for path in (form, form.with_suffix(".json")))
    for path in sorted(old):  # the JSON first: a form without it counts as none
        with contextlib.suppress(OSError):
            path.unlink()


def _cache():
    from platformdirs import user_cache_path

    return user_cache_path("real-or-fake-detector", appauthor=False)


def _place_to_compile():
    """Return the cache folder, or where nothing can be written there, a temporary one that goes with this process."""
    folder = _cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        print(f"{folder}: {error.strerror}; the compiled detector is kept for this run alone", file=sys.stderr)
        temporary = tempfile.mkdtemp(prefix="real-or-fake-detector-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return Path(temporary)


def _key(path):
    """Return the SHA-256 of a .h5, remembered by (path, size, mtime_ns) since hashing 163 MiB takes a while."""
    path = path.resolve()
    stat = path.stat()
    known = [os.fspath(path), stat.st_size, stat.st_mtime_ns, COMPILED_FORMAT]
    note = _cache() / f"{hashlib.sha256(known[0].encode()).hexdigest()[:32]}.known.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        remembered = json.loads(note.read_text("utf-8"))
        if remembered["file"] == known and re.fullmatch(r"[0-9a-f]{64}-\d+", remembered["key"]):
            return remembered["key"]
    with path.open("rb") as file:
        key = f"{hashlib.file_digest(file, 'sha256').hexdigest()}-{COMPILED_FORMAT}"
    with contextlib.suppress(OSError):  # then it is hashed each time
        _write(note, json.dumps({"file": known, "key": key}))
    return key


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    unfinished.write_text(text, "utf-8")
    os.replace(unfinished, path)


def _compile_in_subprocess(path, stem):
    """Compile in a process of its own, so that TensorFlow's gigabyte is gone again when it is done."""
    try:
        read_facts(path)
    except ModuleNotFoundError:
        raise _needs_tensorflow(path) from None
    print(f"{path}: compiling it for fast use, once (about half a minute) ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "detector.model.export", os.fspath(path.resolve()), os.fspath(stem)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONIOENCODING": "utf-8"}
    # In the project's folder: `-m` imports from the current one first, and that may be anybody's.
    process = subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        encoding="utf-8", errors="backslashreplace",
    )  # fmt: skip
    with process, progress(None, total=len(STEPS), unit="step") as bar:
        said = []
        for line in process.stderr:
            if line.startswith(STEP):
                bar.set_description(line.removeprefix(STEP).strip())
                bar.update(bar.n < STEPS.index(line.removeprefix(STEP).strip()))
            else:
                said.append(line.strip())
    if process.returncode:
        told = [line for line in said if line.startswith("error: ")]
        last = (told or [line for line in said if line] or ["it said nothing"])[-1]
        raise InputError(last.removeprefix("error: ") if told else f"{path}: compiling failed: {last}")


def compile_detector(path, stem):
    """Write <stem>.tflite and <stem>.json for a .h5, checked against Keras on 16 images, the JSON last.

    The JSON is {'sha256': of the .h5, 'bytes': of the flatbuffer, 'facts': the .h5's}. For a detector that is to ship:
    python -m detector.model.export models/NAME.h5 models/NAME

    Args:
        path: the .h5.
        stem: path without suffix for the two files.

    Raises:
        InputError: TensorFlow is missing, or the compiled form's logits differ from Keras's by more than 1e-3.
    """
    with Path(path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    _tell(STEPS[0])
    compute_in_float32()
    model, facts = load(path)
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    unfinished = stem.with_name(f"{stem.name}.{os.getpid()}{UNFINISHED}")
    _tell(STEPS[1])
    try:
        _compile_and_check(model, facts, path, unfinished)
        size = unfinished.stat().st_size
        with contextlib.suppress(PermissionError):  # Windows, where another process made the same and uses it already
            os.replace(unfinished, stem.with_name(f"{stem.name}.tflite"))
    finally:
        unfinished.unlink(missing_ok=True)
    _write(stem.with_name(f"{stem.name}.json"), json.dumps({"sha256": sha256, "bytes": size, "facts": facts}, indent=1) + "\n")


def _tell(step):
    print(f"{STEP}{step}", file=sys.stderr, flush=True)


def _compile_and_check(model, facts, path, flatbuffer):
    flatbuffer.write_bytes(_to_flatbuffer(model))
    _tell(STEPS[2])
    size = facts["image_size"]
    images = np.random.default_rng(0).integers(0, 256, (CHECKED_ON, size, size, 3), np.uint8)
    images[: CHECKED_ON // 2] = images[: CHECKED_ON // 2, :1, :1]  # half of them flat: both ends of what occurs
    difference = np.abs(Detector(path, facts, flatbuffer).margins(images) - keras_margins(model, images, facts["output"])).max()
    if not difference <= LOGIT_TOLERANCE:
        raise InputError(
            f"{path}: expected the compiled form to agree with Keras to {LOGIT_TOLERANCE} in logits, found "
            f"{difference:.2g}"
        )


def _to_flatbuffer(model):
    try:
        import tensorflow as tf
    except ModuleNotFoundError:
        raise InputError(
            "compiling a detector needs TensorFlow, which is not installed; "
            "run: pip install -r requirements.txt"
        ) from None
    with giving_logits(model), quiet_stderr(), contextlib.redirect_stdout(io.StringIO()):
        return tf.lite.TFLiteConverter.from_keras_model(model).convert()


if __name__ == "__main__":
    try:
        compile_detector(sys.argv[1], sys.argv[2])
    except InputError as problem:
        raise SystemExit(f"error: {problem}") from None
    except OSError as problem:
        raise SystemExit(f"error: {describe_os_error(problem)}") from None
