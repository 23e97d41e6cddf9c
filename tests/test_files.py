import errno
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from detector.console import InputError
from detector.files import atomic_write, digest_of, digests_and_formats, is_junk, parallel, scan
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["a.json", "\u00e9" * 120 + ".csv"])
@pytest.mark.parametrize("unique", [False, True])
def test_atomic_write_replaces_at_the_end(tmp_path, unique, name):
    path = tmp_path / name
    path.write_text("old")
    with atomic_write(path, suffix=".h5", unique=unique, sync=True) as temporary:
        temporary.write_text("new")
        assert (path.read_text(), list(scan(tmp_path)), temporary.suffix) == ("old", [name], ".h5")
        assert (str(os.getpid()) in temporary.name) is unique
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", [name])


def test_atomic_write_that_fails_changes_nothing_and_reports_the_path_itself(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert ((tmp_path / "a.json").read_text(), os.listdir(tmp_path)) == ("old", ["a.json"])
    with pytest.raises(FileNotFoundError) as error, atomic_write(tmp_path / "absent/a.json") as temporary:
        temporary.write_text("x")
    assert error.value.filename == str(tmp_path / "absent/a.json")
    with pytest.raises(OSError, match="No space") as full, atomic_write(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device", "source.json")
    assert full.value.filename == str(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError) as other, atomic_write(tmp_path / "a.json"):
        (tmp_path / "source.json").read_bytes()
    assert other.value.filename == str(tmp_path / "source.json")


LITTER = [
    ".DS_Store", "._a.jpg", "Icon\r", "__MACOSX", "Thumbs.db", "ehthumbs.db", "Desktop.ini", "$RECYCLE.BIN", "@eaDir",
    "SYNOPHOTO_THUMB_XL.jpg", "#recycle", ".@__thumb", ".picasa.ini", "ZbThumbnail.info", "Catalog Previews.lrdata", ".Trash-1000",
]  # fmt: skip
NO_LITTER = ["icon.png", "original", "recycle", "temporary", "thumbs.jpg", "trash"]


def test_scan_ignores_litter_and_does_not_follow_folders(make_files, tmp_path, monkeypatch):
    names = [*LITTER, ".hidden", "3.jpg.part"]
    make_files(tmp_path / "a", dict.fromkeys(["2.jpg", *NO_LITTER, "sub/1.jpg", "junction/1.jpg"], ""))
    for name in names:
        (tmp_path / "a" / name).mkdir()
        (tmp_path / "a" / name / "thumbnail.jpg").touch()
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    lstat, there = os.lstat, str(tmp_path / "a/junction")
    junction = SimpleNamespace(st_reparse_tag=0xA0000003, st_mode=lstat(there).st_mode)  # Windows alone has them
    monkeypatch.setattr(os, "lstat", lambda asked, **how: junction if os.fspath(asked) == there else lstat(asked, **how))
    links, ignored = [], []
    assert list(scan(tmp_path / "a", links, ignored)) == ["2.jpg", *NO_LITTER, "sub/1.jpg"]
    assert links == [there, str(tmp_path / "a/loop")]
    assert ignored == sorted(str(tmp_path / "a" / name) for name in names)
    assert all(map(is_junk, LITTER)) and not any(map(is_junk, NO_LITTER))


def test_digests_come_in_order_from_all_cores(make_files, tmp_path):
    files = {f"{i:04}.jpg": f"text{i}" for i in range(1200)}
    make_files(tmp_path, files)
    (tmp_path / "0007.jpg").write_text("no image")
    (tmp_path / "0008.jpg").write_bytes(large := random.Random(0).randbytes(3 << 20))
    facts = digests_and_formats(tmp_path, [*files, "gone.jpg"])
    assert [kind for _, kind in facts] == ["JPEG"] * 7 + [None] * 2 + ["JPEG"] * 1191 + [None]
    assert [digest for digest, _ in facts] == [digest_of(tmp_path / name) for name in files] + [None]
    assert facts[8][0] == hashlib.sha256(large).hexdigest()


MANY = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from detector import console, files

def work(_):
    open(f"{os.getpid()}.begun", "w").close()
    time.sleep(0.005)

if __name__ == "__main__":
    console.stage(lambda argv: files.parallel(work, [0] * 2000))()
"""


@pytest.mark.skipif(os.name == "nt" or os.cpu_count() == 1, reason="needs signals, and cores for workers")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
@pytest.mark.kill
def test_workers_end_with_their_parent(tmp_path, how):
    (tmp_path / "many.py").write_text(MANY)
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a shell's background job would not hear Ctrl-C
    pipes = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "many.py", ROOT], cwd=tmp_path, **pipes, **heard)
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*.begun"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    if how == "SIGKILL":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, err = process.communicate(timeout=60)  # until the last worker has closed stderr
    assert how == "SIGKILL" or err == "error: interrupted; run the same command again to finish it\n"


def _end_this_process(_):
    assert multiprocessing.parent_process(), "only a worker is to be ended"
    os._exit(9)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core: no workers")
@pytest.mark.kill
def test_a_worker_that_is_killed_ends_in_one_line():
    with pytest.raises(InputError, match=r"^a worker process was killed, probably as memory ran out; close other programs"):
        parallel(_end_this_process, list(range(1000)))
