"""Add augmented images to train: originals rotated, shifted, sheared, zoomed and mirrored, degraded, or both.

    python data_augmentation.py                                        ten new images for each original
    python data_augmentation.py --images 2000                          for 2,000 of the originals
    python data_augmentation.py --total 114000                         enough to bring train to 114,000 images
    python data_augmentation.py --recipe degradation --into augmented  into a separate tree, for data_merger.py

reads   data/train/{Fake,Real}/…, originals only
writes  data/train/{Fake,Real}/NAME__augmented-00.jpg, …-01.jpg, … next to NAME, or the same below --into

Both classes get the same treatment, format and quality. Images of an earlier run are replaced; originals are never changed.
The same seed gives the same images on any number of cores, also after an interruption.
"""

import argparse
import contextlib
import functools
import hashlib
import os
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from detector.console import (
    HelpFormatter,
    InputError,
    fraction,
    number_type,
    plural,
    positive_int,
    reason_line,
    require_packages,
    stage,
)
from detector.data.placing import refuse_unfinished, unfinished_while
from detector.data.splitting import apportion
from detector.data.tree import AUGMENTED, CLASSES, NOT_STRAY, counts_table, read_tree
from detector.files import parallel, scan

STAGE = "data_augmentation.py"
UNASKED = 100_000  # more new files than this are made only if requested by number
SHOWN = 10  # messages about unusable originals
PER_IMAGE = 10
SUFFIXES = {"jpeg": ".jpg", "png": ".png"}
LONGEST_SIDE = 65_500  # of a JPEG, in pixels
LONGEST_NAME = 255  # of a file on all common disks, in bytes
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Recipe:
    """How a new image is made from an original, and how it is written."""

    affine: dict | None  # arguments of transforms.random_affine; None leaves it out
    degradation: dict | None  # arguments of corruptions.random_degradation, applied after that; None leaves it out
    format: str
    quality: int
    seed: int


# --- the plan ----------------------------------------------------------------------------------------------------------


def plan_augmentation(originals, images=None, per_image=PER_IMAGE, total=None, seed=0):
    """Choose how many images to make from which originals.

    Both classes are taken in proportion. Which originals are picked, and which of them give one image more than the others,
    depends on the seed and their paths only.

    Args:
        originals: {class: [relative paths]}, both classes with at least one.
        images: number of originals to pick; None for all.
        per_image: new images for each of them; ignored if `total` is given.
        total: number of images, originals and new ones together, to end with.
        seed: any integer.

    Returns:
        {path: number of new images}, sorted by path; none of them 0.

    Raises:
        InputError: `images` or `total` cannot be met.
    """
    sizes = [len(originals[name]) for name in CLASSES]
    picked = sizes if images is None else apportion(_check_images(images, sum(sizes)), sizes)
    new = [per_image * number for number in picked]
    if total is not None:
        new = apportion(_check_total(total, sum(sizes)), picked)
    plan = {}
    for name, number, wanted in zip(CLASSES, picked, new, strict=True):
        ranked = sorted(originals[name], key=lambda path: _hash(seed, path))[:number]
        for place, path in enumerate(ranked):
            plan[path] = wanted // number + (place < wanted % number)
    return {path: plan[path] for path in sorted(plan) if plan[path]}


def _check_images(images, there):
    if not 1 <= images <= there:
        raise InputError(f"--images {images}: expected 1 to {there}, the number of originals in train")
    return images


def _check_total(total, there):
    if total <= there:
        raise InputError(f"--total {total}: expected more than {there}, the number of originals in train")
    return total - there


def _hash(*parts):
    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="surrogateescape")).digest()


def check_number_of_files(plan, asked):
    """Raise InputError if the plan makes more than UNASKED files that were not requested by number."""
    new = sum(plan.values())
    if new > UNASKED and not asked:
        per_image = max(plan.values())
        raise InputError(
            f"expected at most {UNASKED:,} new images if no number is given, this makes {new:,} ({len(plan):,} x {per_image}); "
            f"pass --images {len(plan)} --per-image {per_image} for all of them, or fewer, or --total"
        )


