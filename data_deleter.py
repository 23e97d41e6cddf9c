"""Delete a folder with all its content, or the augmented images of a data tree.

    python data_deleter.py data/raw/cifake                asks, on a terminal
    python data_deleter.py data/raw/cifake --yes
    python data_deleter.py data --augmented --yes         only what data_augmentation.py added to data/train

reads   FOLDER
writes  nothing; deletes FOLDER, or the augmented images in FOLDER/train

Links and junctions are removed, never followed. After an interruption, the same command finishes.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from detector.console import HelpFormatter, InputError, plural, progress, show_size, stage
from detector.data.tree import CLASSES, is_augmented
from detector.files import is_link, require_folder, scan


def check_deletable(folder):
    """Raise InputError for a folder that must not be deleted: root, home, the working folder, or a parent of these."""
    if is_link(str(folder).rstrip("/\\") or folder):
        raise InputError(f"{folder}: expected a folder, found a link to {os.path.realpath(folder)}; give that folder itself")
    require_folder(folder, holding="what is to be deleted")
    real = Path(os.path.realpath(folder))
    home = Path(os.path.realpath(os.path.expanduser("~")))
    precious = {"the root of the file system": Path(real.anchor), "the working folder": Path.cwd(), "the home folder": home}
    for what, path in precious.items():
        if path.is_relative_to(real):
            found = what if path == real else f"one that holds {what}"
            raise InputError(f"{folder}: expected a folder of images, found {found}; it is not deleted")


def survey(folder):
    """Walk a folder without following links: ([paths of files and of links], [folders, inner ones first], bytes).

    Raises InputError if it contains a repository.
    """
    files, folders, size, stack = [], [], 0, [os.fspath(folder)]
    while stack:
        here = stack.pop()
        folders.append(here)
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.name == ".git":
                    raise InputError(f"{folder}: expected a folder of images, found a repository in {here}; it is not deleted")
                if entry.is_dir(follow_symlinks=False) and not is_link(entry.path):
                    stack.append(entry.path)
                else:
                    files.append(entry.path)
                    size += entry.stat(follow_symlinks=False).st_size
    return files, folders[::-1], size


def survey_augmented(data):
    """List the augmented images of data/train: ([paths], [], bytes)."""
    train = Path(data) / "train"
    folders = [train / name for name in CLASSES]
    for folder in (train, *folders):
        if is_link(folder):
            raise InputError(f"{folder}: expected a folder, found a link to {os.path.realpath(folder)}; give its own tree")
        require_folder(folder)
    paths = [os.path.join(folder, path) for folder in folders for path in scan(folder) if is_augmented(path)]
    return paths, [], sum(os.lstat(path).st_size for path in paths)


def delete(files, folders):
    """Remove files, then the folders that contained them; ignore what is gone already."""
    for path in progress(files, unit="file"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    for path in folders:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)


def confirm(question, yes):
    """Raise InputError unless the user agrees: `yes`, or the word typed on a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} Not a terminal, so cannot ask; nothing deleted. Pass --yes to delete.")
    print(f"{question} Type yes to delete: ", end="", flush=True)
    if sys.stdin.readline().strip().lower() != "yes":
        raise InputError("nothing was deleted")


@stage
def main(argv=None):
    """Run the stage."""
    parser = argparse.ArgumentParser("data_deleter.py", description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to delete; with --augmented, the data tree")
    parser.add_argument("--yes", action="store_true", help="do not ask (required without a terminal)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be deleted, delete nothing")
    parser.add_argument("--augmented", action="store_true", help="delete only the augmented images of FOLDER/train")
    args = parser.parse_args(argv)
    check_deletable(args.folder)
    files, folders, size = survey_augmented(args.folder) if args.augmented else survey(args.folder)
    what = f"{plural(len(files), 'augmented image' if args.augmented else 'file')}, {show_size(size)}"
    if args.dry_run:
        sys.stdout.writelines(f"{path}\n" for path in sorted(files))
        print(f"{args.folder}: {what} would be deleted")
        return
    confirm(f"{args.folder}: {what}.", args.yes)
    delete(files, folders)
    print(f"{args.folder}: deleted {what}")


if __name__ == "__main__":
    main()
