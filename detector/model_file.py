"""The second contract: what a saved .h5 holds, how it is saved, loaded, compiled and turned into P(Fake).

The graph takes (n, s, s, 3) float32, RGB, 0-255. The HDF5 attribute 'detector' holds a JSON object, the facts:

    format          1
    architecture    'resnet101', 'compact', ...
    class_names     ['Fake', 'Real']
    output          'softmax' (columns Fake, Real) or 'sigmoid_real' (one column, P(Real))
    fitting         'resize': the whole image, by detector.pixels.fit; 'patches': squares at the image's own resolution, by
                    detector.pixels.patches, and the mean of their margins
    patches         so many at most; with 'patches' alone
    image_size      s, in pixels
    temperature     divides the logit of Fake before the sigmoid; fitted on validation
    thresholds      {'fake': t_F, 'real': t_R, ...} on the calibrated P(Fake); fitted on validation
    seen            {'shorter_side': [lowest, highest], 'aspect': [lowest, highest]} of the train images
    trained_on      a sentence for people
    made            arguments, counts, versions

The dataset 'train_digests', (n, 8) uint8, holds the first bytes of the SHA-256 of each train image: whether an image that is
evaluated was trained on can be told without the train images.

The margin of an image is its logit of Fake: log P(Fake) - log P(Real), before calibration. All scores come from it.
A compiled detector is the same graph up to the margin as a LiteRT flatbuffer; the .h5 stays what counts.
"""
import atexit
import contextlib
import errno
import hashlib
import io
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from detector.console import InputError, describe_os_error, progress
from detector.data_tree import CLASSES, UNFINISHED

FORMAT = 1
DIGEST_BYTES = 8  # of a train image's SHA-256: among 10^5 and 10^5 images, two that differ agree once in 10^9 models
BACKENDS = {"tensorflow": "requirements.txt", "jax": "requirements-jax.txt"}  # of Keras, and what installs them
MAX_IMAGE_SIZE = 4096  # pixels
LIMITS = ("fake", "real", "max_error", "real_called_fake_bound", "fake_called_real_bound")  # numbers of facts["thresholds"]
MAX_PATCHES = 256  # of an image
OUTPUTS = ("softmax", "sigmoid_real")
PROJECT = Path(__file__).resolve().parent.parent
SHIPPED = PROJECT / "models"
COMPILED_FORMAT = 1  # part of the cache key: raise it when the compiled form changes
STEP = "step: "  # begins a line by which the compiling process tells how far it is
STEPS = ("loading the network", "converting it", "comparing it with Keras")
KEPT_DAYS, KEPT_FORMS = 180, 50  # compiled forms that were not used for so long go, and of more than so many those used longest ago
CHECKED_ON = 16  # images on which a compiled form is compared with Keras
LOGIT_TOLERANCE = 1e-3
BATCH = 64  # fitted images at a stretch at most, and for large ones as many as have so many pixels:
BATCH_PIXELS = 4 * 224 * 224
ENGINES_BYTES = 512 << 20  # of networks in memory for several threads: each engine keeps a copy of the weights

# Only what the project's own architectures are made of: a model from a stranger cannot bring code.
_LAYERS = {
    "Functional", "InputLayer", "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Conv2D", "Dense",
    "DepthwiseConv2D", "Dropout", "Flatten", "GaussianNoise", "GlobalAveragePooling2D", "MaxPooling2D", "Normalization", "Permute",
    "ReLU", "Rescaling", "ZeroPadding2D",
}  # fmt: skip
_HELPERS = {
    "DTypePolicy", "GlorotUniform", "HeNormal", "L2", "Ones", "VarianceScaling", "Zeros", "__keras_tensor__", "__tensor__",
}  # fmt: skip


def import_keras():
    """Import Keras, by default on TensorFlow, without the backend's start-up messages; return the module."""
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS:
        raise InputError(f"KERAS_BACKEND={backend}: expected {' or '.join(BACKENDS)}; set it to one of them, or not at all")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_stderr():
        try:
            import keras
        except ModuleNotFoundError as error:
            raise InputError(
                f"this needs the package {error.name}, which is not installed; "
                f"run: pip install -r {BACKENDS[backend]}"
            ) from None
    import absl.logging

    absl.logging.set_verbosity("error")
    return keras


@contextlib.contextmanager
def _quiet_stderr():
    """Keep what C++ libraries write to stderr while they start off the user's screen; Python's own errors still pass."""
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# --- saving and loading --------------------------------------------------------------------------------------------------


