"""Look at a data set before training: reads FOLDER, writes audit/audit.html and audit/audit.json; the data stay as they are.

    python data_audit.py                        # the split tree in data/
    python data_audit.py data/raw/cifake        # an unpacked archive, before it is split
    python data_audit.py data --quick           # counts and identical files only, nothing is judged by its pixels

Every file is read once, on all cores: hashed, decoded, and its facts noted. Findings, exit code 1: identical content across
splits or labels, augmented images in validation or test or made from an image there, and file facts (size, format, JPEG
tables, metadata) that alone tell the classes apart with an AUC whose 95 % interval lies above 0.65. Warnings, exit code 0:
near-duplicates, identical files within a split, unreadable and odd files, and what was passed over.

audit.json holds
    tool, folder, quick, images, findings [sentences], warnings [sentences]
    counts       {split: {class: n}}; the split of a folder that is not split yet is called "unsplit"
    unreadable   [{path, reason}]
    odd          {kind: [paths]}: tiny, long, blank, animated, misnamed (null with --quick, as the next two)
    near         {pairs, found: [{paths: [a, b], bits, likeness}], complete}; of identical files the first stands for all
    shortcut     {images, auc, interval: [low, high], facts: [{fact, drop, alone, Fake, Real}]}; null also where a class has
                 fewer than 30 images; drop is the AUC lost when the fact is shuffled, alone the AUC of this fact by itself
    identical    {pairs, groups: [[paths]]}
    augmented    {leaks: [[augmented image in train, its original in validation or test]], held_out: [augmented images there]}
    passed_over  {links: [links to folders], loose: [files beside the class folders]}
where each `pairs` is a list of {splits: [a, b], conflicting_labels, pairs: n}. Paths are relative to the folder.
"""
import argparse
import functools
import hashlib
import json
import os
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from detector import console
from detector.console import InputError, plural
from detector.data import duplicates, placing
from detector.data import tree as data_tree
from detector.files import atomic_write, digest_of, parallel, read_bytes, scan

TINY = 16  # shorter side in pixels below which an image says little to any network
LONG = 5  # longer side over shorter side beyond which squeezing to a square destroys the picture
BLANK = 8  # grey levels; where no channel varies by more, JPEG's own noise included, there is nothing to see
ODD = {
    "tiny": f"shorter side under {TINY} px",
    "long": f"more than {LONG} times as long as wide",
    "blank": "one colour throughout",
    "animated": "only the first frame is used",
    "misnamed": "the name's suffix is that of another format",
}
AUGMENTED = {"leaks": "in train made from an image in validation or test", "held_out": "in validation or test"}
SUFFIXES = {"JPG": "JPEG", "JPE": "JPEG", "JFIF": "JPEG", "TIF": "TIFF"}
LARGE = 1 << 26  # bytes; larger files are hashed and decoded from the disk instead of from memory
SHORTCUT, WEAK_SHORTCUT = 0.65, 0.55  # lower bound of the AUC from which on it is a finding, a warning
TOOL = "data_audit.py"  # marks a report as one that may be replaced


class Files(NamedTuple):
    """Every file of a data set, and what is no part of it. All paths are POSIX paths relative to the set's folder."""

    paths: list
    places: list  # (split, class) of each
    insides: list  # path of each inside its class folder
    links: list  # to folders, which are not followed
    loose: list  # files beside the class folders


def list_images(folder):
    """Return the Files of a data set, split or not.

    Raises:
        InputError: no such folder, no known layout, or a class without files.
    """
    paths, places, insides, links = [], [], [], []
    layout = data_tree.find_layout(folder)
    placing.refuse_unfinished(folder)
    for split in sorted(layout, key=(*data_tree.SPLITS, None).index):
        for name, class_folders in layout[split].items():
            before = len(paths)
            for below in class_folders:
                prefix = below.relative_to(folder).as_posix()
                found = list(scan(below, links))
                paths += [f"{prefix}/{path}" for path in found]
                insides += found
            if len(paths) == before:
                raise InputError(f"{class_folders[0]}: expected images of class {name}, found an empty folder; fill or remove it")
            places += [(split or duplicates.UNSPLIT, name)] * (len(paths) - before)
    rest = links, data_tree.loose_files(folder, layout)
    links, loose = ([os.path.relpath(path, folder).replace(os.sep, "/") for path in some] for some in rest)
    return Files(paths, places, insides, links, loose)


