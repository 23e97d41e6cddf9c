import os
import re
import subprocess
import sys

import pytest

import data_split


def flat(make_files, folder, fake=20, real=20):
    files = {f"fake_images/{i}.jpg": f"f{i}" for i in range(fake)} | {f"real_images/{i}.jpg": f"r{i}" for i in range(real)}
    return make_files(folder, files)


def published(make_files, folder, **more):
    files = {}
    for split, number in (("train", 20), ("test", 5)):
        for name in ("FAKE", "REAL"):
            files |= {f"{split}/{name}/{i}.jpg": f"{split}{name}{i}" for i in range(number)}
    return make_files(folder, files | more)


# --- the stage ---------------------------------------------------------------------------------------------------------
def test_flat(make_files, tmp_path, run, contents):
    source = flat(make_files, tmp_path / "in")
    code, out, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert out == (
        "            Fake  Real  total\n"
        "train         14    14     28\n"
        "validation     3     3      6\n"
        "test           3     3      6\n"
    )  # fmt: skip
    placed = contents(tmp_path / "data")
    assert sorted(placed.values()) == sorted(contents(source).values())
    for path, content in placed.items():
        _, label, name = path.split("/")
        assert content[3:].decode() == label[0].lower() + name.removesuffix(".jpg")
    assert all(os.stat(tmp_path / "data" / path).st_nlink == 2 for path in placed)


def test_published_test_is_kept_and_its_twins_are_left_out(make_files, tmp_path, run, contents):
    twins = {"train/FAKE/twin.jpg": "testFAKE0", "train/FAKE/sub/twin.jpg": "testFAKE0", "train/REAL/wrong.jpg": "testFAKE1"}
    twins |= {"train/FAKE/both.jpg": "both", "train/REAL/both.jpg": "both", "train/REAL/notes.txt": "x"}
    source = published(make_files, tmp_path / "in", **twins)
    (source / "train/REAL/notes.txt").write_text("no image")
    leaks = [f"{source}/{path}" for path in list(twins)[:3]]
    code, out, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert out == (
        f"left out, in train, identical to one in the published test: 3 images ({', '.join(leaks)})\n"
        f"left out, identical to one of the other class: 2 images ({source}/train/FAKE/both.jpg, {source}/train/REAL/both.jpg)\n"
        f"skipped, not an image: 1 file ({source / 'train/REAL/notes.txt'})\n"
        "            Fake  Real  total\n"
        "train         16    16     32\n"
        "validation     4     4      8\n"
        "test           5     5     10\n"
    )
    placed = contents(tmp_path / "data")
    assert {path for path in placed if path.startswith("left_out")} == {
        "left_out/twin_of_test/Fake/twin.jpg",
        "left_out/twin_of_test/Fake/sub/twin.jpg",
        "left_out/twin_of_test/Real/wrong.jpg",
        "left_out/two_labels/Fake/both.jpg",
        "left_out/two_labels/Real/both.jpg",
    }
    assert {path[10:] for path in placed if path.startswith("test/Fake")} == {f"{i}.jpg" for i in range(5)}


def test_published_validation_is_kept(make_files, tmp_path, run):
    more = {f"valid/{name}/{i}.jpg": f"valid{name}{i}" for name in ("FAKE", "REAL") for i in range(3)}
    more |= {"valid/FAKE/twin.jpg": "testFAKE0", "train/FAKE/twin.jpg": "validFAKE0"}
    source = published(make_files, tmp_path / "in", **more)
    code, out, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert out == (
        f"left out, in train, identical to one in the published validation: 1 image ({source}/train/FAKE/twin.jpg)\n"
        f"left out, in the published validation, identical to one in the published test: 1 image ({source}/valid/FAKE/twin.jpg)\n"
        "            Fake  Real  total\n"
        "train         20    20     40\n"
        "validation     3     3      6\n"
        "test           5     5     10\n"
    )


def test_counts_leave_the_rest_unplaced(make_files, tmp_path, run):
    code, out, _ = run(data_split.main, flat(make_files, tmp_path / "in"), "--data", tmp_path / "data", "--sizes", 10, 4, 4)
    assert code == 0
    assert out.splitlines()[0] == "not asked for: 22 images"
    assert [line.split() for line in out.splitlines()[2:]] == [
        ["train", "5", "5", "10"], ["validation", "2", "2", "4"], ["test", "2", "2", "4"],
    ]  # fmt: skip


def test_dry_run_changes_nothing(make_files, tmp_path, run):
    source = flat(make_files, tmp_path / "in")
    code, out, _ = run(data_split.main, source, "--data", tmp_path / "data", "--dry-run")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 44
    assert all(re.fullmatch(rf"{source}/\w+/\d+.jpg -> {tmp_path}/data/\w+/\w+/\d+.jpg", line) for line in lines[:40])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("transfer", ["hardlink", "copy", "move"])