def save(model, path, facts, train_digests=None):
    """Write a Keras model and its facts to one .h5, beside and then renamed; no optimizer.

    Args:
        train_digests: (n, DIGEST_BYTES) uint8, or None: the first bytes of the SHA-256 of each train image.

    Raises:
        ValueError: the facts lack something, or the path does not end in .h5.
    """
    import h5py

    path = Path(path)
    if path.suffix != ".h5":
        raise ValueError(f"{path}: expected a name that ends in .h5")
    check_facts(facts, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}{UNFINISHED}.h5")
    check_room(path, model.variables)
    model.save(unfinished, include_optimizer=False)
    with h5py.File(unfinished, "r+") as file:
        file.attrs["detector"] = json.dumps(facts)
        if train_digests is not None:
            file["train_digests"] = train_digests
    os.replace(unfinished, path)


def check_room(path, variables):
    """Raise OSError where the disk has no room for variables in a file. (HDF5 ends the process where a write fails.)"""
    needed = sum(np.prod(variable.shape, dtype=int) for variable in variables) * 4 + (8 << 20)
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))


def check_facts(facts, path):
    """Raise InputError unless `facts` is a detector's facts that this version understands."""
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        raise InputError(f"{path}: expected a detector of format {FORMAT}, found {found}; train it again with model_training.py")
    wanted = (
        "architecture", "class_names", "output", "fitting", "image_size", "temperature", "thresholds", "seen", "trained_on", "made"
    )  # fmt: skip
    missing = [name for name in wanted if name not in facts]
    if missing:
        raise InputError(
            f"{path}: expected a detector's facts, {', '.join(missing)} missing; "
            "train it again with model_training.py"
        )
    if not _sound(facts):
        raise InputError(f"{path}: expected a detector's facts, found some of another kind; train it again with model_training.py")


def _sound(facts):
    """Tell whether the facts that scoring relies on are of the right kind and range: they can come from a stranger."""

    def number(value, low, high):
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high

    def count(value, high):
        return isinstance(value, int) and number(value, 1, high)

    try:
        limits, seen = facts["thresholds"], facts["seen"]
        return (
            facts["class_names"] == list(CLASSES)
            and facts["output"] in OUTPUTS
            and (facts["fitting"] == "resize" or (facts["fitting"] == "patches" and count(facts["patches"], MAX_PATCHES)))
            and count(facts["image_size"], MAX_IMAGE_SIZE)
            and number(facts["temperature"], 1e-3, 1e3)
            and all(number(limits[name], 0, 2) for name in LIMITS)
            and all(number(value, 0, 1e9) for name in ("shorter_side", "aspect") for value in seen[name])
            and len(seen["shorter_side"]) == len(seen["aspect"]) == 2
            and all(isinstance(facts[name], str) for name in ("architecture", "trained_on"))
        )
    except (KeyError, TypeError):
        return False


def read_facts(path):
    """Return the facts in a .h5 as a dict, without loading the network.

    Raises:
        InputError: there is no such file, it is no HDF5 file, is cut off, or is no detector of this project.
    """
    import h5py

    check_is_hdf5(path)
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("detector")
            is_model = "model_config" in file.attrs
    except OSError:
        raise InputError(
            f"{path}: expected a whole HDF5 file, found a damaged or cut one; "
            "get it again or train it again"
        ) from None
    if text is None:
        came = "a Keras model without a detector's facts" if is_model else "an HDF5 file that is no model"
        raise InputError(f"{path}: expected a detector that model_training.py saved, found {came}; train it with model_training.py")
    try:
        facts = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{path}: expected a detector's facts as JSON, found something else; train it again") from None
    check_facts(facts, path)
    return facts


def read_train_digests(path):
    """Return the digests of a detector's train images, (n, DIGEST_BYTES) uint8, or None for an older one that holds none.

    Raises:
        InputError: the file is no detector, or holds digests of another kind.
    """
    import h5py

    read_facts(path)
    with h5py.File(path, "r") as file:
        digests = file.get("train_digests")
        if digests is None:
            return None
        stored = isinstance(digests, h5py.Dataset) and digests.nbytes <= os.path.getsize(path)  # packed, it could grow to any size
        if not stored or digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != DIGEST_BYTES:
            raise InputError(f"{path}: expected train_digests of (n, {DIGEST_BYTES}) uint8, found another kind; train it again")
        return digests[:]


def check_is_hdf5(path):
    """Raise InputError unless the file is there, is named .h5 and begins as an HDF5 file does.

    The name matters: Keras chooses by it how to load, and what was checked must be what is loaded.
    """
    path = Path(path)
    if not path.is_file():
        came = "a folder" if path.is_dir() else "nothing of that name"
        raise InputError(f"{path}: expected a model file (.h5), found {came}; train one with model_training.py or check the path")
    with path.open("rb") as file:
        if path.suffix != ".h5" or file.read(8) != b"\x89HDF\r\n\x1a\n":
            raise InputError(
                f"{path}: expected a model file (.h5), found another kind of file; "
                "give the .h5 that model_training.py wrote"
            )


