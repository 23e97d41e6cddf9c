import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_split
from detector.console import InputError

SPLITS = ("train", "validation", "test")
EXPECTED = "--sizes: expected fractions that sum to 1, or counts, for train, validation, test; "


def names(fake, real):
    """Distinct contents: the name is the key."""
    return [(f"f{i}", "Fake", f"f{i}") for i in range(fake)] + [(f"r{i}", "Real", f"r{i}") for i in range(real)]


def per_class(plan):
    return {split: Counter("Fake" if name[0] == "f" else "Real" for name in names) for split, names in plan.items()}


def flat(make_files, folder, fake=20, real=20):
    files = {f"fake_images/{i}.jpg": f"f{i}" for i in range(fake)} | {f"real_images/{i}.jpg": f"r{i}" for i in range(real)}
    return make_files(folder, files)


def published(make_files, folder, **more):
    files = {}
    for split, number in (("train", 20), ("test", 5)):
        for name in ("FAKE", "REAL"):
            files |= {f"{split}/{name}/{i}.jpg": f"{split}{name}{i}" for i in range(number)}
    return make_files(folder, files | more)


# --- the plan, on names alone ------------------------------------------------------------------------------------------


def test_the_reference_size_is_planned_exactly():
    plan = data_split.plan_split(names(80_000, 80_000), {"train": 114_000, "validation": 23_000, "test": 23_000}, seed=0)
    assert per_class(plan) == {
        "train": {"Fake": 57_000, "Real": 57_000},
        "validation": {"Fake": 11_500, "Real": 11_500},
        "test": {"Fake": 11_500, "Real": 11_500},
    }
    assert sum(len(set(some)) for some in plan.values()) == 160_000


def test_unequal_classes_keep_their_proportion_and_the_counts_stay_exact():
    plan = data_split.plan_split(names(70, 30), {"train": 33, "validation": 11, "test": 11}, seed=0)
    assert {split: len(some) for split, some in plan.items()} == {"train": 33, "validation": 11, "test": 11}
    assert [per_class(plan)[split]["Fake"] for split in SPLITS] == [23, 8, 8]


def test_one_seed_one_split():
    items = names(50, 50)
    counts = {"train": 70, "validation": 15, "test": 15}
    plan = data_split.plan_split(items, counts, seed=3)
    assert plan == data_split.plan_split(items[::-1], counts, seed=3)
    assert plan != data_split.plan_split(items, counts, seed=4)
    # written down once: every machine must come to the same
    assert " ".join(plan["test"]) == "f13 f22 f26 f29 f30 f31 f42 r10 r12 r2 r29 r3 r33 r47 r5"


