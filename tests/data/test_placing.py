import errno
import os

import pytest

from detector.console import InputError
from detector.data import placing


@pytest.fixture
def two(make_files, tmp_path):
    make_files(tmp_path, {"a.jpg": "a"})
    return tmp_path / "a.jpg", tmp_path / "new/folder/b.jpg"


@pytest.mark.parametrize("transfer", placing.TRANSFERS)
def test_place_and_place_again(two, transfer):
    source, destination = two
    content = source.read_bytes()
    placing.place(source, destination, transfer)
    placing.place(source, destination, transfer)
    assert destination.read_bytes() == content
    assert source.exists() is (transfer != "move")
    assert source.exists() is False or source.samefile(destination) is (transfer == "hardlink")
    assert os.listdir(destination.parent) == ["b.jpg"]


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


@pytest.mark.parametrize("transfer", placing.TRANSFERS)
@pytest.mark.parametrize("obstacle", ["folder", "link", "file", "file above"])
def test_what_is_in_the_way_is_named(two, transfer, obstacle):
    source, destination = two
    mine = destination if obstacle == "file" else destination.parent
    if obstacle in ("file", "file above"):
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
    elif obstacle == "folder":
        destination.mkdir(parents=True)
    else:
        destination.parent.mkdir(parents=True)
        destination.symlink_to("nowhere")
    with pytest.raises(InputError) as error:
        placing.place(source, destination, transfer)
    above = f"{destination.parent}: expected a folder, found a file"
    found = above if obstacle == "file above" else f"{destination}: something else of that name exists"
    assert str(error.value) == f"{found}; move it away and run the same command again"
    assert source.exists() and ("file" not in obstacle or mine.read_text() == "mine")


@pytest.mark.parametrize("transfer", ["hardlink", "move"])
def test_without_hard_links_it_copies_and_says_so_once(make_files, tmp_path, monkeypatch, capsys, transfer):
    def no_links(source, destination):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    a, b = make_files(tmp_path / "a", {f"{i}.jpg": i for i in range(3)}), tmp_path / "b"
    assert placing.carry_out([(str(a / f"{i}.jpg"), str(b / f"{i}.jpg")) for i in range(3)], transfer) == []
    told = f"cannot hard-link {a} to {b}; copied 3 images instead\n"
    assert [path.read_bytes() for path in sorted(b.iterdir())] == [b"\xff\xd8\xff%d" % i for i in range(3)]
    assert len(list(a.iterdir())) == (3 if transfer == "hardlink" else 0)
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
    placing.place(source, source, "move")
    placing.place(source, source.parent / "." / "a.jpg", "move")
    assert source.exists()


def test_a_source_that_is_nowhere(two):
    source, destination = two
    with pytest.raises(FileNotFoundError):
        placing.place(source.parent / "none.jpg", destination, "hardlink")


def test_a_begun_plan_is_found_from_anywhere(two, monkeypatch, tmp_path):
    source, _ = two
    monkeypatch.chdir(source.parent)
    monkeypatch.setattr(placing, "carry_out", lambda *_: ["gone.jpg"])
    with pytest.raises(InputError, match=r"^vanished before being placed: 1 image \(gone.jpg\); put them back "):
        placing.run_job("data", ["job"], lambda: ({"left out": 3}, [("a.jpg", "data/Fake/\udcff.jpg")]), "copy", False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    job = ["job", "--transfer", "copy"]
    assert placing.unfinished_plan("../data", job) == ({"left out": 3}, [(str(source), "../data/Fake/\udcff.jpg")])
    (tmp_path / "data" / placing.JOURNAL).write_text("{")
    with pytest.raises(InputError, match=r"\.unfinished\.jsonl: expected an interrupted plan, found something else; "):
        placing.unfinished_plan("../data", job)


# --- one stage at a time -----------------------------------------------------------------------------------------------
def test_a_second_stage_in_the_same_folder_is_told(tmp_path):
    data = tmp_path / "data"
    with pytest.raises(KeyError), placing.unfinished_while(data, ["data_x.py", "a b"]):
        with pytest.raises(InputError) as error, placing.alone_in(data):
            pass
        with placing.alone_in(tmp_path / "other"):
            pass
        raise KeyError
    assert str(error.value) == f"{data}: another command is working there now; run this one when it has ended"
    assert not (tmp_path / "other").exists() and os.listdir(data) == [placing.JOURNAL]
    with placing.alone_in(data), pytest.raises(InputError, match="was interrupted here"):
        placing.refuse_unfinished(data)


def test_without_locks_it_works_all_the_same(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    with placing.alone_in(tmp_path), placing.alone_in(tmp_path):
        pass
