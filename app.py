"""Classify images: reads IMAGE|FOLDER ... and the detectors in models/ -> prints a conclusion for each, and what it rests on.

    python app.py photo.jpg
    python app.py holidays "web/*.png" --csv results.csv
    python app.py - < photo.jpg
    python app.py photo.jpg --explain heat_map.png
    python app.py holidays --report report.html
    python app.py --example            an image that ships with the program
    python app.py                      opens the page in a browser

Exit codes: 0 success, for any conclusion; 1 an image cannot be read, or another failure (one-line message); 2 invalid command
line; 3 a --fail-on condition was met, and all images could be read.
"""

import argparse
import itertools
import json
import os
import sys
from collections import Counter, namedtuple
from pathlib import Path

from detector import __version__
from detector.console import HelpFormatter, InputError, fraction, plural, printable, progress, stage

EXAMPLE = Path(__file__).resolve().parent / "docs" / "images" / "example.jpg"  # drawn by benchmarks/screenshot.py
MAX_DESCRIBED = 5  # images that are described in several lines; more get a line each
FAILED_ON = 3  # exit code
Outcome = namedtuple("Outcome", "conclusion verdict detector")
FAIL_ON = {  # choice of --fail-on -> (field of the outcome, values)
    "fake": ("verdict", {"Fake"}),
    "uncertain": ("verdict", {"Fake", "uncertain"}),
    "ai": ("conclusion", {"AI-generated", "AI-edited", "Fake"}),
}


def find_sources(images):
    """Return (list of paths, and bytes for standard input; their names)."""
    from detector.inference.predictor import STANDARD_INPUT, find_images

    sources = []
    for standard_input, some in itertools.groupby(images, lambda image: image == STANDARD_INPUT):
        sources += [sys.stdin.buffer.read()] if standard_input else find_images(some, among_others=len(images) > 1)
    return sources, [STANDARD_INPUT if isinstance(source, bytes) else source for source in sources]


def watch(rows, outcomes):
    """Yield the rows and count them in `outcomes`, a Counter of Outcome."""
    for row in rows:
        outcomes[Outcome(row["conclusion"], row["verdict"], row["detector"])] += 1
        yield row


def summarise(outcomes):
    """Return the number of images of each conclusion, as text."""
    names = ("AI-generated", "AI-edited", "Fake", "camera original", "Real", "uncertain", None)
    numbers = Counter(outcome.conclusion for outcome in outcomes.elements())
    return ", ".join(f"{numbers[name]:,} {name or 'unreadable'}" for name in names if numbers[name])


def print_json(rows):
    """Print a list of objects, one after another."""
    separator = "[\n"
    for row in rows:
        print(separator + json.dumps(row), end="")
        separator = ",\n"
    print("\n]")


def write_csv(path, rows):
    """Write the rows as CSV; `provenance` is JSON."""
    import csv

    from detector.files import atomic_write
    from detector.inference.predictor import COLUMNS

    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"provenance": row["provenance"] and json.dumps(row["provenance"])})


def print_rows(rows, predictor, args, total, outcomes):
    """Print the rows for a person: in several lines for a few images, a line each for many, and the counts."""
    from detector.inference.predictor import about, describe

    for row in rows:
        if total <= MAX_DESCRIBED:
            print("\n".join(describe(row, predictor, args.force, args.threshold)))
        else:
            print(_line(row, args.force, len(predictor.detectors) > 1))
    if total > MAX_DESCRIBED:
        print(summarise(outcomes))
    for name in dict.fromkeys(outcome.detector for outcome in outcomes if outcome.detector):
        print(about(predictor.find_detector(name)))


def _line(row, force, name_detector):
    if row["error"]:
        return f"{'unreadable':<15}  {'':>6}  {printable(row['error'])}"
    score = "" if row["gated"] and not force else f"{row['p_fake']:.4f}"
    more = f"  {row['detector']}" if name_detector else ""
    more += f"  [{row['basis']}]" if row["basis"] != "detector" else ""
    more += f"  ({row['note']})" if row["note"] else ""
    return f"{row['conclusion']:<15}  {score:>6}  {printable(row['path'] + more)}"


