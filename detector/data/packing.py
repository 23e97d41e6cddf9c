"""How a packed tar (gz, bz2, xz, zst) becomes its bytes: here, or in a process of its own that writes them to stdout."""
import os
import zlib

from detector.console import InputError

PIECE = 1 << 18  # bytes unpacked at a time: little enough to stay in the cache of a core
OWN_PROCESS = 4 << 20  # bytes of archive from which the start of another process is worth its time
DAMAGED = 3  # exit code of `unpack_to_stdout`


def open_packed(file, packing):
    """Return the unpacked content of an open tar as a file. `packing` is one of '', 'gz', 'bz2', 'xz', 'zst'."""
    if packing == "gz":
        import gzip

        return gzip.GzipFile(fileobj=file)
    if packing == "bz2":
        import bz2

        return bz2.BZ2File(file)
    if packing == "xz":
        import lzma

        return lzma.LZMAFile(file)
    return zstd_open(file) if packing == "zst" else file


def zstd_open(file):
    """Return the content of a Zstandard file, by Python 3.14's own module or by the library zstandard."""
    try:
        from compression import zstd

        return zstd.ZstdFile(file)
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        raise InputError("it is packed with Zstandard; install what unpacks it: pip install zstandard") from None
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


def unpacking_errors(packing):
    """Return the exceptions by which a decompressor tells of damage."""
    errors = [EOFError, zlib.error]
    if packing in ("gz", "bz2"):
        import gzip

        errors.append(gzip.BadGzipFile if packing == "gz" else OSError)
    if packing == "xz":
        import lzma

        errors.append(lzma.LZMAError)
    if packing == "zst":
        try:
            from compression.zstd import ZstdError
        except ImportError:
            from zstandard import ZstdError
        errors.append(ZstdError)
    return tuple(errors)


def unpack_to_stdout(archive, packing):
    """Write the unpacked content of a tar to stdout. Exits with DAMAGED, and what was found on stderr, where it does not hold."""
    import sys

    try:
        with open(archive, "rb") as file, open_packed(file, packing) as content:
            while piece := content.read(PIECE):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        os._exit(0)  # nobody reads any more: nothing is left to flush or to tell
    except unpacking_errors(packing) as error:
        sys.stdout.buffer.flush()
        sys.stderr.write(str(error))
        sys.exit(DAMAGED)
