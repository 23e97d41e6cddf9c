import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detector import files as files_module
from detector.console import InputError
from detector.data import placing
from detector.data import tree as data_tree
from detector.files import digest_of, file_facts, is_junk, parallel, scan
from detector.images import formats

ROOT = Path(__file__).resolve().parents[2]


def split_tree(make_files, folder):
    folders = [f"{split}/{name}" for split in data_tree.SPLITS for name in data_tree.CLASSES]
    return make_files(folder, {f"{where}/1.jpg": where for where in folders})


# --- names and headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Fake", "FAKE", "fake_images", "GeneratedArt", "ai", "AI-generated", "synthetic"])
def test_folders_of_fakes(name):
    assert data_tree.class_of(name) == "Fake"


@pytest.mark.parametrize("name", ["Real", "REAL", "real_images", "RealArt", "human", "Photos"])
def test_folders_of_photographs(name):
    assert data_tree.class_of(name) == "Real"


def test_other_folders():
    assert data_tree.class_of("cats") is None
    assert [data_tree.split_of(name) for name in ("Training", "val", "TEST", "extra")] == ["train", "validation", "test", None]
    assert [name for name in ("__MACOSX", "._a.jpg", ".DS_Store", "Thumbs.db", "a.jpg") if not is_junk(name)] == ["a.jpg"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_image_format_agrees_with_pillow(kind, tmp_path):
    from PIL import Image

    path = tmp_path / "image"
    try:
        Image.new("RGB", (32, 32), "red").save(path, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {kind}")
    assert formats.image_format(path.read_bytes()[:16]) == kind


@pytest.mark.parametrize("head", [b"", b"<html>", b"%PDF-1.7", b"BMW is a car maker", b"\x89PNG", b"RIFF\0\0\0\0WAVE"])
def test_what_is_no_image(head):
    assert formats.image_format(head) is None


# --- layouts -----------------------------------------------------------------------------------------------------------


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


def test_scan_passes_over_litter_and_does_not_follow_folders(make_files, tmp_path):
    files = ["2.jpg", "10.jpg", "sub/1.jpg", ".x/1.jpg", "__MACOSX/1.jpg", "Thumbs.db", "3.jpg.part"]
    make_files(tmp_path / "a", dict.fromkeys(files, ""))
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    assert list(scan(tmp_path / "a")) == ["10.jpg", "2.jpg", "sub/1.jpg"]


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (["fake_images/1.jpg", "real_images/1.jpg"], {None: {"Fake": ["fake_images"], "Real": ["real_images"]}}),
        (
            ["top/in/ai/1.jpg", "top/in/sd/1.jpg", "top/in/human/1.jpg"],
            {None: {"Fake": ["top/in/ai", "top/in/sd"], "Real": ["top/in/human"]}},
        ),
        *[
            ([f"{top}/fake/1.jpg", f"{top}/real/1.jpg"], {None: {"Fake": [f"{top}/fake"], "Real": [f"{top}/real"]}})
            for top in ("photos", "generated_images", "original")
        ],
        (
            ["nature/train/fake/1.jpg", "nature/train/real/1.jpg"],
            {"train": {"Fake": ["nature/train/fake"], "Real": ["nature/train/real"]}},
        ),
        (
            ["train/FAKE/1.jpg", "train/REAL/1.jpg", "val/FAKE/1.jpg", "val/REAL/1.jpg", "left_out/x/1.jpg"],
            {
                "train": {"Fake": ["train/FAKE"], "Real": ["train/REAL"]},
                "validation": {"Fake": ["val/FAKE"], "Real": ["val/REAL"]},
            },
        ),
    ],
)
def test_published_layouts(make_files, tmp_path, files, layout):
    make_files(tmp_path, dict.fromkeys(files, ""))
    for split, classes in data_tree.find_layout(tmp_path).items():
        assert classes == {name: [tmp_path / path for path in paths] for name, paths in layout.pop(split).items()}
    assert not layout


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["cats/1.jpg", "dogs/1.jpg"],
         "{0}: expected two class folders (such as Fake and Real, or FAKE and REAL), or train and test folders that hold them; "
         "found cats, dogs; rename the folders"),
        (["fake/1.jpg"], "{0}: expected folders of both classes, found none for Real; add it"),
        (["fake/1.jpg", "real/1.jpg", "cats/1.jpg"],
         "{0}: expected class folders only (Fake, Real or a known alias), found also cats; "
         "rename it to Fake or Real, or move it away"),
        (["train/fake/1.jpg", "train/real/1.jpg", "more/1.jpg"],
         "{0}: expected train, validation and test folders only, found also more; move it away"),
        (["train/a/1.jpg"], "{0}/train: expected class folders (Fake and Real, or a known alias), found none; rename them"),
        (["val/ai/1.jpg", "val/real/1.jpg", "valid/ai/1.jpg", "valid/real/1.jpg"],
         "{0}: two folders mean validation; keep one of them"),
    ],
)  # fmt: skip
def test_layouts_that_are_none(make_files, tmp_path, files, message):
    make_files(tmp_path, dict.fromkeys(files, ""))
    with pytest.raises(InputError) as error:
        data_tree.find_layout(tmp_path)
    assert str(error.value) == message.format(tmp_path)


