"""Predictor: from image files to rows of conclusion, verdict, score and provenance, the same for shell, page and REST API.

from detector.inference import Predictor

for row in Predictor().predict(["photo.jpg"]):
    print(row["path"], row["conclusion"], row["p_fake"])
"""

import glob
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from detector import files
from detector.console import InputError, printable
from detector.images import formats, guard
from detector.images.quality import quality_problem
from detector.inference import scoring, stability
from detector.model import export, runtime, scores
from detector.provenance import read, summarise
from detector.provenance.conclusion import conclude

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif")
STANDARD_INPUT = "-"
MAX_TEXT = 500  # characters shown of a text in a model file, which may come from a stranger


class Row(TypedDict):
    """The result for one image: the keys of --json and of the REST API, the columns of --csv."""

    path: Annotated[str, "path of the file, `-` for standard input; for an upload, its name"]
    verdict: Annotated[str | None, "the detector's own: `Fake`, `Real` or `uncertain`; never changed by provenance"]
    p_fake: Annotated[float | None, "the detector's calibrated probability that the image is Fake, 0 to 1"]
    detector: Annotated[str | None, "name of the detector that scored the image"]
    width: Annotated[int | None, "in pixels, as a viewer shows the image"]
    height: Annotated[int | None, "in pixels, as a viewer shows the image"]
    note: Annotated[str | None, "reasons for caution, in words"]
    provenance: Annotated[dict[str, Any] | None, "the file's provenance metadata; null if it was not read"]
    error: Annotated[str | None, "one line: why the image cannot be read; otherwise null"]
    conclusion: Annotated[
        str | None,
        "the answer to act on: `AI-generated`, `AI-edited` or `camera original` if the file's provenance says so, otherwise the "
        "detector's `Fake`, `Real` or `uncertain`; null if the image cannot be read",
    ]
    basis: Annotated[str | None, "what it rests on: `signed: NAME (…)`, `declared by the file, unsigned`, or `detector`"]
    gated: Annotated[
        bool | None,
        "true if the image is outside the detector's training range or fails the quality check (`note` says why); the verdict is "
        "then `uncertain` unless forced",
    ]


COLUMNS = list(Row.__annotations__)


def find_images(sources: Iterable[str | os.PathLike], among_others: bool = False) -> list[str]:
    """List the image files that `sources` name.

    Args:
        sources: files, which are taken as they are; folders, with all images below them; or patterns with *, ?, [ ] and **
            (on Windows the shell does not expand them). An existing file or folder is never taken for a pattern.
        among_others: whether there are other images, such as one from standard input.

    Raises:
        InputError: there is no such file and it is the only source, or a folder or pattern holds no image. A missing file among
            others is listed: its row will say so.
    """
    found, named = [], [Path(source) for source in sources]
    for source in named:
        if source.is_dir():
            start = os.path.join("" if source == Path() else source, "")  # no Paths: making them takes as long as finding the files
            paths = [f"{start}{inside.replace('/', os.sep)}" for inside in files.scan(source)]
        elif source.exists() or ((among_others or len(named) > 1) and not glob.has_magic(os.fspath(source))):
            found.append(os.fspath(source))
            continue
        elif not (paths := sorted(glob.glob(os.fspath(source), recursive=True))):
            raise InputError(f"{source}: expected an image, a folder or a pattern, found nothing of that name; check the path")
        images = [path for path in paths if looks_like_image(path)]
        if not images:
            raise InputError(f"{source}: expected images, found none there; give another file or folder")
        found += images
    return found


def looks_like_image(path: str) -> bool:
    """Tell whether a path in a folder is that of an image, by its suffix or its first bytes."""
    try:
        return os.path.isfile(path) and (path.lower().endswith(SUFFIXES) or formats.is_image(path))
    except OSError:
        return True  # its row will say why it cannot be read


def default_models() -> list[Path]:
    """Return the detectors that ship: the .h5 files in models/.

    Raises:
        InputError: no detector is found.
    """
    found = sorted(export.SHIPPED.glob("*.h5"))
    if not found:
        raise InputError(f"{export.SHIPPED}: expected a detector (.h5), found none; give one with --model")
    return found


class LazyDetector:
    """A detector.model.runtime.Detector that is opened when it is first used; its metadata are there from the start.

    Attributes:
        path: the .h5.
        name: its file name; its path if several detectors have the same file name.
        metadata, batch: as in Detector.
    """

    def __init__(self, path, name, threads=None):
        self.path, self.name = Path(path), name
        self.metadata = export.known_metadata(path)
        self.batch = runtime.batch_of(self.metadata)
        self._threads, self._opening, self._opened = threads, threading.Lock(), None

    def open(self):
        """Return the opened detector.

        Raises:
            InputError: as detector.model.export.open_detector; every later call raises it again.
        """
        with self._opening:
            if self._opened is None:
                try:
                    self._opened = export.open_detector(self.path, self._threads)
                except InputError as error:
                    self._opened = error
        if isinstance(self._opened, InputError):
            raise self._opened
        return self._opened

    def logits(self, images, concurrency=1):
        """Return the logits of the opened detector, as Detector.logits."""
        return self.open().logits(images, concurrency)