@st.composite
def divisible(draw):
    """A set with groups of equal content, and counts that it can meet."""
    items = []
    for label in ("Fake", "Real"):
        sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=12)) + [1] * draw(st.integers(20, 40))
        items += [(f"{label}{g}.{i}", label, f"{label}{g}") for g, n in enumerate(sizes) for i in range(n)]
    n = len(items)
    test, validation = draw(st.integers(4, n // 5)), draw(st.integers(4, n // 5))
    train = draw(st.integers(4, n - test - validation))
    return draw(st.permutations(items)), {"train": train, "validation": validation, "test": test}


@given(divisible(), st.integers())
@settings(max_examples=60, deadline=None)
def test_plans_are_disjoint_exact_stratified_and_keep_groups_together(drawn, seed):
    items, counts = drawn
    label = {name: label for name, label, _ in items}
    key = {name: key for name, _, key in items}
    plan = data_split.plan_split(items, counts, seed)
    assert {split: len(set(some)) for split, some in plan.items()} == counts
    split_of = {name: split for split, some in plan.items() for name in some}
    assert len(split_of) == sum(counts.values())
    assert all(len({split_of.get(name) for name in key if key[name] == group}) == 1 for group in set(key.values()))
    fakes = Fraction(sum(of == "Fake" for of in label.values()), len(items))
    for split, some in plan.items():
        assert abs(sum(label[name] == "Fake" for name in some) - counts[split] * fakes) < 1
    assert plan == data_split.plan_split(sorted(items), counts, seed)


@given(st.integers(1, 10**6), st.lists(st.integers(0, 10**6), min_size=1, max_size=4).filter(any))
def test_apportion_sums_to_the_total_and_is_nowhere_off_by_one(total, weights):
    shares = data_split.apportion(total, weights)
    assert sum(shares) == total
    assert all(abs(Fraction(total * weight, sum(weights)) - share) < 1 for weight, share in zip(weights, shares, strict=True))


def test_fractions_let_a_group_go_to_train_where_it_does_not_fit():
    items = [(f"{label}{g}.{i}", label, f"{label}{g}") for label in ("Fake", "Real") for g in range(10) for i in range(3)]
    plan = data_split.plan_split(items, {"train": 42, "validation": 9, "test": 9}, seed=0, exact=False)
    assert {split: len(some) for split, some in plan.items()} == {"train": 48, "validation": 6, "test": 6}


def test_a_count_that_groups_make_impossible_is_refused():
    items = [(f"{label}{g}.{i}", label, f"{label}{g}") for label in ("Fake", "Real") for g in range(10) for i in range(2)]
    with pytest.raises(InputError, match=r"^test: expected 3 images of class Fake, 2 can be had: the rest are groups of identical"):
        data_split.plan_split(items, {"train": 20, "test": 6}, seed=0)


def test_a_split_without_a_class_is_refused():
    with pytest.raises(InputError, match=r"^test: no image of class Real would be in it; give more images of that class, or "):
        data_split.plan_split(names(40, 2), {"train": 30, "test": 4}, seed=0)


# --- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "kept", "number", "counts"),
    [
        (None, {}, 100, {"train": 70, "validation": 15, "test": 15}),
        (None, {"test": 5}, 100, {"train": 80, "validation": 20}),
        (None, {"validation": 5}, 100, {"train": 80, "test": 20}),
        (None, {"test": 5, "validation": 5}, 100, {"train": 100}),
        ("0.8 0.2 0", {"test": 5}, 100, {"train": 80, "validation": 20}),
        ("1/3 1/3 1/3", {}, 10, {"train": 4, "validation": 3, "test": 3}),
        ("60 20 10", {}, 100, {"train": 60, "validation": 20, "test": 10}),
        ("60 20 5", {"test": 5}, 100, {"train": 60, "validation": 20}),
    ],
)
def test_sizes(sizes, kept, number, counts):
    sizes = [Fraction(size) for size in sizes.split()] if sizes else None
    assert data_split.resolve_sizes(sizes, kept, number)[0] == counts


@pytest.mark.parametrize(
    ("sizes", "kept", "message"),
    [
        ("0.7 0.2 0.2", {}, f"{EXPECTED}0.7 0.2 0.2 sums to 1.1"),
        ("90 10 1", {}, "--sizes: 101 images asked for, 100 are there to divide; ask for fewer"),
        ("0 0 0", {}, f"{EXPECTED}0 0 0 sums to 0"),
        (
            "0.7 0.15 0.15",
            {"test": 5},
            "--sizes: the published test of 5 images is kept as it is, 0.15 was asked for; "
            "give 0 for it and divide the rest, for example --sizes 0.8 0.2 0",
        ),
    ],
)
def test_sizes_that_do_not_fit(sizes, kept, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        data_split.resolve_sizes([Fraction(size) for size in sizes.split()], kept, 100)


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
    code, out, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert out == (
        "left out: 3 images (in train, identical to one in the published test)\n"
        "left out: 2 images (identical to one of the other class)\n"
        f"no images: 1 file (first: {source / 'train/REAL/notes.txt'})\n"
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


def test_published_validation_is_kept_and_a_doubtful_test_is_warned_of(make_files, tmp_path, run):
    more = {f"valid/{name}/{i}.jpg": f"valid{name}{i}" for name in ("FAKE", "REAL") for i in range(3)}
    more |= {"valid/FAKE/twin.jpg": "testFAKE0", "train/FAKE/twin.jpg": "validFAKE0", "test/REAL/5.jpg": "testFAKE4"}
    source = published(make_files, tmp_path / "in", **more)
    code, out, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert out == (
        "left out: 1 image (in train, identical to one in the published validation)\n"
        "left out: 1 image (in the published validation, identical to one in the published test)\n"
        "warning: 1 image of the published validation or test under both labels\n"
        "            Fake  Real  total\n"
        "train         20    20     40\n"
        "validation     3     3      6\n"
        "test           5     6     11\n"
    )


def test_counts_leave_the_rest_unplaced(make_files, tmp_path, run):
    code, out, _ = run(data_split.main, flat(make_files, tmp_path / "in"), "--data", tmp_path / "data", "--sizes", 10, 4, 4)
    assert code == 0
    assert out.splitlines()[0] == "not asked for: 22 images"
    assert [line.split() for line in out.splitlines()[2:]] == [
        ["train", "5", "5", "10"], ["validation", "2", "2", "4"], ["test", "2", "2", "4"],
    ]  # fmt: skip


def test_folders_of_one_class_that_share_names_are_kept_apart(make_files, tmp_path, run, contents):
    source = make_files(tmp_path / "in", {f"{name}/{i}.jpg": f"{name}{i}" for name in ("ai", "fake", "real") for i in range(10)})
    assert run(data_split.main, source, "--data", tmp_path / "data")[0] == 0
    placed = contents(tmp_path / "data")
    assert len(placed) == 30
    assert {path.split("/")[2] for path in placed if "/Fake/" in path} == {"ai", "fake"}


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
    assert re.fullmatch(
        rf"error: {tmp_path}/data: expected no other images there, found \d+ that are not of this split "
        r"\(first: train/Fake/\d+.jpg\); "
        r"choose an empty --data \(data_merger.py joins the two\), or remove the old split with data_deleter.py\n",
        err,
    )
    assert contents(tmp_path / "data") == placed


def test_another_content_under_a_planned_name_is_refused_before_anything_is_placed(make_files, tmp_path, run, contents):
    source = published(make_files, tmp_path / "in")
    make_files(tmp_path / "data", {"test/Fake/0.jpg": "another"})
    code, _, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, "found 1 that are not of this split (first: test/Fake/0.jpg)" in err) == (1, True)
    assert list(contents(tmp_path / "data")) == ["test/Fake/0.jpg"]


def test_bad_sources(make_files, tmp_path, run):
    def error(*arguments):
        code, out, err = run(data_split.main, *arguments, "--data", tmp_path / "data")
        assert (code, out, (tmp_path / "data").exists()) == (1, "", False)
        return err

    assert error(tmp_path / "no") == (
        f"error: {tmp_path}/no: expected a folder with class folders, found nothing of that name; check the path\n"
    )
    source = flat(make_files, tmp_path / "one", real=0)
    (source / "real_images").mkdir()
    assert error(source) == f"error: {source}: expected images of class Real, found none that could be used; add some\n"
    source = make_files(tmp_path / "two", {"test/FAKE/a.jpg": "a", "test/REAL/b.jpg": "b"})
    assert error(source) == f"error: {source}: expected images of class Fake in train, found none that could be used; add some\n"
    source = flat(make_files, tmp_path / "three")
    make_files(source, {"fake_images/1__augmented-01.jpg": "x"})
    assert error(source) == (
        f"error: {source}: expected originals only, found 1 augmented image (first: {source}/fake_images/1__augmented-01.jpg); "
        "an original and its augmented images would come apart: split first, then run data_augmentation.py\n"
    )
    assert run(data_split.main, source, "--data", source / "x")[2] == (
        f"error: {source}/x: expected a folder outside the source {source}; choose another --data\n"
    )


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


def test_a_file_where_the_data_folder_should_be(make_files, tmp_path, run):
    source = flat(make_files, tmp_path / "in")
    (tmp_path / "data").write_text("")
    code, _, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (1, f"error: {tmp_path}/data: expected a folder with images, found a file; check the path\n")


def test_usage(tmp_path, run):
    code, _, err = run(data_split.main, tmp_path, "--sizes", "a", "b", "c")
    assert (code, err.splitlines()[-1]) == (
        2, "data_split.py: error: argument --sizes: expected a number of at least 0, found a",
    )  # fmt: skip


# --- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer", ["hardlink", "copy", "move"])
def test_killed_at_any_moment_and_run_again_it_finishes(make_files, tmp_path, kill_three_times, contents, transfer):
    folders = [f"{split}/{name}" for split in ("train", "test") for name in ("FAKE", "REAL")]
    files = {f"{folder}/{i}.jpg": f"{folder}{i}" for folder in folders for i in range(50)}
    files |= {f"train/FAKE/twin{i}.jpg": f"test/FAKE{i}" for i in range(5)}
    source, twin = make_files(tmp_path / "a", files), make_files(tmp_path / "b", files)
    data, undisturbed = tmp_path / "data", tmp_path / "undisturbed"
    how = ("--transfer", transfer)
    assert kill_three_times("data_split.py", (source, "--data", data, *how), undisturbed=(twin, "--data", undisturbed, *how)) == 0
    assert contents(data) == contents(undisturbed)
    assert len(contents(source)) == (0 if transfer == "move" else len(files))
    assert len(contents(data)) == len(files)


def test_an_interrupted_split_refuses_other_options(make_files, tmp_path, run, monkeypatch):
    source = flat(make_files, tmp_path / "in")
    with monkeypatch.context() as patched:
        patched.setattr(data_split.placing, "carry_out", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        code, _, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (1, "error: interrupted; run the same command again to finish it\n")
    code, _, err = run(data_split.main, source, "--data", tmp_path / "data", "--seed", 1)
    assert (code, err) == (
        1,
        f"error: {tmp_path}/data: a command was interrupted here; run it again to finish it: "
        f"data_split.py {source} --data {tmp_path}/data --seed 0 --transfer hardlink\n",
    )
    assert run(data_split.main, source, "--data", tmp_path / "data")[0] == 0


def test_a_file_that_vanishes(make_files, tmp_path, run, monkeypatch, contents):
    source = flat(make_files, tmp_path / "in")
    gone = source / "fake_images/7.jpg"
    text = gone.read_bytes()

    def finish(*arguments, finish=data_split.placing.finish):
        gone.unlink()
        finish(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(data_split.placing, "finish", finish)
        code, out, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, out) == (1, "")
    assert err == (
        f"error: 1 image vanished before being placed (first: {gone}), the others are in {tmp_path}/data; put back what vanished "
        f"and run the same command again, or remove {tmp_path}/data/.unfinished.jsonl to go without\n"
    )
    assert len(contents(source)) == 39
    gone.write_bytes(text)
    assert run(data_split.main, source, "--data", tmp_path / "data")[0] == 0
    assert len(contents(tmp_path / "data")) == 40


def test_a_full_disk_and_a_read_only_one(make_files, tmp_path, run, small_disk, contents):
    disk, remount = small_disk
    files = {f"{name}/{i}.jpg": f"{name}{i}" + "x" * 50_000 for name in ("ai", "real") for i in range(20)}
    source = make_files(tmp_path / "in", files)
    before = contents(source)
    remount("ro")
    code, out, err = run(data_split.main, source, "--data", disk / "data")
    assert (code, out) == (1, "")
    assert err == f"error: {disk}/data: Read-only file system: choose a folder that can be written to\n"
    remount("rw")
    for transfer in ("hardlink", "move"):  # both copy to another disk
        data = disk / transfer
        code, out, err = run(data_split.main, source, "--data", data, "--transfer", transfer)
        assert (code, out) == (1, "")
        *told, error = err.splitlines()
        assert re.fullmatch(rf"error: {data}/\w+/(Fake|Real)/\d+.jpg: No space left on device: free some room .*", error)
        assert [line.split(":")[0] for line in told] == (
            [f"hard links are not to be had between {source}/ai and {data}/train/Fake"] if transfer == "hardlink" else []
        )
        assert len(set(contents(source).values()) | set(contents(data).values()) - {b""}) >= 40
        if transfer == "hardlink":
            assert contents(source) == before
            shutil.rmtree(data)
    assert not any(path.endswith(".part") for path in contents(data))
    remount("size=4m")
    assert run(data_split.main, source, "--data", data, "--transfer", "move")[0] == 0
    assert sorted(contents(data).values()) == sorted(before.values())
    assert contents(source) == {}


def test_splits_below_the_classes_are_refused(make_files, tmp_path, run):
    names = [f"{label}/{split}/{i}.jpg" for label in ("Fake", "Real") for split in ("train", "test") for i in (1, 2)]
    source = make_files(tmp_path / "cf", {name: name for name in names})
    code, _, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (
        1, f"error: {source}/Fake/test: expected splits above the classes, as in test/Fake, found them below; swap the folders\n"
    )  # fmt: skip


def test_names_that_are_one_on_some_disks_are_kept_apart(make_files, tmp_path, run, contents):
    files = {f"{name}/{i}.jpg": f"{name}{i}" for name in ("ai", "real") for i in range(10)}
    files |= {"ai/a.jpg": 1, "ai/A.jpg": 2, "ai/\u00e9.jpg": 3, "ai/e\u0301.jpg": 4, "ai/x/1.jpg": 5, "ai/X": 6}
    source = make_files(tmp_path / "in", files)
    if len(contents(source)) < len(files):
        pytest.skip("here such names are one")
    for _ in range(2):
        assert run(data_split.main, source, "--data", tmp_path / "data")[0] == 0
        placed = [path.split("/", 2)[2] for path in contents(tmp_path / "data") if "/Fake/" in path]
        assert len({data_split.data_tree.without_case(path) for path in placed}) == len(placed) == 16
        assert {"A.jpg", "x/1.jpg", "0.jpg"} <= set(placed)
        assert not {"a.jpg", "X"} & set(placed)


def test_a_file_in_one_class_folder_and_a_folder_in_another(make_files, tmp_path, run, contents):
    files = {f"{name}/{name}{i}.jpg": f"{name}{i}" for name in ("ai", "fake", "real") for i in range(10)}
    source = make_files(tmp_path / "in", files | {"ai/x": 1, "fake/x/1.jpg": 2})
    code, _, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert len(contents(tmp_path / "data")) == 32


def test_class_folders_whose_own_names_are_one_on_some_disks(make_files, tmp_path, run, contents):
    files = {f"{name}/{i}.jpg": f"{name}{i}" for name in ("fake", "Fake", "real") for i in range(10)}
    source = make_files(tmp_path / "in", files)
    if len(contents(source)) < len(files):
        pytest.skip("here such names are one")
    assert run(data_split.main, source, "--data", tmp_path / "data")[0] == 0
    placed = [path.split("/", 2)[2] for path in contents(tmp_path / "data") if "/Fake/" in path]
    assert len({data_split.data_tree.without_case(path) for path in placed}) == len(placed) == 20


def test_a_move_is_done_when_only_files_that_are_no_images_are_left(make_files, tmp_path, run, contents):
    source = flat(make_files, tmp_path / "in")
    (source / "fake_images/notes.txt").write_text("no image")
    arguments = (source, "--data", tmp_path / "data", "--transfer", "move")
    assert run(data_split.main, *arguments)[0] == 0
    placed = contents(tmp_path / "data")
    code, out, err = run(data_split.main, *arguments)
    assert (code, err, contents(tmp_path / "data")) == (0, "", placed)
    assert out.splitlines()[0] == f"{source}: no images left to move"
    assert out.splitlines()[2].split() == ["train", "14", "14", "28"]


def test_what_is_passed_over_is_told(make_files, tmp_path, run):
    source = published(make_files, tmp_path / "in", **{"train/notes.txt": "x"})
    (source / "train/FAKE/more").symlink_to(source / "test", target_is_directory=True)
    code, out, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == (
        f"passed over: 1 linked folder (first: {source}/train/FAKE/more), "
        f"1 file beside the class folders (first: {source}/train/notes.txt)"
    )


def test_a_source_that_a_stage_was_interrupted_in_is_refused(make_files, tmp_path, run):
    source = published(make_files, tmp_path / "in")
    (source / ".unfinished.jsonl").write_text('{"job": ["data_split.py", "raw"]}\n')
    code, _, err = run(data_split.main, source, "--data", tmp_path / "data")
    assert (code, err) == (
        1, f"error: {source}: a command was interrupted here; run it again to finish it: data_split.py raw\n"
    )  # fmt: skip


def test_another_stage_in_the_same_folder_is_told(make_files, tmp_path, run, contents):
    source, data = flat(make_files, tmp_path / "in"), tmp_path / "data"
    with data_split.placing.alone_in(data):
        code, out, err = run(data_split.main, source, "--data", data)
        assert (code, out, contents(data)) == (1, "", {})
        assert err == f"error: {data}: another command is working there now; run this one when it has ended\n"
        assert run(data_split.main, source, "--data", data, "--dry-run")[0] == 0
    assert run(data_split.main, source, "--data", data)[0] == 0
