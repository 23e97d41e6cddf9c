"""Check a data set before training: reads FOLDER, writes audit/audit.html and audit/audit.json, and changes nothing else.

    python data_audit.py                        # the split tree in data/
    python data_audit.py data/raw/cifake        # an unpacked archive, before it is split
    python data_audit.py data --quick           # counts and identical files only; no image is decoded

Every file is hashed and decoded, on all cores. Findings (exit code 1): identical content across splits or labels,
augmented images in validation or test or made from an image there, and a metadata-only baseline (size, format, JPEG tables,
metadata) that separates the classes with an AUC whose 95 % interval is above 0.65. Warnings (exit code 0): near-duplicates,
identical files within a split, unreadable and odd files, and files that were skipped.

docs/data.md describes audit.json.
"""

import argparse
import functools
import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from detector import console
from detector.console import InputError, plural
from detector.data import duplicates, placing
from detector.data import tree as data_tree
from detector.files import atomic_write, digest_of, digests_and_formats, parallel, read_bytes, scan

TINY = 16  # pixels; an image with a shorter side holds little information
LONG = 5  # longer side over shorter side; beyond it, resizing to a square destroys the picture
ODD = {
    "tiny": f"shorter side under {TINY} px",
    "long": f"more than {LONG} times as long as wide",
    "blank": "one colour throughout",
    "animated": "only the first frame is used",
    "misnamed": "the suffix is that of another format",
}
AUGMENTED = {"leaks": "in train made from an image in validation or test", "held_out": "in validation or test"}
SUFFIXES = {"JPG": "JPEG", "JPE": "JPEG", "JFIF": "JPEG", "MPO": "JPEG", "TIF": "TIFF", "HEIC": "HEIF", "APNG": "PNG", "DIB": "BMP"}
SHORTCUT, WEAK_SHORTCUT = 0.65, 0.55  # lower bound of the AUC above which it is a finding, a warning
CURES = {  # words of a finding: what to do about it
    " across ": "split again with data_split.py, which leaves duplicates out",
    "one Fake and one Real": "remove the images whose label is wrong",
    "augmented image": "remove these augmented images, or all with data_deleter.py --augmented",
    "file features": "bring both classes to the same sizes, format, quality and metadata",
}
TOOL = "data_audit.py"  # marks a report as one that may be replaced


class Files(NamedTuple):
    """The files of a data set, and the skipped ones. All paths are POSIX paths relative to the set's folder."""

    paths: list
    places: list  # (split, class) of each
    insides: list  # path of each inside its class folder
    skipped: dict  # {links, loose, hidden: [paths]}, as in audit.json


def list_images(folder):
    """Return the Files of a data set, split or not. Raises InputError for an unknown layout or a class without files."""
    paths, places, insides, links, hidden = [], [], [], [], []
    layout = data_tree.find_layout(folder)
    placing.refuse_unfinished(folder)
    for split in sorted(layout, key=(*data_tree.SPLITS, None).index):
        for name, class_folders in layout[split].items():
            before = len(paths)
            for below in class_folders:
                prefix = below.relative_to(folder).as_posix()
                found = list(scan(below, links, hidden))
                paths += [f"{prefix}/{path}" for path in found]
                insides += found
            if len(paths) == before:
                raise InputError(f"{class_folders[0]}: expected images of class {name}, found an empty folder; fill or remove it")
            places += [(split or duplicates.UNSPLIT, name)] * (len(paths) - before)
    skipped = {"links": links, "loose": data_tree.loose_files(folder, layout), "hidden": hidden}
    skipped = {reason: [os.path.relpath(path, folder).replace(os.sep, "/") for path in some] for reason, some in skipped.items()}
    return Files(paths, places, insides, skipped)