def test_read_tree(make_files, tmp_path):
    data = split_tree(make_files, tmp_path)
    make_files(data, {"train/Real/0/2.jpg": "", "raw/x.jpg": "", "left_out/x.jpg": ""})
    assert data_tree.read_tree(data)["train"] == (["train/Fake/1.jpg", "train/Real/1.jpg", "train/Real/0/2.jpg"], [0, 1, 1])
    assert data_tree.counts_table(data_tree.count_images(data)).splitlines()[1].split() == ["train", "1", "2", "3"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("cats/1.jpg",
         "{0}: expected the folders train, validation, test, found also cats; move it away (the folder is the label)"),
        ("test/cats/1.jpg",
         "{0}/test: expected the folders Fake and Real, found also cats; it would be a third class: move it away"),
        (".unfinished.jsonl", "{0}: a command was interrupted here; run it again to finish it: data_split.py raw"),
    ],
)  # fmt: skip
def test_trees_that_are_not_read(make_files, tmp_path, path, message):
    data = split_tree(make_files, tmp_path)
    make_files(data, {path: ""})
    if path == placing.JOURNAL:
        (data / path).write_text(json.dumps({"job": ["data_split.py", "raw"], "cwd": "/", "report": []}) + "\n")
    with pytest.raises(InputError) as error:
        data_tree.read_tree(data)
    assert str(error.value) == message.format(data)


def test_an_empty_class_is_not_read(make_files, tmp_path):
    data = split_tree(make_files, tmp_path)
    (data / "test/Real/1.jpg").unlink()
    with pytest.raises(InputError, match=r"test/Real: expected images of class Real, found an empty folder; run data_split"):
        data_tree.read_tree(data)


# --- content -----------------------------------------------------------------------------------------------------------


def test_facts_come_in_order_from_all_cores(make_files, tmp_path):
    files = {f"{i:04}.jpg": f"text{i}" for i in range(1200)}
    make_files(tmp_path, files)
    (tmp_path / "0007.jpg").write_text("no image")
    facts = file_facts(tmp_path, list(files))
    assert [kind for _, kind in facts] == ["JPEG"] * 7 + [None] + ["JPEG"] * 1192
    assert [digest for digest, _ in facts] == [digest_of(tmp_path / name) for name in files]


def test_a_large_file_is_hashed_like_a_small_one(make_files, tmp_path, monkeypatch):
    path = make_files(tmp_path, {"a.jpg": "x" * 5000}) / "a.jpg"
    small = file_facts(tmp_path, ["a.jpg"])
    monkeypatch.setattr(files_module, "SMALL", 100)
    assert file_facts(tmp_path, ["a.jpg"]) == small == [(digest_of(path), "JPEG")]


