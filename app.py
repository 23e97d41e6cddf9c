"""Judge images: reads IMAGE|FOLDER ... and a detector -> prints a verdict for each: Fake, Real or uncertain.

    python app.py photo.jpg
    python app.py folder --csv verdicts.csv
    python app.py --example            a photograph that an installed package brings
    python app.py                      opens the page in a browser

Exit code 0 says that all images were judged, whatever the verdicts; 1 that an image could not be read.
"""
import argparse
import csv
import json
import os
import sys
from pathlib import Path

from detector import data_tree
from detector.console import HelpFormatter, InputError, plural, printable, progress, stage

DEFAULT_MODEL = Path(__file__).resolve().parent / "models" / "compact.h5"
EXAMPLE = "media_assets/images/lion.jpg"  # a photograph that comes with gradio
COLUMNS = ["path", "verdict", "p_fake", "width", "height", "note", "error"]


def find_images(sources):
    """List the image files that `sources` name: files as they are, folders with all images below them.

    Raises:
        InputError: nothing is there of that name, or a folder holds no image.
    """
    found = []
    for source in sources:
        if source.is_dir():
            inside = [source / path for path in data_tree.scan(source)]
            images = [path for path in inside if looks_like_image(path)]
            if not images:
                raise InputError(f"{source}: expected images, found none in the folder; give another one")
            found += images
        elif source.exists():
            found.append(source)
        else:
            raise InputError(f"{source}: expected an image or a folder, found nothing of that name; check the path")
    return found


def looks_like_image(path):
    """Tell whether a file in a folder is to be judged: it begins like an image, or its name says that it is one."""
    if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}:
        return True
    try:
        with path.open("rb") as file:
            return data_tree.image_format(file.read(16)) is not None
    except OSError:
        return True  # it gets a row that says why it cannot be read


def example_image():
    """Return the path of a photograph that an installed package brings.

    Raises:
        InputError: the package is not installed or does not bring it.
    """
    from importlib import metadata

    try:
        path = Path(metadata.distribution("gradio").locate_file(f"gradio/{EXAMPLE}"))
    except metadata.PackageNotFoundError:
        path = Path("gradio") / EXAMPLE
    if not path.is_file():
        raise InputError(f"--example: expected the package gradio with {EXAMPLE}; run: pip install -r requirements-app.txt")
    return path


def judge(detector, sources, force=False):
    """Yield a dict of COLUMNS for each image; `verdict` is None where it could not be read, with the reason in `error`."""
    from detector.scoring import score_files

    for score in score_files(detector, sources):
        row = dict.fromkeys(COLUMNS)
        row.update(path=os.fspath(score.source), error=score.error)
        if not score.error:
            note = detector.unlike_seen(score.width, score.height, score.blank)
            verdict = "uncertain" if note and not force else detector.verdict(score.p_fake)
            row.update(verdict=verdict, p_fake=score.p_fake, width=score.width, height=score.height, note=note)
        yield row


def describe(row, detector, force=False):
    """Return what a person is told of one image: a few lines of text; `force` as it was given to `judge`."""
    if row["error"]:
        return f"not judged: {printable(row['error'])}"
    limits = detector.facts["thresholds"]
    lines = [f"{printable(row['path'])}: {row['verdict']}"]
    if row["note"] and not force:
        lines.append(f"  {row['note']}. (With --force it is judged all the same.)")
    else:
        lines[0] += f", P(Fake) = {row['p_fake']:.4f}"
        if row["note"]:
            lines.append(f"  Do not rely on it: {row['note']}.")
        lines.append(f"  Fake is said from {limits['fake']:.4f} on, Real up to {limits['real']:.4f}, uncertain between them.")
    return "\n".join(lines)


def about(detector):
    """Return a line on the detector: its name, what it has seen and what its verdicts are worth."""
    facts = detector.facts
    limits = facts["thresholds"]
    return (
        f"detector: {facts['architecture']} ({detector.path.name}), trained on {facts['trained_on']}. On validation images like "
        f"these, at most {100 * limits['max_error']:g} % of the Real were called Fake, and of the Fake Real."
    )


def write_csv(path, rows):
    """Write the rows as CSV, beside and then renamed."""
    unfinished = path.with_name(f"{path.name}{data_tree.UNFINISHED}")
    with unfinished.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(unfinished, path)


def show(rows, detector, force, few=5):
    """Print the verdicts for a person: in words for a few images, a line each for many, and the counts."""
    if len(rows) <= few:
        for row in rows:
            print(describe(row, detector, force))
    else:
        for row in rows:
            score = "" if row["p_fake"] is None else f"{row['p_fake']:.4f}"
            print(f"{row['verdict'] or 'not judged':<10}  {score:>6}  {printable(row['error'] or row['path'])}")
        verdicts = [row["verdict"] for row in rows]
        print(", ".join(f"{verdicts.count(name):,} {name}" for name in ("Fake", "Real", "uncertain")))
    print(about(detector))


def make_parser():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=HelpFormatter)
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE|FOLDER", help="what to judge; none opens the page in a browser")
    add("--model", type=Path, default=DEFAULT_MODEL, help="the detector (.h5)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print a list of objects for a program")
    output.add_argument("--csv", type=Path, metavar="FILE", help="write a table")
    add("--overwrite", action="store_true", help="replace the file that --csv names")
    add("--force", action="store_true", help="judge images unlike any that the detector has seen")
    add("--example", action="store_true", help="judge a photograph that an installed package brings")
    add("--host", default="127.0.0.1", help="address of the page")
    add("--port", type=int, default=7860, help="port of the page")
    return parser


@stage
def main(argv=None):
    """Judge images, or open the page."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if (args.json or args.csv) and not (args.images or args.example):
        parser.error("--json and --csv need an IMAGE or a FOLDER")
    if args.csv and args.csv.exists() and not args.overwrite:
        raise InputError(f"{args.csv}: a file is there already; give another --csv, or --overwrite")
    if args.csv and not args.csv.parent.is_dir():
        raise InputError(f"{args.csv}: expected a folder to write to, found no {args.csv.parent}; make it or give another --csv")
    sources = find_images(args.images) + ([example_image()] if args.example else [])
    from detector.model_file import open_detector

    detector = open_detector(args.model)
    if not sources:
        from detector.page import open_page

        return open_page(detector, judge, describe, about, args.host, args.port)
    rows = list(progress(judge(detector, sources, args.force), total=len(sources)))
    if args.json:
        print(json.dumps(rows, indent=1))
    elif args.csv:
        write_csv(args.csv, rows)
        print(f"{plural(len(rows), 'row')} written to {args.csv}")
    else:
        show(rows, detector, args.force)
    failed = sum(row["error"] is not None for row in rows)
    if failed:
        raise InputError(f"{failed:,} of {plural(len(rows), 'image')} could not be read; the reason stands beside each")
    return None


if __name__ == "__main__":
    sys.exit(main())