# --- one file ----------------------------------------------------------------------------------------------------------


def inspect(root, path):
    """Look at one file: read once, hashed, decoded.

    Returns:
        (SHA-256 hex digest or None, why it is unreadable or None, kinds in ODD, (32, 32) uint8 grey thumbnail or None,
        file facts or None).

    Raises:
        FileNotFoundError: the file vanished.
    """
    from detector.data import shortcuts
    from detector.images import pixels, similarity

    full, digest = os.path.join(root, path), None
    try:
        if os.stat(full).st_size <= LARGE:
            source = read_bytes(full)
            digest = hashlib.sha256(source).hexdigest()
        else:
            source, digest = full, digest_of(full)
        image = pixels.read_image(source)
        facts = shortcuts.file_facts(source, image)
    except FileNotFoundError:
        raise
    except OSError as error:
        return digest, error.strerror or str(error), (), None, None
    except InputError as error:
        return digest, str(error).removeprefix(f"{full}: ").removeprefix("the image: "), (), None, None
    return digest, None, oddities(path, image, facts), similarity.grey_thumbnail(image), facts


def oddities(path, image, facts):
    """Return the list of the kinds in ODD that fit an image, (h, w, 3) uint8, with these file facts."""
    from detector.data import shortcuts

    short, long = sorted(image.shape[:2])
    suffix = os.path.splitext(path)[1][1:].upper()
    found = {
        "tiny": short < TINY,
        "long": long > LONG * short,
        "blank": (image.max(axis=(0, 1)) - image.min(axis=(0, 1))).max() <= BLANK,
        "animated": shortcuts.fact(facts, "animated"),
        "misnamed": SUFFIXES.get(suffix, suffix) != shortcuts.fact(facts, "format"),
    }
    return [name for name, is_so in found.items() if is_so]


def inspect_block(root, paths):
    """Run `inspect` over some files.

    Returns:
        (digests, reasons, kinds) lists, and (n,) uint64 perceptual hashes and (n, k) float32 facts; both are 0 where a file
        is unreadable. Nothing of an image's size is kept.
    """
    import numpy as np

    from detector.data import shortcuts
    from detector.images import similarity

    digests, reasons, kinds, thumbnails, facts = zip(*(inspect(root, path) for path in paths), strict=True)
    empty = np.zeros((similarity.GREY_SIDE,) * 2, np.uint8)
    hashes = similarity.perceptual_hashes([empty if thumbnail is None else thumbnail for thumbnail in thumbnails])
    none = np.zeros(len(shortcuts.FACTS), np.float32)
    return digests, reasons, kinds, hashes, np.array([none if row is None else row for row in facts])


def hash_block(root, paths):
    """Return the SHA-256 hex digests of some files, None for a file that may not be read."""
    digests = []
    for path in paths:
        try:
            digests.append(digest_of(os.path.join(root, path)))
        except PermissionError:
            digests.append(None)
    return digests


def in_blocks(function, root, paths, size):
    """Call function(root, block of paths) over all files on all cores and return the results, block by block."""
    blocks = [paths[i : i + size] for i in range(0, len(paths), size)]
    return parallel(functools.partial(function, root), blocks, f"block of {plural(size, 'image')}", chunk=1)