def make_parser():
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=__doc__[__doc__.index("Exit codes") :],
        formatter_class=HelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE|FOLDER",
        help="files, folders with everything below them, patterns such as '*.jpg', - for standard input; "
        "without any, the page opens in a browser")  # fmt: skip
    add("--model", type=Path, action="append", metavar="MODEL.h5",
        help="a detector; with several, each image goes to the one chosen by its size (default: those in models/)")  # fmt: skip
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print a list of objects")
    output.add_argument("--csv", type=Path, metavar="FILE", help="write a table")
    add("--report", type=Path, metavar="FILE.html", help="write an evidence report: one self-contained page for all images")
    add("--explain", type=Path, metavar="FILE.png", help="write a heat map of where the score comes from; for one image")
    add("--overwrite", action="store_true", help="replace the files that --csv, --report and --explain name")
    add("--threshold", type=fraction, metavar="T", help="one threshold in place of two: Fake if P(Fake) >= T, otherwise Real")
    add("--force", action="store_true", help="predict also for images that no detector is made for")
    add("--provenance", action=argparse.BooleanOptionalAction, default=True,
        help="read provenance: signed manifest, generator metadata, camera; without, the detector alone decides")  # fmt: skip
    add("--trust-list", type=Path, metavar="FILE.pem",
        help="root certificates of trusted C2PA signers (C2PA publishes a list); remembered; none forgets them")  # fmt: skip
    add("--fail-on", choices=sorted(FAIL_ON),
        help=f"exit with code {FAILED_ON} if a verdict is Fake (fake), a verdict is Fake or uncertain (uncertain), or a "
        "conclusion is Fake, AI-generated or AI-edited (ai)")  # fmt: skip
    add("--example", action="store_true", help="classify an image that ships with the program: a landscape drawn by a script")
    add("--host", default="127.0.0.1", help="address of the page; 0.0.0.0 makes it reachable from other machines")
    add("--port", type=int, default=7860, help="port of the page")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def check(parser, args):
    """End with a usage error if options contradict each other, and with InputError if a file would be replaced."""
    wanted = [name for name in ("json", "csv", "report", "explain", "fail_on") if getattr(args, name)]
    if wanted and not args.images:
        parser.error(f"--{wanted[0].replace('_', '-')} needs an IMAGE or a FOLDER")
    if args.explain and args.explain.suffix.lower() != ".png":
        parser.error(f"--explain: expected a name that ends in .png, found {args.explain}")
    if args.trust_list and not args.provenance:
        parser.error("--trust-list has no effect with --no-provenance")
    for option, path in (("--csv", args.csv), ("--report", args.report), ("--explain", args.explain)):
        if path and path.exists() and not args.overwrite:
            raise InputError(f"{path}: the file exists; give another {option}, or --overwrite")
        if path and not path.parent.is_dir():
            raise InputError(f"{path}: expected a folder to write to, found no {path.parent}; make it or give another {option}")


def open_predictor(args):
    """Return the Predictor for the command line's options."""
    from detector.inference import Predictor
    from detector.provenance.trust_list import remember_trust_list, remembered_trust_list

    trust_list = None
    if args.provenance:
        trust_list = remember_trust_list(args.trust_list) if args.trust_list else remembered_trust_list()
    return Predictor(args.model, trust_list=trust_list)


def predict_and_print(predictor, sources, names, args):
    """Predict, and print or write what the options ask for; return the Counter of outcomes."""
    outcomes = Counter()
    rows = watch(predictor.predict(sources, args.force, args.threshold, args.provenance, names), outcomes)
    shown = not (args.csv or args.report) and sys.stdout.isatty()  # rows show the progress; a bar would stand between them
    rows = progress(rows, total=len(sources)) if len(sources) > MAX_DESCRIBED and not shown else rows
    if args.explain or args.report:
        from detector.files import atomic_write
        from detector.inference import attribution

        rows = list(rows)
        if args.explain and not rows[0]["error"]:
            with atomic_write(args.explain) as temporary:
                attribution.save(temporary, predictor.find_detector(rows[0]["detector"]), sources[0])
        if args.report:
            from detector.web import render

            html = render.report(predictor, rows, sources, args.force, args.threshold, progress)
            with atomic_write(args.report) as temporary:
                temporary.write_text(html, "utf-8", "backslashreplace")
            print(f"{args.report} written", file=sys.stderr)
    if args.json:
        print_json(rows)
    elif args.csv:
        write_csv(args.csv, rows)
        print(f"{plural(len(sources), 'row')} written to {args.csv}")
    else:
        print_rows(rows, predictor, args, len(sources), outcomes)
    return outcomes


@stage
def main(argv=None):
    """Classify images, or open the page."""
    parser = make_parser()
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)  # parse_intermixed_args does not handle the file names after it
    args = parser.parse_intermixed_args(argv[:end])
    args.images += argv[end + 1 :] + ([os.fspath(EXAMPLE)] if args.example else [])
    check(parser, args)
    sources, names = find_sources(args.images)
    if args.explain and len(sources) != 1:
        raise InputError(f"--explain: expected one image, found {len(sources):,}; name one of them")
    predictor = open_predictor(args)
    if not sources:
        from detector.web.server import serve

        return serve(predictor, args.host, args.port)
    outcomes = predict_and_print(predictor, sources, names, args)
    if failed := sum(number for outcome, number in outcomes.items() if outcome.conclusion is None):
        place = f"in {args.csv}" if args.csv else "above"
        raise InputError(f"{failed:,} of {plural(len(sources), 'image')} cannot be read; see the reasons {place}")
    if args.fail_on:
        field, values = FAIL_ON[args.fail_on]
        if any(getattr(outcome, field) in values for outcome in outcomes):
            raise SystemExit(FAILED_ON)
    return None


if __name__ == "__main__":
    sys.exit(main())
