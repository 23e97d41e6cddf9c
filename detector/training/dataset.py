"""The images of a data tree: an index, and a cache of decoded images.

Both are kept in the data folder, in `.decoded/`, and reused until a file changes. That folder may be deleted at any time.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL

from detector.console import InputError
from detector.files import UNFINISHED, atomic_write, parallel, read_bytes
from detector.images import pixels
from detector.images.guard import one_file

STORE = ".decoded"  # hidden: no stage takes it for images
FORMAT = 3  # raise it if images are decoded or resized differently
MAX_DISK_FRACTION = 0.5  # of the free space, for the images of one split
SHAPE_BYTES = 8  # before each cached image: its height and width


@dataclass
class Split:
    """The images of one split.

    Attributes:
        data: folder that the paths are relative to.
        paths: list of n relative POSIX paths.
        labels: list of n labels, 0 for Fake and 1 for Real.
        digests: (n, 32) uint8, the SHA-256 of each file's bytes; zeros where it could not be read or decoded.
        sizes: (n, 2) int32, (width, height) in pixels from the header; zeros where it is no image.
        state: changes when a file is changed, added, removed or renamed, or with other decoders.
    """

    data: Path
    paths: list
    labels: list
    digests: np.ndarray
    sizes: np.ndarray
    state: str

    def sources(self) -> list:
        """Return the source of each image: the folder below its class folder, or '' for a file directly in it."""
        parts = [path.split("/") for path in self.paths]
        return [names[2] if len(names) > 3 else "" for names in parts]


def index_split(data: Path, split: str, paths: list, labels: list) -> Split:
    """Return the Split of images of a data tree; unchanged files are not read again. Raises InputError if none is an image."""
    data, state = Path(data), _state(data, paths)
    file = data / STORE / f"{split}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(file) as kept:
        if str(kept["state"]) == state:
            return Split(data, paths, labels, kept["digests"], kept["sizes"], state)
    found = parallel(functools.partial(_look, os.fspath(data)), paths)
    digests = np.frombuffer(b"".join(digest for digest, _ in found), np.uint8).reshape(-1, 32)
    sizes = np.array([size for _, size in found], np.int32).reshape(-1, 2)
    if not sizes.any():
        raise InputError(f"{data / paths[0]}: expected images, found none that can be opened; run data_audit.py")
    with contextlib.suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        with atomic_write(file, unique=True) as temporary, temporary.open("wb") as handle:
            np.savez(handle, state=state, digests=digests, sizes=sizes)
    return Split(data, paths, labels, digests, sizes, state)


def _state(data, paths):
    digest = hashlib.sha256(f"{FORMAT} {PIL.__version__} {find_spec('pillow_heif') is not None}".encode())
    for path in paths:
        found = os.stat(os.path.join(data, path))
        digest.update(os.fsencode(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n"))
    return digest.hexdigest()


def _look(data, path):
    """Return (SHA-256, (width, height)), zeros if unreadable: decoding reports the reason."""
    try:
        content = read_bytes(os.path.join(data, path))
        return hashlib.sha256(content).digest(), pixels.image_size(content)
    except (InputError, OSError):
        return bytes(32), (0, 0)


class DecodedImages:
    """The decoded images of a Split, resized to the network's input or whole, from the image files or from one cache file.

    The cache file is read at random rather than mapped into memory, so that a process's memory does not grow with the data set.

    Args:
        size: side of the network's input, in pixels; None for whole images, as they are.
        keep: decode every image once, now, and keep the result in the data folder; if that is impossible (not enough space, a
            read-only folder), images are decoded each time they are needed.

    Attributes:
        unreadable: {path: reason} of the images that could not be read so far.
        file: path of the cache file, or None.
    """

    def __init__(self, split, size, keep=True):
        self.split, self.size = split, size
        self.unreadable, self.file = {}, None
        if keep:
            self._keep()

    def _keep(self):
        splits = "-".join(sorted({path.split("/")[0] for path in self.split.paths}))
        store, prefix = self.split.data / STORE, f"{splits}-{f'{self.size}px' if self.size else 'whole'}-"
        # part of the name, so that images cached in another way or of another state are never mistaken for these
        made_of = hashlib.sha256(self.split.state.encode()).hexdigest()
        file = store / f"{prefix}{made_of[:16]}.rgb"
        notes = file.with_suffix(".json")
        with contextlib.suppress(OSError, ValueError):
            self.unreadable = json.loads(notes.read_text("utf-8"))
            if file.stat().st_size == self._ends[-1]:
                self.file = file
                return
        self.unreadable = {}
        try:
            store.mkdir(exist_ok=True)
            if self._ends[-1] > MAX_DISK_FRACTION * shutil.disk_usage(store).free:
                return
            self._decode_all(file)
            with atomic_write(notes, unique=True) as temporary:
                temporary.write_text(json.dumps(self.unreadable), "utf-8")
            self.file = file
        except OSError:
            self.unreadable = {}
        self._remove_old(store, prefix, file.stem)

    def _remove_old(self, store, prefix, stem):
        """Remove caches of other states, and unfinished ones older than a day; another run may be writing the rest."""
        for old in (*store.glob(f"{prefix}*"), *store.glob(f".{prefix}*")):
            with contextlib.suppress(OSError):
                if old.suffix == UNFINISHED:
                    if time.time() - old.stat().st_mtime > 86_400:
                        old.unlink()
                elif old.stem != stem:
                    old.unlink()

    @functools.cached_property
    def _ends(self):
        """(n,) int64, offset in the file at which each image ends; its height and width precede it."""
        sizes = np.full_like(self.split.sizes, self.size) if self.size else self.split.sizes
        return np.cumsum(SHAPE_BYTES + 3 * sizes.astype(np.int64).prod(axis=1))

    def _place(self, i):
        """Return (offset, number of bytes) of an image in the file."""
        start = int(self._ends[i - 1]) if i else 0
        return start, int(self._ends[i]) - start

    def _decode_all(self, file):
        # unique: several machines may share the folder; sync: the size proves nothing, since it is all there from the start
        with atomic_write(file, unique=True, sync=True) as temporary:
            with temporary.open("wb") as handle:
                handle.truncate(int(self._ends[-1]))
            work = functools.partial(_decode, os.fspath(self.split.data), os.fspath(temporary), self.size)
            said = parallel(work, [(path, *self._place(i)) for i, path in enumerate(self.split.paths)])
        self.unreadable = {path: why for path, why in zip(self.split.paths, said, strict=True) if why}

    def read(self, indices):
        """Return (list of (size, size, 3) or (h, w, 3) uint8 arrays, their indices) of the readable images."""
        if file := self.file:
            there = [i for i in indices if self.split.paths[i] not in self.unreadable]
            try:
                return self._read_kept(file, there), there
            except (OSError, ValueError):
                self.file = None  # the cache was deleted or truncated: read the image files
        images, readable = [], []
        for i in indices:
            try:
                images.append(_read(os.path.join(self.split.data, self.split.paths[i]), self.size))
                readable.append(i)
            except InputError as error:
                self.unreadable[self.split.paths[i]] = str(error)
        return images, readable

    def _read_kept(self, file, indices):
        images = []
        with open(file, "rb", buffering=0) as handle:
            for i in indices:
                start, length = self._place(i)
                handle.seek(start)
                content = handle.read(length)
                height, width = np.frombuffer(content, "<i4", 2)
                images.append(np.frombuffer(content, np.uint8, offset=SHAPE_BYTES).reshape(height, width, 3))
        return images


def _read(path, size):
    with one_file(path):
        return pixels.read_resized(path, size) if size else pixels.read_image(path)


def _decode(data, file, size, placed):
    """Write one decoded image to its place in a file; return None, or the reason why it cannot be read."""
    path, start, length = placed
    try:
        image = _read(os.path.join(data, path), size)
    except InputError as error:
        return str(error)
    content = np.array(image.shape[:2], "<i4").tobytes() + image.tobytes()  # a file's header may have the sides swapped
    if len(content) != length:
        return f"{os.path.join(data, path)}: expected as many pixels as its header tells, found others; leave it out"
    with open(file, "r+b", buffering=0) as handle:
        handle.seek(start)
        handle.write(content)
    return None
