"""Trust list: the root certificates of trusted C2PA signers, remembered in the user's configuration folder once given.

The official list is C2PA-TRUST-LIST.pem of github.com/c2pa-org/conformance-public; c2pa-python includes none.
"""

import datetime
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from detector.console import InputError
from detector.files import atomic_write

INSTALL = "run: pip install -r requirements-app.txt (c2pa-python supports Linux with glibc, macOS and Windows on x86-64 and ARM)"
FORGET = "none"  # in place of a path


def remember_trust_list(path: str | os.PathLike) -> Path | None:
    """Store a copy of a trust list for later runs and return the copy's path; "none" removes the copy and returns None.

    The copy keeps the file's modification time, the only date of a trust list. If the configuration folder cannot be written
    to, `path` itself is returned and a line on stderr says so.

    Raises:
        InputError: the file is not a valid trust list, or c2pa-python is not installed.
    """
    stored = _stored()
    if os.fspath(path) == FORGET:
        stored.unlink(missing_ok=True)
        return None
    check_trust_list(path)
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(stored, unique=True) as temporary:
            shutil.copy2(path, temporary)
    except OSError as error:
        print(f"{stored}: {error.strerror}; the trust list is used for this run only", file=sys.stderr)
        return Path(path)
    return stored


def remembered_trust_list() -> Path | None:
    """Return the path of the stored trust list, or None."""
    stored = _stored()
    return stored if stored.exists() and find_spec("c2pa") else None


def trust_list_date(path: str | os.PathLike) -> str:
    """Return the date of a trust list, its modification time in UTC, as "2025-11-27"."""
    return datetime.datetime.fromtimestamp(Path(path).stat().st_mtime, datetime.UTC).date().isoformat()


def check_trust_list(path: str | os.PathLike) -> None:
    """Raise InputError unless all certificates in a PEM file are valid and c2pa-python is installed.

    c2pa-python takes a file without certificates for an empty list, and reads no manifest if one certificate is damaged.
    """
    if not Path(path).is_file():
        found = "a folder" if Path(path).is_dir() else "no such file"
        raise InputError(f"{path}: expected a trust list (certificates in PEM), found {found}; check the path")
    import ssl  # here, since the app starts faster without

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as error:
        found = "a damaged certificate or another kind of file" if isinstance(error, ssl.SSLError) else str(error.strerror)
        raise InputError(f"{path}: expected a trust list (certificates in PEM), found {found}; download the list again") from None
    if find_spec("c2pa") is None:
        raise InputError(f"{path}: a trust list needs the package c2pa-python, which is not installed; {INSTALL}")


def _stored():
    from platformdirs import user_config_path

    return user_config_path("real-or-fake-detector", appauthor=False) / "c2pa-trust-list.pem"
