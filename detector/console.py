"""Console output, errors and progress bars."""

import argparse
import errno
import functools
import math
import re
import sys


class InputError(Exception):
    """Unusable input. The message is one line: what was expected, what was found, what to do."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults in --help if there are any, and the description unchanged."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False, True) else super()._get_help_string(action)


def stage(main):
    """Decorate a script's `main` so that an expected failure ends in one line on stderr and exit code 1."""

    @functools.wraps(main)
    def run(argv=None):
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # a file name may not be valid text
        try:
            return main(argv)
        except InputError as error:
            failure = str(error)
        except KeyboardInterrupt:
            failure = "interrupted; run the same command again to finish it"
        except BrokenPipeError:
            sys.stderr.close()  # the reader (`| head`) has closed the pipe
            raise SystemExit(1) from None
        except OSError as error:
            failure = describe_os_error(error)
        raise SystemExit(f"error: {failure}")

    return run


def number_type(kind=float, *, at_least=None, above=None, at_most=None, below=None):
    """Return an argparse type: a finite number of the given kind within limits.

    Args:
        kind: float, int or fractions.Fraction.
        at_least, above: lower limit, included or not.
        at_most, below: upper limit, included or not.
    """
    lower = at_least if above is None else above
    upper = at_most if below is None else below
    expected = "a whole number" if kind is int else "a number"
    if lower is not None and upper is not None:
        start = f"from {lower}" if above is None else f"above {lower}"
        expected += f" {start} {'to' if below is None else 'to below'} {upper}"
    elif lower is not None:
        expected += f" of at least {lower}" if above is None else f" above {lower}"
    elif upper is not None:
        expected += f" of at most {upper}" if below is None else f" below {upper}"

    def parse(text):
        try:
            value = kind(text)
            inside = math.isfinite(value)
        except (ValueError, OverflowError, ZeroDivisionError):
            inside = False
        if (
            not inside
            or (at_least is not None and value < at_least)
            or (above is not None and value <= above)
            or (at_most is not None and value > at_most)
            or (below is not None and value >= below)
        ):
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text}")
        return value

    return parse


positive_int = number_type(int, at_least=1)
non_negative_int = number_type(int, at_least=0)
positive_float = number_type(above=0)
fraction = number_type(at_least=0, at_most=1)
seed = number_type(int, at_least=0, at_most=(1 << 32) - 1)  # what every random generator accepts


def describe_os_error(error):
    """Return one line for an OSError: the file, the system's message, and what to do if that is known."""
    cures = {
        errno.ENOSPC: "free some space and run the same command again",
        errno.EDQUOT: "free some space and run the same command again",
        errno.EROFS: "choose a writable folder",
        errno.EACCES: "change the permissions or choose another folder",
        errno.EPERM: "change the permissions or choose another folder",
        errno.ENOENT: "it does not exist, or no longer; check the path and run the same command again",
        errno.ENOTDIR: "a file is where a folder is expected; move it away",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }
    cure = cures.get(error.errno)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}" + (f": {cure}" if cure else "")


def require_packages(*names):
    """Raise InputError unless the packages can be imported, before the work begins."""
    from importlib.util import find_spec

    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise InputError(f"this needs the package {missing[0]}, which is not installed; run: pip install -r requirements.txt")


def progress(items, total=None, unit="image", **options):
    """Wrap an iterable in a progress bar on stderr; silent if stderr is not a terminal."""
    from tqdm import tqdm

    return tqdm(items, total=total, unit=f" {unit}", disable=None, leave=False, **options)


def plural(number, noun):
    """Return '1 image', '2,000 images', '3 copies'."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun[:-1] + 'ies' if noun.endswith('y') else noun + 's'}"


def show_size(size):
    """Return '1.5 GB' for a number of bytes."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, {"bytes": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{size} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def reason_line(reason, names, noun="file"):
    """Return a line of a stage's report: 'not readable: 4 files (a.jpg, b.jpg, c.jpg, ...)'."""
    shown = ", ".join(map(printable, names[:3])) + (", ..." if len(names) > 3 else "")
    return f"{reason}: {plural(len(names), noun)} ({shown})"


def short_reason(reason):
    """Return why a file is unreadable, without the details that differ from file to file: 'found a damaged one'."""
    return re.sub(r" ?\(.*\)|[:;] .*|^expected an? (whole )?image[^,(]*(\(.*?\))?, ", "", reason)


def table(rows, header):
    """Return rows as aligned lines of text: the first column to the left, numbers with thousands separators."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def printable(text):
    """Return a file name with control characters and undecodable bytes escaped, for one line of text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
