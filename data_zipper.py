"""Pack a folder: FOLDER -> ARCHIVE.zip. The same folder always gives the same bytes (with the same version of zlib).

    python data_zipper.py data/train train.zip

Images are stored, since they are compressed already; everything else is deflated. The archive is read back and compared with the
folder before it gets its name. Litter of operating systems, hidden files and unfinished files are left out. data_unzipper.py
unpacks it.
"""

import argparse
import os
import stat
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from detector.console import HelpFormatter, InputError, plural, printable, progress, reason_line, show_size, stage, table
from detector.data.archive import RECORD, in_litter, safe_path
from detector.files import atomic_write, folders_above, require_folder, scan, without_case
from detector.images.formats import image_format

PIECE = 1 << 20  # bytes read at a time
# Fixed, so that the archive does not depend on the machine or the day: the oldest time a zip can hold, plain permissions
TIME = (1980, 1, 1, 0, 0, 0)
PERMISSIONS = (stat.S_IFREG | 0o644) << 16
UNIX = 3


def check_archive(folder, archive, overwrite):
    """Raise InputError if the archive would be inside the packed folder, or exists."""
    if archive.is_dir() or (archive.exists() and not overwrite):
        came = "a folder of that name is there" if archive.is_dir() else "it exists; --overwrite replaces it"
        raise InputError(f"{archive}: {came}")
    if not archive.parent.is_dir():
        raise InputError(f"{archive.parent}: expected a folder to write {archive.name} to; make it")
    if archive.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{archive} is inside {folder}, so it would contain itself; write it elsewhere")


def list_files(folder):
    """Return the relative POSIX paths of the files to pack, sorted by their UTF-8 bytes: the same order on every machine.

    Raises InputError if the folder has no files, or if another system could not unpack a name.
    """
    paths = sorted(scan(folder), key=os.fsencode)
    if not paths:
        raise InputError(f"{folder}: expected files to pack, found none")
    spelled = {}
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise InputError(f"{folder}: the name {printable(path)} is not UTF-8; rename it") from None
        safe_path(path)
        if "\\" in path:  # some readers of zip files take it for a separator
            raise InputError(f"{folder}: the name {printable(path)} holds a backslash; rename it")
        for part in (path, *folders_above(path)):
            other = spelled.setdefault(without_case(part), part)
            if other != part:
                raise InputError(f"{folder}: {printable(other)} and {printable(part)} differ only by case; rename one of them")
    return paths


def not_packed(folder, paths):
    """List what is in the folder and not in the archive, apart from litter: hidden and unfinished files, links."""
    packed = set(paths)
    found = []
    for here, folders, files in os.walk(folder):
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(here, name)))]:
            path = os.path.relpath(os.path.join(here, name), folder).replace(os.sep, "/")
            if path not in packed and name != RECORD and not in_litter(path):
                found.append(path)
    return sorted(found)


def entry_for(path, head, size):
    """Return the ZipInfo of a file: nothing in it depends on the machine or the day."""
    info = zipfile.ZipInfo(path, TIME)
    info.create_system = UNIX
    info.external_attr = PERMISSIONS
    info.compress_type = zipfile.ZIP_STORED if image_format(head) else zipfile.ZIP_DEFLATED
    info.file_size = size
    return info


def pack(folder, paths, unfinished):
    """Write the archive. Returns {path: CRC-32 of what was read from the folder} and the bytes read."""
    checksums, total = {}, 0
    with zipfile.ZipFile(unfinished, "w") as archive:
        for path in progress(paths, unit="file"):
            with open(folder / path, "rb", buffering=0) as file:
                piece = file.read(PIECE)
                info = entry_for(path, piece[:16], os.fstat(file.fileno()).st_size)
                crc = 0
                with archive.open(info, "w") as entry:
                    while piece:
                        crc = zlib.crc32(piece, crc)
                        total += len(piece)
                        entry.write(piece)
                        piece = file.read(PIECE)
            checksums[path] = crc
    return checksums, total


def verify(unfinished, checksums):
    """Read the whole archive back. Raises InputError unless it holds every file with the checksum of the folder's."""
    with zipfile.ZipFile(unfinished) as archive:
        if archive.namelist() != list(checksums):
            raise InputError("the archive, read back, does not hold the names that were packed; is the disk sound?")
        for info in progress(archive.infolist(), unit="file"):
            crc = 0
            try:
                with archive.open(info) as entry:
                    while piece := entry.read(PIECE):
                        crc = zlib.crc32(piece, crc)
            except (zipfile.BadZipFile, zlib.error, EOFError):
                crc = None
            if crc != checksums[info.filename]:
                raise InputError(f"the archive, read back, differs in {printable(info.filename)}; is the disk sound?")


def report(paths):
    """Return a table of the files in each folder."""
    counts = Counter(os.path.dirname(path) or "(top)" for path in paths)
    return table(sorted(counts.items()), ["folder", "files"])


@stage
def main(argv=None):
    """Run the stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to pack; names in the archive start below it")
    parser.add_argument("archive", type=Path, metavar="ARCHIVE.zip", help="the archive to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing archive")
    args = parser.parse_args(argv)
    if args.archive.suffix.lower() != ".zip":
        parser.error(f"expected a name that ends in .zip, received {args.archive}")
    require_folder(args.folder, holding="files")
    check_archive(args.folder, args.archive, args.overwrite)
    paths = list_files(args.folder)
    left_out = not_packed(args.folder, paths)
    with atomic_write(args.archive, sync=True) as temporary:
        checksums, total = pack(args.folder, paths, temporary)
        verify(temporary, checksums)
    size = show_size(args.archive.stat().st_size)
    print(f"{args.archive}: {plural(len(paths), 'file')}, {show_size(total)} packed into {size}, read back and compared")
    if left_out:
        print(reason_line("not packed (hidden, unfinished or links)", left_out))
    print(report(paths))


if __name__ == "__main__":
    main()
