"""Judge images: reads IMAGE|FOLDER ... and the detectors in models/ -> prints a verdict for each: Fake, Real or uncertain.

    python app.py photo.jpg
    python app.py holidays "web/*.png" --csv verdicts.csv
    python app.py - < photo.jpg
    python app.py photo.jpg --explain where.png
    python app.py --example            a photograph that an installed package brings
    python app.py                      opens the page in a browser

Exit code 0 says that all images were judged, whatever the verdicts; 1 that an image could not be read, or another failure;
2 a command line that cannot be understood; 3 that --fail-on found what it was to look for, among images that could all be read.
"""
import argparse
import json
import os
import sys
from pathlib import Path

from detector.console import HelpFormatter, InputError, fraction, plural, printable, progress, stage

EXAMPLE = "media_assets/images/lion.jpg"  # a photograph that comes with gradio
FEW = 5  # images that are told in words; of more there is a line each
READ_PROVENANCE_OF = 20  # images at most, where nothing else is asked for
FAILED_ON = 3  # exit code
ALARMS = {"fake": {"Fake"}, "uncertain": {"Fake", "uncertain"}}


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


def find_sources(images, example=False):
    """Return (list of paths and, for standard input, bytes; the names they are told by)."""
    from detector.inference.predictor import STANDARD_INPUT, find_images

    sources = []
    for image in images:
        sources += [sys.stdin.buffer.read()] if image == STANDARD_INPUT else find_images([image])
    sources += [os.fspath(example_image())] if example else []
    return sources, [STANDARD_INPUT if isinstance(source, bytes) else source for source in sources]


# --- output --------------------------------------------------------------------------------------------------------------


class Counts:
    """What was found among the rows that went through it."""

    def __init__(self):
        self.verdicts, self.detectors, self.failed = {}, {}, 0
        self.origins_read = self.by_ai = self.signed_by_ai = 0

    def watch(self, rows):
        """Yield the rows, and count them."""
        for row in rows:
            self.verdicts[row["verdict"]] = self.verdicts.get(row["verdict"], 0) + 1
            self.failed += row["error"] is not None
            if row["detector"]:
                self.detectors[row["detector"]] = None
            if found := row["provenance"]:
                self.origins_read += 1
                self.by_ai += found["says"] == "made by AI"
                self.signed_by_ai += found["says"] == "made by AI" and found["signed"]
            yield row

    def __len__(self):
        return sum(self.verdicts.values())

    def told(self):
        """Return lines: how often each verdict was given, and how many files say of themselves that AI made them."""
        verdicts = ", ".join(f"{self.verdicts.get(name, 0):,} {name}" for name in ("Fake", "Real", "uncertain"))
        if not self.origins_read:
            return [verdicts, "What the files say of themselves was not read: --provenance reads it."]
        signed = f", {self.signed_by_ai:,} with a valid signature (of whom is told with each)" if self.by_ai else ""
        return [verdicts, f"Made by AI, by what the files say of themselves: {self.by_ai:,}{signed}."]


def print_json(rows):
    """Print a list of objects, each as soon as it is there."""
    separator = "[\n"
    for row in rows:
        print(separator + json.dumps(row), end="")
        separator = ",\n"
    print("\n]")


def write_csv(path, rows):
    """Write the rows as CSV, atomically; what the file says of itself is JSON in its column."""
    import csv

    from detector.files import atomic_write
    from detector.inference.predictor import COLUMNS

    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            if row["provenance"]:
                row = {**row, "provenance": json.dumps(row["provenance"])}
            writer.writerow(row.values())


def show(rows, judge, args, total, counts):
    """Print the verdicts for a person: in words for a few images, a line each for many, and the counts."""
    from detector.inference.predictor import about, claim, describe

    for row in rows:
        if total <= FEW:
            print("\n".join(describe(row, judge, args.force, args.threshold)))
        else:
            unlike = row["note"] if not args.force else None
            score = "" if row["p_fake"] is None or unlike else f"{row['p_fake']:.4f}"
            asked = f"  {printable(row['detector'])}" if row["detector"] and len(judge.detectors) > 1 else ""
            says = row["provenance"] and row["provenance"]["says"] != "nothing" and claim(row["provenance"])
            more = f"{f'  ({unlike})' if unlike else ''}{f'  [the file says: {says}]' if says else ''}"
            print(f"{row['verdict'] or 'not judged':<10}  {score:>6}  {printable(row['error'] or row['path'])}{asked}{more}")
    if total > FEW:
        print("\n".join(counts.told()))
    for name in counts.detectors:
        print(about(judge.find_detector(name)))


def explain(judge, row, source, path):
    """Write the picture that says where in the image the verdict comes from."""
    from detector.images import pixels
    from detector.inference import attribution

    image = pixels.read_image(source)
    attribution.save(path, image, attribution.explain(judge.find_detector(row["detector"]).open(), image))


# --- the command line ----------------------------------------------------------------------------------------------------


