import json
import os

import pytest

from data_unzipper import main, parse_size
from detector.data.archive import RECORD
from tests.data.test_archive import make_tar, make_zip

TREE = {f"{split}/{name}/{i}.jpg": b"\xff\xd8\xff" + f"{split} {name} {i}".encode() * (i * 40 + 1)
        for split in ("train", "test") for name in ("FAKE", "REAL") for i in range(8)}  # fmt: skip
COUNTS = (
    "       Fake  Real  total\n"
    "train     8     8     16\n"
    "test      8     8     16\n"
)  # fmt: skip


@pytest.fixture
def unpacked(contents):
    """Give unpacked(folder) -> {path: bytes}, without the record of where the files come from."""
    return lambda folder: {path: content for path, content in contents(folder).items() if not path.endswith(RECORD)}


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tgz", "set.tar.bz2", "set.tar.xz"])
def test_unpack_and_unpack_again(run, tmp_path, unpacked, name):
    packing = {"set.tgz": "gz", "set.tar.bz2": "bz2", "set.tar.xz": "xz"}.get(name, "")
    path = make_zip(tmp_path / name, TREE) if name == "set.zip" else make_tar(tmp_path / name, TREE, mode=f"w:{packing}")
    where = tmp_path / "raw/set"
    assert run(main, path, "--to", tmp_path / "raw") == (0, f"{where}: 32 files extracted\n{COUNTS}", "")
    assert unpacked(tmp_path / "raw") == {f"set/{key}": value for key, value in TREE.items()}
    assert sorted(os.listdir(tmp_path / "raw")) == ["set"]
    assert run(main, path, "--to", tmp_path / "raw") == (0, f"{where}: unpacked before\n", "")


def test_several_archives_recognised_by_content(run, tmp_path, unpacked):
    one = make_zip(tmp_path / "one.tar.xz", {"ai/a.png": b"1", "human/b.png": b"2", "notes/x.txt": b"3"})
    two = make_tar(tmp_path / "two.zip", {"a.png": b"1"}, mode="w:xz")
    none = tmp_path / "none.zip"
    none.write_bytes(b"no archive at all" * 40)
    code, out, err = run(main, one, none, two, "--to", tmp_path / "raw")
    assert out == (
        f"{tmp_path}/raw/one: 3 files extracted\n"
        "folder  files\nai          1\nhuman       1\nnotes       1\n"
        f"{tmp_path}/raw/two: 1 file extracted\n"
        "folder  files\n(top)       1\n"
    )
    assert code == 1 and err.startswith(f"error: {none}: expected a zip or a tar") and err.count("\n") == 1
    assert set(unpacked(tmp_path / "raw")) == {"one/ai/a.png", "one/human/b.png", "one/notes/x.txt", "two/a.png"}


