import errno
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detector import files as files_module
from detector.console import InputError
from detector.files import atomic_write, digest_of, digests_and_formats, is_junk, parallel, scan

ROOT = Path(__file__).resolve().parents[1]


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


def test_a_junction_is_a_link(make_files, tmp_path, monkeypatch):
    """Windows alone has junctions: lstat is made to tell of one as it does there."""
    make_files(tmp_path / "a", {"1.jpg": "", "there/2.jpg": ""})
    monkeypatch.setattr(os, "lstat", junction(tmp_path / "a/there"))
    links = []
    assert list(scan(tmp_path / "a", links)) == ["1.jpg"]
    assert links == [str(tmp_path / "a/there")]


def junction(path, lstat=os.lstat):
    class Facts:
        st_reparse_tag, st_mode, st_size = 0xA0000003, lstat(path).st_mode, 0

    return lambda asked, **options: Facts if os.fspath(asked) == str(path) else lstat(asked, **options)


def test_scan_ignores_litter_and_does_not_follow_folders(make_files, tmp_path):
    files = ["2.jpg", "10.jpg", "sub/1.jpg", ".x/1.jpg", "__MACOSX/1.jpg", "Thumbs.db", "3.jpg.part"]
    make_files(tmp_path / "a", dict.fromkeys(files, ""))
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    assert list(scan(tmp_path / "a")) == ["10.jpg", "2.jpg", "sub/1.jpg"]


def test_digests_come_in_order_from_all_cores(make_files, tmp_path):
    files = {f"{i:04}.jpg": f"text{i}" for i in range(1200)}
    make_files(tmp_path, files)
    (tmp_path / "0007.jpg").write_text("no image")
    facts = digests_and_formats(tmp_path, list(files))
    assert [kind for _, kind in facts] == ["JPEG"] * 7 + [None] + ["JPEG"] * 1192
    assert [digest for digest, _ in facts] == [digest_of(tmp_path / name) for name in files]


def test_a_large_file_is_hashed_like_a_small_one(make_files, tmp_path, monkeypatch):
    path = make_files(tmp_path, {"a.jpg": "x" * 5000}) / "a.jpg"
    small = digests_and_formats(tmp_path, ["a.jpg"])
    monkeypatch.setattr(files_module, "HASH_AT_ONCE", 100)
    assert digests_and_formats(tmp_path, ["a.jpg"]) == small == [(digest_of(path), "JPEG")]


def test_a_file_that_may_not_be_read_has_no_digest(make_files, tmp_path, monkeypatch):
    make_files(tmp_path, {"a.jpg": ""})
    monkeypatch.setattr(files_module, "_open", lambda path: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no", path)))
    assert digests_and_formats(tmp_path, ["a.jpg"]) == [(None, None)]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "many.py"
    script.write_text(
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from detector import files\n"
        "if __name__ == '__main__':\n    files.parallel(time.sleep, [0.2] * 2000)\n"
    )
    process = subprocess.Popen([sys.executable, script])
    group = _wait(lambda: [pid for pid in _children(process.pid) if b"spawn_main" in _command(pid)])
    process.kill()
    process.wait()
    assert _wait(lambda: not any(b"spawn_main" in _command(pid) for pid in group))


def _children(parent):
    try:
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return answer


def _end_this_process(_):
    assert multiprocessing.parent_process(), "only a worker is to be ended"
    os._exit(9)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core: no workers")
def test_a_worker_that_is_killed_ends_in_one_line():
    with pytest.raises(InputError, match=r"^a worker process was killed, probably because memory ran out; close other programs"):
        parallel(_end_this_process, list(range(1000)))


def test_windows_is_given_no_more_workers_than_it_takes(monkeypatch):
    asked = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(128), raising=False)
    monkeypatch.setattr(files_module, "ProcessPoolExecutor", lambda cores, **_: (asked.append(cores), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        parallel(str, list(range(1000)))
    assert asked == [61]
