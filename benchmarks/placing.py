"""Time data_split.py and data_merger.py by hard link against the system's own tools, on the same files.

    python benchmarks/placing.py data/raw/cifake

reads   an unpacked CIFAKE (train and test, FAKE and REAL); any published data set will do
prints  times and ratios to `cp -al` + one pass of sha256sum (and to both in one Python process)

The commands take turns, so that other load affects them equally. Printed are medians over the rounds: wall time, and
CPU time (user and system, of all processes of a command), which depends less on other load.
"""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from measuring import ROOT, WORK, make_parser, measure

ONE_PROCESS = """
import hashlib, os, sys
source, target = sys.argv[1:]
for here, folders, names in os.walk(source):
    there = target + here[len(source):]
    os.makedirs(there)
    for name in names:
        os.link(f"{here}/{name}", f"{there}/{name}")
        with open(f"{here}/{name}", "rb") as file:
            hashlib.sha256(file.read()).hexdigest()
"""


def commands(source, work):
    """Return {name: command}; each writes work/<name>, the merge reads a split that stays in work/tree."""
    python, tree = sys.executable, work / "tree"
    hashing = 'cp -al "$0" "$1" && find "$1" -type f -print0 | xargs -0 sha256sum'
    return {
        "cp -al + sha256sum": ["sh", "-c", hashing, source, work / "cp -al + sha256sum"],
        "one Python process": [python, "-c", ONE_PROCESS, source, work / "one Python process"],
        "data_split.py": [python, ROOT / "data_split.py", source, "--data", work / "data_split.py"],
        "data_merger.py": [python, ROOT / "data_merger.py", tree, "--into", work / "data_merger.py"],
    }


def compare(source, work, rounds):
    """Print the median times of all commands and their ratios to the first."""
    plan = commands(source, work)
    measure([sys.executable, ROOT / "data_split.py", source, "--data", work / "tree"])  # reads every file: the cache is warm
    taken = {name: [] for name in plan}
    for _ in range(rounds):
        for name, command in plan.items():
            taken[name].append(measure(command))
            shutil.rmtree(work / name)
    print(f"{'':20} {'wall s':>8} {'CPU s':>8} {'wall ratio':>11} {'CPU ratio':>10}")
    reference = taken["cp -al + sha256sum"]
    for name, runs in taken.items():
        wall, cpu = (statistics.median(run[i] for run in runs) for i in (0, 1))
        ratios = [statistics.median(a[i] / b[i] for a, b in zip(runs, reference, strict=True)) for i in (0, 1)]
        print(f"{name:20} {wall:8.2f} {cpu:8.2f} {ratios[0]:11.2f} {ratios[1]:10.2f}")


def main(argv=None):
    """Run all comparisons."""
    args = make_parser(
        __doc__,
        "source",
        work=WORK,
        rounds=(5, "number of rounds"),
    ).parse_args(argv)
    source = args.source.resolve()
    with tempfile.TemporaryDirectory(dir=args.work or source.parent, prefix="placing-") as work:
        compare(source, Path(work), args.rounds)


if __name__ == "__main__":
    main()