def make_parser():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=__doc__[__doc__.index("Exit code") :],
        formatter_class=HelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE|FOLDER",
        help="what to judge: files, folders with all below them, patterns such as '*.jpg', - for standard input; "
        "none opens the page in a browser")  # fmt: skip
    add("--model", type=Path, action="append", metavar="MODEL.h5",
        help="a detector; several may be given, and each image goes to the one made for its size (default: those in models/)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print a list of objects for a program")
    output.add_argument("--csv", type=Path, metavar="FILE", help="write a table")
    add("--explain", type=Path, metavar="OUT.png", help="write where in the image the verdict comes from; for one image")
    add("--overwrite", action="store_true", help="replace the file that --csv or --explain names")
    add("--threshold", type=fraction, metavar="T",
        help="say Fake from this P(Fake) on and Real below it, instead of the detector's own Fake, uncertain and Real")
    add("--force", action="store_true", help="judge images unlike any that the detector has seen")
    add("--provenance", action=argparse.BooleanOptionalAction,
        help="read what each file says of itself: a signed manifest, a generator's settings, a camera's facts "
        f"(default: of at most {READ_PROVENANCE_OF} images, or with --trust-list)")  # fmt: skip
    add("--trust-list", type=Path, metavar="FILE.pem",
        help="certificates of the roots whose C2PA signers are trusted; c2pa-python brings none, C2PA publishes a list")
    add("--fail-on", choices=sorted(ALARMS),
        help=f"end with exit code {FAILED_ON} where a verdict is Fake, or with 'uncertain' where one is Fake or uncertain; what a "
        "file says of itself does not count")  # fmt: skip
    add("--example", action="store_true", help="judge a photograph that an installed package brings")
    add("--host", default="127.0.0.1", help="address of the page")
    add("--port", type=int, default=7860, help="port of the page")
    add("--share", action="store_true", help="make the page reachable by anyone, through a tunnel of Gradio's makers")
    return parser


def check(parser, args):
    """End with a usage error where options do not go together, and with InputError where a file would be replaced."""
    wanted = [name for name in ("json", "csv", "explain", "fail_on") if getattr(args, name)]
    if wanted and not (args.images or args.example):
        parser.error(f"--{wanted[0].replace('_', '-')} needs an IMAGE or a FOLDER")
    if args.explain and args.explain.suffix.lower() != ".png":
        parser.error(f"--explain: expected a name that ends in .png, found {args.explain}")
    if args.trust_list and args.provenance is False:
        parser.error("--trust-list is of no use with --no-provenance")
    for option, path in (("--csv", args.csv), ("--explain", args.explain)):
        if path and path.exists() and not args.overwrite:
            raise InputError(f"{path}: a file is there already; give another {option}, or --overwrite")
        if path and not path.parent.is_dir():
            raise InputError(f"{path}: expected a folder to write to, found no {path.parent}; make it or give another {option}")
    if args.trust_list:
        from detector.provenance.trust_list import check_trust_list

        check_trust_list(args.trust_list)


def judge_and_tell(judge, sources, names, args):
    """Judge the sources and print, or write, what is asked for; return Counts."""
    counts = Counts()
    wanted = args.trust_list is not None or len(sources) <= READ_PROVENANCE_OF
    provenance = wanted if args.provenance is None else args.provenance
    rows = judge.judge(sources, args.force, args.threshold, provenance, names)
    if args.explain:
        rows = list(rows)
        if not rows[0]["error"]:
            explain(judge, rows[0], sources[0], args.explain)
    shown = args.csv is None and sys.stdout.isatty()  # rows tell how far it is, and a bar would stand in their midst
    rows = counts.watch(progress(rows, total=len(sources)) if len(sources) > FEW and not shown else rows)
    if args.json:
        print_json(rows)
    elif args.csv:
        write_csv(args.csv, rows)
        print(f"{plural(len(counts), 'row')} written to {args.csv}")
    else:
        show(rows, judge, args, len(sources), counts)
    return counts


@stage
def main(argv=None):
    """Judge images, or open the page."""
    parser = make_parser()
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)  # what follows it are names, which argparse does not know here
    args = parser.parse_intermixed_args(argv[:end])
    args.images += argv[end + 1 :]
    check(parser, args)
    sources, names = find_sources(args.images, args.example)
    if args.explain and len(sources) != 1:
        raise InputError(f"--explain: expected one image, found {len(sources):,}; name one of them")
    from detector.inference.predictor import Judge, default_models

    judge = Judge(args.model or default_models(), trust_list=args.trust_list)
    if not sources:
        from detector.web.server import open_page

        return open_page(judge, args.host, args.port, args.share)
    counts = judge_and_tell(judge, sources, names, args)
    if counts.failed:
        raise InputError(f"{counts.failed:,} of {plural(len(counts), 'image')} could not be read; the reason stands beside each")
    if args.fail_on and ALARMS[args.fail_on] & set(counts.verdicts):
        raise SystemExit(FAILED_ON)
    return None


if __name__ == "__main__":
    sys.exit(main())
