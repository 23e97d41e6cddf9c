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
import functools
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from detector import console
from detector.console import InputError, fraction, number_type, plural, positive_int, reason_line
from detector.data.placing import check_outside, refuse_unfinished, unfinished_while
from detector.data.splitting import apportion
from detector.data.tree import AUGMENTED, CLASSES, count_images, counts_table, is_augmented, read_tree
from detector.files import parallel

STAGE = "data_augmentation.py"
SHOWN = 10  # messages about unusable originals
PER_IMAGE = 10
UNASKED = 100_000  # more new images than this are made only if their number is given
SUFFIXES = {"jpeg": ".jpg", "png": ".png"}
LONGEST_NAME = 255  # of a file on all common disks, in bytes


@dataclass(frozen=True)
class Recipe:
    """How a new image is made from an original, and how it is written."""

    affine: dict | None  # arguments of transforms.random_affines; None leaves it out
    degradation: dict | None  # arguments of corruptions.random_degradation, applied after that; None leaves it out
    format: str
    quality: int
    seed: int


def plan_augmentation(originals, images=None, per_image=PER_IMAGE, total=None, seed=0):
    """Choose how many images to make from which originals: {path: number of new images}, sorted by path; none of them 0.

    Both classes are taken in proportion. Which originals are picked, and which of them give one image more than the others,
    depends on the seed and their paths only. Raises InputError if `images` or `total` cannot be met.

    Args:
        originals: {class: [relative paths]}, both classes with at least one.
        images: number of originals to pick; None for all.
        per_image: new images for each of them; ignored if `total` is given.
        total: number of images, originals and new ones together, to end with.
        seed: any integer.
    """
    sizes = [len(originals[name]) for name in CLASSES]
    there = sum(sizes)
    if images is not None and not 1 <= images <= there:
        raise InputError(f"--images {images}: expected 1 to {there}, the number of originals in train")
    if total is not None and total <= there:
        raise InputError(f"--total {total}: expected more than {there}, the number of originals in train")
    picked = sizes if images is None else apportion(images, sizes)
    new = [per_image * number for number in picked] if total is None else apportion(total - there, picked)
    plan = {}
    for name, number, wanted in zip(CLASSES, picked, new, strict=True):
        ranked = sorted(originals[name], key=lambda path: _hash(seed, path))[:number]
        for place, path in enumerate(ranked):
            plan[path] = wanted // number + (place < wanted % number)
    return {path: plan[path] for path in sorted(plan) if plan[path]}


def _hash(*parts):
    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="surrogateescape")).digest()


def output_names(source, copies, format):
    """Return the names of new images: they hold the whole name of the original, so that a.jpg and a.png do not clash."""
    return [f"{source}{AUGMENTED}{index:02d}{SUFFIXES[format]}" for index in range(copies)]


def augment(image, source, copies, recipe):
    """Return an iterator of new images; each depends only on the recipe, the path and its own number.

    Args:
        image: (h, w, 3) uint8, RGB.
        source: relative path of the original; with the seed it seeds the random generators.
        copies: number of new images, (h, w, 3) uint8, RGB.
    """
    from detector.images.corruptions import random_degradation
    from detector.images.transforms import random_affines

    moved = [image] * copies
    if recipe.affine is not None:
        moved = random_affines(image, _generator(recipe.seed, source), copies, **recipe.affine)
    if recipe.degradation is None:
        return iter(moved)
    rng = _generator(recipe.seed, source, "damage")  # the key of earlier versions: the same seed gives the same images
    return (random_degradation(new, rng, **recipe.degradation) for new in moved)


def _generator(*key):
    from numpy.random import default_rng

    return default_rng(int.from_bytes(_hash(*key)[:16]))


def augment_file(job, data, into, recipe):
    """Make the new images of one original, without metadata, in `into`: `job` is (its path relative to `data`, how many).

    Returns None, or why no image could be made from the original; images of an earlier run are then removed. Raises OSError if a
    file cannot be written.
    """
    import cv2

    from detector.images.corruptions import LONGEST_JPEG
    from detector.images.pixels import read_image

    cv2.setNumThreads(1)  # other processes are on the other cores
    source, copies = job
    names = output_names(source, copies, recipe.format)
    outputs = [Path(into, name) for name in names]
    excess = len(os.fsencode(outputs[-1].name)) - LONGEST_NAME
    if excess > 0:
        return f"{source}: expected a name that new images can add to, found one too long; rename it, {excess} bytes shorter"
    try:
        image = read_image(os.path.join(data, source))
        if recipe.format == "jpeg" and max(image.shape) > LONGEST_JPEG:
            raise InputError(f"{source}: expected sides of at most {LONGEST_JPEG:,} px, found more; pass --format png")
    except InputError as error:
        for output in outputs:
            output.unlink(missing_ok=True)
        return str(error)
    outputs[0].parent.mkdir(parents=True, exist_ok=True)
    settings = (cv2.IMWRITE_JPEG_QUALITY, recipe.quality) if recipe.format == "jpeg" else ()
    for output, new in zip(outputs, augment(image, source, copies, recipe), strict=True):
        _, content = cv2.imencode(SUFFIXES[recipe.format], cv2.cvtColor(new, cv2.COLOR_RGB2BGR), settings)
        output.unlink(missing_ok=True)  # other hard links to an existing file keep their content
        try:
            output.write_bytes(content)  # not atomic, which halves the speed: until the end the tree is marked as unfinished
        except OSError:
            output.unlink(missing_ok=True)
            raise
    return None


