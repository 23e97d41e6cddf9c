import contextlib
import gzip
import io
import json
import os
import random
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import data_unzipper
from data_unzipper import main
from detector.data import archive as reading

ROOT = Path(__file__).parent.parent
PACKINGS = {"w": "plain.tar", "w:gz": "set.tar.gz", "w:bz2": "set.tbz2", "w:xz": "set.tar.xz"}
TREE = {f"{split}/{name}/{i}.jpg": b"\xff\xd8\xff" + f"{split} {name} {i}".encode() * (i * 40 + 1)
        for split in ("train", "test") for name in ("FAKE", "REAL") for i in range(8)}  # fmt: skip


def make_zip(path, contents, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return path


def add_to_tar(file, name, content=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    file.addfile(info, io.BytesIO(content))


def make_tar(path, contents, mode="w"):
    with tarfile.open(path, mode) as file:
        for name, content in contents.items():
            add_to_tar(file, name, content)
    return path


def refused(run, tmp_path, path, message, *options):
    """The archive is refused with exactly this line, and nothing at all is written."""
    code, out, err = run(main, path, "--to", tmp_path / "raw", *options)
    assert (code, out, err) == (1, "", f"error: {path}: {message}\n")
    assert not (tmp_path / "raw").exists() or not list((tmp_path / "raw").iterdir())


COUNTS = (
    "       Fake  Real  total\n"
    "train     8     8     16\n"
    "test      8     8     16\n"
)  # fmt: skip


@pytest.mark.parametrize("mode", PACKINGS)
def test_tar(run, tmp_path, contents, mode):
    path = make_tar(tmp_path / PACKINGS[mode], TREE, mode)
    name = PACKINGS[mode].split(".")[0]
    code, out, err = run(main, path, "--to", tmp_path / "raw")
    assert (code, out, err) == (0, f"{tmp_path}/raw/{name}: 32 files extracted, 0 already there\n{COUNTS}", "")
    assert contents(tmp_path / "raw") == {f"{name}/{key}": value for key, value in TREE.items()}
    code, out, err = run(main, path, "--to", tmp_path / "raw")
    assert (code, out, err) == (0, f"{tmp_path}/raw/{name}: 0 files extracted, 32 already there\n{COUNTS}", "")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip(run, tmp_path, contents, method):
    path = make_zip(tmp_path / "set.zip", TREE, method)
    where = tmp_path / "raw/set"
    assert run(main, path, "--to", tmp_path / "raw") == (0, f"{where}: 32 files extracted, 0 already there\n{COUNTS}", "")
    assert contents(where) == TREE
    (tmp_path / "raw/set/test/REAL/3.jpg").unlink()
    assert run(main, path, "--to", tmp_path / "raw") == (0, f"{where}: 1 file extracted, 31 already there\n{COUNTS}", "")
    assert contents(tmp_path / "raw/set") == TREE


def test_a_process_of_its_own_unpacks(run, tmp_path, contents, monkeypatch):
    monkeypatch.setattr(reading, "OWN_PROCESS", 0)
    path, where = make_tar(tmp_path / "set.tar.xz", TREE, "w:xz"), tmp_path / "raw/set"
    assert run(main, path, "--to", tmp_path / "raw") == (0, f"{where}: 32 files extracted, 0 already there\n{COUNTS}", "")
    assert contents(where) == TREE
    make_tar(path, {"../x.jpg": b"x"} | {f"{i}.jpg": random.Random(i).randbytes(100_000) for i in range(30)}, "w:xz")
    refused(run, tmp_path / "else", path, "the entry ../x.jpg leads out of its folder by '..'")
    monkeypatch.setattr(reading, "_CHILD", "import sys; sys.exit('it cannot be')")
    line = f"error: {path}: it cannot be\n"
    assert run(main, path, "--to", tmp_path / "else/raw") == (1, "", line)


def test_a_process_of_its_own_where_pipes_may_not_grow(run, tmp_path, contents, monkeypatch):
    """Linux refuses a larger pipe to a user who has many: the smaller one does."""
    fcntl = pytest.importorskip("fcntl", reason="Windows knows no fcntl")

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(reading, "OWN_PROCESS", 0)
    assert run(main, make_tar(tmp_path / "set.tgz", TREE, "w:gz"), "--to", tmp_path / "raw")[0] == 0
    assert contents(tmp_path / "raw/set") == TREE


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGKILL")
def test_killed_while_another_process_unpacks(tmp_path, contents):
    tree = {f"train/{'FAKE' if i % 2 else 'REAL'}/{i}.jpg": random.Random(i).randbytes(3000) for i in range(2500)}
    path = make_tar(tmp_path / "set.tar.xz", tree, "w:xz")
    assert path.stat().st_size > reading.OWN_PROCESS
    command = [sys.executable, str(ROOT / "data_unzipper.py"), str(path), "--to", str(tmp_path / "raw")]
    for moment in (0.2, 0.3, 0.4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        process.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert contents(tmp_path / "raw") == {f"set/{key}": value for key, value in tree.items()}


def test_zstandard(run, tmp_path, contents):
    zstandard = pytest.importorskip("zstandard", reason="no Zstandard library is installed")
    plain = make_tar(tmp_path / "plain.tar", TREE)
    path = tmp_path / "set.tar.zst"
    path.write_bytes(zstandard.compress(plain.read_bytes()))
    assert run(main, path, "--to", tmp_path / "raw")[0] == 0
    assert contents(tmp_path / "raw/set") == TREE


def test_zstandard_without_the_library(run, tmp_path, monkeypatch):
    for module in ("zstandard", "compression", "compression.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / "set.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))
    refused(run, tmp_path, path, "it is packed with Zstandard; install what unpacks it: pip install zstandard")


def test_several_archives_recognised_by_content(run, tmp_path, contents):
    one = make_zip(tmp_path / "one.tar.xz", {"ai/a.png": b"1", "human/b.png": b"2", "notes/x.txt": b"3"})
    two = make_tar(tmp_path / "two.zip", {"a.png": b"1"}, "w:xz")
    none = tmp_path / "none.zip"
    none.write_bytes(b"no archive at all" * 40)
    code, out, err = run(main, one, none, two, "--to", tmp_path / "raw")
    assert out == (
        f"{tmp_path}/raw/one: 3 files extracted, 0 already there\n"
        "          Fake  Real  total\nno split     1     1      2\n"
        "other folders  files\nnotes              1\n"
        f"{tmp_path}/raw/two: 1 file extracted, 0 already there\n"
        "folder  files\n(top)       1\n"
    )
    expected = "expected a zip or a tar (plain, gz, bz2, xz, zst); its content is none of them"
    assert (code, err) == (1, f"error: {none}: {expected}\n")
    assert set(contents(tmp_path / "raw")) == {"one/ai/a.png", "one/human/b.png", "one/notes/x.txt", "two/a.png"}


def test_archives_of_one_name(run, tmp_path):
    one, two = make_zip(tmp_path / "set.zip", TREE), make_tar(tmp_path / "Set.tar", TREE)
    line = f"error: {one} and {two} would both be unpacked into Set; give them in two calls, with another --to\n"
    assert run(main, one, two, "--to", tmp_path / "raw") == (1, "", line)


def test_what_is_no_archive(run, tmp_path):
    refused(run, tmp_path, tmp_path / "absent.zip", "expected an archive, found nothing of that name; check the path")
    (tmp_path / "folder").mkdir()
    refused(run, tmp_path, tmp_path / "folder", "expected an archive, found a folder; check the path")
    (tmp_path / "empty.zip").touch()
    refused(run, tmp_path, tmp_path / "empty.zip", "expected a zip or a tar (plain, gz, bz2, xz, zst); its content is none of them")
    refused(run, tmp_path, make_zip(tmp_path / "void.zip", {}), "it holds no files")
    refused(run, tmp_path, make_tar(tmp_path / "void.tar", {}), "it holds no files")
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"a single text" * 100))
    refused(run, tmp_path, tmp_path / "text.gz", "the archive itself: a header is damaged; fetch it again")
    assert run(main, tmp_path / "..zip", "--to", tmp_path) == (
        1, "", f"error: {tmp_path}/..zip: no folder can have the name of this archive; rename it\n")  # fmt: skip