def test_again_is_the_same(make_files, tmp_path, run, contents, transfer):
    source = published(make_files, tmp_path / "in")
    before = contents(source)
    first = run(data_split.main, source, "--data", tmp_path / "data", "--transfer", transfer)
    placed = contents(tmp_path / "data")
    again = run(data_split.main, source, "--data", tmp_path / "data", "--transfer", transfer)
    assert contents(tmp_path / "data") == placed
    assert contents(source) == ({} if transfer == "move" else before)
    assert sorted(placed.values()) == sorted(before.values())
    nothing_left = f"{source}: no images left to move\n" if transfer == "move" else ""
    assert again == (0, nothing_left + first[1], "")


def test_another_split_into_the_same_folder_is_refused(make_files, tmp_path, run, contents):
    source = flat(make_files, tmp_path / "in")
    run(data_split.main, source, "--data", tmp_path / "data")
    placed = contents(tmp_path / "data")
    code, out, err = run(data_split.main, source, "--data", tmp_path / "data", "--seed", 1)
    assert (code, out) == (1, "")
    expected = f"error: {tmp_path}/data: expected no other images, found some that are not of this split: "
    assert err.startswith(expected) and "choose an empty --data" in err
    assert contents(tmp_path / "data") == placed
    make_files(tmp_path / "other", {"test/Fake/0.jpg": "another"})
    code, _, err = run(data_split.main, published(make_files, tmp_path / "two"), "--data", tmp_path / "other")
    assert (code, "not of this split: 1 file (test/Fake/0.jpg)" in err) == (1, True)
    assert list(contents(tmp_path / "other")) == ["test/Fake/0.jpg"]


def test_bad_sources(make_files, tmp_path, run):
    def error(*arguments):
        code, out, err = run(data_split.main, *arguments, "--data", tmp_path / "data")
        assert (code, out, (tmp_path / "data").exists()) == (1, "", False)
        return err

    source = flat(make_files, tmp_path / "one", real=0)
    (source / "real_images").mkdir()
    assert error(source).startswith("error: validation: no image of class Real would be in it; ")
    source = make_files(tmp_path / "two", {"test/FAKE/a.jpg": "a", "test/REAL/b.jpg": "b"})
    assert error(source).startswith(f"error: {source}: expected images to divide among the splits, found none")
    source = flat(make_files, tmp_path / "three")
    make_files(source, {"fake_images/1__augmented-01.jpg": "x"})
    found = f"found augmented ones: 1 file ({source}/fake_images/1__augmented-01.jpg)"
    cure = "split the originals, then run data_augmentation.py"
    assert error(source) == f"error: {source}: expected originals only, {found}; {cure}\n"
    assert run(data_split.main, source, "--data", source / "x")[2] == (
        f"error: {source}/x: expected a folder outside the source {source}; choose another --data\n"
    )
    (source / ".unfinished.jsonl").write_text('{"job": ["data_split.py", "raw"]}\n')
    assert error(source) == f"error: {source}: a command was interrupted here; run it again to finish it: data_split.py raw\n"
    (tmp_path / "file").touch()
    code, _, err = run(data_split.main, source, "--data", tmp_path / "file")
    assert (code, err) == (1, f"error: {tmp_path}/file: expected a folder with images, found a file; check the path\n")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_names_that_are_no_text(make_files, tmp_path, contents):
    source = flat(make_files, tmp_path / "in")
    os.rename(source / "fake_images/1.jpg", os.path.join(os.fsencode(source), b"fake_images/\xff\n.jpg"))
    command = [sys.executable, data_split.__file__, source, "--data", tmp_path / "data"]
    for option in (["--dry-run"], []):
        done = subprocess.run([*command, *option], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert (r"fake_images/\udcff" in done.stdout) is bool(option)
    assert any(path.endswith("\udcff\n.jpg") for path in contents(tmp_path / "data"))


# --- faults ------------------------------------------------------------------------------------------------------------
def test_killed_at_any_moment_and_run_again_it_finishes(make_files, tmp_path, kill_three_times, contents):
    folders = [f"{split}/{name}" for split in ("train", "test") for name in ("FAKE", "REAL")]
    files = {f"{folder}/{i}.jpg": f"{folder}{i}" for folder in folders for i in range(50)}
    files |= {f"train/FAKE/twin{i}.jpg": f"test/FAKE{i}" for i in range(5)}
    source, twin = make_files(tmp_path / "a", files), make_files(tmp_path / "b", files)
    data, undisturbed = tmp_path / "data", tmp_path / "undisturbed"
    how = ("--transfer", "move")  # the hardest case
    assert kill_three_times("data_split.py", (source, "--data", data, *how), undisturbed=(twin, "--data", undisturbed, *how)) == 0
    assert contents(data) == contents(undisturbed)
    assert not contents(source)
    assert len(contents(data)) == len(files)


def test_a_full_disk_and_a_read_only_one(make_files, tmp_path, run, small_disk, contents):
    disk, remount = small_disk
    files = {f"{name}/{i}.jpg": f"{name}{i}" + "x" * 50_000 for name in ("ai", "real") for i in range(20)}
    source, data = make_files(tmp_path / "in", files), disk / "data"
    before, move = contents(source), (tmp_path / "in", "--data", data, "--transfer", "move")
    remount("ro")
    assert run(data_split.main, *move) == (1, "", f"error: {data}: Read-only file system: choose a writable folder\n")
    remount("rw")
    code, out, err = run(data_split.main, *move)
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"error: {data}/\w+/(Fake|Real)/\d+.jpg: No space left on device: free some space .*\n", err)
    assert set(contents(source).values()) | set(contents(data).values()) >= set(before.values())
    remount("size=4m")
    assert run(data_split.main, *move)[0] == 0
    assert sorted(contents(data).values()) == sorted(before.values())
    assert contents(source) == {}


