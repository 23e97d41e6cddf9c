"""Place files by hard link, copy or move: nothing overwritten, nothing lost, resumable after an interruption."""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from detector.console import HelpFormatter, InputError, plural, printable, progress, reason_line
from detector.files import atomic_write, lock, require_folder, same_content, sync_to_disk

TRANSFERS = ("hardlink", "copy", "move")
JOURNAL = ".unfinished.jsonl"  # in a data folder: the plan of the stage that is placing files there
LOCK = ".in_use"  # in a data folder: the lock file of the stage that is placing files there


def check_outside(target, sources, flag):
    """Raise InputError if the folder to place files in is a file, one of the sources, or inside one."""
    if os.path.lexists(target):
        require_folder(target)
    for source in sources:
        if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):
            raise InputError(f"{target}: expected a folder outside the source {source}; choose another {flag}")


def place(source, destination, transfer, copied=None):
    """Put a file at `destination` by hard link, copy or move. Never overwrites a file, and never leaves a partial one.

    Repeating it does nothing: a destination with the same content counts as done (a move then removes its source), and so does
    one whose source is gone. If a hard link is impossible (another disk, a file system without them), the file is copied and
    added to the list `copied`. A symbolic link is placed as the file that it points to. Raises InputError if something else is at
    `destination`, and FileNotFoundError if neither the source nor the destination exists.
    """
    try:
        if transfer == "copy" or os.path.islink(source):
            _copy(source, destination, transfer)
        else:
            _link(source, destination, transfer, copied)  # a move is a link, then an unlink: unlike a rename it overwrites nothing
    except FileExistsError:
        check_same(source, destination)
        if transfer == "move" and _is_second_copy(source, destination):
            os.unlink(source)
    except FileNotFoundError:
        if os.path.lexists(source) or not os.path.lexists(destination):
            raise
    else:
        if transfer == "move":
            os.unlink(source)


def check_same(source, destination):
    """Raise InputError unless the destination of a file exists and has its content."""
    if not os.path.lexists(destination):  # its folder could not be made
        folder = os.path.dirname(destination)
        raise InputError(f"{folder}: expected a folder, found a file; move it away and run the same command again")
    if not os.path.isfile(destination) or not same_content(source, destination):
        raise InputError(f"{destination}: something else of that name exists; move it away and run the same command again")


def _is_second_copy(source, destination):
    """Return whether `destination` keeps the content if `source` is removed: not if they are two spellings of one name."""
    if not os.path.samefile(source, destination):
        return True
    return os.path.islink(source) or (os.stat(source).st_nlink > 1 and os.path.realpath(source) != os.path.realpath(destination))


def _link(source, destination, transfer, copied):
    try:
        os.link(source, destination)
    except FileExistsError:
        raise
    except FileNotFoundError:
        if not os.path.lexists(source):
            raise
        os.makedirs(os.path.dirname(destination), exist_ok=True)
        _link(source, destination, transfer, copied)
    except OSError:
        _copy(source, destination, transfer)
        if copied is not None:
            copied.append((source, destination))


def _copy(source, destination, transfer):
    if os.path.lexists(destination):
        raise FileExistsError(destination)
    folder = os.path.dirname(destination)
    os.makedirs(folder, exist_ok=True)
    move = transfer == "move"  # the source will be removed: the copy and its name must survive a power cut
    with atomic_write(destination, sync=move) as temporary:
        shutil.copyfile(source, temporary)
        shutil.copystat(source, temporary)
    if move:
        with contextlib.suppress(OSError):  # Windows opens no folders, some network file systems cannot sync them
            sync_to_disk(folder)


def carry_out(plan, transfer, unit="image"):
    """Place every (source, destination) of a plan; after an interruption, run it again to finish.

    If files had to be copied instead of hard-linked, a line on stderr says so: copies take space. Returns the sources that
    vanished before they were placed.
    """
    vanished, copied = [], []
    try:
        for source, destination in progress(plan, unit=unit):
            try:
                place(source, destination, transfer, copied)
            except FileNotFoundError:
                if os.path.lexists(source):
                    raise
                vanished.append(source)
    finally:
        if copied and transfer == "hardlink":
            here, there = (printable(os.path.dirname(path)) for path in copied[0])
            print(f"cannot hard-link {here} to {there}; copied {plural(len(copied), unit)} instead", file=sys.stderr)
    return vanished


