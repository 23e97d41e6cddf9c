"""Data sets of Kaggle, downloaded by kagglehub into its cache."""

import contextlib
import os
import stat
import sys
import zlib

from detector.console import InputError
from detector.data.archive import JUNK, LINKS, SPECIAL, Extraction, check_size, in_litter
from detector.data.placing import place

TOKEN = (
    "make an API token at https://www.kaggle.com/settings/api and put it into the environment variable KAGGLE_API_TOKEN "
    "or the file ~/.kaggle/access_token"
)


def place_downloaded(folder, root, max_size):
    """Hard-link (or copy) the files of a downloaded data set into the folder `root`, without litter and links.

    Returns Extraction; raises InputError if the files are larger together than `max_size` bytes.
    """
    result, found = Extraction(), []
    for here, folders, files in os.walk(folder, onerror=_fail):
        folders.sort()  # the same report on every disk
        inside = os.path.relpath(here, folder)
        for name in sorted(folders + files):
            source = os.path.join(here, name)
            path = os.path.normpath(os.path.join(inside, name)).replace(os.sep, "/")
            mode = os.lstat(source).st_mode
            if in_litter(path):
                result.skipped[JUNK] += [path] if stat.S_ISREG(mode) else []
            elif stat.S_ISLNK(mode):
                result.skipped[LINKS].append(path)
            elif stat.S_ISREG(mode):
                found.append((source, path))
            elif not stat.S_ISDIR(mode):
                result.skipped[SPECIAL].append(path)
    size = sum(os.path.getsize(source) for source, _ in found)
    check_size(size, size, max_size)  # kagglehub has removed the archive, so that its ratio is unknown
    for source, path in found:
        place(source, os.path.join(root, path), "hardlink")
        result.count(path)
    return result


def _fail(error):
    raise error  # os.walk would skip a folder that cannot be read


def download_kaggle(source):
    """Return the folder in kagglehub's cache that holds the dataset 'kaggle:OWNER/DATASET'.

    Raises InputError, with the way out, where kagglehub, the network, the credentials or the dataset is missing.
    """
    import io
    import logging
    import tarfile
    import zipfile

    try:
        import kagglehub
        import requests
        from kagglehub import exceptions
        from kagglehub.config import get_cache_folder
    except ImportError:
        raise InputError("downloading needs kagglehub: pip install kagglehub") from None
    logging.getLogger("kagglehub").setLevel(logging.WARNING)
    # stdout is for results; and off a terminal, its bar would be printed line by line
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    broken_archive = zipfile.BadZipFile, tarfile.TarError
    not_for_kagglehub = tarfile.FilterError, RuntimeError  # leads out of its folder; is encrypted or compressed in a rare way
    try:
        with contextlib.redirect_stdout(sys.stderr), quiet:
            return kagglehub.dataset_download(source.removeprefix("kaggle:"))
    except exceptions.KaggleApiHTTPError as error:
        raise InputError(f"{_refusal(error.response.status_code)}") from None
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout):
        raise InputError("Kaggle cannot be reached; check the network, or give an archive fetched elsewhere") from None
    except (exceptions.UnauthenticatedError, exceptions.CredentialError):
        raise InputError(f"Kaggle wants credentials: {TOKEN}") from None
    except not_for_kagglehub as error:
        raise InputError(f"kagglehub cannot unpack it ({error}); fetch the archive itself and give that") from None
    except (exceptions.DataCorruptionError, requests.RequestException, EOFError, zlib.error, *broken_archive) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the download failed ({what}); run the same command again") from None
    except OSError as error:  # of kagglehub's cache
        raise OSError(error.errno, error.strerror or str(error), error.filename or get_cache_folder()) from None
    except ValueError as error:  # an archive that kagglehub cannot unpack, or a kaggle.json that it cannot read
        what = " ".join(str(error).split())
        if "credentials" in what:
            raise InputError(f"{what}; {TOKEN}") from None
        raise InputError(f"the download failed ({what}); run the same command again") from None


def _refusal(status):
    if status in (401, 403):
        return f"Kaggle refuses it ({status}): it is private, or wants your consent on its page, or your credentials: {TOKEN}"
    if status == 404:
        return "Kaggle knows no such dataset (404); check OWNER/DATASET in its address"
    return f"Kaggle answered {status}; try again later"