def inspect_all(root, paths):
    """Run `inspect_block` over all files on all cores and return its five results, joined."""
    import numpy as np

    size = min(256, max(32, len(paths) // 32))  # few large photographs are spread as evenly as many small images
    digests, reasons, kinds, hashes, facts = zip(*in_blocks(inspect_block, root, paths, size), strict=True)
    return *(list(chain(*column)) for column in (digests, reasons, kinds)), np.concatenate(hashes), np.concatenate(facts)


# --- the report --------------------------------------------------------------------------------------------------------


def audit(folder, files, quick=False):
    """Look at the files that `list_images` listed and return the report: what audit.json holds (see the top of this file)."""
    paths, places = files.paths, files.places
    counts = defaultdict(Counter)
    for split, name in places:
        counts[split][name] += 1
    report = {"tool": TOOL, "folder": os.fspath(folder), "quick": quick, "images": len(paths), "counts": counts}
    report |= (look_quickly if quick else look)(os.fspath(folder), paths, places)
    report["augmented"] = duplicates.augmented(paths, places, files.insides)
    report["passed_over"] = {"links": files.links, "loose": files.loose}
    report["findings"], report["warnings"] = judge(report)
    return report


def look_quickly(root, paths, places):
    """Return the report's entries that need no decoding."""
    digests = list(chain(*in_blocks(hash_block, root, paths, 1024)))
    unreadable = [{"path": path, "reason": "Permission denied"} for path, digest in zip(paths, digests, strict=True) if not digest]
    return {"unreadable": unreadable, "odd": None, "near": None, "shortcut": None} | twins(paths, digests, places)


def look(root, paths, places):
    """Return all entries of the report that need the files."""
    import numpy as np

    from detector.data import shortcuts

    digests, reasons, kinds, hashes, facts = inspect_all(root, paths)
    first = {digest: i for i, digest in reversed(list(enumerate(digests))) if reasons[i] is None}
    readable = np.array([i for i, reason in enumerate(reasons) if reason is None], np.int64)
    is_fake = np.array([name == data_tree.CLASSES[0] for _, name in places])
    content = np.array([first.get(digest, 0) for digest in digests])
    usable = sorted(i for i in first.values() if "blank" not in kinds[i])
    return {
        "unreadable": [{"path": path, "reason": reason} for path, reason in zip(paths, reasons, strict=True) if reason],
        "odd": {kind: [path for path, its in zip(paths, kinds, strict=True) if kind in its] for kind in ODD},
        "near": duplicates.nearly_identical(root, paths, places, hashes, usable),
        "shortcut": shortcuts.find_shortcut(facts[readable], is_fake[readable], content[readable]),
    } | twins(paths, digests, places)


def twins(paths, digests, places):
    """Return the report's entry on identical content."""
    groups, found = duplicates.identical(digests, places)
    return {"identical": {"pairs": duplicates.listed(found), "groups": [[paths[i] for i in group] for group in groups]}}


def judge(report):
    """Return (findings, warnings) of a report, a sentence each."""
    findings, warnings = [], []
    for entry in report["identical"]["pairs"]:
        leak = duplicates.is_leak((entry["splits"], entry["conflicting_labels"]))
        (findings if leak else warnings).append(in_words(entry, "identical"))
    for kind, where in AUGMENTED.items():
        if report["augmented"][kind]:
            findings.append(f"{plural(len(report['augmented'][kind]), 'augmented image')} {where}")
    shortcut = report["shortcut"]
    if shortcut and shortcut["interval"][0] > WEAK_SHORTCUT:
        line = f"file facts alone tell Fake from Real: {auc_in_words(shortcut)}"
        (findings if shortcut["interval"][0] > SHORTCUT else warnings).append(line)
    near = report["near"] or {"pairs": [], "complete": True}
    warnings += [in_words(entry, "nearly identical") for entry in near["pairs"]]
    if not near["complete"]:
        warnings.append("too many nearly identical images: not all pairs were looked for")
    if report["unreadable"]:
        warnings.append(f"{plural(len(report['unreadable']), 'file')} unreadable as an image")
    for kind, paths in (report["odd"] or {}).items():
        if paths:
            warnings.append(f"{plural(len(paths), 'image')} {kind}: {ODD[kind]}")
    if not shortcut and not report["quick"]:
        warnings.append("shortcuts in the file facts not looked for: a class has fewer than 30 different readable images")
    warnings += data_tree.report_passed_over(**report["passed_over"])
    return findings, warnings


def in_words(entry, how):
    """Return a sentence for an entry of `pairs`, such as '378 pairs of identical images across train and test'."""
    a, b = entry["splits"]
    where = f" across {a} and {b}" if a != b else "" if a == duplicates.UNSPLIT else f" within {a}"
    text = f"{plural(entry['pairs'], 'pair')} of {how} images{where}"
    return f"{text}, one Fake and one Real" if entry["conflicting_labels"] else text


def auc_in_words(shortcut):
    """Return 'AUC 0.70 (0.65 to 0.74), carried by width, aspect and density'."""
    low, high = shortcut["interval"]
    carriers = [row["fact"] for row in shortcut["facts"][:3] if row["drop"] > 0.005] or [shortcut["facts"][0]["fact"]]
    return f"AUC {shortcut['auc']:.3f} ({low:.3f} to {high:.3f}), carried by {', '.join(carriers)}"


def cures(report):
    """Return what to do about the findings, in one line."""
    advice = []
    kinds = [(entry["splits"], entry["conflicting_labels"]) for entry in report["identical"]["pairs"]]
    if any(a != b for (a, b), _ in kinds):
        advice.append("split again with data_split.py, which leaves twins out")
    if any(conflicting for _, conflicting in kinds):
        advice.append("remove the images whose label is wrong")
    if any(report["augmented"].values()):
        advice.append("remove these augmented images, or all with data_deleter.py --augmented")
    if any(line.startswith("file facts") for line in report["findings"]):
        advice.append("bring both classes to the same sizes, format, quality and metadata")
    return "; ".join(advice)


def prepare_report_folder(report, folder):
    """Make the report's folder. Raises InputError where it would lie in `folder`, or the report overwrite something else."""
    if report.exists() and not report.is_dir():
        raise InputError(f"{report}: expected a folder for the report, found a file; choose another with --report")
    if report.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{report}: expected a folder outside of {folder}, which is only read; choose another with --report")
    for name in ("audit.json", "audit.html"):
        path = report / name
        if path.exists() and TOOL.encode() not in read_bytes(path)[:400]:
            raise InputError(f"{path}: expected an earlier report or nothing, found another file; choose another with --report")
    os.makedirs(report, exist_ok=True)


def write_report(report, page, folder):
    """Write audit.json and audit.html into `folder`, each of them atomically."""
    for name, text in (("audit.html", page), ("audit.json", json.dumps(report, indent=1) + "\n")):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def print_summary(report, folder):
    """Print the counts, the findings and warnings, and where the report is."""
    counts = Counter({(split, name): n for split, classes in report["counts"].items() for name, n in classes.items()})
    print(data_tree.counts_table(counts))
    for kind in ("findings", "warnings"):
        for line in report[kind]:
            print(f"{kind[:-1]}: {line}")
    for entry in report["unreadable"][:10]:
        print(f"unreadable: {console.printable(entry['path'])}: {console.printable(entry['reason'])}")
    if report["shortcut"]:
        print(f"file facts alone: {auc_in_words(report['shortcut'])}")
    print(console.printable(f"report: {folder / 'audit.html'}, {folder / 'audit.json'}"))


@console.stage
def main(argv=None):
    """Read the command line, look, report; exit code 1 where there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data"), help="split tree or unpacked archive (default: data)")
    parser.add_argument("--report", type=Path, default=Path("audit"), help="folder for the report (default: audit)")
    parser.add_argument("--quick", action="store_true", help="counts and identical files only; no image is judged by its pixels")
    args = parser.parse_args(argv)
    files = list_images(args.folder)
    prepare_report_folder(args.report, args.folder)
    report = audit(args.folder, files, args.quick)

    from detector.reports import audit_page

    write_report(report, audit_page.render_audit(report, files.paths, files.places), args.report)
    print_summary(report, args.report)
    if report["findings"]:
        raise SystemExit(f"finding: {'; '.join(report['findings'])}; {cures(report)}")


if __name__ == "__main__":
    main()