def inspect(root, path):
    """Hash and decode one file.

    Returns:
        (SHA-256 hex digest or None, why it is unreadable or None, kinds in ODD, uint64 perceptual hash, (k,) float32 file
        features); the last two are 0 for an unreadable file.
    """
    import numpy as np

    from detector.data import shortcuts
    from detector.images import pixels, similarity
    from detector.images.guard import one_file

    full, digest = os.path.join(root, path), None
    try:
        with one_file(full):
            digest = digest_of(full)
            image = pixels.read_image(full)
            features = shortcuts.file_features(full, image)
            (hashed,) = similarity.perceptual_hashes([similarity.grey_thumbnail(image)])
            return digest, None, oddities(path, image, features), hashed, features
    except InputError as error:
        return digest, str(error).removeprefix(f"{full}: "), (), np.uint64(0), np.zeros(len(shortcuts.FEATURES), np.float32)


def oddities(path, image, features):
    """Return the kinds in ODD that apply to an image, (h, w, 3) uint8, with these file features."""
    from detector.data import shortcuts
    from detector.images.quality import is_blank

    short, long = sorted(image.shape[:2])
    suffix = os.path.splitext(path)[1][1:].upper()
    found = {
        "tiny": short < TINY,
        "long": long > LONG * short,
        "blank": is_blank(image),
        "animated": shortcuts.feature(features, "animated"),
        "misnamed": SUFFIXES.get(suffix, suffix) != shortcuts.feature(features, "format"),
    }
    return [name for name, is_so in found.items() if is_so]


def audit(folder, files, quick=False):
    """Check the files that `list_images` listed and return the report: what audit.json holds (see the top of this file)."""
    paths, places = files.paths, files.places
    counts = defaultdict(Counter)
    for split, name in places:
        counts[split][name] += 1
    if quick:
        digests = [digest for digest, _ in digests_and_formats(os.fspath(folder), paths)]
        reason = "missing, or without permission to read it"
        unreadable = [{"path": path, "reason": reason} for path, digest in zip(paths, digests, strict=True) if not digest]
        content = {"unreadable": unreadable, "odd": None, "near": None, "shortcut": None}
    else:
        digests, content = check_images(os.fspath(folder), paths, places)
    groups, pairs = duplicates.exact_duplicates(digests, places)
    report = {"tool": TOOL, "folder": os.fspath(folder), "quick": quick, "images": len(paths), "counts": counts} | content
    report["identical"] = {"pairs": duplicates.listed(pairs), "groups": [[paths[i] for i in group] for group in groups]}
    report["augmented"] = duplicates.augmented(paths, places, files.insides)
    report["passed_over"] = files.skipped
    report["findings"], report["warnings"] = summarise(report)
    return report


