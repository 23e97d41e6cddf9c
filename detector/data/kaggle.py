"""Data sets of Kaggle, downloaded by kagglehub into its cache."""

import contextlib
import os
import sys
import zlib
from pathlib import Path

from detector.console import InputError
from detector.data.archive import JUNK, LINKS, Extraction, check_size, in_litter
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
    for file in sorted(Path(folder).rglob("*")):  # sorted: the same report on every disk
        path = file.relative_to(folder).as_posix()
        if file.is_symlink():
            result.skipped[LINKS].append(path)
        elif file.is_file() and in_litter(path):
            result.skipped[JUNK].append(path)
        elif file.is_file():
            found.append((file, path))
    size = sum(file.stat().st_size for file, _ in found)
    check_size(size, size, max_size)  # kagglehub has removed the archive, so that its ratio is unknown
    for file, path in found:
        place(file, os.path.join(root, path), "hardlink")
        result.files += 1
    return result


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
    except ImportError:
        raise InputError("downloading needs kagglehub: pip install kagglehub") from None
    logging.getLogger("kagglehub").setLevel(logging.WARNING)
    # stdout is for results; and off a terminal, its bar would be printed line by line
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    damaged = exceptions.DataCorruptionError, zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error
    try:
        with contextlib.redirect_stdout(sys.stderr), quiet:
            return kagglehub.dataset_download(source.removeprefix("kaggle:"))
    except exceptions.KaggleApiHTTPError as error:
        reasons = "no such dataset, or it is private, or wants your consent on its page, or your credentials"
        raise InputError(f"Kaggle refuses it ({error.response.status_code}): {reasons}: {TOKEN}") from None
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout):
        raise InputError("Kaggle cannot be reached; check the network, or give an archive fetched elsewhere") from None
    except (exceptions.UnauthenticatedError, exceptions.CredentialError):
        raise InputError(f"Kaggle wants credentials: {TOKEN}") from None
    except (requests.RequestException, *damaged, RuntimeError, ValueError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        cure = TOKEN if "credentials" in what else "run the same command again, or fetch the archive itself and give that"
        raise InputError(f"the download failed ({what}); {cure}") from None