def test_a_file_that_may_not_be_read_has_no_facts(make_files, tmp_path, monkeypatch):
    make_files(tmp_path, {"a.jpg": ""})
    monkeypatch.setattr(files_module, "_open", lambda path: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no", path)))
    assert file_facts(tmp_path, ["a.jpg"]) == [(None, None)]


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


# --- placing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(make_files, tmp_path):
    make_files(tmp_path, {"a.jpg": "a"})
    return tmp_path / "a.jpg", tmp_path / "new/folder/b.jpg"


@pytest.mark.parametrize("transfer", placing.TRANSFERS)
def test_place_and_place_again(two, transfer):
    source, destination = two
    content = source.read_bytes()
    assert placing.place(source, destination, transfer) is True
    assert placing.place(source, destination, transfer) is False
    assert destination.read_bytes() == content
    assert source.exists() is (transfer != "move")
    assert source.exists() is False or source.samefile(destination) is (transfer == "hardlink")
    assert os.listdir(destination.parent) == ["b.jpg"]


@pytest.mark.parametrize("transfer", placing.TRANSFERS)
def test_nothing_is_overwritten(two, transfer):
    source, destination = two
    destination.parent.mkdir(parents=True)
    destination.write_text("mine")
    with pytest.raises(InputError) as error:
        placing.place(source, destination, transfer)
    assert str(error.value) == (
        f"{destination}: another file of that name exists; move it away and run the same command again"
    )
    assert (destination.read_text(), source.exists()) == ("mine", True)


@pytest.mark.parametrize("transfer", placing.TRANSFERS)
def test_a_link_is_placed_as_what_it_leads_to(two, transfer):
    source, destination = two
    link = source.parent / "link.jpg"
    link.symlink_to("a.jpg")
    placing.place(link, destination, transfer)
    placing.place(source, source.parent / "c.jpg", "hardlink")
    assert not destination.is_symlink()
    assert destination.read_bytes() == source.read_bytes()
    assert link.is_symlink() is (transfer != "move")


@pytest.mark.parametrize("transfer", ["hardlink", "move"])
def test_without_hard_links_it_copies(two, transfer, monkeypatch):
    def no_links(source, destination):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    source, destination = two
    content = source.read_bytes()
    assert placing.place(source, destination, transfer) is True
    assert destination.read_bytes() == content
    assert source.exists() is (transfer == "hardlink")


@pytest.mark.parametrize("transfer", placing.TRANSFERS)
@pytest.mark.parametrize("stands", ["folder", "link", "file"])
def test_what_is_in_the_way_is_named(two, transfer, stands):
    source, destination = two
    if stands == "file":
        destination.parent.parent.mkdir()
        destination.parent.write_text("mine")
    elif stands == "folder":
        destination.mkdir(parents=True)
    else:
        destination.parent.mkdir(parents=True)
        destination.symlink_to("nowhere")
    with pytest.raises(InputError) as error:
        placing.place(source, destination, transfer)
    said = {"file": f"{destination.parent}: expected a folder, found a file"}
    otherwise = f"{destination}: something else of that name exists"
    assert str(error.value) == f"{said.get(stands, otherwise)}; move it away and run the same command again"
    assert source.exists()


@pytest.mark.parametrize("transfer", ["hardlink", "move"])
def test_copies_in_place_of_hard_links_are_told_once(make_files, tmp_path, monkeypatch, capsys, transfer):
    def no_links(source, destination):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    a, b = make_files(tmp_path / "a", {f"{i}.jpg": i for i in range(3)}), tmp_path / "b"
    assert placing.carry_out([(str(a / f"{i}.jpg"), str(b / f"{i}.jpg")) for i in range(3)], transfer) == (3, [])
    told = f"cannot hard-link {a} to {b}; copied 3 images instead\n"
    assert capsys.readouterr().err == (told if transfer == "hardlink" else "")  # a move to another disk is a copy anyway


@pytest.mark.skipif(os.name == "nt", reason="a folder cannot be opened there")
def test_a_move_to_another_disk_outlives_a_power_cut(two, monkeypatch):
    """What has not been synced is gone after one: neither the content nor its name may be when the source is removed."""
    source, destination = two
    done = []
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "Invalid cross-device link")))
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(("sync", os.fstat(handle).st_ino)))
    monkeypatch.setattr(os, "unlink", lambda path: done.append(("unlink", path)))
    placing.place(source, destination, "move")
    synced = [("sync", path.stat().st_ino) for path in (destination, destination.parent)]
    assert done == [*synced, ("unlink", source)]


