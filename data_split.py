"""Split a folder of class folders into data/{train,validation,test}/{Fake,Real}.

    python data_split.py data/raw/cifake                                a published test split stays untouched
    python data_split.py data/raw/photos --data split/photos --sizes 0.8 0.1 0.1
    python data_split.py data/raw/many --sizes 114000 23000 23000       counts instead of fractions
    python data_split.py data/raw/photos --group-by folder              no source of images in two splits

reads   SOURCE/{fake_images,real_images}/… or SOURCE/{train,test}/{FAKE,REAL}/…
writes  data/{train,validation,test}/{Fake,Real}/…, and data/left_out/… for what must not be in any split

Each class is divided in the same proportion. Identical images stay together, and an image of train that is also in the
published test is left out. The same seed gives the same split on every machine. After an interruption, the same command
finishes.
"""

import functools
import os
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

from detector.console import InputError, number_type, plural, reason_line, stage
from detector.data import placing
from detector.data import tree as data_tree
from detector.data.splitting import plan_split, resolve_sizes
from detector.data.tree import AUGMENTED, HELD_OUT, LEFT_OUT, SPLITS, counts_table
from detector.files import digests_and_formats, scan, without_case

REASONS = {
    "twin_of_test": "in train, identical to one in the published test",
    "validation_twin_of_test": "in the published validation, identical to one in the published test",
    "twin_of_validation": "in train, identical to one in the published validation",
    "two_labels": "identical to one of the other class",
}


def set_aside(images):
    """Divide images into those to place and those to leave out: {reason: [images]}.

    A published test stays whole, and so does a published validation, except for images that are also in the test.
    """
    held = {split: {image.digest for image in images if image.split == split} for split in HELD_OUT}
    labels = defaultdict(set)
    for image in images:
        if image.split not in HELD_OUT:
            labels[image.digest].add(image.label)
    keep, left_out = [], defaultdict(list)
    for image in images:
        reason = None
        if image.split != "test" and image.digest in held["test"]:
            reason = "validation_twin_of_test" if image.split == "validation" else "twin_of_test"
        elif image.split not in HELD_OUT and image.digest in held["validation"]:
            reason = "twin_of_validation"
        elif image.split not in HELD_OUT and len(labels[image.digest]) > 1:
            reason = "two_labels"
        (left_out[reason] if reason else keep).append(image)
    return keep, left_out


def plan_tree(images, left_out, data, sizes, seed, groups):
    """Return ([(source, destination)], lines for the report) for the images to place and {reason: [images]} to leave out.

    `groups` is {path: name of a group whose images are kept in one split, or None}; empty without --group-by.
    """
    published = Counter(image.split for image in images if image.split in HELD_OUT)
    pool = {image.path: image for image in images if image.split not in HELD_OUT}
    counts, exact = resolve_sizes(sizes, published, len(pool))
    items = [(image.path, image.label, image.digest, groups.get(image.path)) for image in pool.values()]
    divided, joined = plan_split(items, counts, seed, exact)
    report = report_groups(divided, counts, joined, groups, groups.keys() - pool.keys()) if groups else []
    placed = [(image, image.split) for image in images if image.split in HELD_OUT]
    placed += [(pool[path], split) for split, paths in divided.items() for path in paths]
    placed += [(image, f"{LEFT_OUT}/{reason}") for reason, some in left_out.items() for image in some]
    plan = [(image.path, os.path.join(data, folder, image.label, image.inside)) for image, folder in placed]
    unplaced = len(pool) - sum(map(len, divided.values()))
    return plan, report + ([f"not asked for: {plural(unplaced, 'image')}"] if unplaced else [])


def report_groups(divided, counts, joined, groups, published):
    """Return lines on how far the groups are from what was asked for, and on groups that could not be kept apart."""
    of_split = {split: {groups[path] for path in paths} - {None} for split, paths in divided.items()}
    lines = [f"groups: {', '.join(f'{len(some):,} in {split}' for split, some in of_split.items())}"]
    for split, number in counts.items():
        if len(divided[split]) != number:
            off = len(divided[split]) - number
            lines.append(f"{split}: {len(divided[split]):,} images, {number:,} requested ({off:+,}), because groups are kept whole")
    if joined:
        pairs = [" = ".join(some) for some in joined]
        lines.append(reason_line("groups that share an image, and so are kept together", pairs, "set"))
    both = sorted({groups[path] for path in published} & set().union(*of_split.values()))
    if both:
        lines.append(reason_line("warning: in a published split and in another", both, "group"))
    return lines