def check_images(root, paths, places):
    """Return (digests, the report's entries that need all files decoded)."""
    import numpy as np

    from detector.data import shortcuts

    chunk = min(256, max(32, len(paths) // 32))  # few large photographs are spread as evenly as many small images
    rows = parallel(functools.partial(inspect, root), paths, chunk=chunk)
    digests, reasons, kinds, hashes, features = zip(*rows, strict=True)
    first = {digest: i for i, digest in reversed(list(enumerate(digests))) if reasons[i] is None}
    readable = np.array([i for i, reason in enumerate(reasons) if reason is None], np.int64)
    is_fake = np.array([name == data_tree.CLASSES[0] for _, name in places])
    content = np.array([first.get(digest, 0) for digest in digests])
    usable = sorted(i for i in first.values() if "blank" not in kinds[i])
    return digests, {
        "unreadable": [{"path": path, "reason": reason} for path, reason in zip(paths, reasons, strict=True) if reason],
        "odd": {kind: [path for path, its in zip(paths, kinds, strict=True) if kind in its] for kind in ODD},
        "near": duplicates.near_duplicates(root, paths, places, np.array(hashes), usable),
        "shortcut": shortcuts.metadata_baseline(np.array(features)[readable], is_fake[readable], content[readable]),
    }


def summarise(report):
    """Return (findings, warnings) of a report, lists of sentences."""
    findings, warnings = [], []
    for entry in report["identical"]["pairs"]:
        leak = duplicates.is_leak((entry["splits"], entry["conflicting_labels"]))
        (findings if leak else warnings).append(in_words(entry, "identical"))
    for kind, where in AUGMENTED.items():
        if report["augmented"][kind]:
            findings.append(f"{plural(len(report['augmented'][kind]), 'augmented image')} {where}")
    shortcut = report["shortcut"]
    if shortcut and shortcut["interval"][0] > WEAK_SHORTCUT:
        line = f"file features alone separate Fake from Real: {auc_in_words(shortcut)}"
        (findings if shortcut["interval"][0] > SHORTCUT else warnings).append(line)
    near = report["near"] or {"pairs": [], "complete": True}
    warnings += [in_words(entry, "near-duplicate") for entry in near["pairs"]]
    if not near["complete"]:
        warnings.append("too many near-duplicates: not all pairs were searched")
    by_reason = defaultdict(list)
    for entry in report["unreadable"]:
        by_reason[console.short_reason(entry["reason"])].append(entry["path"])
    warnings += [console.reason_line(f"unreadable, {reason}", paths) for reason, paths in by_reason.items()]
    for kind, paths in (report["odd"] or {}).items():
        if paths:
            warnings.append(f"{plural(len(paths), 'image')} {kind}: {ODD[kind]}")
    if not shortcut and not report["quick"]:
        warnings.append("metadata-only baseline not computed: a class has fewer than 30 different readable images")
    skipped = report["passed_over"]
    warnings += data_tree.report_skipped(links=skipped["links"], loose=skipped["loose"], ignored=skipped["hidden"])
    return findings, warnings


def in_words(entry, how):
    """Return a sentence on an entry of `pairs`, such as '378 pairs of identical images across train and test'."""
    a, b = entry["splits"]
    where = f" across {a} and {b}" if a != b else "" if a == duplicates.UNSPLIT else f" within {a}"
    text = f"{plural(entry['pairs'], 'pair')} of {how} images{where}"
    return f"{text}, one Fake and one Real" if entry["conflicting_labels"] else text


def auc_in_words(shortcut):
    """Return 'AUC 0.70 (0.65 to 0.74), carried by width, aspect and density'."""
    low, high = shortcut["interval"]
    carriers = [row["fact"] for row in shortcut["facts"][:3] if row["drop"] > 0.005] or [shortcut["facts"][0]["fact"]]
    return f"AUC {shortcut['auc']:.3f} ({low:.3f} to {high:.3f}), carried by {', '.join(carriers)}"


def prepare_report_folder(report, folder):
    """Make the report's folder. Raises InputError if it would be inside `folder`, or if it holds other files of these names."""
    placing.check_outside(report, [folder], "--report")
    for name in ("audit.json", "audit.html"):
        path = report / name
        if path.exists() and TOOL.encode() not in read_bytes(path)[:400]:
            raise InputError(f"{path}: expected an earlier report or nothing, found another file; choose another with --report")
    os.makedirs(report, exist_ok=True)


def print_summary(report, folder):
    """Print the counts, the findings and warnings, and where the report is."""
    counts = Counter({(split, name): n for split, classes in report["counts"].items() for name, n in classes.items()})
    print(data_tree.counts_table(counts))
    for kind in ("findings", "warnings"):
        for line in report[kind]:
            print(f"{kind[:-1]}: {line}")
    if report["shortcut"]:
        print(f"metadata-only baseline: {auc_in_words(report['shortcut'])}")
    print(console.printable(f"report: {folder / 'audit.html'}, {folder / 'audit.json'}"))


@console.stage
def main(argv=None):
    """Check a data set; exit code 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data"), help="split tree or unpacked archive (default: data)")
    parser.add_argument("--report", type=Path, default=Path("audit"), help="folder for the report (default: audit)")
    parser.add_argument("--quick", action="store_true", help="counts and identical files only; no image is decoded")
    args = parser.parse_args(argv)
    files = list_images(args.folder)
    prepare_report_folder(args.report, args.folder)
    report = audit(args.folder, files, args.quick)

    from detector.reports import audit_page

    page = audit_page.render_audit(report, files.paths, files.places)
    for name, text in (("audit.html", page), ("audit.json", json.dumps(report, indent=1) + "\n")):
        with atomic_write(args.report / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print_summary(report, args.report)
    if report["findings"]:
        found = "; ".join(report["findings"])
        raise SystemExit("; ".join([f"finding: {found}", *(cure for words, cure in CURES.items() if words in found)]))


if __name__ == "__main__":
    main()