def read_originals(data):
    """Return {class: [paths relative to `data`]} of the originals in train.

    Raises InputError if train or one of its classes is missing, or has no originals.
    """
    paths, labels = read_tree(data, ("train",), but=STAGE)["train"]
    originals = {}
    for label, name in enumerate(CLASSES):
        originals[name] = [path for path, its in zip(paths, labels, strict=True) if its == label and not is_augmented(path)]
        if not originals[name]:
            folder = Path(data, "train", name)
            raise InputError(f"{folder}: expected originals, found only augmented images; run data_split.py first")
    return originals


def left_overs(into, plan, format):
    """Return the paths of augmented images of earlier runs below `into` that are not in the plan, unfinished ones too."""
    planned = {name for source, copies in plan.items() for name in output_names(source, copies, format)}
    found = (Path(here, name) for here, _, names in os.walk(Path(into, "train")) for name in names if AUGMENTED in name)
    return [path for path in found if path.relative_to(into).as_posix() not in planned]


def carry_out(plan, data, into, recipe):
    """Make the images of a plan and remove other augmented images of earlier runs.

    Returns a list of messages, one for each original that could not be read.
    """
    for path in left_overs(into, plan, recipe.format):
        path.unlink()
    make = functools.partial(augment_file, data=os.fspath(data), into=os.fspath(into), recipe=recipe)
    few = sum(plan.values()) < 200  # done before other processes would have started
    chunk = len(plan) if few else max(1, min(16, len(plan) // 32))  # small enough to end at the same time on all cores
    results = parallel(make, list(plan.items()), unit="original", chunk=chunk)
    return [message for message in results if message]


def parse(argv):
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=console.HelpFormatter)
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
    geometric.add_argument("--shear", type=fraction, default=0.2, help="radians, as in the original recipe")
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
        sys.stdout.writelines(f"{source} -> {Path(into, name)}\n" for name in output_names(source, copies, format))
    removed = left_overs(into, plan, format)
    sys.stdout.writelines(f"remove {path}\n" for path in removed)
    for name in CLASSES:
        made = [copies for source, copies in plan.items() if source.startswith(f"train/{name}/")]
        print(f"{name}: {plural(sum(made), 'new image')} from {plural(len(made), 'original')}")
    print(f"to remove: {plural(len(removed), 'image')} of earlier runs")


@console.stage
def main(argv=None):
    """Run the stage."""
    args = parse(argv)
    console.require_packages("cv2")
    into = args.into or args.data
    originals = read_originals(args.data)
    if os.path.realpath(into) != os.path.realpath(args.data):
        check_outside(into, [args.data], "--into")
    plan = plan_augmentation(originals, args.images, args.per_image or PER_IMAGE, args.total, args.seed)
    new = sum(plan.values())
    if new > UNASKED and args.per_image is None and args.total is None:
        raise InputError(f"{into}: this would make {new:,} new images; to confirm, pass --per-image {PER_IMAGE}, or fewer")
    if args.dry_run:
        return print_plan(plan, into, args.format)
    refuse_unfinished(into, but=STAGE)
    with unfinished_while(into, [STAGE, *map(str, sys.argv[1:] if argv is None else argv)]):
        unread = carry_out(plan, args.data, into, recipe_of(args))
    if unread:
        print(*unread[:SHOWN], *([f"and {len(unread) - SHOWN:,} more"] if len(unread) > SHOWN else []), sep="\n", file=sys.stderr)
    print(counts_table(count_images(into, augmented_apart=True)))
    if unread:
        print(reason_line("unusable, without new images", [message.partition(": ")[0] for message in unread], "original"))
    if len(unread) == len(plan):
        raise InputError(f"{args.data}: expected images in train, found none that can be read; run data_audit.py")


if __name__ == "__main__":
    main()