def test_what_is_no_archive(run, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.zip").touch()
    for path in (tmp_path / "absent.zip", tmp_path / "folder", tmp_path / "empty.zip", tmp_path / "..zip",
                 make_zip(tmp_path / "void.zip", {}), make_tar(tmp_path / "void.tar", {})):  # fmt: skip
        code, out, err = run(main, path, "--to", tmp_path / "raw")
        assert (code, out, err.count("\n")) == (1, "", 1) and err.startswith(f"error: {path}: ")
    assert not (tmp_path / "raw").exists() or not os.listdir(tmp_path / "raw")


def test_what_is_left_out_is_reported(run, tmp_path, unpacked):
    litter = {"__MACOSX/train/._0.jpg": b"x", "train/.DS_Store": b"x", "test/Thumbs.db": b"x", "train/FAKE/._0.jpg": b"x"}
    for path in (make_zip(tmp_path / "a.zip", TREE | litter), make_tar(tmp_path / "b.tar", litter | TREE)):
        code, out, _ = run(main, path, "--to", tmp_path / "raw")
        assert code == 0 and ": 4 files (" in out.splitlines()[1] and ", ...)" in out.splitlines()[1]
        assert unpacked(tmp_path / "raw" / path.stem) == TREE


@pytest.mark.parametrize(("name", "reason"), [
    ("../x.jpg", "'..'"), ("/tmp/x.jpg", "absolute path"), ("train/FAKE/0.jpg/x", "both a file and a folder"),
    *[(name, "this disk takes no name of that length") for name in ("x" * 300, "x" * 300 + "/0.jpg") if os.name != "nt"],
])  # fmt: skip
def test_a_refused_archive_leaves_nothing(run, tmp_path, name, reason):
    for path in (make_tar(tmp_path / "set.tar", TREE | {name: b"x"}), make_zip(tmp_path / "set.zip", TREE | {name: b"x"})):
        code, out, err = run(main, path, "--to", tmp_path / "raw")
        assert (code, out, os.listdir(tmp_path / "raw")) == (1, "", []) and err.startswith("error: ") and reason in err
    assert not (tmp_path / "x.jpg").exists()


def test_a_damaged_archive_gives_a_partial_folder(run, tmp_path, unpacked):
    path = make_tar(tmp_path / "set.tar", TREE)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"train REAL 7") + 5])
    for _ in range(2):  # a partial folder of ours is replaced
        code, out, err = run(main, path, "--to", tmp_path / "raw")
        assert code == 1 and out.startswith(f"{tmp_path}/raw/set.partial: 15 files extracted\n")
        assert err.startswith(f"error: {path}: damaged: 1 entry (the archive: ") and err.endswith(f"{tmp_path}/raw/set.partial\n")
    assert unpacked(tmp_path / "raw/set.partial") == dict(list(TREE.items())[:15])
    path.write_bytes(whole)
    assert run(main, path, "--to", tmp_path / "raw")[0] == 0
    assert unpacked(tmp_path / "raw/set") == TREE
    (tmp_path / "raw/set.partial" / RECORD).unlink()
    path = make_zip(tmp_path / "set.zip", TREE)
    path.write_bytes(path.read_bytes().replace(b"train FAKE 3", b"train FAKE X", 1))
    (tmp_path / "raw/set").rename(tmp_path / "away")
    code, _, err = run(main, path, "--to", tmp_path / "raw")  # somebody else's folder of that name stays
    assert code == 1 and f"{tmp_path}/raw/set.partial is there" in err
    assert len(unpacked(tmp_path / "raw/set.partial")) == 15 and not (tmp_path / "raw/set").exists()


def test_a_folder_that_is_there_stays(run, tmp_path, unpacked):
    path, where = make_zip(tmp_path / "set.zip", TREE), tmp_path / "raw/set"
    where.mkdir(parents=True)
    (where / "mine.txt").write_text("x")
    for record in (None, "{", json.dumps({"identity": "another", "complete": True})):
        if record:
            (where / RECORD).write_text(record)
        code, out, err = run(main, path, "--to", tmp_path / "raw")
        assert (code, out) == (1, "") and err.startswith(f"error: {path}: {where} is there, and was not unpacked from this archive")
        assert unpacked(where) == {"mine.txt": b"x"}
    make_zip(tmp_path / "file.zip", TREE)
    (tmp_path / "raw/file").touch()
    assert run(main, tmp_path / "file.zip", "--to", tmp_path / "raw")[0] == 1


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_a_disk_that_fills_up(run, tmp_path, small_disk, unpacked, kind):
    disk, remount = small_disk
    tree = {f"{i}.jpg": os.urandom(1000) * 100 for i in range(14)}
    path = make_zip(tmp_path / "set.zip", tree) if kind == "zip" else make_tar(tmp_path / "set.tgz", tree, mode="w:gz")
    code, out, err = run(main, path, "--to", disk)
    assert (code, out, os.listdir(disk)) == (1, "", [])
    assert err.startswith(f"error: {disk}/.set.unfinished/") and "No space left on device" in err
    assert remount("size=3m")
    assert run(main, path, "--to", disk)[0] == 0
    assert unpacked(disk / "set") == tree
    assert remount("ro")
    code, _, err = run(main, make_zip(tmp_path / "b.zip", TREE), "--to", disk)
    assert code == 1 and "Read-only file system" in err


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGKILL")
def test_killed_three_times(tmp_path, unpacked, kill_three_times):
    path = make_zip(tmp_path / "set.zip", TREE)
    assert kill_three_times("data_unzipper.py", [path, "--to", tmp_path / "raw"], [path, "--to", tmp_path / "whole"]) == 0
    assert unpacked(tmp_path / "raw") == unpacked(tmp_path / "whole") == {f"set/{key}": value for key, value in TREE.items()}


def test_sizes_on_the_command_line(run, tmp_path):
    assert [parse_size(text) for text in ("1000", "50GB", "1.5 TB", "2k")] == [1000, 50 * 10**9, 15 * 10**11, 2000]
    for text in ("", "GB", "5 apples", "-1", "5KIB", "9" * 400):
        assert run(main, "x.zip", f"--max-size={text}")[0] == 2
