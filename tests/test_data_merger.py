import pytest

import data_merger
from detector import files
from detector.data import placing
from detector.data import tree as data_tree


def tree(make_files, folder, tag="", **more):
    """A small split tree; `more` adds or changes files."""
    folders = [f"{split}/{name}" for split in data_tree.SPLITS for name in data_tree.CLASSES]
    return make_files(folder, {f"{where}/{i}.jpg": f"{tag}{where}{i}" for where in folders for i in range(3)} | more)


TABLE = "            Fake  Real  total\n"


def test_two_trees_become_one(make_files, tmp_path, run, contents):
    a, b = tree(make_files, tmp_path / "a"), tree(make_files, tmp_path / "b", **{"train/Fake/0.jpg": "other"})
    make_files(b, {"left_out/twin_of_test/Fake/x.jpg": "x"})
    code, out, err = run(data_merger.main, a, b, "--into", tmp_path / "data")
    assert (code, err) == (0, "")
    assert out == (
        "placed: 19 images\n"
        "renamed: 1 image (the name was taken by another image)\n"
        "skipped: 17 images (the target has the same name with the same content)\n"
        f"{TABLE}"
        "train          4     3      7\n"
        "validation     3     3      6\n"
        "test           3     3      6\n"
    )
    digest = files.digest_of(b / "train/Fake/0.jpg")
    merged = contents(tmp_path / "data")
    assert merged.pop(f"train/Fake/0-{digest[:8]}.jpg") == contents(b)["train/Fake/0.jpg"]
    assert merged == contents(a)
    code, out, _ = run(data_merger.main, a, b, "--into", tmp_path / "data")
    assert (code, out.splitlines()[0], len(contents(tmp_path / "data"))) == (0, "placed: 0 images", 19)


def test_unsplit_sets_become_one(make_files, tmp_path, run, contents):
    a = make_files(tmp_path / "a", {"fake_images/1.jpg": "a", "real_images/1.jpg": "b"})
    b = make_files(tmp_path / "b", {"ai/1.jpg": "c", "human/deep/1.jpg": "d"})
    code, out, err = run(data_merger.main, a, b, "--into", tmp_path / "data")
    digest = files.digest_of(b / "ai/1.jpg")
    assert (code, err) == (0, "")
    assert out.splitlines()[2:] == ["     Fake  Real  total", "all     2     2      4"]
    assert set(contents(tmp_path / "data")) == {"Fake/1.jpg", f"Fake/1-{digest[:8]}.jpg", "Real/1.jpg", "Real/deep/1.jpg"}


@pytest.mark.parametrize("name", ["1", "\u00e9" * 120])
def test_a_third_clash_overwrites_nothing(make_files, tmp_path, run, contents, name):
    sources = [make_files(tmp_path / tag, {f"fake/{name}.jpg": tag, "real/1.jpg": f"real{tag}"}) for tag in "abc"]
    digest = files.digest_of(sources[2] / f"fake/{name}.jpg")
    make_files(sources[0], {f"fake/{name[:40]}-{digest[:8]}.jpg": "somebody had the name already"})
    assert run(data_merger.main, *sources, "--into", tmp_path / "data")[0] == 0
    merged = contents(tmp_path / "data")
    assert len(set(merged.values())) == len(merged) == 7
    assert f"Fake/{name[:40]}-{digest[:16]}.jpg" in merged


@pytest.mark.parametrize(("one", "other"), [("A", "a"), ("\u00e9", "E\u0301")])
def test_names_that_some_systems_take_for_one_are_kept_apart(make_files, tmp_path, run, contents, one, other):
    a = make_files(tmp_path / "a", {f"fake/{one}.jpg": "a", "real/1.jpg": "b"})
    b = make_files(tmp_path / "b", {f"fake/{other}.jpg": "c", "real/2.jpg": "d"})
    assert run(data_merger.main, a, b, "--into", tmp_path / "data")[0] == 0
    merged = contents(tmp_path / "data")
    assert len({files.without_case(path) for path in merged}) == len(merged) == 4


@pytest.mark.parametrize("path", ["train/Real/x.jpg", "test/Fake/x.jpg"])
def test_conflicts_end_the_merge_or_are_left_out(make_files, tmp_path, run, contents, path):
    a, b = tree(make_files, tmp_path / "a"), tree(make_files, tmp_path / "b", tag="b", **{path: "train/Fake0"})
    data = tmp_path / "data"
    run(data_merger.main, a, "--into", data)
    before = contents(data)
    code, out, err = run(data_merger.main, b, "--into", data)
    assert (code, out) == (1, "")
    pair = f"{b / path} = {data}/train/Fake/0.jpg"
    cure = "look at them, or leave the new ones out with --on-conflict skip"
    assert err == f"error: under both labels or in two splits: 1 image ({pair}); {cure}\n"
    assert contents(data) == before
    code, out, err = run(data_merger.main, b, "--into", data, "--on-conflict", "skip")
    assert (code, err) == (0, "")
    assert "left out, in another split or under the other label already: 1 image (" in out
    assert len(contents(data)) == 36


def test_a_move_empties_the_sources_also_of_what_was_there_already(make_files, tmp_path, run, contents):
    a, b = tree(make_files, tmp_path / "a"), tree(make_files, tmp_path / "b", **{"train/Fake/0.jpg": "other"})
    every = set(contents(a).values()) | set(contents(b).values())
    assert run(data_merger.main, a, b, "--into", tmp_path / "data", "--transfer", "move")[0] == 0
    assert (contents(a), contents(b)) == ({}, {})
    assert set(contents(tmp_path / "data").values()) == every
    assert len(contents(tmp_path / "data")) == 19
    assert run(data_merger.main, a, b, "--into", tmp_path / "data", "--transfer", "move")[0] == 0


