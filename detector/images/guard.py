"""A guard around the work on one file, so that its failure does not cost the other files their results."""

import contextlib
import errno
import os

from detector import files
from detector.console import InputError, describe_os_error

MAX_BYTES = 1 << 30  # of a file

NOT_THE_FILE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # concern the machine: every file would fail


class UnreadableFile(Exception):
    """Why a file cannot be read, without its name: `one_file` adds it."""


def read_source(source) -> bytes:
    """Return the content of a path, of bytes, or of a binary file that can seek (its position stays the same).

    Raises:
        UnreadableFile: it has more than MAX_BYTES bytes.
    """
    if isinstance(source, str | os.PathLike):
        content = files.read_bytes(source) if os.stat(source).st_size <= MAX_BYTES else None
    elif isinstance(source, bytes):
        content = source
    else:
        position = source.tell()
        source.seek(0)
        content = source.read(MAX_BYTES + 1)
        source.seek(position)
    if content is None or len(content) > MAX_BYTES:
        raise UnreadableFile(f"expected at most {MAX_BYTES:,} bytes, found more; scale the image down")
    return content


def name_of(source) -> str:
    """Return the path of a source as text; "the image" for bytes or a file."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "the image"


@contextlib.contextmanager
def one_file(source):
    """Turn any exception raised while one file is decoded, or its metadata read, into an InputError with one line.

    Decoders and parsers raise all kinds of exceptions on files of strangers, so this catches Exception: the only place that does.
    KeyboardInterrupt, MemoryError and errors of the machine (disk full, too many open files) pass through. A model must not run
    inside: its failure concerns every image.

        try:
            with one_file(path):
                image = pixels.read_image(path)
        except InputError as error:
            ...  # report str(error), continue with the next file

    Args:
        source: path or name, which the message mentions; a file object or bytes are called "the image".
    """
    name = name_of(source)
    try:
        yield
    except (InputError, MemoryError):
        raise
    except UnreadableFile as error:
        raise InputError(f"{name}: {error}") from None
    except OSError as error:
        if error.errno in NOT_THE_FILE:
            raise
        if error.errno is None:
            raise InputError(_unreadable(name, error)) from None
        raise InputError(f"{'' if error.filename else f'{name}: '}{describe_os_error(error)}") from None
    except Exception as error:
        raise InputError(_unreadable(name, error)) from error


def _unreadable(name, error):
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return f"{name}: expected a whole image, found a damaged one ({reason}); get the file again or leave it out"
