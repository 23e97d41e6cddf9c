"""Time of the audit for exact duplicates, compared with hashing every file once in Python.

    python benchmarks/audit.py data/raw/cifake

reads   FOLDER, a split tree or an unpacked archive; prints tables, leaves no files

Hashing is SHA-256 over the bytes of every file, in one process. Both run alternately, each in a new interpreter, timed from start
to end; the median of --runs counts. All files are read once before, so that none of them comes from the disk. Target: --quick takes
at most 1.5 times as long as hashing.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import ROOT, make_parser, measure

from detector.console import stage, table
from detector.data.tree import find_layout
from detector.files import require_folder

TARGET = 1.5
HASHING = """
import hashlib, os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            hashlib.sha256(file.read()).digest()
"""


def compare(folder, runs, report):
    """Print the table of hashing against --quick and return the ratio of the medians."""
    audit = (sys.executable, ROOT / "data_audit.py", folder, "--report", report, "--quick")
    hashing = [sys.executable, "-c", HASHING, folder]
    measure(hashing)  # fills the page cache
    times = [(measure(hashing)[0], measure(audit, may_end_with=(1,), stderr=subprocess.DEVNULL)[0]) for _ in range(runs)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    rows = [(f"{i + 1}", *(f"{seconds:.2f}" for seconds in row)) for i, row in enumerate(times)]
    print(table([*rows, ("median", *(f"{seconds:.2f}" for seconds in medians))], ["seconds", "hashing", "data_audit --quick"]))
    return medians[1] / medians[0]


@stage
def main(argv=None):
    """Measure and print; exit code 1 if the target is missed."""
    args = make_parser(__doc__, "source", runs=(5, "runs of each")).parse_args(argv)
    require_folder(args.source, holding="class folders")
    find_layout(args.source)
    with tempfile.TemporaryDirectory() as scratch:
        ratio = compare(args.source, args.runs, Path(scratch) / "audit")
    print(f"ratio: {ratio:.2f}, target: at most {TARGET}")
    if ratio > TARGET:
        raise SystemExit(f"finding: data_audit.py --quick takes {ratio:.2f} times as long as hashing, more than {TARGET}")


if __name__ == "__main__":
    main()