def load(path):
    """Load a detector's network for use or further training.

    Returns:
        (model, facts): the Keras model, not compiled, and the dict of facts.

    Raises:
        InputError: as `read_facts`, or a layer is none that this project uses (a model must not bring code).
    """
    import h5py

    facts = read_facts(path)
    keras = import_keras()
    try:
        with h5py.File(path, "r") as file:
            _check_layers(json.loads(file.attrs["model_config"]), path)
        return keras.models.load_model(path, compile=False), facts
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: expected a whole detector, found one that does not load ({reason}); train it again") from None


def _check_layers(config, path):
    """Raise InputError where a model's configuration names a class that no architecture of this project uses."""
    if isinstance(config, list):
        for part in config:
            _check_layers(part, path)
    elif isinstance(config, dict):
        name, module = config.get("class_name"), str(config.get("module") or "keras")
        foreign = config.get("registered_name") not in (None, name) or not (module == "keras" or module.startswith("keras."))
        if name is not None and (foreign or not isinstance(name, str) or name not in _LAYERS | _HELPERS):
            raise InputError(
                f"{path}: expected only layers that this project uses, found {name!r}; "
                "it could run code, so it is not loaded"
            )
        for part in config.values():
            _check_layers(part, path)


# --- scores --------------------------------------------------------------------------------------------------------------


def margins_of(logits, output):
    """Return the logit of Fake, (n,) float64, from the network's logits: (n, 2) for 'softmax', (n, 1) for 'sigmoid_real'."""
    logits = np.asarray(logits, np.float64)
    return logits[:, 0] - logits[:, 1] if output == "softmax" else -logits[:, 0]


def p_fake_of(margins, temperature):
    """Return the calibrated P(Fake), float64 in 0..1: the sigmoid of margin / temperature."""
    return 1 / (1 + np.exp(np.clip(-np.asarray(margins, np.float64) / temperature, -700, 700)))


def verdict_of(p_fake, thresholds):
    """Return 'Fake' from thresholds['fake'] on, 'Real' up to thresholds['real'], 'uncertain' between them."""
    if p_fake >= thresholds["fake"]:
        return "Fake"
    return "Real" if p_fake <= thresholds["real"] else "uncertain"


@contextlib.contextmanager
def giving_logits(model):
    """Make a model give logits: within, its last layer has no activation."""
    keras = import_keras()
    layer = model.layers[-1]
    layer.activation, activation = keras.activations.linear, layer.activation
    model.predict_function = None  # one made before would go on with the old activation
    try:
        yield model
    finally:
        layer.activation, model.predict_function = activation, None


def compute_in_float32():
    """Keep GPUs from rounding float32 to the 10 bits of TF32, as Keras's backends do unasked: scores are to be those of LiteRT."""
    backend = import_keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "float32")


def keras_margins(model, images, output, batch_size=128):
    """Return the margins of fitted images with Keras.

    Args:
        model: a Keras model, as `load` returns it.
        images: (n, s, s, 3) uint8, or an iterable of such batches.

    Returns:
        (n,) float64.
    """
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)] if isinstance(images, np.ndarray) else images
    with giving_logits(model):
        logits = [np.asarray(model.predict_on_batch(np.asarray(batch, np.float32))) for batch in batches]
    return margins_of(np.concatenate(logits), output)


def unlike_seen(facts, width, height, blank=False):
    """Return why an image is unlike those that a detector is made for, in words, or None.

    Args:
        facts: dict, as in the .h5.
        width, height: in pixels.
        blank: whether the image shows hardly anything (detector.scoring.Score.blank).
    """
    sides, aspects = facts["seen"]["shorter_side"], facts["seen"]["aspect"]
    if not sides[0] <= min(width, height) <= sides[1]:
        span = f"{sides[0]}" if sides[0] == sides[1] else f"{sides[0]} to {sides[1]}"
        return f"it is {width} x {height} pixels; the detector is made for images with a shorter side of {span} pixels"
    aspect = max(width, height) / min(width, height)
    if not aspects[0] / 1.01 <= aspect <= aspects[1] * 1.01:
        aspect, low, high = (f"{round(value, 2):g} to 1" for value in (aspect, *aspects))
        return f"its sides are {aspect}; the detector is made for images of {low if low == high else f'{low} up to {high}'}"
    return "it is blank: there is nothing in it to judge" if blank else None


