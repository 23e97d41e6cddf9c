"""The same file gets the same score everywhere: shell, page, REST API, evaluate.py, and Keras's own prediction, to the digit.

    python benchmarks/agreement.py models/compact.h5 data/validation
    python benchmarks/agreement.py models/photo.h5 photos

reads   a detector (.h5), a folder of images; writes nothing that stays

--images of the folder, spread over it, are saved again in a temporary folder, each in one of the seven formats in turn, scaled down
to a longer side of --longest where they are larger (AVIF takes seconds for a large one), and judged in each way with --force.

Targets: P(Fake) of the REST API, of the page and of evaluate.py equals that of `app.py --json` to 1e-6; the logits of LiteRT equal
those of `model.predict` to 1e-3, and the P(Fake) before calibration that come of them to 1e-5. What cannot be read
counts as missed.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import ROOT, make_parser

from benchmarks import page as page_benchmark
from detector.console import InputError, plural, progress, stage, table
from detector.images import pixels
from detector.inference import predictor, scoring
from detector.model import backend, export, scores
from detector.model import file as model_file

SAME, LOGITS, P_FAKE = 1e-6, 1e-3, 1e-5
WAYS = {  # suffix -> how Pillow writes it
    ".jpg": {"quality": 90}, ".png": {}, ".webp": {"quality": 90}, ".bmp": {}, ".gif": {}, ".tif": {}, ".avif": {"speed": 10},
}  # fmt: skip


def convert(folder, number, longest, work):
    """Save a number of images of a folder again, in all formats, below work/Fake and work/Real; return the new paths."""
    from PIL import Image, features

    ways = {suffix: options for suffix, options in WAYS.items() if suffix != ".avif" or features.check("avif")}
    found = predictor.find_images([folder])
    paths = []
    for i, path in enumerate(progress(found[:: max(1, len(found) // number)][:number])):
        suffix = list(ways)[i % len(ways)]
        image = Image.fromarray(pixels.read_image(path))
        image.thumbnail((longest, longest), Image.Resampling.BICUBIC)
        paths.append(Path(work, ("Fake", "Real")[i // len(ways) % 2], f"{i:05}{suffix}"))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        image.save(paths[-1], **ways[suffix])
    return paths


def by_shell(model, paths, work):
    """Judge with app.py, as a process."""
    command = [sys.executable, ROOT / "app.py", work, "--model", model, "--force", "--json"]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout
    found = {Path(row["path"]): row["p_fake"] for row in json.loads(said)}
    return [found[path] for path in paths]


def by_evaluate(model, paths, work):
    """Judge with evaluate.py, as a process; that half of the classes are made up does not matter."""
    with tempfile.TemporaryDirectory(prefix="agreement-") as report:
        command = [sys.executable, ROOT / "evaluate.py", model, "--data", work, "--report", Path(report, "report")]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        with Path(report, "report", "predictions.csv").open(encoding="utf-8") as file:
            found = {Path(work, row["path"]): float(row["p_fake"]) for row in csv.DictReader(file)}
    return [found[path] for path in paths]


def by_api(model, paths, work):
    """Judge with the REST API of a page that app.py opens."""
    import httpx2 as httpx

    with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as folder:
        process, address = page_benchmark.start(model, folder)
        try:
            with httpx.Client(timeout=300) as client:
                return [page_benchmark.ask(client, address, path)[0] for path in progress(paths)]
        finally:
            process.kill()
            process.wait()


def from_keras(model, paths):
    """Return how far LiteRT is from Keras at most: (in logits, in P(Fake) before calibration)."""
    detector = export.open_detector(model)
    network, metadata = model_file.load(model)
    ours, counts = [], []

    def batches():
        for start in range(0, len(paths), detector.batch):
            stack = [pixels.preprocess(pixels.read_image(path), metadata) for path in paths[start : start + detector.batch]]
            ours.append(scoring.pooled_logits(detector, stack))
            counts.extend(len(inputs) for inputs in stack)
            yield np.concatenate(stack)

    each = backend.keras_logits(network, batches(), metadata["output"])
    weights = metadata.get("view_weights")
    theirs = np.array([np.average(part, weights=weights) for part in np.split(each, np.cumsum(counts)[:-1])])
    ours = np.concatenate(ours)
    return abs(ours - theirs).max(), abs(scores.p_fake_of(ours, 1.0) - scores.p_fake_of(theirs, 1.0)).max()


def largest(values, others):
    """Return the largest difference; infinity if one is missing or the list is empty."""
    pairs = list(zip(values, others, strict=True))
    if not pairs or any(None in pair for pair in pairs):
        return float("inf")
    return max(abs(a - b) for a, b in pairs)


@stage
def main(argv=None):
    """Run the benchmark; exit code 1 where a target is missed."""
    args = make_parser(
        __doc__, "model", "folder", images=(1000, "at most"), longest=(1024, "pixels of the longer side at most")
    ).parse_args(argv)
    if args.images < 2 * len(WAYS):
        raise InputError(f"--images: expected at least {2 * len(WAYS)}, found {args.images}")
    with tempfile.TemporaryDirectory(prefix="agreement-") as work:
        paths = convert(args.folder, args.images, args.longest, work)
        shell = by_shell(args.model, paths, work)
        apart = {
            f"{name}: P(Fake), from app.py's": (largest(shell, predict(args.model, paths, work)), SAME)
            for name, predict in (("evaluate.py", by_evaluate), ("REST API", by_api))
        }
        logits, p_fake = from_keras(args.model, paths)
    apart |= {"Keras: logits, from LiteRT's": (logits, LOGITS), "Keras: P(Fake) before calibration": (p_fake, P_FAKE)}
    print(table([[name, f"{found:.1e}", f"{most:.0e}"] for name, (found, most) in apart.items()],
                ["largest difference", "found", "at most"]))  # fmt: skip
    print(f"{args.model.name}: {plural(len(paths), 'image')}, {len({path.suffix for path in paths})} formats")
    if any(not found <= most for found, most in apart.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