def test_what_does_not_fit_is_refused(make_files, tmp_path, run):
    split, flat = tree(make_files, tmp_path / "split"), make_files(tmp_path / "flat", {"fake/1.jpg": "a", "real/1.jpg": "b"})

    def error(*arguments):
        code, out, err = run(data_merger.main, *arguments)
        assert (code, out) == (1, "")
        return err.removeprefix("error: ").removesuffix("\n")

    unsplit = make_files(tmp_path / "unsplit", {"Fake/1.jpg": "x", "Real/1.jpg": "y"})
    for path, arguments in (("flat/fake", (split, flat, "--into", tmp_path / "data")), ("flat/fake", (flat, "--into", split)),
                            ("unsplit/Fake", (split, "--into", unsplit))):  # fmt: skip
        assert error(*arguments).startswith(f"{tmp_path}/{path}/1.jpg: expected splits as in {split}/t")
    assert error(split, "--into", split) == f"{split}: expected a folder outside the source {split}; choose another --into"
    assert error(unsplit, "--into", flat).startswith(f"{flat}: expected the folders train, validation, test, found also fake; ")
    make_files(unsplit, {"fake/1.jpg": "z"})
    assert error(flat, "--into", unsplit).startswith(f"{unsplit}: expected the folders Fake, Real, found also fake; ")
    (tmp_path / "linked/Fake").mkdir(parents=True)
    (tmp_path / "linked/Fake/more").symlink_to(flat, target_is_directory=True)
    assert error(flat, "--into", tmp_path / "linked").startswith(f"{tmp_path}/linked/Fake/more: expected a folder, found a link")
    astray = tree(make_files, tmp_path / "astray", **{"test/Fake/1__augmented-00.jpg": "z"})
    assert error(astray, "--into", tmp_path / "data") == (
        f"{astray}/test/Fake/1__augmented-00.jpg: expected augmented images in train only, found 1 elsewhere; remove them"
    )
    (split / placing.JOURNAL).write_text('{"job": ["data_split.py", "raw"]}\n')
    assert error(split, "--into", tmp_path / "data") == (
        f"{split}: a command was interrupted here; run it again to finish it: data_split.py raw"
    )


def test_what_was_augmented_from_a_held_out_image_is_refused(make_files, tmp_path, run, contents):
    there = tree(make_files, tmp_path / "there", **{"validation/Fake/7.jpg": "held out", "test/Real/8.jpg": "also"})
    before = contents(there)
    made = tree(make_files, tmp_path / "made", "x", **{"train/Fake/7.jpg__augmented-00.jpg": "a picture of 7"})
    code, out, err = run(data_merger.main, made, "--into", there)
    assert (code, out) == (1, "")
    assert err == (
        f"error: {made}/train/Fake/7.jpg__augmented-00.jpg: made from an image in validation or test, "
        f"{there}/validation/Fake/7.jpg; merge the originals first, then run data_augmentation.py on the tree they make\n"
    )
    assert contents(there) == before


def test_a_file_whose_name_is_a_folder_elsewhere_is_renamed(make_files, tmp_path, run, contents):
    a = make_files(tmp_path / "a", {"fake/x.jpg": "file", "real/1.jpg": "b"})
    b = make_files(tmp_path / "b", {"fake/X.jpg/1.jpg": "in a folder", "real/2.jpg": "d"})
    renamed = f"Fake/x-{files.digest_of(a / 'fake/x.jpg')[:8]}.jpg"
    for sources in ((a, b), (b, a)):
        data = tmp_path / f"into_{sources[0].name}"
        code, out, err = run(data_merger.main, *sources, "--into", data)
        assert (code, err) == (0, "")
        assert "renamed: 1 image (the name was taken by another image)\n" in out
        assert set(contents(data)) == {renamed, "Fake/X.jpg/1.jpg", "Real/1.jpg", "Real/2.jpg"}
        assert run(data_merger.main, *sources, "--into", data)[1].splitlines()[0] == "placed: 0 images"


def test_nothing_is_skipped_silently(make_files, tmp_path, run, contents):
    a, b = (tree(make_files, tmp_path / name, name, **{"train/notes.txt": "x"}) for name in "ab")
    make_files(b, {"README": "x", ".hidden": "x"})
    (b / "train/Fake/list.txt").write_text("no image")
    assert len(run(data_merger.main, a, b, "--into", tmp_path / "data", "--dry-run")[1].splitlines()) == 36 + 4
    assert not (tmp_path / "data").exists()
    (b / "test/Fake/more").symlink_to(a, target_is_directory=True)
    code, out, err = run(data_merger.main, a, b, "--into", tmp_path / "data")
    assert (code, err, len(contents(tmp_path / "data"))) == (0, "", 36)
    assert (
        f"skipped, not an image: 1 file ({b}/train/Fake/list.txt)\n"
        f"skipped, outside the class folders: 3 files ({a}/train/notes.txt, {b}/README, {b}/train/notes.txt)\n"
        f"skipped, a link: 1 folder ({b}/test/Fake/more)\n"
    ) in out


def test_a_source_without_images_adds_none(tmp_path, run):
    for name in ("Fake", "Real"):
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / "notes.txt").write_text(name)
    code, out, err = run(data_merger.main, tmp_path / "a", "--into", tmp_path / "data")
    assert (code, err) == (0, "") and out.startswith("placed: 0 images\nskipped, not an image: 2 files")