class Predictor:
    """Classifies images, in several threads at once if need be; each image goes to the detector chosen by its size.

    Attributes:
        detectors: list of LazyDetector.
        trust_list: path of the trust list, or None.
    """

    def __init__(
        self, models: str | os.PathLike | Iterable[str | os.PathLike] | None = None, threads: int | None = None,
        trust_list: str | os.PathLike | None = None,
    ):  # fmt: skip
        """Read the detectors' metadata. A detector is opened, and exported if that was never done, when an image needs it.

        Args:
            models: path of a .h5, or several paths; by default the detectors that ship.
            threads: number of threads that decode and score; by default the number of cores.
            trust_list: path of a PEM file with the root certificates of trusted C2PA signers; by default none is trusted.

        Raises:
            InputError: a file is not a detector.
        """
        self.trust_list, self.threads = trust_list, threads
        models = default_models() if models is None else models
        paths = [Path(models)] if isinstance(models, str | os.PathLike) else [Path(path) for path in models]
        names = [path.name for path in paths]
        self.detectors = [
            LazyDetector(path, name if names.count(name) == 1 else os.fspath(path), threads)
            for path, name in zip(paths, names, strict=True)
        ]

    def find_detector(self, name: str) -> LazyDetector:
        """Return the detector of that name.

        Raises:
            InputError: no detector is found.
        """
        for one in self.detectors:
            if one.name == name:
                return one
        raise InputError(f"{name}: expected one of the detectors {', '.join(one.name for one in self.detectors)}")

    def choose(self, width: int, height: int) -> LazyDetector:
        """Return the detector made for images of a size: the most specialised of several, otherwise the nearest."""
        return min(self.detectors, key=lambda one: _distance_from_range(one.metadata["training_range"], width, height))

    def predict(
        self, sources, force: bool = False, threshold: float | None = None, provenance: bool = True,
        names: Iterable[str] | None = None, detector: str | None = None,
    ) -> Iterator[Row]:  # fmt: skip
        """Yield a Row for each image file, in order; files are decoded while others are scored.

        Args:
            sources: iterable of paths, bytes, or binary files that can seek.
            force: predict also for images that the detector is not made for.
            threshold: the verdict is Fake from this P(Fake) on and Real below it, instead of the detector's own thresholds.
            provenance: whether to read each file's provenance metadata; without, the conclusion is the detector's verdict.
            names: `path` of the rows; by default the paths.
            detector: name of the detector to use, regardless of the image's size.

        Raises:
            InputError: there is no such detector, or it cannot be opened. An image that cannot be read gets a row with `error`.
        """
        sources = list(sources)
        names = [guard.name_of(source) for source in sources] if names is None else list(names)
        choose = self.choose if detector is None else self.find_detector(detector)
        batch = max((scoring.images_at_a_stretch(one) for one in self.detectors), default=1)
        checks = () if threshold is not None else stability.CHECKS

        def has_verdict(score):
            verdict = scores.verdict_of(score.p_fake, score.detector.metadata["thresholds"])
            return verdict != "uncertain" and (force or _gate(score) is None)

        results = scoring.score_files(choose, sources, self.threads, checks, batch, has_verdict, quality_problem)
        for name, score in zip(names, results, strict=True):
            found = read(score.source, self.trust_list) if provenance else None
            if score.error is not None:
                yield error_row(name, score.error.replace(guard.name_of(score.source), name, 1), found)
            else:
                yield _row(name, score, force, threshold, found)


def _gate(score):
    """Return why the detector cannot judge an image, or None."""
    return scores.out_of_range(score.detector.metadata, score.width, score.height, score.blank) or score.inspected


def _row(name, score, force, threshold, provenance):
    """Return the Row of an image that could be read."""
    metadata = score.detector.metadata
    thresholds = metadata["thresholds"] if threshold is None else {"fake": threshold, "real": np.nextafter(threshold, -1)}
    note = _gate(score)
    verdict = by_score = scores.verdict_of(score.p_fake, thresholds)
    gated = note is not None
    copies = [scores.verdict_of(p_fake, thresholds) for p_fake in scores.p_fake_of(score.degraded, metadata["temperature"])]
    if gated and not force:
        verdict = "uncertain"
    elif not stability.is_stable(verdict, copies):
        verdict, note = "uncertain", "; ".join(filter(None, (note, stability.UNSTABLE)))
    answer = conclude(provenance, verdict, fake_score=by_score == "Fake")
    return {
        "path": name,
        "verdict": verdict,
        "p_fake": score.p_fake,
        "detector": score.detector.name,
        "width": score.width,
        "height": score.height,
        "note": "; ".join(filter(None, (note, answer["note"]))) or None,
        "provenance": provenance,
        "error": None,
        "conclusion": answer["conclusion"],
        "basis": answer["basis"],
        "gated": gated,
    }