def test_litter_is_left_out(run, tmp_path, contents):
    litter = {"__MACOSX/train/._0.jpg": b"x", "train/.DS_Store": b"x", "test/Thumbs.db": b"x", "train/FAKE/._0.jpg": b"x"}
    for path in (make_zip(tmp_path / "a.zip", TREE | litter), make_tar(tmp_path / "b.tar", litter | TREE)):
        name = path.stem
        out = f"{tmp_path}/raw/{name}: 32 files extracted, 0 already there, 4 junk files left out\n{COUNTS}"
        assert run(main, path, "--to", tmp_path / "raw") == (0, out, "")
        assert contents(tmp_path / "raw" / name) == TREE


UNSAFE = {
    "../x.jpg": "the entry ../x.jpg leads out of its folder by '..'",
    "a/../../x.jpg": "the entry a/../../x.jpg leads out of its folder by '..'",
    "/tmp/x.jpg": "the entry /tmp/x.jpg has an absolute path",
    "C:/x.jpg": "the entry C:/x.jpg has an absolute path",
    "..\\x.jpg": "the entry ..\\x.jpg leads out of its folder by '..'",
    "TRAIN/FAKE/9.jpg": "the folders train and TRAIN are one, upper and lower case ignored",
    "train/FAKE/0.JPG": "two entries are called train/FAKE/0.JPG, upper and lower case ignored: one would overwrite the other",
    "train/FAKE/0.jpg/x": "train/FAKE/0.jpg is both a file and a folder",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_are_refused(run, tmp_path, name):
    refused(run, tmp_path, make_tar(tmp_path / "set.tar", TREE | {name: b"x"}), UNSAFE[name])
    refused(run, tmp_path, make_zip(tmp_path / "set.zip", TREE | {name: b"x"}), UNSAFE[name])
    assert not (tmp_path / "x.jpg").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows answers otherwise")
@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "/0.jpg"])
def test_a_name_too_long_for_the_disk(run, tmp_path, name):
    for path in (make_tar(tmp_path / "set.tar", TREE | {name: b"x"}), make_zip(tmp_path / "set.zip", TREE | {name: b"x"})):
        code, out, err = run(main, path, "--to", tmp_path / "raw")
        assert (code, out, os.listdir(tmp_path / "raw")) == (1, "", [])
        assert err.startswith(f"error: {path}: {tmp_path}/raw/.set.unfinished/xxx")
        assert err.endswith("x: longer than this disk takes; pack it under a shorter name, or unpack it elsewhere with --to\n")


def test_a_refused_tar_leaves_a_finished_folder_alone(run, tmp_path, contents):
    assert run(main, make_tar(tmp_path / "set.tar", TREE), "--to", tmp_path / "raw")[0] == 0
    path = make_tar(tmp_path / "set.tar", {"../x.jpg": b"x"} | TREE)
    line = f"error: {path}: the entry ../x.jpg leads out of its folder by '..'\n"
    assert run(main, path, "--to", tmp_path / "raw") == (1, "", line)
    assert contents(tmp_path / "raw/set") == TREE