SAME = [f"{name}/{i}.jpg" for name in ("ai", "fake", "Fake") for i in range(10)]


@pytest.mark.parametrize(
    ("paths", "kept"),
    [
        (SAME[:20], {"ai/0.jpg", "fake/0.jpg"}),
        ([*SAME[10:], "Fake/X/1.jpg"], set()),
        ([*SAME[:10], "fake/x.jpg", "ai/x", "fake/x/1.jpg"], set()),
        (
            [*SAME[:10], "ai/a.jpg", "ai/A.jpg", "ai/\u00e9.jpg", "ai/e\u0301.jpg", "ai/x/1.jpg", "ai/X"],
            {"A.jpg", "x/1.jpg", "0.jpg"},
        ),
    ],
)
def test_names_that_are_one_on_some_disks_are_kept_apart(make_files, tmp_path, run, contents, paths, kept):
    source = make_files(tmp_path / "in", {path: path for path in [*paths, *(f"real/{i}.jpg" for i in range(10))]})
    if len(contents(source)) < len(paths) + 10:
        pytest.skip("here such names are one")
    for _ in range(2):
        assert run(data_split.main, source, "--data", tmp_path / "data")[0] == 0
        placed = [path.split("/", 2)[2] for path in contents(tmp_path / "data") if "/Fake/" in path]
        assert len({data_split.data_tree.without_case(path) for path in placed}) == len(placed) == len(paths)
        assert kept <= set(placed) and not {"a.jpg", "X"} & set(placed)


def test_nothing_is_skipped_silently(make_files, tmp_path, run):
    source = published(make_files, tmp_path / "in", **{"train/notes.txt": "x", "test/REAL/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg": "x"})
    (source / "train/FAKE/.hidden.jpg").write_bytes(b"x")
    (source / "train/FAKE/more").symlink_to(source / "test", target_is_directory=True)
    code, out, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        f"skipped, outside the class folders: 1 file ({source}/train/notes.txt)",
        f"skipped, a link: 1 folder ({source}/train/FAKE/more)",
        f"skipped, hidden, unfinished or litter: 2 entries ({source}/test/REAL/@eaDir, {source}/train/FAKE/.hidden.jpg)",
    ]


def test_group_by_folder(make_files, tmp_path, run, contents):
    folders = [f"{name}/{group}" for name in ("fake", "real") for group in range(20)]
    files = {f"{folder}/{i}.jpg": f"{folder}{i}" for folder in folders for i in range(5)}
    source, data = make_files(tmp_path / "in", files), tmp_path / "data"
    code, out, err = run(data_split.main, source, "--data", data, "--group-by", "folder")
    assert (code, err) == (0, "") and "groups: 14 in train, 3 in validation, 3 in test\n" in out
    placed = [path.split("/") for path in contents(data)]
    assert len(placed) == 200
    assert all(len({split for split, _, folder, _ in placed if folder == str(group)}) == 1 for group in range(20))
    sizes = ("--sizes", "0.9", "0.05", "0.05")
    code, out, _ = run(data_split.main, source, "--data", tmp_path / "few", "--group-by", r"/1?([0-9])/", *sizes)
    assert code == 0 and "requested" in out and "groups: 8 in train, 1 in validation, 1 in test\n" in out
    assert run(data_split.main, source, "--data", tmp_path / "no", "--group-by", "(")[0] == 1
