"""Console output, errors and progress bars."""

import argparse
import errno
import functools
import math
import operator
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
    limits = [("at least", at_least, operator.ge), ("above", above, operator.gt)]
    limits += [("at most", at_most, operator.le), ("below", below, operator.lt)]
    limits = [row for row in limits if row[1] is not None]
    noun, within = "a whole number" if kind is int else "a number", ", ".join(f"{words} {limit}" for words, limit, _ in limits)

    def parse(text):
        try:
            value = kind(text)
            inside = math.isfinite(value) and all(holds(value, limit) for _, limit, holds in limits)
        except (ValueError, OverflowError, ZeroDivisionError):
            inside = False
        if not inside:
            raise argparse.ArgumentTypeError(f"expected {noun} ({within}), found {text}")
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
        errno.ENAMETOOLONG: "this disk takes no name of that length; choose a shorter one or another folder",
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
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


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
    form = f"{{:<{widths[0]}}}" + "".join(f"  {{:>{width}}}" for width in widths[1:])
    return "\n".join(form.format(*row).rstrip() for row in cells)


def printable(text):
    """Return a file name with control characters and undecodable bytes escaped, for one line of text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
