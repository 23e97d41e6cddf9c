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

import argparse
import functools
import os
from collections import Counter
from pathlib import Path

from detector.console import HelpFormatter, InputError, plural, reason_line, stage
from detector.data import placing
from detector.data import tree as data_tree
from detector.data.tree import AUGMENTED, CLASSES, SPLITS, Image, counts_table
from detector.files import folders_above, is_link, names_for, scan, without_case

SHOWN = 10  # pairs of a list


# --- reading -----------------------------------------------------------------------------------------------------------


def read_target(target):
    """Return the files of the target as [Image]; an empty list if it does not exist, or holds neither splits nor classes.

    Raises InputError if its folders are not named as in a data tree.
    """
    if not os.path.lexists(target):
        return []
    names = [entry.name for entry in os.scandir(target) if entry.is_dir() and not entry.name.startswith(".")]
    if any(data_tree.class_of(name) for name in names):
        wrong = [name for name in names if name not in CLASSES and name not in data_tree.NOT_STRAY]
        if wrong:
            raise InputError(f"{target}: expected the folders Fake and Real, found also {wrong[0]}; rename it or move it away")
        layout = {None: {name: [os.path.join(target, name)] for name in CLASSES if name in names}}
    else:
        data_tree.check_no_stray(target)
        places = {split: {name: os.path.join(target, split, name) for name in CLASSES} for split in SPLITS}
        layout = {
            split: {name: [folder] for name, folder in classes.items() if os.path.isdir(folder)}
            for split, classes in places.items()
            if split in names
        }
    return data_tree.find_images(layout)


def read_sources(sources):
    """Return (images of all sources, in order, as [Image], lines for the report on the files that are skipped).

    Raises InputError if the layout of a source is unknown, if some sources have splits and others have not, or if an augmented
    image is not in train.
    """
    for source in sources:
        placing.refuse_unfinished(source)
    layouts = [data_tree.find_layout(source) for source in sources]
    split = [source for source, layout in zip(sources, layouts, strict=True) if None not in layout]
    if split and len(split) < len(sources):
        unsplit = next(source for source in sources if source not in split)
        raise InputError(f"{unsplit}: expected splits as in {split[0]}, found class folders; divide it with data_split.py first")
    links, loose, ignored = [], [], []
    files = [file for layout in layouts for file in data_tree.find_images(layout, links, ignored)]
    for source, layout in zip(sources, layouts, strict=True):
        loose += data_tree.loose_files(source, layout)
    astray = [file.path for file in files if AUGMENTED in file.inside and file.split not in (None, "train")]
    if astray:
        raise InputError(f"{astray[0]}: expected augmented images in train only, found {len(astray):,} elsewhere; remove them")
    report = data_tree.report_skipped(files, links, loose, ignored)
    return [file for file in files if file.kind], report


def check_same_kind(target, there, images):
    """Raise InputError if a tree with splits is to be merged into a set without, or the other way round."""
    if there and images and (there[0].split is None) != (images[0].split is None):
        have, come = ("class folders", "splits") if there[0].split is None else ("splits", "class folders")
        cure = "choose another --into" if come == "splits" else "divide the source with data_split.py first"
        raise InputError(f"{target}: expected {come} as in the source, found {have}; {cure}")


def check_augmented(there, images):
    """Raise InputError if an augmented image of train was made from an image of validation or test: a leak.

    Its content is new; only its name, which contains the name of its original, tells.
    """
    held = {_key(image, image.inside)[1:]: image for image in (*there, *images) if image.split in ("validation", "test")}
    for image in (*there, *images):
        original = AUGMENTED in image.inside and held.get(_key(image, image.inside.rpartition(AUGMENTED)[0])[1:])
        if original:
            raise InputError(
                f"{image.path}: made from an image that is in {original.split}, {original.path}; "
                "merge the originals first, then run data_augmentation.py on the tree they make"
            )


def check_apart(sources, target):
    """Raise InputError if two of the folders are the same or nested."""
    placing.check_is_folder(target)
    goal, real = Path(os.path.realpath(target)), [Path(os.path.realpath(source)) for source in sources]
    for i, (source, path) in enumerate(zip(sources, real, strict=True)):
        if path == goal or path in goal.parents:
            raise InputError(f"{target}: expected a folder outside the source {source}; choose another --into")
        if any(path == other or path in other.parents or other in path.parents for other in real[:i]):
            raise InputError(f"{source}: expected each source once, found it twice or inside another; give it once")


# --- the plan ----------------------------------------------------------------------------------------------------------


def find_conflicts(there, images):
    """Find equal content under two labels or in two splits.

    Args:
        there: [Image] of the target.
        images: [Image] of the sources.

    Returns:
        ({index in `images`: Image that it conflicts with}, [pairs of conflicts within `there`])
    """
    first, within, met = {}, [], {}
    for image in there:
        other = first.setdefault(image.digest, image) if image.kind else image
        if (other.split, other.label) != (image.split, image.label):
            within.append((image, other))
    for i, image in enumerate(images):
        other = first.setdefault(image.digest, image)
        if (other.split, other.label) != (image.split, image.label):
            met[i] = other
    return met, within


