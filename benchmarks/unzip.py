"""Time data_unzipper.py against Python's extractall and the system's tools, on the same archive.

    python benchmarks/unzip.py ../shared/data/cifake.tar.xz [--scratch FOLDER] [--rounds 3]

reads   CIFAKE as a tar (any packing); a deflated zip of the same files is made from it first
prints  wall and CPU seconds, and the ratios to `extractall(filter="data")` and `tar -x` for the tar, to `unzip -q` and
        `zipfile.extractall` for the zip

The commands take turns, so that other load affects them equally. Printed are medians over the rounds: wall time, and
CPU time (user and system, of all processes of a command), which depends less on other load. Each run gets a new folder and nothing
is deleted before the end: after a deletion, ext4 skips recently used inodes one by one, and creating files takes ten times as long.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from measuring import ROOT, make_parser, measure

EXTRACT_ZIP = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])"
EXTRACT_TAR = "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='data')"


def make_zip(folder, path):
    """Pack a folder, deflated, as a published data set is."""
    names = sorted(name.relative_to(folder) for name in folder.rglob("*") if name.is_file())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.write(folder / name, name)
    return path


def compare(title, contenders, work, rounds):
    """Run the contenders in turns, each into a new folder, and print their medians and our ratio to each.

    Args:
        contenders: {name: function of a folder that returns the command}; the first is ours.
    """
    taken = {name: [] for name in contenders}
    for turn in range(rounds):
        order = list(contenders) if turn % 2 == 0 else list(contenders)[::-1]
        for number, name in enumerate(order):
            target = work / f"{title}-{turn}-{number}"
            target.mkdir()
            os.sync()  # so that no run waits for the writes of another
            taken[name].append(measure(contenders[name](target))[:2])
    ours = [statistics.median(column) for column in zip(*taken[next(iter(taken))], strict=True)]
    for name, results in taken.items():
        wall, processor = (statistics.median(column) for column in zip(*results, strict=True))
        ratios = f"ours/this {ours[0] / wall:.2f}, CPU {ours[1] / processor:.2f}"
        print(f"{title:8} {name:24} {wall:7.2f} s  {processor:6.2f} s CPU   {ratios}")


def unpacker(archive):
    """Return the function from a folder to our command."""
    return lambda folder: [sys.executable, ROOT / "data_unzipper.py", archive, "--to", folder]


def main():
    """Compare, measure, clean up."""
    args = make_parser(
        __doc__, "archive", scratch=(None, "folder on the disk to be measured (default: the system's temporary folder)"),
        rounds=(3, "runs of each command"),
    ).parse_args()  # fmt: skip
    work = Path(tempfile.mkdtemp(dir=args.scratch, prefix="unzip-"))
    try:
        subprocess.run(unpacker(args.archive)(work / "raw"), check=True, stdout=subprocess.DEVNULL)
        folder = next((work / "raw").iterdir())
        packed = make_zip(folder, work / "same.zip")
        for tool in ("tar", "unzip"):
            if not shutil.which(tool):
                print(f"{tool} is not installed here: no comparison with it")
        tars = {
            "data_unzipper.py": unpacker(args.archive),
            "tarfile.extractall": lambda target: [sys.executable, "-c", EXTRACT_TAR, args.archive, target],
        }
        if shutil.which("tar"):
            tars["tar -x"] = lambda target: ["tar", "-xf", args.archive, "-C", target]
        compare("tar", tars, work, args.rounds)
        zips = {"data_unzipper.py": unpacker(packed)}
        if shutil.which("unzip"):
            zips["unzip -q"] = lambda target: ["unzip", "-q", packed, "-d", target]
        zips["zipfile.extractall"] = lambda target: [sys.executable, "-c", EXTRACT_ZIP, packed, target]
        compare("zip", zips, work, args.rounds)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