@pytest.mark.parametrize(
    ("kind", "link", "message"),
    [
        (tarfile.SYMTYPE, "../../../etc", "the link train/l leads out of its folder, to ../../../etc"),
        (tarfile.SYMTYPE, "/etc/passwd", "the link train/l leads out of its folder, to /etc/passwd"),
        (tarfile.LNKTYPE, "../x", "the link train/l leads out of its folder, to ../x"),
        (tarfile.CHRTYPE, "", "the entry train/l is a device or a pipe"),
        (tarfile.BLKTYPE, "", "the entry train/l is a device or a pipe"),
        (tarfile.FIFOTYPE, "", "the entry train/l is a device or a pipe"),
        (tarfile.GNUTYPE_SPARSE, "", "the entry train/l is a sparse file; pack the folder anew, without --sparse"),
        (b"Q", "", "the entry train/l is of the unknown type b'Q'; pack the folder anew"),
    ],
)
def test_tar_entries_that_are_refused(run, tmp_path, kind, link, message):
    with tarfile.open(tmp_path / "set.tar", "w") as file:
        add_to_tar(file, "train/FAKE/0.jpg", b"x")
        add_to_tar(file, "train/l", kind=kind, link=link)
    refused(run, tmp_path, tmp_path / "set.tar", message)


def test_nothing_is_written_through_a_link(run, tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as file:
        add_to_tar(file, "away", kind=tarfile.SYMTYPE, link="here")
        add_to_tar(file, "away/x.jpg", b"x")
    refused(run, tmp_path, tmp_path / "set.tar", "away is both a file and a folder")
    (tmp_path / "raw/set").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "raw/set/train").symlink_to(tmp_path / "elsewhere")
    path = make_zip(tmp_path / "set.zip", TREE)
    where = f"{tmp_path}/raw/set/train is no folder, the archive has one there; move it away"
    assert run(main, path, "--to", tmp_path / "raw") == (1, "", f"error: {path}: {where}\n")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_links_that_stay(run, tmp_path, contents):
    with tarfile.open(tmp_path / "set.tar", "w") as file:
        add_to_tar(file, "a/0.jpg", b"zero")
        add_to_tar(file, "b/1.jpg", kind=tarfile.LNKTYPE, link="a/0.jpg")
        add_to_tar(file, "b/2.jpg", kind=tarfile.SYMTYPE, link="../a/0.jpg")
        add_to_tar(file, "b/3.jpg", kind=tarfile.LNKTYPE, link="a/absent.jpg")
    code, out, err = run(main, tmp_path / "set.tar", "--to", tmp_path / "raw")
    assert (code, err) == (1, f"error: {tmp_path}/set.tar: 1 damaged entry: b/3.jpg\n")
    assert out == (
        f"{tmp_path}/raw/set: 2 files extracted, 0 already there, 1 symbolic link left out, 1 damaged\n"
        "folder  files\na           1\nb           1\n"
    )
    assert contents(tmp_path / "raw/set") == {"a/0.jpg": b"zero", "b/1.jpg": b"zero"}


def zip_with(path, name, mode, content=b"x"):
    with zipfile.ZipFile(path, "w") as file:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, mode << 16
        file.writestr("train/FAKE/0.jpg", b"x")
        file.writestr(info, content)
    return path


def test_zip_entries_that_are_refused(run, tmp_path):
    path = tmp_path / "set.zip"
    zip_with(path, "train/l", 0o120777, b"../../etc")
    refused(run, tmp_path, path, "the link train/l leads out of its folder, to ../../etc")
    zip_with(path, "train/l", 0o020666)
    refused(run, tmp_path, path, "the entry train/l is a device, a pipe or a socket")
    zip_with(path, "train/l", 0o120777, b"FAKE/0.jpg")
    code, out, _ = run(main, path, "--to", tmp_path / "raw")
    assert (code, out.splitlines()[0]) == (0, f"{tmp_path}/raw/set: 1 file extracted, 0 already there, 1 symbolic link left out")