def plan_merge(there, images, target):
    """Choose the place of every new image in the target.

    Names that some system takes for one (see `without_case`) count as equal, so that the tree can be moved to any system. A file
    that has the name of a folder gets another name.

    Returns:
        [(source, destination, state)]; state is "new", "renamed" or "there" (same name, same content).

    Raises:
        InputError: something else is where a new image's folder has to be.
    """
    taken = {_key(file, file.inside): (file.digest, file.inside) for file in there}
    folders = _folders(images)
    check_folders(folders, taken, target)
    folders.update(_folders(there))
    plan = []
    for image in images:
        folder = os.path.join(target, image.split or "", image.label)
        for inside in names_for(image.inside, image.digest):
            key = _key(image, inside)
            known = key in taken
            if key in folders or (there and not known and os.path.lexists(os.path.join(folder, inside))):
                continue
            digest, name = taken.setdefault(key, (image.digest, inside))
            if digest == image.digest:
                break
        state = "there" if known else "new" if inside == image.inside else "renamed"
        plan.append((image.path, os.path.join(folder, name), state))
    return plan


def check_folders(folders, taken, target):
    """Raise InputError if the target has a file or a link in the place of a new image's folder."""
    for key, (image, inside) in folders.items():
        path = os.path.join(target, image.split or "", image.label, taken.get(key, (None, inside))[1])
        if os.path.lexists(path) and (is_link(path) or not os.path.isdir(path)):
            found = "link" if is_link(path) else "file"
            raise InputError(f"{path}: expected a folder, for {image.path}, found a {found}; rename one of the two")


def _folders(images):
    """Return {key: (an image in it, path inside the class folder)} of all folders that contain the images."""
    return {_key(image, above): (image, above) for image in images for above in folders_above(image.inside)}


def _key(image, inside):
    return image.split, image.label, without_case(inside)


def make_plan(sources, target, transfer, on_conflict):
    """Return (lines to print at the end, [(source, destination)]); nothing on disk changes.

    Raises InputError for equal content under two labels or in two splits, unless `on_conflict` is "skip".
    """
    images, rest = read_sources(sources)
    there = read_target(target)
    check_same_kind(target, there, images)
    check_augmented(there, images)
    conflicts, within = find_conflicts(there, images)
    if on_conflict == "error":
        refuse_conflicts(target, [(images[i], other) for i, other in conflicts.items()], within)
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
    if within:
        report.append(f"warning: {plural(len(within), 'image')} of {target} under both labels or in two splits before this merge")
    report += rest
    # a move also removes the sources whose content is there already
    return report, [(source, destination) for source, destination, state in plan if state != "there" or transfer == "move"]


def refuse_conflicts(target, met, within):
    """Raise InputError that lists the pairs, if there are any."""
    for pairs, cure in (
        (within, f"in {target} itself; remove one of each, then merge"),
        (met, "; look at them, or leave the new ones out with --on-conflict skip"),
    ):
        if pairs:
            lines = [f"{image.path} ({_place(image)}) = {other.path} ({_place(other)})" for image, other in pairs[:SHOWN]]
            more = [f"and {len(pairs) - SHOWN:,} more"] if len(pairs) > SHOWN else []
            raise InputError(
                "\n  ".join([f"{plural(len(pairs), 'image')} under both labels or in two splits{_glue(cure)}:", *lines, *more])
            )


def _glue(cure):
    return cure if cure.startswith(";") else f" {cure}"


def _place(image: Image):
    return f"{image.split}, {image.label}" if image.split else image.label


def count_target(target):
    """Return a Counter {(split or "all", class): images} of the target."""
    counts = data_tree.count_images(target)
    if counts:
        return counts
    for name in CLASSES:
        folder = os.path.join(target, name)
        if os.path.isdir(folder):
            counts["all", name] = sum(1 for _ in scan(folder))
    return counts


# --- the stage ---------------------------------------------------------------------------------------------------------


def parse(argv):
    """Return the arguments."""
    parser = argparse.ArgumentParser("data_merger.py", description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+", metavar="source", help="folder with splits, or with class folders")
    parser.add_argument("--into", type=Path, required=True, help="folder to merge into; made if it does not exist")
    parser.add_argument(
        "--on-conflict", choices=("error", "skip"), default="error",
        help="what to do with the same content under both labels or in two splits: end, or leave the new file out ",
    )  # fmt: skip
    placing.add_options(parser)
    return parser.parse_args(argv)


@stage
def main(argv=None):
    """Run the stage."""
    args = parse(argv)
    check_apart(args.sources, args.into)
    job = ["data_merger.py", *map(os.path.abspath, args.sources), "--into", os.path.abspath(args.into)]
    job += ["--transfer", args.transfer, "--on-conflict", args.on_conflict]
    make = functools.partial(make_plan, args.sources, args.into, args.transfer, args.on_conflict)
    report, _ = placing.run_job(args.into, job, make, args.transfer, args.dry_run)
    print(*report, *([] if args.dry_run else [counts_table(count_target(args.into))]), sep="\n")


if __name__ == "__main__":
    main()