def output_name(source, index, format):
    """Return the name of a new image: it holds the whole name of its original, so that a.jpg and a.png do not clash."""
    return f"{source}{AUGMENTED}{index:02d}{SUFFIXES[format]}"


def is_planned(path, plan, format):
    """Return whether the plan makes the image at a path."""
    source, _, end = path.rpartition(AUGMENTED)
    index = end.removesuffix(SUFFIXES[format])
    return index.isdecimal() and int(index) < plan.get(source, 0) and path == output_name(source, int(index), format)


# --- the images --------------------------------------------------------------------------------------------------------


def augment(image, source, copies, recipe):
    """Return an iterator of new images; each depends only on the recipe, the path and its own number.

    Args:
        image: (h, w, 3) uint8, RGB.
        source: relative path of the original; with the seed it seeds the random generators.
        copies: number of new images.

    Returns:
        Iterator of (h, w, 3) uint8, BGR: the order that OpenCV encodes.
    """
    import cv2

    from detector.images.corruptions import random_degradation
    from detector.images.transforms import random_affines

    swapped = functools.partial(cv2.cvtColor, code=cv2.COLOR_RGB2BGR)

    def moved(image):
        if recipe.affine is None:
            return [image] * copies
        return random_affines(image, _generator(recipe.seed, source), copies, **recipe.affine)

    if recipe.degradation is None:
        return moved(swapped(image))  # all channels move alike, so this is done once for all copies
    rng = _generator(recipe.seed, source, "damage")  # the key of earlier versions: the same seed gives the same images
    return (swapped(random_degradation(new, rng, **recipe.degradation)) for new in moved(image))


def _generator(*key):
    from numpy.random import default_rng

    return default_rng(int.from_bytes(_hash(*key)[:16]))


def encode(images, recipe):
    """Yield each image, (h, w, 3) uint8, BGR, as the bytes of a file, (n,) uint8, without metadata."""
    import cv2

    kind = SUFFIXES[recipe.format]
    settings = (cv2.IMWRITE_JPEG_QUALITY, recipe.quality) if recipe.format == "jpeg" else ()
    for image in images:
        yield cv2.imencode(kind, image, settings)[1]


def augment_file(job, data, into, recipe):
    """Make the new images of one original.

    Args:
        job: (relative path of the original, number of new images).
        data: folder that the path is relative to.
        into: folder that the new images' paths are relative to.

    Returns:
        None, or why no image could be made from the original; images of an earlier run are then removed.

    Raises:
        OSError: the original vanished, or a file cannot be written.
    """
    import cv2

    from detector.images.pixels import read_image

    cv2.setNumThreads(1)  # other processes are on the other cores
    source, copies = job
    outputs = [output_name(source, index, recipe.format) for index in range(copies)]
    excess = len(os.fsencode(os.path.basename(outputs[-1]))) - LONGEST_NAME
    if excess > 0:
        return f"{source}: expected a name that new images can add to, found one too long; rename it, {excess} bytes shorter"
    try:
        image = read_image(os.path.join(data, source))
        if recipe.format == "jpeg" and max(image.shape) > LONGEST_SIDE:
            raise InputError(f"{source}: expected sides of at most {LONGEST_SIDE:,} px, found more; pass --format png")
    except InputError as error:
        os.stat(os.path.join(data, source))
        for output in outputs:
            Path(into, output).unlink(missing_ok=True)
        return str(error)
    folder = os.path.join(into, "")
    for output, content in zip(outputs, encode(augment(image, source, copies, recipe), recipe), strict=True):
        write(folder + output, content)
    return None


def write(path, content):
    """Write a file, and make its folder. An existing file is removed first, so that other hard links to it keep their content.

    Not atomic, which would take twice as long: the tree is marked as unfinished until everything is written.
    """
    try:
        handle = _create(path)
        try:
            while len(content):
                content = content[os.write(handle, content) :]
        finally:
            os.close(handle)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)  # an incomplete image
        raise OSError(error.errno, error.strerror, path) from None  # the system names no file if the disk is full