def error_row(name: str, error: str, provenance: dict | None = None) -> Row:
    """Return the Row of an image that cannot be read."""
    row: Any = dict.fromkeys(COLUMNS) | {"path": name, "provenance": provenance, "error": error}
    return row


def _distance_from_range(training_range, width, height):
    """Return how far an image's size is from a training range (0: within), as log ratios, then how wide that range is."""
    image = min(width, height), max(width, height) / min(width, height)
    limits = *training_range["shorter_side"], *training_range["aspect"]
    side, aspect, low, high, flat, long = np.log(np.maximum((*image, *limits), 1e-9))
    return max(low - side, side - high, 0.0), max(flat - aspect, aspect - long, 0.0), high - low


def describe(row: Row, predictor: Predictor, force: bool = False, threshold: float | None = None) -> list[str]:
    """Return lines on one image for a person: the conclusion first, then the detector's verdict, then the provenance.

    Args:
        row: as `Predictor.predict` yields it; `force` and `threshold` as they were given there.
    """
    provenance = []
    if found := provenance_to_show(row):
        provenance = ["  Provenance (independent of the score):", *(f"    {line}" for line in summarise(found))]
    if row["error"]:
        return [f"unreadable: {printable(row['error'])}", *provenance]
    detector, note = f"  Detector {printable(row['detector'])}: {row['verdict']}", f"  Note: {printable(row['note'] or '')}."
    if row["gated"] and not force:
        note += " (--force predicts anyway.)"
    else:
        limits = predictor.find_detector(str(row["detector"])).metadata["thresholds"]
        detector += f", P(Fake) = {row['p_fake']:.4f}. "
        detector += (
            f"Thresholds: Fake ≥ {limits['fake']:.4f}, Real ≤ {limits['real']:.4f}, otherwise uncertain."
            if threshold is None
            else f"Threshold: Fake ≥ {threshold:g}, otherwise Real."
        )
    lines = [f"{printable(row['path'])}: {row['conclusion']}"]
    lines += [f"  Basis: {printable(row['basis'])}"] if row["basis"] != "detector" else []
    return [*lines, detector, *([note] if row["note"] else []), *provenance]


def provenance_to_show(row: Row) -> dict | None:
    """Return a row's provenance, or None if it was not read, or if the image is unreadable and nothing was found."""
    found = row["provenance"]
    return None if found and row["error"] and found["says"] == "nothing" else found


def claim(provenance: dict) -> str:
    """Return in a few words what a file's provenance says, and whether anybody vouches for it."""
    if provenance["says"] == "nothing":
        return "none"
    says = {"camera": "taken with a camera"}.get(provenance["says"], provenance["says"])
    if provenance["signed"]:
        trusted = (provenance.get("c2pa") or {}).get("trusted")
        return f"{says}, signed" if trusted else f"{says}, signed, signer not verified"  # anybody can make a certificate
    return f"{says}, signature not valid or not checked" if provenance.get("has_c2pa") else f"{says}, not signed"


def about(detector) -> str:
    """Return a line on a detector (anything with `metadata` and `path`): name, training data, and error guarantees."""
    metadata = detector.metadata
    architecture, trained_on = (printable(metadata[name][:MAX_TEXT]) for name in ("architecture", "trained_on"))
    low, high = metadata["training_range"]["shorter_side"]
    sides = f"{low}" if low == high else f"{low} to {high}"
    limits = metadata["thresholds"]
    real, fake = (f"{np.ceil(1000 * limits[f'{name}_bound']) / 10:.3g} %" for name in ("real_called_fake", "fake_called_real"))
    start = (
        f"Detector {printable(detector.path.name)}: {architecture}, trained on {trained_on}; for images with a shorter side of "
        f"{sides} pixels."
    )
    if groups := limits.get("groups"):
        worst_real, worst_fake = (f"{100 * groups[name]['worst_error']:.0f} %" for name in ("real", "fake"))
        return (
            f"{start} On sources like those of its calibration data, at most {real} of the real images are called Fake on average "
            f"and at most {fake} of the AI-generated ones Real (95 % confidence); measured in the worst source: {worst_real} "
            f"and {worst_fake}."
        )
    return (
        f"{start} On images like those of its validation data, at most {real} of the real ones are called Fake and at most {fake} "
        "of the AI-generated ones Real (95 % confidence)."
    )
