"""Unpack archives into data/raw: ARCHIVE -> data/raw/<archive name>/, kaggle:OWNER/DATASET -> data/raw/DATASET/.

    python data_unzipper.py cifake.tar.xz photos.zip
    python data_unzipper.py kaggle:OWNER/DATASET --to data/raw

zip and tar (plain, gz, bz2, xz, zst), recognised by content. Archives with paths that lead outside their folder are refused. A
folder appears under its name once it is complete; an interrupted extraction starts over. From a damaged archive, everything
readable goes to <archive name>.partial, and the exit code is 1.
"""

import argparse
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

from detector.console import HelpFormatter, InputError, describe_os_error, plural, reason_line, stage, table
from detector.data.archive import RECORD, extract, kind_of
from detector.data.kaggle import download_kaggle, place_downloaded
from detector.data.tree import counts_table, find_layout
from detector.files import digest_of, is_junk, lock, scan

_SUFFIXES = re.compile(r"(\.(tar|zip|gz|bz2|xz|zst|tgz|tbz2?|txz|tzst))+$", re.IGNORECASE)
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}


def parse_size(text):
    """Return a number of bytes for '50GB', '1.5 TB' or '1000'."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]?)B?\s*", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"expected a size such as 50GB, received {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def folder_name(source):
    """Return the name of the folder that an archive, or kaggle:OWNER/DATASET, is unpacked into."""
    if source.startswith("kaggle:"):
        if not re.fullmatch(r"kaggle:[\w-]+/[\w-]+(/versions/\d+)?", source):
            raise InputError(f"{source}: expected kaggle:OWNER/DATASET, as in the address of the dataset")
        return source.split("/")[1]
    name = _SUFFIXES.sub("", os.path.basename(os.path.normpath(source)))
    if name.strip(".") == "" or is_junk(name):
        raise InputError(f"{source}: no folder can have the name of this archive; rename it")
    return name


def unpack(source, to, max_size):
    """Unpack one source into its folder below `to`: (folder, Extraction), or (folder, None) if it was unpacked there before.

    The folder's name ends in .partial if the archive is damaged. Raises InputError if the source cannot or must not be unpacked;
    nothing of it is left.
    """
    final = to / folder_name(source)
    try:
        downloaded = download_kaggle(source) if source.startswith("kaggle:") else None
        if downloaded:
            identity = "/".join(Path(downloaded).parts[-4:])  # with the version
        else:
            kind_of(source)  # refuses what is no archive
            identity = digest_of(source)
        record = {"source": os.path.basename(source), "identity": identity}
        if os.path.lexists(final):
            check_record(final, record)
            return final, None
        to.mkdir(parents=True, exist_ok=True)
        with lock(to / f".{final.name}.lock"):
            return _extract_aside(downloaded or source, final, max_size, record)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except BlockingIOError:
        raise InputError(f"{source}: another command is unpacking it now; run this one when it has ended") from None


def _extract_aside(source, final, max_size, record):
    """Extract into a hidden folder next to `final`, and rename it when it is complete."""
    aside = final.with_name(f".{final.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    try:
        aside.mkdir()
        result = (place_downloaded if os.path.isdir(source) else extract)(source, aside, max_size)
        if not result.files:
            raise InputError("; ".join(result.damaged) or "it holds no files")
        if result.damaged:
            final = final.with_name(f"{final.name}.partial")
            if os.path.lexists(final):
                check_record(final, None)
                shutil.rmtree(final)
        record |= {"files": result.files, "complete": not result.damaged}
        (aside / RECORD).write_text(json.dumps(record) + "\n", "utf-8")
        os.rename(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final, result


def check_record(folder, record):
    """Raise InputError unless the folder was unpacked from the archive of a record; None stands for any damaged archive."""
    try:
        found = json.loads((folder / RECORD).read_text("utf-8"))
        known = not found["complete"] if record is None else found["complete"] and found["identity"] == record["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise InputError(f"{folder} is there, and was not unpacked from this archive; move it away, or choose another --to")


def report(folder, result):
    """Return what was extracted and what was not, and the files per split and class, or else per folder."""
    if result is None:
        return f"{folder}: unpacked before"
    lines = [f"{folder}: {plural(result.files, 'file')} extracted"]
    lines += [reason_line(reason, names) for reason, names in result.skipped.items()]
    try:
        layout = find_layout(folder)
    except InputError:  # named otherwise than data_split.py expects it
        counts = Counter(path.split("/")[0] if "/" in path else "(top)" for path in scan(folder))
        return "\n".join([*lines, table(sorted(counts.items()), ["folder", "files"])])
    counts = Counter()
    for split, classes in layout.items():
        for label, folders in classes.items():
            counts[split or "no split", label] = sum(1 for below in folders for _ in scan(below))
    return "\n".join([*lines, counts_table(counts)])


@stage
def main(argv=None):
    """Unpack every source; if one fails, continue with the next and fail at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="ARCHIVE", help="a zip or a tar, or kaggle:OWNER/DATASET")
    parser.add_argument("--to", type=Path, default=Path("data/raw"), help="each is unpacked into a folder here")
    parser.add_argument("--max-size", type=parse_size, default="200GB", help="refuse an archive that unpacks to more")
    args = parser.parse_args(argv)
    failures = []
    for source in args.sources:
        try:
            folder, result = unpack(source, args.to, args.max_size)
            print(report(folder, result), flush=True)
            if result and result.damaged:
                damage = reason_line("damaged", result.damaged, "entry")
                failures.append(f"{source}: {damage}; get the archive again. What was readable is in {folder}")
        except InputError as error:
            failures.append(str(error))
        except OSError as error:
            failures.append(describe_os_error(error))
    if failures:
        raise InputError("; ".join(failures))


if __name__ == "__main__":
    main()