def batch_of(facts):
    """Return how many fitted images a detector computes at a stretch."""
    return max(1, min(BATCH, BATCH_PIXELS // facts["image_size"] ** 2))


class Detector:
    """A compiled detector, ready to score images on the CPU with LiteRT, from several threads at once if need be.

    Attributes:
        facts: dict, as in the .h5.
        path: the .h5 it was made from.
        size: side of the network's input, in pixels.
        batch: so many fitted images are computed at a stretch.
    """

    def __init__(self, path, facts, flatbuffer, threads=None):
        self.path, self.facts = Path(path), facts
        self.size = facts["image_size"]
        self.batch = batch_of(facts)
        self._flatbuffer, self._threads = flatbuffer, threads or os.cpu_count() or 1
        self._making, self._idle = threading.Lock(), {}

    @contextlib.contextmanager
    def _lent(self, share):
        """Lend an engine to one of `share` callers at once: each has that part of the cores, and waits where none is idle."""
        share = max(1, min(share, self._threads, ENGINES_BYTES // max(os.path.getsize(self._flatbuffer), 1)))
        with self._making:
            if share not in self._idle:
                self._idle[share] = queue.LifoQueue()  # one that was used comes before one that is yet to be made
                for _ in range(share):
                    self._idle[share].put(None)
        engine = self._idle[share].get()
        try:
            engine = engine or _Engine(self._flatbuffer, max(1, self._threads // share))
            yield engine
        finally:
            self._idle[share].put(engine)

    def margins(self, images, share=1):
        """Return the margins, (n,) float64, of fitted images.

        Args:
            images: (n, s, s, 3) uint8, RGB.
            share: number of threads that call this at once, each to have its part of the cores. The margins do not depend on it.
        """
        with self._lent(share) as engine:
            logits = [engine.logits(images[start : start + self.batch]) for start in range(0, len(images), self.batch)]
        return margins_of(np.concatenate(logits), self.facts["output"])

    def p_fake(self, images):
        """Return the calibrated P(Fake), (n,) float64, of fitted images: (n, s, s, 3) uint8, RGB."""
        return p_fake_of(self.margins(images), self.facts["temperature"])

    def verdict(self, p_fake):
        """Return 'Fake', 'Real' or 'uncertain' for a calibrated P(Fake)."""
        return verdict_of(p_fake, self.facts["thresholds"])

    def unlike_seen(self, width, height, blank=False):
        """Return why an image is unlike what this detector was trained on, in words, or None."""
        return unlike_seen(self.facts, width, height, blank)


# --- the compiled form ---------------------------------------------------------------------------------------------------


class _Engine:
    """A LiteRT interpreter, for one thread at a time."""

    def __init__(self, flatbuffer, threads):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError:
            raise InputError(
                "judging an image needs the package ai-edge-litert; "
                "run: pip install -r requirements-app.txt"
            ) from None
        with _quiet_stderr():
            self._interpreter = self._opened(Interpreter, flatbuffer, threads)
            self._input = self._interpreter.get_input_details()[0]["index"]
            self._output = self._interpreter.get_output_details()[0]["index"]
            self._allocate((1, *self._interpreter.get_input_details()[0]["shape"][1:]))

    def _opened(self, interpreter, flatbuffer, threads):
        try:
            return interpreter(model_path=os.fspath(flatbuffer), num_threads=threads)
        except (ValueError, RuntimeError, OSError):
            raise InputError(
                f"{flatbuffer}: expected a compiled detector, found none or a damaged one; "
                "delete it and run the same command again"
            ) from None

    def _allocate(self, shape):
        self._shape = shape
        self._interpreter.resize_tensor_input(self._input, shape)
        self._interpreter.allocate_tensors()

    def logits(self, images):
        """Return the network's logits, (n, outputs) float32, of (n, s, s, 3) uint8."""
        if images.shape != self._shape:
            self._allocate(images.shape)
        self._interpreter.tensor(self._input)()[:] = images  # straight to where the network reads, as float32
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)


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
    command = [sys.executable, "-m", "detector.model_file", os.fspath(path.resolve()), os.fspath(stem)]
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
    python -m detector.model_file models/NAME.h5 models/NAME

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
    with giving_logits(model), _quiet_stderr(), contextlib.redirect_stdout(io.StringIO()):
        return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def versions():
    """Return {package: version} of what made a model, for its facts."""
    from importlib import metadata

    names = ("keras", "tensorflow", "jax", "numpy", "pillow")
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {"python": sys.version.split()[0], **found, "date": time.strftime("%Y-%m-%d")}


if __name__ == "__main__":
    try:
        compile_detector(sys.argv[1], sys.argv[2])
    except InputError as problem:
        raise SystemExit(f"error: {problem}") from None
    except OSError as problem:
        raise SystemExit(f"error: {describe_os_error(problem)}") from None