# The plan is written into the data folder before the first file is placed, and removed after the last. Run again, the
# stage continues that plan: nothing is hashed again, and a move knows its plan although part of the source is gone.
def unfinished_plan(data, job, but=None):
    """Return the interrupted plan of the same job in the folder `data`: (report, plan), or None without one.

    Raises InputError if another job was interrupted there, unless it is one of the stage named `but`.
    """
    journal = os.path.join(data, JOURNAL)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(journal, encoding="utf-8") as file:
        try:
            head = json.loads(next(file))
            theirs = shlex.join(head["job"])
            if head["job"] == job:
                plan = map(json.loads, file)
                return head["report"], [(os.path.join(head["cwd"], source), os.path.join(data, below)) for source, below in plan]
        except (ValueError, KeyError, TypeError, StopIteration):
            raise InputError(f"{journal}: expected an interrupted plan, found something else; remove the file") from None
        if head["job"][0] != but:
            raise InputError(f"{data}: a command was interrupted here; run it again to finish it: {theirs}")
    return None


def refuse_unfinished(data, but=None):
    """Raise InputError if a stage, other than `but`, was interrupted in the folder `data`, which is therefore incomplete."""
    unfinished_plan(data, None, but)


@contextlib.contextmanager
def unfinished_while(data, job):
    """Mark the folder `data` as unfinished while a stage that starts over after an interruption works in it, alone.

    `job` is the command line, as a list of strings with absolute paths, the stage's name first.
    """
    with alone_in(data):
        _write_journal(data, {"job": job, "cwd": os.getcwd(), "report": None}, [])
        yield
        os.unlink(os.path.join(data, JOURNAL))


@contextlib.contextmanager
def alone_in(data):
    """Keep other stages from placing files in the folder `data`, which is made if it does not exist.

    Hold it while the plan is made, too: otherwise the plan could be out of date when it is carried out. Raises InputError if
    another process is working in the folder.
    """
    existed = os.path.isdir(data)
    os.makedirs(data, exist_ok=True)
    try:
        with lock(os.path.join(data, LOCK)):
            yield
    except BlockingIOError:
        raise InputError(f"{data}: another command is working there now; run this one when it has ended") from None
    finally:
        if not existed:
            with contextlib.suppress(OSError):
                os.rmdir(data)  # fails if anything was placed


def make_parser(name, description):
    """Return the parser of a stage that places files, with the options --transfer and --dry-run."""
    parser = argparse.ArgumentParser(name, description=description, formatter_class=HelpFormatter)
    parser.add_argument("--transfer", choices=TRANSFERS, default="hardlink",
        help="how images are placed; a hard link takes no space, and becomes a copy if links are impossible")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what would be placed, change nothing")
    return parser


def run_job(data, job, make_plan, transfer, dry_run):
    """Make a plan and carry it out; killed at any moment and run again, the same job finishes it.

    Args:
        data: folder that all destinations are in.
        job: the command line but for --transfer, as a list of strings with absolute paths.
        make_plan: function that returns (report, [(source, destination)]); the report, anything that JSON can hold, is what the
            stage prints at the end, after an interruption too.
        transfer: one of TRANSFERS.
        dry_run: print the plan instead.

    Returns (report, plan); raises InputError if sources vanished: everything else is placed, and the plan is kept.
    """
    job, journal = [*job, "--transfer", transfer], os.path.join(data, JOURNAL)
    with contextlib.nullcontext() if dry_run else alone_in(data):
        begun = unfinished_plan(data, job)
        report, plan = begun or make_plan()
        if dry_run:
            sys.stdout.writelines(f"{source} -> {destination}\n" for source, destination in plan)
        elif plan:
            if not begun:
                _write_journal(data, {"job": job, "cwd": os.getcwd(), "report": report}, plan)
            vanished = carry_out(plan, transfer)
            if vanished:
                line = reason_line("vanished before being placed", vanished, "image")
                raise InputError(f"{line}; put them back and run the same command again, or remove {journal} to skip them")
            os.unlink(journal)
    return report, plan


def _write_journal(data, head, plan):
    journal = os.path.join(data, JOURNAL)
    inside = len(os.path.join(data, ""))
    os.makedirs(data, exist_ok=True)
    with atomic_write(journal, sync=True) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head) + "\n")
        file.writelines(json.dumps((source, destination[inside:])) + "\n" for source, destination in plan)
