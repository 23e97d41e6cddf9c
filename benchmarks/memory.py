"""Peak memory of each data stage at 1,000, 10,000 and 120,000 images.

    python benchmarks/memory.py data/raw/cifake

reads   an unpacked CIFAKE (train and test, FAKE and REAL); any published data set will do
prints  for each stage the largest resident size of one of its processes, in MB, and the seconds it took

The stages run one after the other, on hard links to the first images of each folder. Memory grows with the list of names and the
results for each file; no stage holds images.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from measuring import ROOT, WORK, make_parser, measure

SIZES = (1_000, 10_000, 120_000)


def stages(images):
    """Return {name: command} in the order of the stages; {0} is the working folder."""
    return {
        "zip": "data_zipper.py {0}/set {0}/set.zip",
        "unzip": "data_unzipper.py {0}/set.zip --to {0}/raw",
        "split": "data_split.py {0}/set --data {0}/tree",
        "merge": "data_merger.py {0}/tree --into {0}/merged",
        "augmentation": f"data_augmentation.py --data {{0}}/tree --total {images * 2}",
        "audit": "data_audit.py {0}/set --report {0}/audit",
        "delete": "data_deleter.py {0}/tree --yes",
    }


def make_set(source, folder, images):
    """Link the first images of each folder of the source, `images` in all, or all of them if there are fewer."""
    parts = [part for part in sorted(source.glob("*/*")) if part.is_dir()]
    for part in parts:
        there = folder / part.relative_to(source)
        there.mkdir(parents=True)
        share = -(-images // len(parts)) if images < SIZES[-1] else None
        for name in sorted(os.listdir(part))[:share]:
            os.link(part / name, there / name)


def main(argv=None):
    """Run all stages at all sizes."""
    args = make_parser(__doc__, "source", work=WORK).parse_args(argv)
    found = {}
    with tempfile.TemporaryDirectory(dir=args.work or args.source.resolve().parent, prefix="memory-") as work:
        for images in SIZES:
            here = Path(work, str(images))
            make_set(args.source, here / "set", images)
            for name, command in stages(images).items():
                script, *arguments = (part.format(here) for part in command.split())
                may_find = (1,) if name == "audit" else ()
                seconds, _, memory = measure([sys.executable, ROOT / script, *arguments], may_end_with=may_find)
                found.setdefault(name, []).append(f"{memory:7.0f} MB {seconds:6.1f} s")
            shutil.rmtree(here)
    print(f"{'':14}" + "".join(f"{images:>20,}" for images in SIZES))
    for name, cells in found.items():
        print(f"{name:14}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
