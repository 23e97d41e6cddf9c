import os
import zipfile

import pytest

import data_unzipper
import data_zipper
from data_zipper import main
from detector.data.archive import RECORD

FILES = {
    "Fake/b.png": b"\x89PNG\r\n\x1a\n" + bytes(3000), "Fake/a.jpg": b"\xff\xd8\xff" + bytes(3000), "Real/é ß.webp": b"RIFF0000WEBP",
    "notes.txt": b"a long text " * 1000, "Real/empty.txt": b"",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "data", FILES)


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_pack(run, tmp_path, folder):
    code, out, err = run(main, folder, tmp_path / "x.zip")
    assert (code, err) == (0, "")
    size = (tmp_path / "x.zip").stat().st_size
    assert out == (
        f"{tmp_path}/x.zip: 5 files, 18.0 kB packed into {size / 1000:.1f} kB, read back and compared\n"
        "folder  files\n(top)       1\nFake        2\nReal        2\n"
    )
    with zipfile.ZipFile(tmp_path / "x.zip") as file:
        assert [(info.filename, info.compress_type) for info in file.infolist()] == [
            ("Fake/a.jpg", 0), ("Fake/b.png", 0), ("Real/empty.txt", 8), ("Real/é ß.webp", 0), ("notes.txt", 8),
        ]  # fmt: skip
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in file.infolist()} == {0o100644}
        assert {info.extra for info in file.infolist()} == {b""}
        assert file.testzip() is None
    assert sorted(os.listdir(tmp_path)) == ["data", "x.zip"]


def test_the_same_folder_gives_the_same_bytes_and_comes_back(run, tmp_path, folder, contents):
    assert run(main, folder, tmp_path / "one.zip")[0] == 0
    for name, content in reversed(FILES.items()):  # another order on the disk, other times, other permissions
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o700)
        os.utime(path, (10**9, 10**9))
    write(tmp_path / "copy", dict.fromkeys((RECORD, "Fake/Thumbs.db", "__MACOSX/._a.jpg", "Real/c.jpg.part", ".hidden/x"), b""))
    assert f": 5 entries (.hidden, {RECORD}, Fake/Thumbs.db, ...)\n" in run(main, tmp_path / "copy", tmp_path / "two.zip")[1]
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert run(data_unzipper.main, tmp_path / "one.zip", "--to", tmp_path / "raw")[0] == 0
    found = contents(tmp_path / "raw/one")
    assert found.pop(RECORD) and found == FILES


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_other_systems_cannot_unpack(run, tmp_path):
    folder = write(tmp_path / "data", {"a\\b.jpg": b"x", "c.jpg": b"x"})
    code, _, err = run(main, folder, tmp_path / "x.zip")
    assert code == 1 and err.startswith(f"error: {folder}: the name a\\b.jpg holds a backslash or is not UTF-8")
    assert os.listdir(tmp_path) == ["data"]


def test_what_is_refused(run, tmp_path, folder):
    def fails(line, *arguments):
        assert run(main, *arguments) == (1, "", f"error: {line}\n")

    archive = tmp_path / "x.zip"
    archive.write_bytes(b"mine")
    fails(f"{archive}: it exists; --overwrite replaces it", folder, archive)
    assert archive.read_bytes() == b"mine"
    assert run(main, folder, archive, "--overwrite")[0] == 0
    assert zipfile.is_zipfile(archive)
    fails(f"{folder}/y.zip is inside {folder}, so it would contain itself; write it elsewhere", folder, folder / "y.zip")
    expected = f"{tmp_path}/no/y.zip: expected a folder to write to, found no {tmp_path}/no; make it first"
    fails(expected, folder, tmp_path / "no/y.zip")
    (tmp_path / "f.zip").mkdir()
    fails(f"{tmp_path}/f.zip: a folder of that name is there", folder, tmp_path / "f.zip", "--overwrite")
    fails(f"{tmp_path}/absent: expected a folder with files, found nothing of that name; check the path",
          tmp_path / "absent", tmp_path / "y.zip")  # fmt: skip
    (tmp_path / "empty/inside").mkdir(parents=True)
    (tmp_path / "empty/.DS_Store").touch()
    fails(f"{tmp_path}/empty: expected files to pack, found none", tmp_path / "empty", tmp_path / "y.zip")
    code, _, err = run(main, folder, tmp_path / "y.tar")
    assert code == 2 and err.endswith(f"error: expected a name that ends in .zip, received {tmp_path}/y.tar\n")


def test_a_disk_that_writes_something_else(run, tmp_path, folder, monkeypatch):
    """What is read back is compared: an archive that does not hold the folder never gets its name."""
    pack = data_zipper.pack

    def spoil(folder, paths, unfinished):
        result = pack(folder, paths, unfinished)
        data = bytearray(unfinished.read_bytes())
        data[data.index(b"\xff\xd8\xff") + 10] ^= 1
        unfinished.write_bytes(data)
        return result

    monkeypatch.setattr(data_zipper, "pack", spoil)
    code, out, err = run(main, folder, tmp_path / "x.zip")
    assert (code, out) == (1, "") and err.endswith("differs from the folder; is the disk sound?\n")
    assert os.listdir(tmp_path) == ["data"]
