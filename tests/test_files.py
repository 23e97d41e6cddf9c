import errno
import os

import pytest

from detector.files import atomic_write, is_junk, scan


@pytest.mark.parametrize("unique", [False, True])
def test_atomic_write_replaces_at_the_end(tmp_path, unique):
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic_write(path, suffix=".h5", unique=unique, sync=True) as temporary:
        temporary.write_text("new")
        assert (path.read_text(), list(scan(tmp_path)), temporary.suffix) == ("old", ["a.json"], ".h5")
        assert (str(os.getpid()) in temporary.name) is unique
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["a.json"])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_write_that_fails_changes_nothing(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["a.json"])


def test_atomic_write_reports_the_path_itself(tmp_path):
    with pytest.raises(FileNotFoundError) as error, atomic_write(tmp_path / "absent/a.json") as temporary:
        temporary.write_text("x")
    assert error.value.filename == str(tmp_path / "absent/a.json")
    with pytest.raises(OSError, match="No space") as full, atomic_write(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device", "source.json")
    assert full.value.filename == str(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError) as other, atomic_write(tmp_path / "a.json"):
        (tmp_path / "source.json").read_bytes()
    assert other.value.filename == str(tmp_path / "source.json")


def test_atomic_write_of_a_long_name(tmp_path):
    name = "é" * 120 + ".csv"
    with atomic_write(tmp_path / name, suffix=".weights.h5", unique=True) as temporary:
        temporary.touch()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", [
    ".DS_Store", "._a.jpg", "Icon\r", "__MACOSX", "Thumbs.db", "ehthumbs.db", "Desktop.ini", "$RECYCLE.BIN", "@eaDir",
    "SYNOPHOTO_THUMB_XL.jpg", "#recycle", ".@__thumb", ".picasa.ini", "ZbThumbnail.info", "Catalog Previews.lrdata", ".Trash-1000",
])  # fmt: skip
def test_litter(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thumbnail.jpg").touch()
    (tmp_path / "a.jpg").touch()
    ignored = []
    assert is_junk(name) and list(scan(tmp_path, ignored=ignored)) == ["a.jpg"] and ignored == [os.path.join(tmp_path, name)]


@pytest.mark.parametrize("name", ["thumbs.jpg", "recycle", "icon.png", "original", "temporary", "trash"])
def test_what_is_no_litter(name):
    assert not is_junk(name)
