"""Pack a folder: FOLDER -> ARCHIVE.zip. The same folder always gives the same bytes (with the same version of zlib).

    python data_zipper.py data/train train.zip

Images are stored, since they are compressed already; everything else is deflated. The archive is read back and compared with the
folder before it gets its name. Litter of operating systems, hidden files and unfinished files are left out. data_unzipper.py
unpacks it.
"""

import argparse
import os
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from detector.console import HelpFormatter, InputError, plural, printable, progress, reason_line, show_size, stage, table
from detector.data.archive import safe_path
from detector.files import atomic_write, require_folder, scan
from detector.images.formats import image_format

PERMISSIONS = (stat.S_IFREG | 0o644) << 16
UNIX = 3


def check_archive(folder, archive, overwrite):
    """Raise InputError if the archive would be inside the packed folder, or exists."""
    if archive.is_dir() or (archive.exists() and not overwrite):
        came = "a folder of that name is there" if archive.is_dir() else "it exists; --overwrite replaces it"
        raise InputError(f"{archive}: {came}")
    if not archive.parent.is_dir():
        raise InputError(f"{archive}: expected a folder to write to, found no {archive.parent}; make it first")
    if archive.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{archive} is inside {folder}, so it would contain itself; write it elsewhere")


def list_files(folder):
    """Return the relative POSIX paths of the files to pack, and of what is left out.

    The files are sorted by their UTF-8 bytes: the same order on every machine.

    Raises InputError if the folder has no files, or if another system could not unpack a name.
    """
    left_out = []
    paths = sorted(scan(folder, left_out, left_out), key=os.fsencode)
    left_out = sorted(os.path.relpath(path, folder).replace(os.sep, "/") for path in left_out)
    if not paths:
        raise InputError(f"{folder}: expected files to pack, found none")
    for path in paths:
        safe_path(path)
        if "\\" in path or path != path.encode(errors="replace").decode():  # some readers take a backslash for a separator
            raise InputError(f"{folder}: the name {printable(path)} holds a backslash or is not UTF-8; rename it")
    return paths, left_out


def pack(folder, paths, unfinished):
    """Write the archive. Returns {path: CRC-32 of what was read from the folder} and the bytes read."""
    with zipfile.ZipFile(unfinished, "w") as archive:
        for path in progress(paths, unit="file"):
            # nothing in an entry depends on the machine or the day: the oldest time a zip can hold, plain permissions
            info = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = UNIX, PERMISSIONS
            with open(folder / path, "rb") as file:
                info.file_size = os.fstat(file.fileno()).st_size
                info.compress_type = zipfile.ZIP_STORED if image_format(file.peek(16)[:16]) else zipfile.ZIP_DEFLATED
                with archive.open(info, "w") as entry:
                    shutil.copyfileobj(file, entry)
        written = archive.infolist()
    return {info.filename: info.CRC for info in written}, sum(info.file_size for info in written)


def verify(unfinished, checksums):
    """Read the whole archive back. Raises InputError unless it holds every file with the checksum of the folder's."""
    try:
        with zipfile.ZipFile(unfinished) as archive:
            found = {info.filename: info.CRC for info in archive.infolist()}
            whole = found == checksums and archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError):
        whole = False
    if not whole:
        raise InputError(f"{unfinished}: the archive, read back, differs from the folder; is the disk sound?")


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
    paths, left_out = list_files(args.folder)
    with atomic_write(args.archive, sync=True) as temporary:
        checksums, total = pack(args.folder, paths, temporary)
        verify(temporary, checksums)
    size = show_size(args.archive.stat().st_size)
    print(f"{args.archive}: {plural(len(paths), 'file')}, {show_size(total)} packed into {size}, read back and compared")
    if left_out:
        print(reason_line("not packed (hidden, unfinished, links or litter)", left_out, "entry"))
    counts = Counter(os.path.dirname(path) or "(top)" for path in paths)
    print(table(sorted(counts.items()), ["folder", "files"]))


if __name__ == "__main__":
    main()