def check_target(data, plan, digests):
    """Raise InputError if a split of `data` holds an image that is not in this plan: two splits in one tree are a leak."""
    below = len(os.path.join(data, ""))
    planned = {without_case(path[below:].replace(os.sep, "/")): digests[source] for source, path in plan}
    folders = [split for split in SPLITS if os.path.isdir(os.path.join(data, split))]
    there = [f"{split}/{path}" for split in folders for path in scan(os.path.join(data, split))]
    found = zip(there, digests_and_formats(data, there), strict=True)
    foreign = [path for path, (digest, _) in found if planned.get(without_case(path)) != digest]
    if foreign:
        line = reason_line(f"{data}: expected no other images, found some that are not of this split", foreign)
        raise InputError(f"{line}; choose an empty --data (data_merger.py joins the two), or remove the old split")


def make_plan(source, data, sizes, seed, group_by=None):
    """Return (lines to print at the end, [(source, destination)]); nothing on disk changes."""
    images, rest = data_tree.read_sources([source])
    if augmented := [image.path for image in images if AUGMENTED in image.inside]:
        found = reason_line("expected originals only, found augmented ones", augmented)
        raise InputError(f"{source}: {found}; split the originals, then run data_augmentation.py")
    if not images and any(data_tree.count_images(data).values()):
        return [f"{source}: no images left to move", *rest], []
    keep, left_out = set_aside(images)
    if all(image.split in HELD_OUT for image in keep):
        raise InputError(f"{source}: expected images to divide among the splits, found none that could be used; add some")
    group_of, groups = data_tree.make_grouping(group_by), {}
    if group_by is not None:
        groups = {image.path: group_of(Path(image.path).relative_to(source).as_posix(), image.inside) for image in keep}
    plan, sizes_report = plan_tree(keep, left_out, data, sizes, seed, groups)
    check_target(data, plan, {image.path: image.digest for image in images})
    report = [
        reason_line(f"left out, {REASONS[reason]}", [image.path for image in some], "image")
        for reason, some in sorted(left_out.items())
    ]
    return report + sizes_report + rest, plan


def count_plan(plan, data):
    """Return a Counter {(split, class): images} of a plan."""
    below = len(os.path.join(data, ""))
    parts = (destination[below:].replace(os.sep, "/").split("/", 2) for _, destination in plan)
    return Counter((split, label) for split, label, _ in parts if split != LEFT_OUT)


@stage
def main(argv=None):
    """Run the stage."""
    parser = placing.make_parser("data_split.py", __doc__)
    parser.add_argument("source", type=Path, help="folder that holds the class folders, or train and test folders with them")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder to make the splits in")
    parser.add_argument("--sizes", type=number_type(Fraction, at_least=0), nargs=3, metavar=("TRAIN", "VALIDATION", "TEST"),
        help="fractions that sum to 1, or counts; 0 for a split that was published "
             "(default: 0.7 0.15 0.15; with a published test, a fifth of train to validation)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="same seed, same split")
    parser.add_argument("--group-by", metavar="folder|REGEX",
        help="keep groups in one split: by the first folder below the class folder, or by what a regular expression finds in the "
             "path (its first group, if it has one)")  # fmt: skip
    args = parser.parse_args(argv)
    placing.check_outside(args.data, [args.source], "--data")
    job = ["data_split.py", os.path.abspath(args.source), "--data", os.path.abspath(args.data), "--seed", str(args.seed)]
    job += ["--sizes", *map(str, args.sizes)] if args.sizes else []
    job += ["--group-by", args.group_by] if args.group_by is not None else []
    make = functools.partial(make_plan, args.source, args.data, args.sizes, args.seed, args.group_by)
    report, plan = placing.run_job(args.data, job, make, args.transfer, args.dry_run)
    print(*report, counts_table(count_plan(plan, args.data) or data_tree.count_images(args.data)), sep="\n")


if __name__ == "__main__":
    main()
