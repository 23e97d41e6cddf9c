"""Time of the audit for exact duplicates against hashing every file once in Python.

    python benchmarks/audit.py data/raw/cifake
    python benchmarks/audit.py data/raw/cifake --full     also the whole audit, with its memory, on fewer and more files

reads   FOLDER, a split tree or an unpacked archive; prints tables, writes nothing that stays

Hashing is SHA-256 over the bytes of every file, in one process, after a walk through the folders. Both run in turn, each in
an interpreter of its own, timed from its start to its end; the median of --runs counts. Before, all files are read once, so
that none of them comes from the disk. Target: --quick in at most 1.5 times the time of hashing. Memory is the largest
resident size of one process; the audit's workers keep no images.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from detector.console import stage, table  # noqa: E402
from detector.data_tree import find_layout, require_folder, scan  # noqa: E402

TARGET = 1.5
HASHING = """
import hashlib, os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            hashlib.sha256(file.read()).digest()
"""
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def timed(*command):
    """Return (seconds, largest resident size of a process in MB) of a command; findings may let it end with 1."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, sys.executable, *map(str, command)], capture_output=True, text=True)
    return time.perf_counter() - start, int(done.stdout) / 1024  # kilobytes on Linux


def compare(folder, runs, report):
    """Print the table of hashing against --quick and return the ratio of the medians."""
    audit = (ROOT / "data_audit.py", folder, "--report", report, "--quick")
    timed("-c", HASHING, folder)  # warms the page cache
    times = [(timed("-c", HASHING, folder)[0], timed(*audit)[0]) for _ in range(runs)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    rows = [(f"{i + 1}", *(f"{seconds:.2f}" for seconds in row)) for i, row in enumerate(times)]
    print(table([*rows, ("median", *(f"{seconds:.2f}" for seconds in medians))], ["seconds", "hashing", "data_audit --quick"]))
    return medians[1] / medians[0]


def grow(folder, scratch):
    """Print time and memory of the whole audit on 1,000, 10,000 and all files (hard links to the first of each class)."""
    classes = {}
    for by_class in find_layout(folder).values():
        for name, folders in by_class.items():
            classes.setdefault(name, []).extend(below / path for below in folders for path in scan(below))
    rows = []
    for size in (1000, 10_000, sum(map(len, classes.values()))):
        tree = scratch / str(size)
        for name, paths in classes.items():
            (tree / name).mkdir(parents=True)
            for i, path in enumerate(paths[: size // 2]):
                place(path, tree / name / f"{i}{path.suffix}")
        seconds, memory = timed(ROOT / "data_audit.py", tree, "--report", scratch / "audit")
        rows.append((f"{size:,} files", f"{seconds:.1f}", f"{size / seconds:,.0f}", f"{memory:.0f}"))
    print(table(rows, ["whole audit", "seconds", "files/s", "MB"]))


def place(source, destination):
    """Link a file, or point to it where the scratch folder is on another disk."""
    try:
        os.link(source, destination)
    except OSError:
        os.symlink(source.resolve(), destination)


@stage
def main(argv=None):
    """Measure and print; exit code 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="split tree or unpacked archive")
    parser.add_argument("--runs", type=int, default=5, help="of each, in turn (default: 5)")
    parser.add_argument("--full", action="store_true", help="also time the whole audit, at three sizes")
    args = parser.parse_args(argv)
    require_folder(args.folder, holding="class folders")
    find_layout(args.folder)
    with tempfile.TemporaryDirectory() as scratch:
        ratio = compare(args.folder, args.runs, Path(scratch) / "audit")
        if args.full:
            grow(args.folder, Path(scratch))
    print(f"ratio: {ratio:.2f}, target: at most {TARGET}")
    if ratio > TARGET:
        raise SystemExit(f"finding: data_audit.py --quick takes {ratio:.2f} times as long as hashing, more than {TARGET}")


if __name__ == "__main__":
    main()
