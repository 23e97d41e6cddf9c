"""Merge data sets into one: trees with splits split by split, others class by class.

    python data_merger.py split/photos split/web --into data
    python data_merger.py data/raw/photos data/raw/web --into data/raw/both      sets without splits
    python data_merger.py augmented --into data --transfer move

reads   SOURCE/{train,validation,test}/{Fake,Real}/…, or SOURCE/{Fake,Real}/… (or a known alias of these names)
writes  TARGET/{train,validation,test}/{Fake,Real}/…, or TARGET/{Fake,Real}/…

A file of the same name and content is skipped; one of the same name with other content is called name-<hash of its content>.
Nothing is ever overwritten. If the same content is under both labels or in two splits, the command ends before anything is
placed, unless --on-conflict skip leaves the new files out. After an interruption, the same command finishes.
"""

import functools
import os
from collections import Counter
from pathlib import Path

from detector.console import InputError, plural, reason_line, stage
from detector.data import duplicates, placing
from detector.data import tree as data_tree
from detector.data.tree import CLASSES, SPLITS, counts_table
from detector.files import folders_above, names_for, without_case


def read_target(target):
    """Return the files of the target as [Image]; an empty list if it does not exist, or holds neither splits nor classes.

    Raises InputError if its folders are not named as in a data tree, or if a folder in it is a link.
    """
    if not os.path.lexists(target):
        return []
    layout = {}
    for split in (*SPLITS, None):
        folders = {name: os.path.join(target, split or "", name) for name in CLASSES}
        layout[split] = {name: [folder] for name, folder in folders.items() if os.path.isdir(folder)}
    data_tree.check_no_stray(target, CLASSES if layout[None] else SPLITS)
    links = []
    images = data_tree.find_images(layout, links)
    if links:
        raise InputError(f"{links[0]}: expected a folder, found a link, which no stage follows; remove it")
    return images


def check_augmented(images):
    """Raise InputError if an augmented image is in validation or test, or was made from an image there: a leak."""
    if not images:
        return
    paths, places, insides = zip(*((image.path, (image.split, image.label), image.inside) for image in images), strict=True)
    leaks, held_out = duplicates.augmented(paths, places, insides).values()
    if held_out:
        raise InputError(f"{held_out[0]}: expected augmented images in train only, found {len(held_out):,} elsewhere; remove them")
    if leaks:
        made, original = leaks[0]
        cure = "merge the originals first, then run data_augmentation.py on the tree they make"
        raise InputError(f"{made}: made from an image in validation or test, {original}; {cure}")


def find_conflicts(there, images):
    """Return {index in `images`: Image in `there` or before it, of equal content under the other label or in another split}."""
    first, found = {image.digest: image for image in reversed(there) if image.kind}, {}
    for i, image in enumerate(images):
        other = first.setdefault(image.digest, image)
        if (other.split, other.label) != (image.split, image.label):
            found[i] = other
    return found


def plan_merge(there, images, target):
    """Return [(source, destination, state)]; state is "new", "renamed" or "there" (same name, same content).

    Names that some system takes for one (see `without_case`) count as equal, so that the tree can be moved to any system. A file
    that has the name of a folder gets another name.
    """
    taken = {_key(file, file.inside): (file.digest, file.inside) for file in there}
    folders = {_key(image, above) for image in (*there, *images) for above in folders_above(image.inside)}
    plan = []
    for image in images:
        for inside in names_for(image.inside, image.digest):
            key = _key(image, inside)
            if key in folders:
                continue
            known = key in taken
            digest, name = taken.setdefault(key, (image.digest, inside))
            if digest == image.digest:
                break
        state = "there" if known else "new" if inside == image.inside else "renamed"
        plan.append((image.path, os.path.join(target, image.split or "", image.label, name), state))
    return plan


def _key(image, inside):
    return image.split, image.label, without_case(inside)


def make_plan(sources, target, transfer, on_conflict):
    """Return (lines to print at the end, [(source, destination)]); nothing on disk changes.

    Raises InputError for equal content under two labels or in two splits, unless `on_conflict` is "skip".
    """
    images, rest = data_tree.read_sources(sources)
    there = read_target(target)
    every = [*there, *images]
    kinds = {image.split is None: image.path for image in reversed(every)}
    if len(kinds) > 1:
        raise InputError(f"{kinds[True]}: expected splits as in {kinds[False]}, found none; run data_split.py first")
    check_augmented(every)
    conflicts = find_conflicts(there, images)
    if conflicts and on_conflict == "error":
        pairs = [f"{images[i].path} = {other.path}" for i, other in conflicts.items()]
        line = reason_line("under both labels or in two splits", pairs, "image")
        raise InputError(f"{line}; look at them, or leave the new ones out with --on-conflict skip")
    plan = plan_merge(there, [image for i, image in enumerate(images) if i not in conflicts], target)
    states = Counter(state for *_, state in plan)
    report = [f"placed: {plural(states['new'] + states['renamed'], 'image')}"]
    if states["renamed"]:
        report.append(f"renamed: {plural(states['renamed'], 'image')} (the name was taken by another image)")
    if states["there"]:
        report.append(f"skipped: {plural(states['there'], 'image')} (the target has the same name with the same content)")
    if conflicts:
        paths = [images[i].path for i in conflicts]
        report.append(reason_line("left out, in another split or under the other label already", paths, "image"))
    report += rest
    # a move also removes the sources whose content is there already
    return report, [(source, destination) for source, destination, state in plan if state != "there" or transfer == "move"]


@stage
def main(argv=None):
    """Run the stage."""
    parser = placing.make_parser("data_merger.py", __doc__)
    parser.add_argument("sources", type=Path, nargs="+", metavar="source", help="folder with splits, or with class folders")
    parser.add_argument("--into", type=Path, required=True, help="folder to merge into; made if it does not exist")
    parser.add_argument("--on-conflict", choices=("error", "skip"), default="error",
        help="what to do with the same content under both labels or in two splits: end, or leave the new file out")  # fmt: skip
    args = parser.parse_args(argv)
    placing.check_outside(args.into, args.sources, "--into")
    job = ["data_merger.py", *map(os.path.abspath, args.sources), "--into", os.path.abspath(args.into)]
    job += ["--on-conflict", args.on_conflict]
    make = functools.partial(make_plan, args.sources, args.into, args.transfer, args.on_conflict)
    report, _ = placing.run_job(args.into, job, make, args.transfer, args.dry_run)
    print(*report, *([] if args.dry_run else [counts_table(data_tree.count_images(args.into))]), sep="\n")


if __name__ == "__main__":
    main()
