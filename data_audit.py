"""Look at a data set before training: reads FOLDER, writes audit/audit.json; the data stay as they are.

    python data_audit.py                        # the split tree in data/
    python data_audit.py data/raw/cifake        # an unpacked archive, before it is split
    python data_audit.py data --quick           # counts and identical files only, nothing is decoded

Every file is read once, on all cores. Identical content across splits or labels is a finding: exit code 1.
Identical files within a split, unreadable and odd files are warnings: exit code 0.

audit.json holds `tool`, `folder`, `quick`, `images`, `counts` {split: {class: n}}, `unreadable` [{path, reason}],
`odd` {kind: [paths]}, `identical` {pairs: [{splits, conflicting_labels, pairs}], groups: [[paths]]}, `findings` and
`warnings` [sentences]. The split of a folder that is not split yet is called "unsplit".
"""
import argparse
import functools
import json
import os
from collections import Counter, defaultdict
from concurrent.futures.process import BrokenProcessPool
from itertools import combinations_with_replacement
from pathlib import Path

from detector import console, data_tree
from detector.console import InputError, plural

UNSPLIT = "unsplit"
TINY = 16  # shorter side in pixels below which an image says little to any network
LONG = 5  # longer side over shorter side beyond which squeezing to a square destroys the picture
BLANK = 2.0  # standard deviation in grey levels below which there is nothing to see
ODD = {
    "tiny": f"shorter side under {TINY} px",
    "long": f"more than {LONG} times as long as wide",
    "blank": "one colour throughout",
    "animated": "animated: only the first frame is used",
    "misnamed": "the name's suffix is that of another format",
}
SUFFIXES = {"jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "tif": "TIFF"}
LARGE = 1 << 26  # bytes; larger files are hashed and decoded from the disk instead of from memory


def list_images(folder):
    """List every file of a data set, split or not.

    Returns:
        (paths, places): POSIX paths relative to `folder`, and for each its (split, class).

    Raises:
        InputError: no such folder, no known layout, or a class without files.
    """
    paths, places = [], []
    for split, classes in data_tree.find_layout(folder).items():
        for name, class_folders in classes.items():
            before = len(paths)
            for below in class_folders:
                prefix = below.relative_to(folder).as_posix()
                paths += [f"{prefix}/{path}" for path in data_tree.scan(below)]
            if len(paths) == before:
                raise InputError(f"{class_folders[0]}: expected images of class {name}, found an empty folder; fill or remove it")
            places += [(split or UNSPLIT, name)] * (len(paths) - before)
    return paths, places


def inspect(root, path):
    """Look at one file: read once, hashed, decoded.

    Returns:
        (SHA-256 hex digest or None, why it is unreadable or None, set of the kinds in ODD).

    Raises:
        FileNotFoundError: the file vanished.
    """
    from detector import pixels

    full, digest = os.path.join(root, path), None
    try:
        if os.stat(full).st_size <= LARGE:
            source = data_tree.read_bytes(full)
            digest = data_tree.hashlib.sha256(source).hexdigest()
        else:
            source, digest = full, data_tree.digest_of(full)
        image = pixels.read_image(source)
    except FileNotFoundError:
        raise
    except OSError as error:
        return digest, error.strerror or str(error), set()
    except InputError as error:
        return digest, str(error).split(": ", 1)[1], set()
    return digest, None, oddities(path, image, data_tree.image_format(source[:16]))


def oddities(path, image, kind):
    """Return the kinds in ODD that fit an image, (h, w, 3) uint8, of the format `kind`."""
    short, long = sorted(image.shape[:2])
    suffix = Path(path).suffix[1:].lower()
    found = {
        "tiny": short < TINY,
        "long": long > LONG * short,
        "blank": image.std() < BLANK,
        "misnamed": SUFFIXES.get(suffix, suffix.upper()) != kind,
    }
    return {name for name, is_so in found.items() if is_so}


def identical(digests, places):
    """Group files of the same content.

    Args:
        digests: hex digest of each file, or None where it could not be read.
        places: (split, class) of each file.

    Returns:
        (groups, pairs): lists of indices with the same digest, and a Counter of pairs by where their images stand:
        {((split, split), conflicting labels): pairs}.
    """
    by_digest = defaultdict(list)
    for index, digest in enumerate(digests):
        if digest is not None:
            by_digest[digest].append(index)
    groups = [group for group in by_digest.values() if len(group) > 1]
    pairs = Counter()
    for group in groups:
        cells = Counter(places[index] for index in group)
        for a, b in combinations_with_replacement(sorted(cells), 2):
            number = cells[a] * (cells[a] - 1) // 2 if a == b else cells[a] * cells[b]
            if number:
                pairs[relation(a, b)] += number
    return groups, pairs


def relation(a, b):
    """Return ((split, split), conflicting labels) of two (split, class) places, splits in their usual order."""
    order = (*data_tree.SPLITS, UNSPLIT)
    return tuple(sorted((a[0], b[0]), key=order.index)), a[1] != b[1]


def is_leak(splits, conflicting):
    """Tell whether a pair crosses splits or labels."""
    return splits[0] != splits[1] or conflicting


def where(splits, conflicting):
    """Return 'within train' or 'across train and test', and whether the labels differ, in words."""
    text = f"across {splits[0]} and {splits[1]}" if splits[0] != splits[1] else f"within {splits[0]}"
    return f"{text}, one Fake and one Real" if conflicting else text


def examine(folder, paths, quick):
    """Run `inspect` over all files on all cores; with `quick` they are hashed only.

    Returns:
        (digests, {path: why it is unreadable}, {kind: [paths]}).
    """
    root = os.fspath(folder)
    if quick:
        facts = data_tree.file_facts(root, paths)
        looks = [(digest, None if digest else "Permission denied", ()) for digest, _ in facts]
    else:
        looks = data_tree.parallel(functools.partial(inspect, root), paths)
    unreadable = {path: reason for path, (_, reason, _) in zip(paths, looks, strict=True) if reason}
    odd = {kind: [path for path, (_, _, kinds) in zip(paths, looks, strict=True) if kind in kinds] for kind in ODD}
    return [look[0] for look in looks], unreadable, odd


def audit(folder, quick):
    """Look at a data set and return the report: what audit.json holds (see the top of this file)."""
    paths, places = list_images(folder)
    try:
        digests, unreadable, odd = examine(folder, paths, quick)
    except BrokenProcessPool:
        raise InputError(f"{folder}: a worker process was ended, most likely for want of memory; close other programs") from None
    groups, pairs = identical(digests, places)
    counts = defaultdict(Counter)
    for split, name in places:
        counts[split][name] += 1
    report = {
        "tool": "data_audit.py", "folder": os.fspath(folder), "quick": quick, "images": len(paths), "counts": counts,
        "unreadable": [{"path": path, "reason": reason} for path, reason in unreadable.items()],
        "odd": odd,
        "identical": {"pairs": listed(pairs), "groups": [[paths[i] for i in group] for group in groups]},
    }  # fmt: skip
    report["findings"], report["warnings"] = judge(report)
    return report


def listed(pairs):
    """Return a Counter of pairs as the list that audit.json holds."""
    return [
        {"splits": list(splits), "conflicting_labels": conflicting, "pairs": number}
        for (splits, conflicting), number in sorted(pairs.items())
    ]


def judge(report):
    """Return (findings, warnings) of a report, a sentence each."""
    findings, warnings = [], []
    for entry in report["identical"]["pairs"]:
        leak = is_leak(entry["splits"], entry["conflicting_labels"])
        line = f"{plural(entry['pairs'], 'pair')} of identical images {where(entry['splits'], entry['conflicting_labels'])}"
        (findings if leak else warnings).append(line)
    if report["unreadable"]:
        warnings.append(f"{plural(len(report['unreadable']), 'file')} that cannot be read as an image")
    for kind, paths in report["odd"].items():
        if paths:
            warnings.append(f"{plural(len(paths), 'image')}: {kind}, {ODD[kind]}")
    return findings, warnings


def write_report(report, folder):
    """Write audit.json into `folder`: beside and renamed."""
    os.makedirs(folder, exist_ok=True)
    unfinished = folder / f"audit.json{data_tree.UNFINISHED}"
    unfinished.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / "audit.json")


def print_summary(report, folder):
    """Print the counts, the findings and warnings, and where the report is."""
    counts = Counter({(split, name): n for split, classes in report["counts"].items() for name, n in classes.items()})
    print(data_tree.counts_table(counts))
    for kind in ("findings", "warnings"):
        for line in report[kind]:
            print(f"{kind[:-1]}: {line}")
    print(f"report: {folder / 'audit.json'}")


@console.stage
def main(argv=None):
    """Read the command line, look, report; exit code 1 where there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data"), help="split tree or unpacked archive (default: data)")
    parser.add_argument("--report", type=Path, default=Path("audit"), help="folder for audit.json (default: audit)")
    parser.add_argument("--quick", action="store_true", help="counts and identical files only; nothing is decoded")
    args = parser.parse_args(argv)
    report = audit(args.folder, args.quick)
    write_report(report, args.report)
    print_summary(report, args.report)
    if report["findings"]:
        raise SystemExit(f"finding: {'; '.join(report['findings'])}. data_split.py leaves train twins out")


if __name__ == "__main__":
    main()
