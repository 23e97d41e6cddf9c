import io
import os
from pathlib import Path

import pytest

import data_deleter
from detector.data.tree import AUGMENTED


@pytest.fixture
def folder(make_files, tmp_path):
    """Four files: 1,703 bytes, and a link of as many bytes as its target has letters."""
    make_files(tmp_path / "outside", {"keep.jpg": "kept"})
    made = make_files(tmp_path / "data", {"train/Fake/1.jpg": "a" * 697, "train/Real/sub/2.jpg": "b" * 997, ".hidden": ""})
    (made / "link").symlink_to(f"..{'/.' * 20}/outside")
    return made


def type_in(monkeypatch, text):
    terminal = io.StringIO(text)
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)


def test_a_folder_is_deleted_and_links_are_not_followed(folder, tmp_path, run):
    size = 1703 + len(os.readlink(folder / "link"))
    assert run(data_deleter.main, folder, "--yes") == (0, f"{folder}: deleted 4 files, {size / 1000:.1f} kB\n", "")
    assert not folder.exists()
    assert (tmp_path / "outside/keep.jpg").exists()
    code, _, err = run(data_deleter.main, folder, "--yes")
    expected = f"{folder}: expected a folder with what is to be deleted, found nothing of that name; check the path"
    assert (code, err) == (1, f"error: {expected}\n")


def test_without_a_terminal_yes_is_needed(folder, run, contents):
    before = contents(folder)
    code, out, err = run(data_deleter.main, folder)
    assert (code, out) == (1, "")
    assert err == f"error: {folder}: 4 files, 1.8 kB. Not a terminal, so cannot ask; nothing deleted. Pass --yes to delete.\n"
    assert contents(folder) == before


@pytest.mark.parametrize(("answer", "deleted"), [("yes\n", True), ("no\n", False), ("", False)])
def test_on_a_terminal_it_asks(folder, run, monkeypatch, answer, deleted):
    type_in(monkeypatch, answer)
    code, out, err = run(data_deleter.main, folder)
    assert out.startswith(f"{folder}: 4 files, 1.8 kB. Type yes to delete: ")
    assert (code, err) == ((0, "") if deleted else (1, "error: nothing was deleted\n"))
    assert folder.exists() is not deleted


def test_dry_run_changes_nothing(folder, run, contents):
    before = contents(folder)
    code, out, _ = run(data_deleter.main, folder, "--dry-run")
    assert code == 0
    assert out.splitlines()[:4] == [f"{folder}/{path}" for path in (".hidden", "link", "train/Fake/1.jpg", "train/Real/sub/2.jpg")]
    assert out.splitlines()[4].startswith(f"{folder}: 4 files, ")
    assert contents(folder) == before


def test_only_augmented_images_of_train(folder, make_files, run, contents):
    more = {f"{split}/Fake/1{AUGMENTED}01.jpg": "x" for split in ("train", "test")} | {f"train/Real/sub/2{AUGMENTED}01.jpg": "y"}
    before = contents(folder)
    make_files(folder, more)
    assert run(data_deleter.main, folder, "--augmented", "--yes") == (0, f"{folder}: deleted 2 augmented images, 8 bytes\n", "")
    assert set(contents(folder)) == {*before, f"test/Fake/1{AUGMENTED}01.jpg"}
    code, _, err = run(data_deleter.main, folder / "train", "--augmented", "--yes")
    expected = f"{folder}/train/train: expected a folder with images, found nothing of that name; check the path"
    assert (code, err) == (1, f"error: {expected}\n")


def test_what_would_be_a_disaster_is_refused(folder, tmp_path, run, monkeypatch, contents):
    before = contents(tmp_path)

    def error(path):
        code, out, err = run(data_deleter.main, path, "--yes")
        assert (code, out, contents(tmp_path)) == (1, "", before)
        return err.removeprefix("error: ").removesuffix("\n")

    def home(path):
        for name in ("HOME", "USERPROFILE"):
            monkeypatch.setenv(name, str(path))

    expected = "expected a folder of images, found"
    assert error("/") == f"/: {expected} the root of the file system; it is not deleted"
    home(folder / "train")
    assert error(folder / "train") == f"{folder}/train: {expected} the home folder; it is not deleted"
    assert error(folder) == f"{folder}: {expected} one that holds the home folder; it is not deleted"
    home(tmp_path / "outside")
    monkeypatch.chdir(folder / "train")
    assert error(".") == f".: {expected} the working folder; it is not deleted"
    assert error("..") == f"..: {expected} one that holds the working folder; it is not deleted"
    monkeypatch.chdir(tmp_path)
    for link in (folder / "link", f"{folder}/link/"):
        assert error(link) == f"{folder}/link: expected a folder, found a link to {tmp_path}/outside; give that folder itself"
    (folder / "train/.git").mkdir()
    assert error(folder) == f"{folder}: {expected} a repository in {folder}/train; it is not deleted"
    assert Path(folder, "train").exists()


def test_junctions_are_not_followed(folder, run, monkeypatch, contents):
    """Windows alone has them: lstat is made to tell of one as it does there."""

    def is_junction(path, lstat=os.lstat):
        facts = type("Facts", (), {"st_reparse_tag": 0xA0000003, "st_mode": lstat(path).st_mode})
        monkeypatch.setattr(os, "lstat", lambda asked, **how: facts if os.fspath(asked) == str(path) else lstat(asked, **how))

    is_junction(folder / "train/Real")
    files, folders, _ = data_deleter.survey(folder)
    assert f"{folder}/train/Real" in files
    assert folders == [f"{folder}/train/Fake", f"{folder}/train", str(folder)]
    before, told = contents(folder), f"expected a folder, found a link to {folder}"
    code, _, err = run(data_deleter.main, folder, "--augmented", "--yes")
    assert (code, err) == (1, f"error: {folder}/train/Real: {told}/train/Real; give its own tree\n")
    is_junction(folder / "train")
    for given in (f"{folder}/train", f"{folder}/train/"):
        code, _, err = run(data_deleter.main, given, "--yes")
        assert (code, err) == (1, f"error: {folder}/train: {told}/train; give that folder itself\n")
    assert contents(folder) == before
