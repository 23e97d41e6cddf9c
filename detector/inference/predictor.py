"""From image files to verdicts: what the shell, the page and its REST API share, so that they say the same of the same file."""
import functools
import os
import threading
from pathlib import Path

import numpy as np

from detector import files
from detector.console import InputError, printable
from detector.images import formats
from detector.model import export, runtime, scores

COLUMNS = ["path", "verdict", "p_fake", "detector", "width", "height", "note", "provenance", "error"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif")
STANDARD_INPUT = "-"
WHOLE = (str, os.PathLike, bytes)  # sources that are taken as they are; of others, binary files, the bytes are read
TOLD = 500  # characters of a text in a detector, which may come from a stranger
SIZES = 4096  # of so many sizes of images it is remembered which detector is made for them


# --- which images --------------------------------------------------------------------------------------------------------
def find_images(sources):
    """List the paths of the images that `sources` name: files as they are, folders with all images below them, patterns expanded.

    Args:
        sources: paths or patterns with *, ? and [ ] (Windows' shells leave them to the program); ** goes through folders.
            A file or folder whose own name looks like a pattern is taken by its name.

    Raises:
        InputError: nothing is there of that name, or a folder holds no image.
    """
    found = []
    for source in map(Path, sources):
        if source.is_dir():
            found += _in_folder(source)
        elif source.exists():
            found.append(os.fspath(source))
        else:
            found += _matching(source)
    return found


def _in_folder(folder):
    start = os.path.join("" if folder == Path() else folder, "")  # no Paths: making them takes as long as finding the files
    paths = (f"{start}{inside.replace('/', os.sep)}" for inside in files.scan(folder))
    images = [path for path in paths if looks_like_image(path)]
    if not images:
        raise InputError(f"{folder}: expected images, found none in the folder; give another one")
    return images


def _matching(pattern):
    import glob

    matches = sorted(glob.glob(os.fspath(pattern), recursive=True))
    if not matches:
        expected = "files that match" if glob.has_magic(os.fspath(pattern)) else "an image or a folder"
        raise InputError(f"{pattern}: expected {expected}, found nothing of that name; check the path")
    images = [path for path in matches if os.path.isfile(path) and looks_like_image(path)]
    if not images:
        raise InputError(f"{pattern}: expected images, found none among what matches; give another pattern")
    return images


def looks_like_image(path):
    """Tell whether a file in a folder is to be judged: it begins like an image, or its name says that it is one."""
    if path.lower().endswith(SUFFIXES):
        return True
    try:
        with open(path, "rb") as file:
            return formats.image_format(file.read(16)) is not None
    except OSError:
        return True  # it gets a row that says why it cannot be read


# --- which detector ------------------------------------------------------------------------------------------------------
def default_models():
    """Return the detectors that ship: the .h5 files in models/.

    Raises:
        InputError: there is none.
    """
    found = sorted(export.SHIPPED.glob("*.h5"))
    if not found:
        raise InputError(f"{export.SHIPPED}: expected a detector (.h5), found none; give one with --model")
    return found


class LazyDetector:
    """A detector.model.runtime.Detector that reads its metadata at once and opens its network on first use.

    Attributes:
        path: the .h5.
        name: its name in results: the file name, or the path if several files have the same name.
        metadata, batch: as in Detector.
    """

    def __init__(self, path, name, threads=None):
        self.path, self.name = Path(path), name
        self.metadata = export.known_metadata(path)
        self.batch = runtime.batch_of(self.metadata)
        self._threads, self._opening = threads, threading.Lock()
        self._detector = self._failure = None

    def open(self):
        """Return the detector.model.runtime.LiteRTDetector; the first call opens it.

        Raises:
            InputError: as detector.model.export.open_detector; every further call raises the same.
        """
        with self._opening:
            if self._failure is None and self._detector is None:
                try:
                    self._detector = export.open_detector(self.path, self._threads)
                except InputError as error:
                    self._failure = str(error)
        if self._failure is not None:
            raise InputError(self._failure)
        return self._detector

    def logits(self, images, concurrency=1):
        """Return the logit of Fake of each input, as Detector.logits."""
        return self.open().logits(images, concurrency)


class Judge:
    """Gives verdicts, to several threads at once if need be; of several detectors, each image goes to the one made for its size.

    Attributes:
        detectors: list of LazyDetector.
        trust_list: as given.
    """

    def __init__(self, models, threads=None, trust_list=None):
        """Read the metadata of the detectors; each is opened, and exported if that was never done, when an image needs it.

        Args:
            models: path of a .h5, or list of paths.
            threads: that compute and decode; the number of cores where it is None.
            trust_list: path of the PEM file with the roots whose C2PA signers are trusted; None trusts none.

        Raises:
            InputError: a file is no detector.
        """
        self.trust_list = trust_list
        paths = [Path(models)] if isinstance(models, str | os.PathLike) else [Path(path) for path in models]
        names = [path.name for path in paths]
        self.threads = threads
        self.detectors = [
            LazyDetector(path, name if names.count(name) == 1 else os.fspath(path), threads)
            for path, name in zip(paths, names, strict=True)
        ]

    def find_detector(self, name):
        """Return the LazyDetector of that name.

        Raises:
            InputError: there is none.
        """
        for one in self.detectors:
            if one.name == name:
                return one
        raise InputError(f"{name}: expected one of the detectors {', '.join(one.name for one in self.detectors)}")

    def choose(self, width, height):
        """Return the LazyDetector made for images of a size: the most special of several, the nearest where there is none."""
        return min(self.detectors, key=lambda one: _strangeness(one.metadata["training_range"], width, height))

    def judge(self, sources, force=False, threshold=None, provenance=False, names=None, detector=None):
        """Yield a dict of COLUMNS for each image file, in order; files are decoded while others are scored.

        `verdict` is 'Fake', 'Real' or 'uncertain', None where the file could not be read, with the reason in `error`. `note`
        says why an image is unlike any that the detector has seen; it is then uncertain, unless forced.

        Args:
            sources: iterable of paths, bytes or binary files.
            force: judge also images unlike any that the detector has seen.
            threshold: P(Fake) from which on an image is called Fake, below it Real, in place of the detector's own two.
            provenance: whether to read what each file says of itself (detector.provenance).
            names: what `path` and `error` call the sources; the paths where it is None.
            detector: name of the one to ask, whatever the image's size.
        """
        from detector.inference import scoring

        sources = [source if isinstance(source, WHOLE) else source.read() for source in sources]
        names = [_name(source) for source in sources] if names is None else list(names)
        asked = functools.lru_cache(SIZES)(self.choose) if detector is None else self.find_detector(detector)
        unlike = functools.lru_cache(SIZES)(lambda one, *shown: scores.out_of_range(one.metadata, *shown))
        limits = None if threshold is None else {"fake": threshold, "real": np.nextafter(threshold, -1)}
        batch = min(scoring.images_at_a_stretch(one) for one in self.detectors)
        for name, score in zip(names, scoring.score_files(asked, sources, self.threads, batch=batch), strict=True):
            one, note, verdict, error = score.detector, None, None, score.error
            if error is None:
                note = unlike(one, score.width, score.height, score.blank)
                sure = force or note is None
                verdict = scores.verdict_of(score.p_fake, limits or one.metadata["thresholds"]) if sure else "uncertain"
            yield {
                "path": name,
                "verdict": verdict,
                "p_fake": score.p_fake,
                "detector": one and one.name,
                "width": score.width,
                "height": score.height,
                "note": note,
                "provenance": read_provenance(score.source, self.trust_list) if provenance else None,
                "error": error and error.replace(_name(score.source), name),
            }


def _name(source):
    return "the image" if isinstance(source, bytes) else os.fspath(source)


def _strangeness(seen, width, height):
    """Return how far an image's size is from what was seen (0: within), as a ratio's logarithm, then how wide that range is."""
    low, high = seen["shorter_side"]
    flat, long = seen["aspect"]
    side, aspect = min(width, height), max(width, height) / min(width, height)
    side, low, high, flat, long = np.log(np.maximum((side, low, high, flat, long), 1e-9))
    aspect = np.log(aspect)
    far = max(low - side, side - high, 0.0)
    odd = max(flat - aspect, aspect - long, 0.0)
    return far, odd, high - low


def read_provenance(source, trust_list=None):
    """Return what a file says of itself, as detector.provenance reads it."""
    from detector import provenance

    return provenance.read(source, trust_list)


# --- in words ------------------------------------------------------------------------------------------------------------
def describe(row, judge, force=False, threshold=None):
    """Return what a person is told of one image: a list of lines, the verdict first, what the file says of itself last.

    Args:
        row: as `Judge.judge` yields it; `force` and `threshold` as they were given there.
        judge: the Judge.
    """
    if row["error"]:
        return [f"not judged: {printable(row['error'])}", *_origin(row["provenance"])]
    lines = [f"{printable(row['path'])}: {row['verdict']}"]
    if len(judge.detectors) > 1:
        lines.append(f"  Judged by {printable(row['detector'])}.")
    if row["note"] and not force:
        lines.append(f"  {row['note']}. (With --force it is judged all the same.)")
    else:
        lines[0] += f", P(Fake) = {row['p_fake']:.4f}"
        if row["note"]:
            lines.append(f"  Do not rely on it: {row['note']}.")
        lines.append(f"  {limits_in_words(judge.find_detector(row['detector']).metadata, threshold)}")
    return lines + _origin(row["provenance"])


def _origin(found):
    if found is None:
        return []
    return ["  What the file says of itself, apart from the score:", *(f"    {line}" for line in origin(found))]


def origin(found):
    """Return lines on what a file says of itself: what a valid signature says first, then as detector.provenance tells it."""
    from detector import provenance

    lines = provenance.summarise(found)
    if found["signed"]:
        signed = f"A valid signature says: {found['says']}."
        lines.insert(0, f"{signed} It is stronger evidence than the score, as far as its signer can be trusted.")
    return lines


def claim(found):
    """Return in a few words what a file says of itself, as detector.provenance reads it, and whether anybody vouches for it."""
    if found["says"] == "nothing":
        return "nothing"
    said = {"camera": "taken with a camera"}.get(found["says"], found["says"])
    signed = "signed" if (found.get("c2pa") or {}).get("trusted") else "signed, but by whom is open"  # anybody can sign
    unsigned = "its signature not verified" if found.get("has_c2pa") else "not signed"  # broken, or nothing here can check it
    return f"{said}, {signed if found['signed'] else unsigned}"


def limits_in_words(metadata, threshold=None):
    """Return the sentence that says from where on an image is called Fake or Real."""
    if threshold is not None:
        return f"Fake is said from {threshold:g} on, Real below it, as it was asked for."
    limits = metadata["thresholds"]
    return f"Fake is said from {limits['fake']:.4f} on, Real up to {limits['real']:.4f}, uncertain between them."


def about(detector):
    """Return a line on a LazyDetector: its name, what it was trained on and the error guarantees of its verdicts."""
    metadata = detector.metadata
    architecture, trained_on = (printable(metadata[name][:TOLD]) for name in ("architecture", "trained_on"))
    low, high = metadata["training_range"]["shorter_side"]
    judged = f"{low}" if low == high else f"{low} to {high}"
    limits = metadata["thresholds"]
    accused, missed = (f"{100 * limits[name]:.2g} %" for name in ("real_called_fake_bound", "fake_called_real_bound"))
    return (
        f"detector: {architecture} ({printable(detector.path.name)}), trained on {trained_on}. It judges images with a shorter "
        f"side of {judged} pixels. Of images like those its thresholds come from, at most {accused} of the Real are called Fake, "
        f"and at most {missed} of the Fake are called Real, with 95 % confidence."
    )