def change_zip(path, name, at, value, fmt="<H"):
    """Change a field of an entry in the directory at the end of a zip."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02"))
    while data[start + 46 : start + 46 + len(name)] != name.encode():
        start = data.index(b"PK\x01\x02", start + 1)
    struct.pack_into(fmt, data, start + at, value)
    path.write_bytes(data)


def test_encrypted_and_unknown_entries(run, tmp_path):
    path = make_zip(tmp_path / "set.zip", TREE)
    change_zip(path, "train/REAL/2.jpg", 8, 1)
    refused(run, tmp_path, path, "the entry train/REAL/2.jpg is encrypted; unpack the archive with its password")
    make_zip(path, TREE)
    change_zip(path, "train/REAL/2.jpg", 10, 9)
    cure = "expected stored, deflate, bzip2 or lzma: pack it anew"
    refused(run, tmp_path, path, f"the entry train/REAL/2.jpg is compressed by method 9 (deflate64); {cure}")


def test_damaged_entries_are_named_and_the_others_extracted(run, tmp_path, contents):
    path = make_zip(tmp_path / "set.zip", TREE, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"train FAKE 3") + 4] ^= 1
    path.write_bytes(data)
    change_zip(path, "test/REAL/5.jpg", 42, 7, "<I")
    code, out, err = run(main, path, "--to", tmp_path / "raw")
    assert (code, err) == (1, f"error: {path}: 2 damaged entries: train/FAKE/3.jpg, test/REAL/5.jpg\n")
    assert out.startswith(f"{tmp_path}/raw/set: 30 files extracted, 0 already there, 2 damaged\n")
    assert contents(tmp_path / "raw/set") == {k: v for k, v in TREE.items() if k not in ("train/FAKE/3.jpg", "test/REAL/5.jpg")}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_noise_in_a_compressed_entry(run, tmp_path, contents, method):
    path = make_zip(tmp_path / "set.zip", {"a.jpg": random.Random(0).randbytes(5000), "b.jpg": b"b"}, method)
    data = bytearray(path.read_bytes())
    data[200:1200] = random.Random(1).randbytes(1000)
    path.write_bytes(data)
    code, _, err = run(main, path, "--to", tmp_path / "raw")
    assert (code, err) == (1, f"error: {path}: 1 damaged entry: a.jpg\n")
    assert contents(tmp_path / "raw/set") == {"b.jpg": b"b"}


def test_a_zip_cut_short(run, tmp_path):
    path = make_zip(tmp_path / "set.zip", TREE)
    path.write_bytes(path.read_bytes()[:-300])
    message = "a zip whose directory cannot be read (File is not a zip file): it is cut short or damaged; fetch it again"
    refused(run, tmp_path, path, message)


def test_a_tar_cut_short_and_then_fetched_again(run, tmp_path, contents):
    path = make_tar(tmp_path / "set.tar", TREE)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"train REAL 7") + 5])
    code, out, err = run(main, path, "--to", tmp_path / "raw")
    line = f"error: {path}: 1 damaged entry: the archive itself: it ends early, in train/REAL/7.jpg; fetch it again\n"
    assert (code, err) == (1, line)
    assert out.startswith(f"{tmp_path}/raw/set: 15 files extracted")
    path.write_bytes(whole)
    assert run(main, path, "--to", tmp_path / "raw")[0] == 0
    assert contents(tmp_path / "raw/set") == TREE


@pytest.mark.parametrize("own_process", [False, True])
@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_packed_tar_cut_short_or_damaged(run, tmp_path, monkeypatch, mode, own_process):
    monkeypatch.setattr(reading, "OWN_PROCESS", 0 if own_process else 1 << 30)
    tree = {f"{i}.jpg": random.Random(i).randbytes(20_000) for i in range(30)}
    path = make_tar(tmp_path / "set.tar", tree, mode)
    whole = path.read_bytes()
    for number, data in enumerate((whole[:-100_000], whole[:300_000] + bytes(500) + whole[300_500:])):
        path.write_bytes(data)
        code, _, err = run(main, path, "--to", tmp_path / f"raw{number}")
        assert code == 1
        assert err.startswith(f"error: {path}: ") and "the archive itself: " in err and err.endswith("; fetch it again\n")
        assert err.count("\n") == 1 and "Traceback" not in err


def test_bombs(run, tmp_path):
    path = make_zip(tmp_path / "set.zip", {"a.jpg": bytes(3_000_000), "b.jpg": b"b"})
    message = "it unpacks to more than 2.0 MB; if that is meant, allow it with --max-size"
    refused(run, tmp_path, path, message, "--max-size", "2MB")
    for mode in ("w:gz", "w:xz", "w"):
        path = make_tar(tmp_path / "set.tar", {"b.jpg": b"b", "a.jpg": bytes(3_000_000)}, mode)
        refused(run, tmp_path, path, message, "--max-size", "2MB")


def test_extreme_ratios(run, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "RATIO_FLOOR", 1_000_000)
    message = "it unpacks to more than 1,000 times its size: it looks like a bomb, not like images"
    path = make_zip(tmp_path / "set.zip", {f"{i}.jpg": bytes(10_000_000) for i in range(2)}, zipfile.ZIP_BZIP2)
    refused(run, tmp_path, path, message)
    for mode in ("w:bz2", "w:xz"):
        path = make_tar(tmp_path / "set.tar", {"a.jpg": b"a", "b.jpg": bytes(9_000_000)}, mode)
        refused(run, tmp_path, path, message)


def test_more_bytes_than_declared(run, tmp_path, contents):
    path = make_zip(tmp_path / "set.zip", {"a.jpg": bytes(1_000_000), "b.jpg": b"b"})
    change_zip(path, "a.jpg", 24, 10, "<I")
    change_zip(path, "a.jpg", 16, zlib.crc32(bytes(10)), "<I")
    code, _, err = run(main, path, "--to", tmp_path / "raw")
    assert (code, err) == (1, f"error: {path}: 1 damaged entry: a.jpg\n")
    assert contents(tmp_path / "raw/set") == {"b.jpg": b"b"}


def test_no_room(run, tmp_path, small_disk):
    disk, _ = small_disk
    tree = {f"{i}.jpg": random.Random(i).randbytes(100_000) for i in range(14)}
    tars = [make_tar(tmp_path / name, tree, mode) for name, mode in (("set.tar", "w"), ("set.txz", "w:xz"))]
    for path in (make_zip(tmp_path / "set.zip", tree), *tars):
        code, out, err = run(main, path, "--to", disk / "raw")
        assert (code, out, os.listdir(disk)) == (1, "", [])
        assert err.startswith(f"error: {path}: it needs 1.4 MB of disk, 1.0 MB are free in {disk}; free some room")


@pytest.mark.parametrize("own_process", [False, True])
@pytest.mark.parametrize("mode", ["gz", "bz2", "zst", "zip"])
def test_a_disk_that_fills_up_meanwhile(run, tmp_path, small_disk, contents, monkeypatch, mode, own_process):
    """What is packed so tells no size beforehand; of a zip, others may take the room. One line, no half set, then the whole."""
    monkeypatch.setattr(reading, "OWN_PROCESS", 0 if own_process else 1 << 30)
    disk, remount = small_disk
    tree = {f"{i}.jpg": random.Random(i).randbytes(1000) * 100 for i in range(14)}
    path = tmp_path / "set"
    if mode == "zip":
        make_zip(path, tree)
        monkeypatch.setattr(data_unzipper, "check_room", lambda *_: None)
    elif mode == "zst":
        zstandard = pytest.importorskip("zstandard", reason="no Zstandard library is installed")
        path.write_bytes(zstandard.compress(make_tar(tmp_path / "plain", tree).read_bytes()))
    else:
        make_tar(path, tree, f"w:{mode}")
    code, out, err = run(main, path, "--to", disk)
    cure = "No space left on device: free some room and run the same command again\n"
    assert (code, out) == (1, "") and err.startswith(f"error: {disk}/.set.unfinished/") and err.endswith(cure)
    assert os.listdir(disk) == [".set.unfinished"]
    kept = contents(disk / ".set.unfinished")
    assert kept and kept.items() <= tree.items()  # no file is there by half
    assert remount("size=3m")
    code, out, err = run(main, path, "--to", disk)
    assert (code, out.splitlines()[0], err) == (0, f"{disk}/set: {14 - len(kept)} files extracted, {len(kept)} already there", "")
    assert contents(disk) == {f"set/{name}": content for name, content in tree.items()}


def test_a_disk_that_fills_up_while_a_folder_is_completed(run, tmp_path, small_disk, contents):
    disk, _ = small_disk
    tree = {f"{i}.jpg": random.Random(i).randbytes(1000) * 100 for i in range(8)}
    path = make_tar(tmp_path / "set.tgz", tree, "w:gz")
    assert run(main, path, "--to", disk)[0] == 0
    (disk / "set/3.jpg").unlink()
    (disk / "other").write_bytes(bytes(260_000))
    code, out, err = run(main, path, "--to", disk)
    assert (code, out) == (1, "") and err.startswith(f"error: {disk}/set/3.jpg: No space left on device")
    assert contents(disk / "set") == {name: content for name, content in tree.items() if name != "3.jpg"}
    (disk / "other").unlink()
    assert run(main, path, "--to", disk)[0] == 0
    assert contents(disk / "set") == tree


def test_no_room_for_the_rest_keeps_what_a_killed_run_has_unpacked(run, tmp_path, small_disk, contents):
    disk, remount = small_disk
    tree = {f"{i}.jpg": random.Random(i).randbytes(100_000) for i in range(14)}
    (disk / ".set.unfinished").mkdir()
    (disk / ".set.unfinished/0.jpg").write_bytes(tree["0.jpg"])
    path = make_zip(tmp_path / "set.zip", tree)
    code, _, err = run(main, path, "--to", disk)
    assert code == 1 and "it needs 1.3 MB of disk" in err
    assert contents(disk) == {".set.unfinished/0.jpg": tree["0.jpg"]}
    assert remount("size=3m")
    assert "13 files extracted, 1 already there" in run(main, path, "--to", disk)[1]


def test_a_target_that_is_read_only(run, tmp_path, small_disk):
    disk, remount = small_disk
    assert remount("ro")
    for path in (make_zip(tmp_path / "set.zip", TREE), make_tar(tmp_path / "set.tar", TREE)):
        line = f"error: {disk}/.set.unfinished: Read-only file system: choose a folder that can be written to\n"
        assert run(main, path, "--to", disk) == (1, "", line)


def test_other_content_is_not_overwritten(run, tmp_path, contents):
    there = tmp_path / "raw/set/train/FAKE/5.jpg"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"my own")
    for path in (make_zip(tmp_path / "set.zip", TREE), make_tar(tmp_path / "set.tar", TREE)):
        what = f"{there}: another content of that name is there and is not overwritten; move {tmp_path}/raw/set away"
        assert run(main, path, "--to", tmp_path / "raw") == (1, "", f"error: {path}: {what}\n")
        assert there.read_bytes() == b"my own"
    there.write_bytes(TREE["train/FAKE/5.jpg"][:20])  # the beginning of it: cut short
    other = tmp_path / "other"
    os.link(there, other)
    assert run(main, tmp_path / "set.zip", "--to", tmp_path / "raw")[0] == 0
    assert contents(tmp_path / "raw/set") == TREE
    assert other.read_bytes() == TREE["train/FAKE/5.jpg"][:20]


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz", "large tar", "kaggle"])
def test_another_archive_of_the_same_name_is_not_mixed_in(run, tmp_path, contents, monkeypatch, request, kind):
    """One line and nothing written, whether no name is in both, some are, or the files there are the first of many."""
    if kind == "large tar":
        monkeypatch.setattr(data_unzipper, "WHOLE", 10)
    if kind == "kaggle":
        handler = request.getfixturevalue("kaggle")

    def unpack(place, tree):
        (tmp_path / place).mkdir()
        path = tmp_path / place / "set"
        if kind == "zip":
            make_zip(path, tree)
        elif kind == "kaggle":
            handler.packed, path = make_zip(path, tree).read_bytes(), f"kaggle:{place}/set"
        else:
            make_tar(path, tree, "w:gz" if kind == "tgz" else "w")
        return path, *run(main, path, "--to", tmp_path / "raw")

    mine = {f"train/FAKE/{i}.jpg": f"first {i} ".encode() * 20 for i in range(600)}
    assert unpack("a", mine)[1] == 0
    where = tmp_path / "raw/set"
    mixed = f"{where} holds 600 files that the archive does not (first: train/FAKE/0.jpg): of another data set?"
    cure = "Move it away, or your own files out of it, or choose another --to"
    path, *answer = unpack("b", {f"photo {i}.jpg": b"x" for i in range(600)})
    assert answer == [1, "", f"error: {path}: {mixed} {cure}\n"]
    path, *answer = unpack("c", mine | {f"train/FAKE/{i}.jpg": b"another" * 30 for i in range(599, 900)})
    clash = f"{where}/train/FAKE/599.jpg: another content of that name is there and is not overwritten; move {where} away"
    assert answer == [1, "", f"error: {path}: {clash}\n"]
    assert contents(tmp_path / "raw") == {f"set/{name}": content for name, content in mine.items()}


def test_files_of_ones_own_in_the_folder(run, tmp_path, contents):
    path, where = make_tar(tmp_path / "set.tar", TREE), tmp_path / "raw/set"
    assert run(main, path, "--to", tmp_path / "raw")[0] == 0
    (where / ".DS_Store").write_bytes(b"x")
    (where / ".notes").write_bytes(b"x")
    (where / "train/FAKE/0.jpg").unlink()
    assert run(main, path, "--to", tmp_path / "raw") == (0, f"{where}: 1 file extracted, 31 already there\n{COUNTS}", "")
    (where / "train/FAKE/0.jpg").unlink()
    (where / "mine.txt").write_bytes(b"x")
    code, out, err = run(main, path, "--to", tmp_path / "raw")
    assert (code, out) == (1, "") and "holds 1 file that the archive does not (first: mine.txt)" in err
    assert not (where / "train/FAKE/0.jpg").exists()
    (where / "mine.txt").unlink()
    assert run(main, path, "--to", tmp_path / "raw")[0] == 0
    assert contents(where) == TREE | {".DS_Store": b"x", ".notes": b"x"}
    path.write_bytes(path.read_bytes()[:4000])
    code, out, err = run(main, path, "--to", tmp_path / "raw")
    assert (code, out) == (1, "") and err.startswith(f"error: {path}: damaged: the archive itself: it ends early")
    assert contents(where) == TREE | {".DS_Store": b"x", ".notes": b"x"}


def test_links_are_completed_in_place(run, tmp_path, contents):
    with tarfile.open(tmp_path / "set.tar", "w") as file:
        add_to_tar(file, "a/0.jpg", b"zero")
        add_to_tar(file, "b/1.jpg", kind=tarfile.LNKTYPE, link="a/0.jpg")
    there = {"a/0.jpg": b"zero", "b/1.jpg": b"zero"}
    for gone in ([], ["b/1.jpg"], ["a/0.jpg"], list(there), []):
        for name in gone:
            (tmp_path / "raw/set" / name).unlink()
        assert run(main, tmp_path / "set.tar", "--to", tmp_path / "raw")[0] == 0
        assert contents(tmp_path / "raw/set") == there
    (tmp_path / "raw/set/a/0.jpg").unlink()
    (tmp_path / "raw/set/b/1.jpg").unlink()
    (tmp_path / "raw/set/b/1.jpg").write_bytes(b"my own")
    assert "another content of that name" in run(main, tmp_path / "set.tar", "--to", tmp_path / "raw")[2]
    assert (tmp_path / "raw/set/b/1.jpg").read_bytes() == b"my own"


def test_a_file_where_the_folder_should_be(run, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/set").touch()
    path = make_zip(tmp_path / "set.zip", TREE)
    assert run(main, path, "--to", tmp_path / "raw") == (1, "", f"error: {tmp_path}/raw/set is no folder; move it away\n")


def test_large_entries(run, tmp_path, contents, monkeypatch):
    """Above WHOLE bytes an entry goes in pieces: the same tree, the same answers."""
    monkeypatch.setattr(data_unzipper, "WHOLE", 100)
    tree = TREE | {"train/REAL/large.jpg": random.Random(0).randbytes(3_000_000)}
    for path in (make_zip(tmp_path / "a.zip", tree), make_tar(tmp_path / "b.tgz", tree, "w:gz")):
        assert run(main, path, "--to", tmp_path / "raw")[0] == 0
        assert contents(tmp_path / "raw" / path.stem) == tree
        code, out, _ = run(main, path, "--to", tmp_path / "raw")
        assert (code, out.splitlines()[0]) == (0, f"{tmp_path}/raw/{path.stem}: 0 files extracted, 33 already there")
        (tmp_path / "raw" / path.stem / "train/REAL/large.jpg").write_bytes(b"my own")
        assert "another content of that name" in run(main, path, "--to", tmp_path / "raw")[2]


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGKILL")
@pytest.mark.parametrize("name", ["set.zip", "set.tar.xz"])
def test_killed_three_times(tmp_path, contents, kill_three_times, name):
    path = make_zip(tmp_path / name, TREE) if name.endswith("zip") else make_tar(tmp_path / name, TREE, "w:xz")
    assert kill_three_times("data_unzipper.py", [path, "--to", tmp_path / "raw"], [path, "--to", tmp_path / "whole"]) == 0
    assert contents(tmp_path / "raw") == contents(tmp_path / "whole") == {f"set/{key}": value for key, value in TREE.items()}


@pytest.mark.parametrize("kind", ["zip", "tar", "large tar"])
def test_a_killed_run_of_another_archive_leaves_nothing_behind(run, tmp_path, contents, monkeypatch, kind):
    monkeypatch.setattr(data_unzipper, "WHOLE", 0 if kind == "large tar" else 1 << 20)
    rest = tmp_path / "raw/.set.unfinished"
    for name in ("test/FAKE", "train/REAL/0.jpg/1.jpg"):  # a file where a folder comes, a folder where a file comes
        (rest / name).parent.mkdir(parents=True, exist_ok=True)
        (rest / name).write_bytes(b"old")
    for name in ("old/1.jpg", "train/FAKE/0.jpg", "train/FAKE/old.jpg", f"train/FAKE/1.jpg.unpacking{data_unzipper.UNFINISHED}"):
        (rest / name).parent.mkdir(parents=True, exist_ok=True)
        (rest / name).write_bytes(b"old")
    path = make_zip(tmp_path / "set.zip", TREE) if kind == "zip" else make_tar(tmp_path / "set.tar", TREE)
    assert run(main, path, "--to", tmp_path / "raw")[0] == 0
    assert contents(tmp_path / "raw") == {f"set/{key}": value for key, value in TREE.items()}
    assert sorted(os.listdir(tmp_path / "raw/set")) == ["test", "train"]


def test_as_from_the_shell(tmp_path):
    path = make_zip(tmp_path / "set.zip", TREE)
    command = [sys.executable, str(ROOT / "data_unzipper.py"), str(path), "--to", str(tmp_path / "raw")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert subprocess.run([*command, "--max-size", "many"], capture_output=True).returncode == 2
    heavy = "import sys, data_unzipper; print([m for m in ('numpy', 'PIL', 'tqdm', 'tensorflow', 'kagglehub') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"


def test_a_large_entry_and_one_with_the_name_of_our_unfinished_file(run, tmp_path, contents):
    large = random.Random(0).randbytes(data_unzipper.WHOLE + 1)
    files = {"big.bin": large, "big.bin.unpacking.part": b"somebody's own", "small.txt": b"x"}
    assert run(main, make_zip(tmp_path / "set.zip", files), "--to", tmp_path / "raw")[0] == 0
    assert contents(tmp_path / "raw") == {f"set/{name}": content for name, content in files.items()}


def test_a_mistyped_path_keeps_what_was_unpacked_of_the_right_one(run, tmp_path):
    rest = tmp_path / "raw/.set.unfinished"
    rest.mkdir(parents=True)
    assert run(main, tmp_path / "nowhere/set.zip", "--to", tmp_path / "raw") == (
        1, "", f"error: {tmp_path}/nowhere/set.zip: expected an archive, found nothing of that name; check the path\n"
    )  # fmt: skip
    assert rest.is_dir()


@pytest.mark.parametrize("size", [b"zzzzzzzzzzz\0", b"-0000000001\0", b"\xff" * 12])
def test_a_tar_with_an_impossible_size_is_one_line(run, tmp_path, size):
    path = make_tar(tmp_path / "set.tar", {"a.jpg": b"x" * 600})
    content = bytearray(path.read_bytes())
    content[124:136] = size
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    code, _, err = run(main, path, "--to", tmp_path / "raw")
    assert code == 1 and err.count("\n") == 1 and "a header with an impossible size" in err


def test_an_entry_thousands_of_folders_deep_is_refused(run, tmp_path):
    path = make_tar(tmp_path / "set.tar", {"d/" * 1500 + "a.jpg": b"x"})
    code, _, err = run(main, path, "--to", tmp_path / "raw")
    assert code == 1 and "lies 1,501 folders deep; at most 100 are unpacked" in err
    assert not os.listdir(tmp_path / "raw") if (tmp_path / "raw").exists() else True


# --- kaggle ------------------------------------------------------------------------------------------------------------


class Kaggle(BaseHTTPRequestHandler):
    """Answers what kagglehub asks for; it is reached as a proxy, so the path is a whole address."""

    packed, seen, needs_token = b"", [], False

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self.seen.append((self.path.rsplit("/", 1)[1], asked, self.headers.get("Authorization")))
        if self.needs_token and self.headers.get("Authorization") != "Bearer secret":
            self.answer(401, b'{"code": 401, "message": "Unauthenticated"}')
        elif asked.get("datasetSlug") == "absent":
            self.answer(404, b'{"code": 404, "message": "Not found"}')
        elif self.path.endswith("/GetDataset"):
            self.answer(200, json.dumps({"currentVersionNumber": 3}).encode())
        else:
            self.answer(200, self.packed, "application/zip")

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    pytest.importorskip("kagglehub", reason="kagglehub is not installed")
    handler = type("Handler", (Kaggle,), {"seen": []})
    handler.packed = make_zip(tmp_path / "served", TREE | {"train/.DS_Store": b"x"}).read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")  # http instead of https
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home"))
    yield handler
    server.shutdown()
    server.server_close()


def test_kaggle(run, tmp_path, contents, kaggle):
    to = tmp_path / "raw"
    assert run(main, "kaggle:someone/fake-or-real", "--to", to) == (
        0, f"{to}/fake-or-real: 32 files extracted, 0 already there, 1 junk file left out\n{COUNTS}", "")  # fmt: skip
    assert contents(to) == {f"fake-or-real/{key}": value for key, value in TREE.items()}
    assert [(request, asked["ownerSlug"], asked["datasetSlug"]) for request, asked, _ in kaggle.seen] == [
        ("GetDataset", "someone", "fake-or-real"), ("DownloadDataset", "someone", "fake-or-real"),
    ]  # fmt: skip
    (to / "fake-or-real/train/FAKE/0.jpg").unlink()
    assert run(main, "kaggle:someone/fake-or-real", "--to", to) == (
        0, f"{to}/fake-or-real: 1 file extracted, 31 already there, 1 junk file left out\n{COUNTS}", "")  # fmt: skip
    assert [request for request, _, _ in kaggle.seen][2:] == ["GetDataset"]


TOKEN = (
    "make an API token at https://www.kaggle.com/settings/api and put it into the environment variable KAGGLE_API_TOKEN "
    "or the file ~/.kaggle/access_token"
)


def test_kaggle_with_and_without_credentials(run, tmp_path, kaggle, monkeypatch):
    kaggle.needs_token = True
    source = "kaggle:someone/private"
    what = "Kaggle refuses it (401): it is private, or wants your consent on its page, or your credentials"
    assert run(main, source, "--to", tmp_path / "raw") == (1, "", f"error: {source}: {what}: {TOKEN}\n")
    assert not (tmp_path / "raw").exists()
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    assert run(main, source, "--to", tmp_path / "raw")[0] == 0
    assert {authorization for _, _, authorization in kaggle.seen} == {None, "Bearer secret"}


def test_kaggle_failures(run, tmp_path, kaggle, monkeypatch):
    def fails(source, line):
        assert run(main, source, "--to", tmp_path / "raw") == (1, "", f"error: {source}: {line}\n")
        assert not (tmp_path / "raw").exists()

    fails("kaggle:someone/absent", "Kaggle knows no such dataset (404); check OWNER/DATASET in its address")
    fails("kaggle:someone", "expected kaggle:OWNER/DATASET, as in the address of the dataset")
    fails("kaggle:../x", "expected kaggle:OWNER/DATASET, as in the address of the dataset")
    kaggle.packed = b"no archive"
    fails("kaggle:someone/noise", "the download failed (Unsupported archive type.); run the same command again")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fails("kaggle:someone/else", "Kaggle cannot be reached; check the network, or give an archive fetched elsewhere")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/kaggle.json").write_text("{")
    fails("kaggle:someone/else", f"Invalid Kaggle credentials file at {tmp_path}/home/kaggle.json; {TOKEN}")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    fails("kaggle:someone/else", "downloading needs kagglehub: pip install kagglehub")


def served(kaggle, tmp_path, tree):
    kaggle.packed = make_zip(tmp_path / "served", tree).read_bytes()
    return f"kaggle:someone/{'x' * len(kaggle.seen)}set"  # another one each time: kagglehub keeps what it has fetched


def test_kaggle_is_checked_as_an_archive_is(run, tmp_path, kaggle):
    to = tmp_path / "raw"

    def fails(source, line, *options):
        assert run(main, source, "--to", to, *options) == (1, "", f"error: {source}: {line}\n")
        assert not to.exists()

    source = served(kaggle, tmp_path, {"a.jpg": bytes(3_000_000)})
    fails(source, "it unpacks to more than 2.0 MB; if that is meant, allow it with --max-size", "--max-size", "2MB")
    fails(served(kaggle, tmp_path, {}), "it holds no files")
    if not (tmp_path / "SERVED").exists():  # else kagglehub has kept one of the two only
        source = served(kaggle, tmp_path, {"a/1.jpg": b"1", "A/2.jpg": b"2"})
        fails(source, "the folders A and a are one, upper and lower case ignored")
    source = served(kaggle, tmp_path, TREE)
    change = make_zip(tmp_path / "encrypted", {"a.jpg": b"x"})
    change_zip(change, "a.jpg", 8, 1)
    kaggle.packed = change.read_bytes()
    code, out, err = run(main, source, "--to", to)
    assert (code, out) == (1, "") and err.startswith(f"error: {source}: kagglehub cannot unpack it (") and err.count("\n") == 1


def test_kaggle_names_that_windows_refuses(run, tmp_path, kaggle, monkeypatch):
    monkeypatch.setattr(reading, "safe_parts", lambda name, check=reading.safe_parts: check(name, windows=True))
    source = served(kaggle, tmp_path, {"con/a.jpg": b"x"})
    line = "the entry con has a name that Windows does not accept; unpack it on another system"
    assert run(main, source, "--to", tmp_path / "raw") == (1, "", f"error: {source}: {line}\n")
    assert not (tmp_path / "raw").exists()


def test_kaggle_links(run, tmp_path, contents, kaggle):
    source, to = served(kaggle, tmp_path, TREE), tmp_path / "raw"
    assert run(main, source, "--to", to)[0] == 0
    (cached,) = (tmp_path / "cache").rglob("train")
    (to / "set").rename(tmp_path / "away")
    (cached / "inside.jpg").symlink_to("FAKE/0.jpg")
    (cached / "folder").symlink_to("FAKE")
    code, out, err = run(main, source, "--to", to)
    assert (code, err) == (0, "") and "32 files extracted, 0 already there, 2 symbolic links left out\n" in out
    assert contents(to / "set") == TREE
    for points_to in ("/etc/passwd", "../../passwd"):
        (to / "set").rename(tmp_path / points_to.replace("/", "_"))
        (cached / "away").symlink_to(points_to)
        line = f"the link train/away leads out of its folder, to {points_to}"
        assert run(main, source, "--to", to) == (1, "", f"error: {source}: {line}\n")
        assert os.listdir(to) == []
        (cached / "away").unlink()
        assert run(main, source, "--to", to)[0] == 0


def test_kaggle_where_files_must_be_copied(run, tmp_path, small_disk, contents, kaggle):
    disk, remount = small_disk
    tree = {f"{i}.jpg": random.Random(i).randbytes(100_000) for i in range(14)}
    source = served(kaggle, tmp_path, tree)
    line = f"it needs 1.4 MB of disk, 1.0 MB are free in {disk}/raw; free some room"
    assert run(main, source, "--to", disk / "raw") == (1, "", f"error: {source}: {line}\n")
    assert contents(disk) == {}
    assert remount("size=3m")
    assert run(main, source, "--to", disk / "raw")[0] == 0
    assert contents(disk / "raw") == {f"set/{name}": content for name, content in tree.items()}


def test_kaggle_has_no_room_for_its_cache(run, tmp_path, small_disk, contents, kaggle, monkeypatch):
    disk, remount = small_disk
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(disk))
    tree = {f"{i}.jpg": random.Random(i).randbytes(100_000) for i in range(14)}
    source = served(kaggle, tmp_path, tree)
    cure = "No space left on device: free some room and run the same command again"
    assert run(main, source, "--to", tmp_path / "raw") == (1, "", f"error: {disk}: {cure}\n")
    assert remount("size=4m")
    assert run(main, source, "--to", tmp_path / "raw")[0] == 0
    assert contents(tmp_path / "raw/set") == tree


def test_kaggle_after_a_killed_run_of_another_version(run, tmp_path, contents, kaggle):
    rest = tmp_path / "raw/.set.unfinished"
    for name in ("train/FAKE/0.jpg", "old/1.jpg"):
        (rest / name).parent.mkdir(parents=True, exist_ok=True)
        (rest / name).write_bytes(b"old")
    assert run(main, served(kaggle, tmp_path, TREE), "--to", tmp_path / "raw")[0] == 0
    assert contents(tmp_path / "raw") == {f"set/{key}": value for key, value in TREE.items()}
