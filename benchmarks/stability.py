"""Measure the flip rate of verdicts when an image is saved again: by JPEG, WebP, scaling, or a messenger.

    python benchmarks/stability.py data/test --images 1000
    python benchmarks/stability.py SOURCE/Fake SOURCE/Real ... --images 500

reads   folders of images, the detectors; writes nothing

An equal number of images is drawn from each folder, as far as it has them. Each is classified as delivered, and again after being
saved in each way, as app.py does it, without provenance. An image that the app cannot judge is left out; a copy that it cannot
judge, because it became too small, counts as uncertain. Printed for each way, in percent of the images: flips (Fake to Real or
back), any change of the verdict, and coverage (verdict not uncertain); for the detector alone, and with the check of
detector.inference.stability.
Target: at most 0.5 % flips with the check.
"""

import io
import random
from pathlib import Path

import numpy as np
from measuring import make_parser
from PIL import Image

from detector.console import InputError, progress, stage, table
from detector.images import pixels
from detector.inference import Predictor
from detector.inference.predictor import find_images
from detector.model import scores

TARGET = 0.005


def _scaled(image, factor):
    size = tuple(max(1, round(side * factor)) for side in image.size)
    return image.resize(size, Image.Resampling.BICUBIC)


def _messenger(image):
    image = image.copy()
    image.thumbnail((1280, 1280), Image.Resampling.BICUBIC)
    return image


WAYS = {  # name: (function from a Pillow image to another, how Pillow saves it)
    "JPEG 85": (None, {"format": "JPEG", "quality": 85}),
    "JPEG 60": (None, {"format": "JPEG", "quality": 60}),
    "JPEG 40": (None, {"format": "JPEG", "quality": 40}),
    "WebP 75": (None, {"format": "WEBP", "quality": 75}),
    "scaled to 75 %": (lambda image: _scaled(image, 0.75), {"format": "PNG", "compress_level": 1}),
    "scaled to 50 %": (lambda image: _scaled(image, 0.5), {"format": "PNG", "compress_level": 1}),
    "1,280 px, JPEG 70": (_messenger, {"format": "JPEG", "quality": 70}),
}


def choose_images(folders, number, seed):
    """Return paths: the same number from each folder, drawn at random."""
    chosen = []
    for folder in folders:
        paths = find_images([folder])
        random.Random(seed).shuffle(paths)
        chosen += paths[: -(-number // len(folders))]
    return chosen


def saved_again(path):
    """Yield the content of an image file as delivered, then after each of WAYS."""
    yield Path(path).read_bytes()
    image = Image.fromarray(pixels.read_image(path))
    for change, options in WAYS.values():
        file = io.BytesIO()
        (change(image) if change else image).save(file, **options)
        yield file.getvalue()


def verdicts(predictor, paths):
    """Return the verdicts of images that can be judged, two arrays (n, 1 + ways): of the detector alone, and with the check."""
    alone, checked = [], []
    for path in progress(paths):
        try:
            rows = list(predictor.predict(saved_again(path), provenance=False))
        except InputError:
            continue
        if rows[0]["gated"] or any(row["error"] for row in rows):
            continue
        checked.append([row["verdict"] for row in rows])
        alone.append([
            "uncertain" if row["gated"]
            else scores.verdict_of(row["p_fake"], predictor.find_detector(row["detector"]).metadata["thresholds"])
            for row in rows
        ])  # fmt: skip
    return np.array(alone), np.array(checked)


def measure(found):
    """Return rows [name, flips, changes, coverage], fractions, of verdicts (n, 1 + ways); the last row is any of the ways."""
    original, copies = found[:, :1], found[:, 1:]
    flips = ((original == "Fake") & (copies == "Real")) | ((original == "Real") & (copies == "Fake"))
    changes = original != copies
    rows = [["as delivered", 0.0, 0.0, (original != "uncertain").mean()]]
    rows += [[name, flips[:, i].mean(), changes[:, i].mean(), (copies[:, i] != "uncertain").mean()] for i, name in enumerate(WAYS)]
    every = (copies != "uncertain").all(axis=1).mean()
    return [*rows, ["any of them", flips.any(axis=1).mean(), changes.any(axis=1).mean(), every]]


@stage
def main(argv=None):
    """Run the benchmark; exit code 1 if the target is missed."""
    parser = make_parser(__doc__, images=(500, "number of images, over all folders"), seed=(0, "of the choice of images"))
    parser.add_argument("folders", type=Path, nargs="+", help="folders of images; only read")
    parser.add_argument("--model", type=Path, action="append", help="a detector; repeat for several (default: those that ship)")
    args = parser.parse_args(argv)
    alone, checked = verdicts(Predictor(args.model), choose_images(args.folders, args.images, args.seed))
    if not len(alone):
        raise InputError("expected images that the detector can judge, found none; give other folders, or --model")
    before, after = measure(alone), measure(checked)
    header = ["percent of images", "flips", "changes", "coverage", "flips, checked", "changes, checked", "coverage, checked"]
    rows = [[one[0], *(f"{100 * value:.1f}" for value in one[1:] + other[1:])] for one, other in zip(before, after, strict=True)]
    print(table(rows, header))
    print(f"{len(alone):,} images")
    if max(row[1] for row in after[:-1]) > TARGET:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