def test_a_move_never_removes_the_only_copy(two):
    source, _ = two
    assert placing.place(source, source, "move") is False
    assert placing.place(source, source.parent / "." / "a.jpg", "move") is False
    assert source.exists()


def test_a_source_that_is_nowhere(two):
    source, destination = two
    with pytest.raises(FileNotFoundError):
        placing.place(source.parent / "none.jpg", destination, "hardlink")


def test_an_interrupted_copy_leaves_nothing(two, monkeypatch):
    source, destination = two

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(placing.shutil, "copystat", interrupt)
    with pytest.raises(KeyboardInterrupt):
        placing.place(source, destination, "copy")
    assert os.listdir(destination.parent) == []


def test_a_begun_plan_is_found_from_anywhere(two, monkeypatch, tmp_path):
    source, _ = two
    monkeypatch.chdir(source.parent)
    monkeypatch.setattr(placing, "carry_out", lambda *_: ([], ["gone.jpg"]))
    with pytest.raises(InputError, match=r"^1 image vanished before being placed \(first: gone.jpg\), the others are in data; "):
        placing.finish("data", ["job"], {"left out": 3}, [("a.jpg", "data/Fake/\udcff.jpg")], "copy")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert placing.unfinished_plan("../data", ["job"]) == ({"left out": 3}, [(str(source), "../data/Fake/\udcff.jpg")])
    (tmp_path / "data" / placing.JOURNAL).write_text("{")
    with pytest.raises(InputError, match=r"\.unfinished\.jsonl: expected an interrupted plan, found something else; "):
        placing.unfinished_plan("../data", ["job"])


def _end_this_process(_):
    assert multiprocessing.parent_process(), "only a worker is to be ended"
    os._exit(9)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core: no workers")
def test_a_worker_that_is_killed_ends_in_one_line():
    with pytest.raises(InputError, match=r"^a worker process was killed, probably because memory ran out; close other programs"):
        parallel(_end_this_process, list(range(1000)))


# --- one stage at a time -----------------------------------------------------------------------------------------------


HOLD = """
import sys, time
from detector.data import placing
with placing.unfinished_while(sys.argv[1], ["data_x.py", "a b"]):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_second_stage_in_the_same_folder_is_told(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "data"], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout.readline() == b"in\n"
    with pytest.raises(InputError) as error, placing.alone_in(tmp_path / "data"):
        pass
    assert str(error.value) == (
        f"{tmp_path}/data: another command is working there now (data_x.py 'a b'); run this one when it has ended"
    )
    with placing.alone_in(tmp_path / "other"):
        pass
    holder.kill()
    holder.wait()
    with placing.alone_in(tmp_path / "data"), pytest.raises(InputError, match="was interrupted here"):
        placing.refuse_unfinished(tmp_path / "data")


def test_being_alone_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyError), placing.alone_in(tmp_path / "data"):
        raise KeyError
    assert not (tmp_path / "data").exists()
    (tmp_path / "data").mkdir()
    with placing.alone_in(tmp_path / "data"):
        pass
    assert list((tmp_path / "data").iterdir()) == []


def test_without_locks_it_works_all_the_same(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    with placing.alone_in(tmp_path), placing.alone_in(tmp_path):
        pass


def test_windows_is_given_no_more_workers_than_it_takes(monkeypatch):
    asked = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(128), raising=False)
    monkeypatch.setattr(files_module, "ProcessPoolExecutor", lambda cores, **_: (asked.append(cores), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        parallel(str, list(range(1000)))
    assert asked == [61]