def _create(path):
    try:
        return os.open(path, NEW_FILE, 0o666)
    except FileExistsError:
        os.unlink(path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    return os.open(path, NEW_FILE, 0o666)


# --- the stage ---------------------------------------------------------------------------------------------------------


def read_originals(data):
    """Return {class: [paths relative to `data`]} of the originals in train.

    Raises InputError if train or one of its classes is missing, or has no originals.
    """
    paths, labels = read_tree(data, ("train",), but=STAGE)["train"]
    originals = {name: [] for name in CLASSES}
    for path, label in zip(paths, labels, strict=True):
        if not is_augmented(path):
            originals[CLASSES[label]].append(path)
    for name, found in originals.items():
        if not found:
            folder = Path(data, "train", name)
            raise InputError(f"{folder}: expected originals, found only augmented images; run data_split.py first")
    return originals


def is_augmented(path):
    """Return whether a path is that of an augmented image."""
    return AUGMENTED in path.rpartition("/")[2]


def left_overs(into, plan, format):
    """Yield the paths, relative to `into`, of augmented images of earlier runs that are not in the plan, unfinished ones too."""
    for here, _, names in os.walk(os.path.join(into, "train")):
        folder = os.path.relpath(here, into).replace(os.sep, "/")
        for name in names:
            if AUGMENTED in name and not is_planned(f"{folder}/{name}", plan, format):
                yield f"{folder}/{name}"


def carry_out(plan, data, into, recipe):
    """Make the images of a plan and remove other augmented images of earlier runs.

    Returns:
        List of messages, one for each original that could not be read.
    """
    for path in list(left_overs(into, plan, recipe.format)):
        os.unlink(os.path.join(into, path))
    make = functools.partial(augment_file, data=os.fspath(data), into=os.fspath(into), recipe=recipe)
    few = sum(plan.values()) < 200  # done before other processes would have started
    chunk = len(plan) if few else max(1, min(16, len(plan) // 32))  # small enough to end at the same time on all cores
    results = parallel(make, _by_turns(list(plan.items()), chunk), unit="original", chunk=chunk)
    return [message for message in results if message]


def _by_turns(jobs, chunk):
    """Return jobs in chunks from the front and from the back in turns, so that two processes rarely write to one folder.

    The system creates the files of a folder one by one, and the processes would wait for each other.
    """
    chunks = [jobs[start : start + chunk] for start in range(0, len(jobs), chunk)]
    half = -(-len(chunks) // 2)
    pairs = zip_longest(chunks[:half], reversed(chunks[half:]), fillvalue=[])
    return [job for pair in pairs for part in pair for job in part]


def count(data):
    """Return a Counter {(row, class): images} of a data tree; augmented images of train have a row of their own."""
    counts = Counter()
    for split in ("train", "validation", "test"):
        for name in CLASSES:
            folder = Path(data, split, name)
            for path in scan(folder) if folder.is_dir() else ():
                counts["train, augmented" if split == "train" and is_augmented(path) else split, name] += 1
    return counts


def check_into(data, into):
    """Raise InputError if the new tree would be a stray folder in the data tree."""
    inside = os.path.relpath(os.path.realpath(into), os.path.realpath(data)).split(os.sep)
    if inside[0] not in {os.curdir, os.pardir} | NOT_STRAY:
        raise InputError(f"{into}: expected a folder outside {data}, where it would be taken for a split; choose another --into")


def parse(argv):
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, default=Path("data"), help="data tree")
    add("--images", type=int, metavar="K", help="number of originals to use, of both classes in proportion (default: all)")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--per-image", type=positive_int, metavar="N", help=f"new images for each original (default: {PER_IMAGE})")
    number.add_argument("--total", type=int, metavar="N", help="final number of images in train, spread evenly over the originals")
    add("--recipe", choices=("geometric", "degradation", "damage", "both"), default="geometric",
        help="what is done (damage: the former name of degradation)")  # fmt: skip
    add("--seed", type=int, default=0, help="same seed, same images")
    add("--format", choices=tuple(SUFFIXES), default="jpeg", help="of the new images")
    add("--quality", type=number_type(int, at_least=1, at_most=95), default=95,
        help="JPEG quality, 4:2:0 chroma; a lower one loses fine traces")  # fmt: skip
    add("--into", type=Path, metavar="FOLDER", help="data tree to write to, where augmented images are replaced (default: --data)")
    add("--dry-run", action="store_true", help="print what would be made, change nothing")
    geometric = parser.add_argument_group("geometric recipe", "largest amounts; each image draws its own uniformly")
    geometric.add_argument("--rotation", type=number_type(at_least=0, at_most=180), default=20.0, help="degrees to either side")
    geometric.add_argument("--shift", type=fraction, default=0.2, help="fraction of width and of height")
    geometric.add_argument(
        "--shear", type=fraction, default=0.2,
        help="radians, as in the original recipe (Keras would now take degrees)",
    )  # fmt: skip
    geometric.add_argument("--zoom", type=number_type(at_least=0, at_most=0.9), default=0.2,
        help="shows 1 - ZOOM to 1 + ZOOM of each side")  # fmt: skip
    geometric.add_argument("--no-flip", dest="flip", action="store_false", help="do not mirror half of the images")
    degradation = parser.add_argument_group("degradation recipe", "blur, scaling, noise and JPEG, in this order")
    degradation.add_argument("--degradation", "--damage", dest="degradation", type=fraction, default=0.5, metavar="P",
        help="probability of each of the four")  # fmt: skip
    degradation.add_argument("--blur", type=number_type(at_least=0, at_most=100), default=3.0, help="largest sigma, in pixels")
    degradation.add_argument("--scale", type=number_type(at_least=0.01, at_most=1), default=0.25, help="smallest scaling factor")
    degradation.add_argument("--noise", type=fraction, default=0.1, help="largest sigma, as a fraction of the full range")
    degradation.add_argument("--jpeg", type=number_type(int, at_least=1, at_most=95), default=30, help="lowest quality, up to 95")
    return parser.parse_args(argv)


def recipe_of(args):
    """Return the Recipe that the arguments ask for."""
    affine = {"rotation": args.rotation, "shift": args.shift, "shear": args.shear, "zoom": args.zoom, "flip": args.flip}
    degradation = {"probability": args.degradation, "max_blur": args.blur, "min_scale": args.scale}
    degradation |= {"max_noise": args.noise, "min_quality": args.jpeg}
    return Recipe(
        affine=affine if args.recipe in ("geometric", "both") else None,
        degradation=degradation if args.recipe != "geometric" else None,
        format=args.format,
        quality=args.quality,
        seed=args.seed,
    )


def print_plan(plan, into, format):
    """Print every file that would be made and removed."""
    for source, copies in plan.items():
        sys.stdout.writelines(f"{source} -> {Path(into, output_name(source, index, format))}\n" for index in range(copies))
    removed = list(left_overs(into, plan, format))
    sys.stdout.writelines(f"remove {Path(into, path)}\n" for path in removed)
    for name in CLASSES:
        made = [copies for source, copies in plan.items() if source.startswith(f"train/{name}/")]
        print(f"{name}: {plural(sum(made), 'new image')} from {plural(len(made), 'original')}")
    print(f"to remove: {plural(len(removed), 'image')} of earlier runs")


@stage
def main(argv=None):
    """Run the stage."""
    args = parse(argv)
    require_packages("cv2")
    into = args.into or args.data
    originals = read_originals(args.data)
    check_into(args.data, into)
    plan = plan_augmentation(originals, args.images, args.per_image or PER_IMAGE, args.total, args.seed)
    check_number_of_files(plan, asked=args.total is not None or None not in (args.images, args.per_image))
    if args.dry_run:
        return print_plan(plan, into, args.format)
    refuse_unfinished(into, but=STAGE)
    with unfinished_while(into, [STAGE, *map(str, sys.argv[1:] if argv is None else argv)]):
        unread = carry_out(plan, args.data, into, recipe_of(args))
    if unread:
        print(*unread[:SHOWN], *([f"and {len(unread) - SHOWN:,} more"] if len(unread) > SHOWN else []), sep="\n", file=sys.stderr)
    print(counts_table(count(into)))
    if unread:
        print(reason_line("unusable, without new images", [message.partition(": ")[0] for message in unread], "original"))
    if len(unread) == len(plan):
        raise InputError(f"{args.data}: expected images in train, found none that can be read; run data_audit.py")


if __name__ == "__main__":
    main()
