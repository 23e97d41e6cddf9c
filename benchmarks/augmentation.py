"""Images per second: data_augmentation.py against Keras's legacy ImageDataGenerator.flow(..., save_to_dir=...).

    python benchmarks/augmentation.py data/raw/cifake/train                                   32 px
    python benchmarks/augmentation.py data/raw/photos --images 20                             512 px

reads   FOLDER, which holds the class folders (or train with them); prints a table, writes nothing that stays

The same originals, recipe, format and disk. One run of each in turn, each into a folder of its own, and all of these
are deleted at the end: on ext4, creating files right after a mass deletion is several times slower. On a disk in memory
(--in-memory) each is deleted at once, else every run has less of it, and a virtual machine has to fetch what is fresh.
Ours is timed from the start of the interpreter to its end; Keras from reading the images, without the import of TensorFlow.
Keras runs in the two usual ways: one original at a time, as guides do to make several images of each, and a whole class in
batches of 32. Both write JPEG at quality 75, as Keras always does. Target: 8 times as many images per second.
"""

import functools
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from measuring import ROOT, make_parser

from detector.console import InputError, plural, stage, table
from detector.data.tree import CLASSES, find_layout
from detector.files import scan
from detector.images.pixels import image_size, read_image

TARGET = 8
KERAS_QUALITY = 75  # Pillow's default, which Keras keeps


def take_sample(folder, images, data):
    """Copy originals of one size, spread evenly over both classes, to data/train/{Fake,Real}; return that size."""
    layout = find_layout(folder)
    classes = layout.get("train") or layout.get(None) or next(iter(layout.values()))
    paths = {name: [folder / path for folder in classes[name] for path in scan(folder)] for name in CLASSES}
    spread = {name: some[:: max(1, 2 * len(some) // images)] for name, some in paths.items()}
    size, _ = Counter(image_size(path) for some in spread.values() for path in some).most_common(1)[0]
    for name, some in spread.items():
        target = data / "train" / name
        target.mkdir(parents=True)
        chosen = [path for path in some if image_size(path) == size][: images // 2]
        if not chosen:
            raise InputError(f"{folder}: expected images of {size[0]} x {size[1]} px in both classes, found none of {name}")
        for i, path in enumerate(chosen):
            shutil.copyfile(path, target / f"{i}.jpg")
    return size


def time_ours(data, into, per_image, kind):
    """Return the seconds that the stage takes, as a user calls it."""
    command = [sys.executable, ROOT / "data_augmentation.py", "--data", data, "--into", into, "--format", kind]
    command += ["--images", str(count(data)), "--per-image", str(per_image), "--quality", str(KERAS_QUALITY)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def time_keras(data, into, per_image, kind, batch_size):
    """Return the seconds that Keras takes for the same recipe (its shear is in degrees); batches of 1: an original at a time."""
    import numpy as np
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    start = time.perf_counter()
    generator = ImageDataGenerator(
        rotation_range=20, width_shift_range=0.2, height_shift_range=0.2, shear_range=math.degrees(0.2), zoom_range=0.2,
        horizontal_flip=True, fill_mode="nearest",
    )  # fmt: skip
    for name in CLASSES:
        target = into / name
        target.mkdir(parents=True)
        originals = [read_image(path)[None] for path in sorted((data / "train" / name).iterdir())]
        for i, images in enumerate(originals if batch_size == 1 else [np.concatenate(originals)]):
            made = 0
            for batch in generator.flow(images, batch_size=batch_size, save_to_dir=target, save_prefix=i, save_format=kind):
                made += len(batch)
                if made >= per_image * len(images):
                    break
    return time.perf_counter() - start


def count(folder):
    """Return the number of files below a folder."""
    return sum(len(names) for _, _, names in os.walk(folder))


def compare(data, scratch, args):
    """Run both in turn; return {name: [images per second]}."""
    ways = {
        "Keras, one at a time": functools.partial(time_keras, batch_size=1),
        "Keras, batches of 32": functools.partial(time_keras, batch_size=32),
        "data_augmentation.py": time_ours,
    }
    rates = {name: [] for name in ways}
    new = count(data) * args.per_image
    for run in range(args.runs):
        for name, way in ways.items():
            into = scratch / f"{name}, {run}"
            rates[name].append(new / way(data, into, args.per_image, args.format))
            if args.in_memory:
                shutil.rmtree(into)
    return rates


@stage
def main(argv=None):
    """Run the benchmark."""
    parser = make_parser(
        __doc__, "source", images=(10000, "originals, of both classes together"), per_image=(10, "new images for each"),
        runs=(3, "runs of each"), scratch=(None, "folder on the disk to write to (default: the system's for temporary files)"),
        in_memory=(False, "--scratch is a disk in memory: delete after every run"),
    )  # fmt: skip
    parser.add_argument("--format", choices=("jpeg", "png"), default="jpeg", help="of the new images")
    args = parser.parse_args(argv)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        data = Path(folder, "data")
        width, height = take_sample(args.source, args.images, data)
        rates = compare(data, Path(folder), args)
        print(f"{plural(count(data), 'original')} of {width} x {height} px, {args.per_image} each, as {args.format}")
    medians = {name: statistics.median(some) for name, some in rates.items()}
    rows = [[name, *(f"{rate:.4g}" for rate in [*some, medians[name]])] for name, some in rates.items()]
    print(table(rows, ["images per second", *(f"run {i + 1}" for i in range(args.runs)), "median"]))
    *others, ours = medians
    for name in others:
        print(f"{ours} / {name}: {medians[ours] / medians[name]:.1f} (target: at least {TARGET})")


if __name__ == "__main__":
    main()
