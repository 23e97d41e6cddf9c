import inspect
import io
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data_augmentation
from data_augmentation import main, parse, plan_augmentation, recipe_of
from detector.console import InputError
from detector.data.tree import read_tree
from detector.images import corruptions, transforms
from detector.images.pixels import read_image
from tests.conftest import draw as picture


def draw(path, seed, size=(16, 12), **options):
    """Write a small picture of soft random blocks, a different one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    """A data tree: 4 Fake and 2 Real in train, one of each in test."""
    data = tmp_path / "data"
    for i in range(4):
        draw(data / f"train/Fake/{i}.jpg", i)
    for i in range(2):
        draw(data / f"train/Real/{i}.png", 10 + i, size=(20, 20))
    draw(data / "test/Fake/t.jpg", 20)
    draw(data / "test/Real/t.jpg", 21)
    return data


def augmented(files):
    return {path: content for path, content in files.items() if "__augmented-" in path}


def names(fake, real):
    return {"Fake": [f"train/Fake/{i}.jpg" for i in range(fake)], "Real": [f"train/Real/{i}.jpg" for i in range(real)]}


def per_class(plan):
    return Counter(path.split("/")[1] for path in plan), sum(plan.values())


# --- the plan ----------------------------------------------------------------------------------------------------------
def test_the_reference_size_comes_out_of_the_arithmetic():
    plan = plan_augmentation(names(47_000, 47_000), images=2000)
    assert per_class(plan) == ({"Fake": 1000, "Real": 1000}, 20_000) and 94_000 + 20_000 == 114_000
    by_total = plan_augmentation(names(47_000, 47_000), total=114_000)
    assert sum(by_total.values()) == 20_000 and set(by_total.values()) == {1}


def test_the_picked_originals_follow_from_seed_and_paths_alone():
    originals = names(30, 20)
    shuffled = {name: random.Random(1).sample(paths, len(paths)) for name, paths in originals.items()}
    plan = plan_augmentation(originals, images=10, seed=3)
    assert plan == plan_augmentation(shuffled, images=10, seed=3) != plan_augmentation(originals, images=10, seed=4)
    assert list(plan) == sorted(plan) and per_class(plan)[0] == {"Fake": 6, "Real": 4}
    assert set(plan) < set(plan_augmentation(originals, images=20, seed=3))  # more of them are these and others


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 30), st.integers(1, 30), st.integers(-5, 5))
def test_a_total_is_met_exactly_and_spread_evenly(data, fake, real, seed):
    images = data.draw(st.none() | st.integers(1, fake + real))
    total = data.draw(st.integers(fake + real + 1, 300))
    plan = plan_augmentation(names(fake, real), images=images, total=total, seed=seed)
    new = total - fake - real
    assert sum(plan.values()) == new and min(plan.values()) > 0
    assert len(plan) == min(images or fake + real, new) and max(plan.values()) - min(plan.values()) <= 1


@pytest.mark.parametrize(("option", "number"), [("images", 7), ("images", 0), ("total", 6)])
def test_what_cannot_be_planned(option, number):
    with pytest.raises(InputError, match=rf"^--{option} {number}: expected (1 to|more than) 6, the number of originals in train$"):
        plan_augmentation(names(4, 2), **{option: number})


# --- the images --------------------------------------------------------------------------------------------------------
def test_the_counts_at_the_end_and_what_is_there(tree, run, contents):
    before = contents(tree)
    code, out, err = run(main, "--data", tree)
    assert (code, err) == (0, "")
    assert out == (
        "                  Fake  Real  total\n"
        "train                4     2      6\n"
        "test                 1     1      2\n"
        "train, augmented    40    20     60\n"
    )
    made = augmented(contents(tree))
    assert len(made) == 60 and {path: content for path, content in contents(tree).items() if path not in made} == before
    assert set(made) == {f"{path}__augmented-{i:02d}.jpg" for path in before if path.startswith("train") for i in range(10)}
    assert len(set(made.values())) == 60


def test_new_images_have_their_original_s_size_one_format_and_no_metadata(tree, contents):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    draw(tree / "train/Real/turned.jpg", 5, size=(40, 24), exif=exif, comment=b"message", dpi=(300, 300))
    main(["--data", str(tree), "--per-image", "2"])
    for path, content in augmented(contents(tree)).items():
        image = Image.open(io.BytesIO(content))
        expected = read_image(tree / path.split("__augmented-")[0]).shape
        assert (image.format, image.mode, image.height, image.width) == ("JPEG", "RGB", *expected[:2])
        assert not image.getexif() and set(image.info) == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert image.info["jfif_density"] == (1, 1)
        assert image.layer[0][1:3] == (2, 2) and image.quantization[0][0] == 2  # 4:2:0, quality 95
    tables = {str(Image.open(io.BytesIO(content)).quantization) for content in augmented(contents(tree)).values()}
    assert len(tables) == 1


def test_the_same_seed_gives_the_same_images_and_another_gives_others(tree, tmp_path, contents):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        main(["--data", str(tree), "--into", str(tmp_path / name), "--seed", str(seed), "--recipe", "both"])
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again and set(first) == set(other)
    assert not any(first[path] == other[path] for path in first)


def test_an_image_depends_neither_on_the_number_of_others_nor_of_processes(tree, tmp_path, contents):
    for name, number in (("few", 2), ("many", 40)):  # in one process, and in one for each core
        main(["--data", str(tree), "--into", str(tmp_path / name), "--per-image", str(number), "--recipe", "both"])
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert len(few) == 12 and len(many) == 240 and few.items() <= many.items()


def test_what_the_recipes_do(tree, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(transforms, "random_affines", lambda image, *_, **__: done.append("affine") or [image])
    monkeypatch.setattr(corruptions, "random_degradation", lambda image, rng, **_: done.append("damage") or image)
    both = {"affine", "damage"}
    for recipe, expected in (("geometric", {"affine"}), ("degradation", {"damage"}), ("damage", {"damage"}), ("both", both)):
        done.clear()
        main(["--data", str(tree), "--into", str(tmp_path / recipe), "--per-image", "1", "--recipe", recipe])
        assert set(done) == expected


def test_strengths_reach_the_recipe():
    given = ["--recipe", "both", "--rotation", "5", "--shift", "0.1", "--shear", "0", "--zoom", "0.3", "--no-flip"]
    given += ["--damage", "0.9", "--blur", "1", "--scale", "0.5", "--noise", "0.02", "--jpeg", "60"]
    recipe = recipe_of(parse(given))
    assert recipe.affine == {"rotation": 5, "shift": 0.1, "shear": 0, "zoom": 0.3, "flip": False}
    expected = {"probability": 0.9, "max_blur": 1, "min_scale": 0.5, "max_noise": 0.02, "min_quality": 60}
    assert recipe.degradation == expected


def test_the_defaults_here_are_those_of_the_functions():
    recipe = recipe_of(parse(["--recipe", "both"]))
    for function, arguments in ((transforms.random_affines, recipe.affine), (corruptions.random_degradation, recipe.degradation)):
        defaults = {name: one.default for name, one in inspect.signature(function).parameters.items()}
        assert arguments == {name: default for name, default in defaults.items() if default is not inspect.Parameter.empty}


# --- rerun, into, dry run ----------------------------------------------------------------------------------------------
def test_a_rerun_replaces_and_never_augments_what_is_augmented(tree, contents):
    main(["--data", str(tree), "--per-image", "5"])
    first = contents(tree)
    (tree / "train/Fake/9.jpg__augmented-07.jpg").write_bytes(b"of an original that is gone")
    (tree / "train/Fake/1.jpg__augmented-02.jpg.part").write_bytes(b"half")
    (tree / "train/Fake/0.jpg__augmented-00.jpg").write_bytes(b"damaged")
    main(["--data", str(tree), "--per-image", "5"])
    assert contents(tree) == first
    main(["--data", str(tree), "--per-image", "2", "--format", "png"])
    assert {Image.open(io.BytesIO(content)).format for content in augmented(contents(tree)).values()} == {"PNG"}
    assert len(augmented(contents(tree))) == 12
    main(["--data", str(tree), "--per-image", "5"])
    assert contents(tree) == first


def test_into_a_tree_of_its_own(tree, tmp_path, run, contents):
    before = contents(tree)
    code, out, _ = run(main, "--data", tree, "--into", tmp_path / "new/tree", "--per-image", "1")
    assert (code, out) == (0, "                  Fake  Real  total\ntrain, augmented     4     2      6\n")
    assert contents(tree) == before
    assert set(contents(tmp_path / "new/tree")) == {f"{path}__augmented-00.jpg" for path in before if path.startswith("train")}


def test_dry_run_prints_the_plan_and_changes_nothing(tree, capsys, run, contents):
    main(["--data", str(tree), "--images", "6", "--per-image", "1"])
    before = contents(tree)
    code, out, err = run(main, "--data", tree, "--total", "8", "--images", "3", "--dry-run")
    *lines, fake, real, removed = out.splitlines()
    assert (code, err, contents(tree)) == (0, "", before)
    made = [line for line in lines if " -> " in line]
    assert len(made) == 2 and len(lines) == 2 + 4
    for line in made:
        source, destination = line.split(" -> ")
        assert destination == f"{tree}/{source}__augmented-00.jpg" and source in before
    assert fake == "Fake: 1 new image from 1 original" and real == "Real: 1 new image from 1 original"
    assert removed == "to remove: 4 images of earlier runs"


# --- expected failures -------------------------------------------------------------------------------------------------
def test_unusable_originals_are_named_and_skipped(tree, run):
    bad, long = tree / "train/Fake/0.jpg", tree / f"train/Fake/{'x' * 246}.jpg"
    main(["--data", str(tree), "--per-image", "1"])
    bad.write_text("no image")
    (tree / "train/Fake/1.jpg").rename(long)
    code, out, err = run(main, "--data", tree, "--per-image", "1")
    assert code == 0 and err.startswith(f"{bad}: expected an image") and err.count("\n") == 2
    assert "found one too long; rename it, 13 bytes shorter\n" in err
    assert out == (
        "                  Fake  Real  total\n"
        "train                4     2      6\n"
        "test                 1     1      2\n"
        "train, augmented     2     2      4\n"
        f"unusable, without new images: 2 originals ({bad}, {long.relative_to(tree)})\n"
    )
    assert bad.read_text() == "no image"
    for path in (tree / "train").rglob("*.*"):
        path.write_bytes(b"")
    code, _, err = run(main, "--data", tree)
    assert (code, len(err.splitlines())) == (1, 7)
    assert err.splitlines()[-1] == f"error: {tree}: expected images in train, found none that can be read; run data_audit.py"


@pytest.mark.parametrize("argument", [
    "--per-image=0", "--rotation=-1", "--shift=nan", "--zoom=1", "--quality=100", "--jpeg=0", "--degradation=2", "--scale=0",
])  # fmt: skip
def test_numbers_out_of_range(tree, run, argument):
    code, _, err = run(main, "--data", tree, argument)
    assert code == 2 and f"argument {argument.partition('=')[0]}" in err and "expected a" in err


def test_a_tree_without_originals(tree, tmp_path, run):
    (tree / "train/Real").rename(tmp_path / "away")
    draw(tree / "train/Real/1.png__augmented-00.jpg", 1)
    expected = f"error: {tree / 'train/Real'}: expected originals, found only augmented images; run data_split.py first\n"
    assert run(main, "--data", tree) == (1, "", expected)


def test_into_a_folder_that_will_not_do(tree, tmp_path, run):
    into = tree / "augmented"
    expected = f"error: {into}: expected a folder outside the source {tree}; choose another --into\n"
    assert run(main, "--data", tree, "--into", into) == (1, "", expected)
    assert run(main, "--data", tree, "--into", tree / "." / "raw" / "..", "--dry-run")[0] == 0  # another name of the data tree
    into = tmp_path / "into"
    into.write_text("")
    expected = f"error: {into}: expected a folder with images, found a file; check the path\n"
    assert run(main, "--data", tree, "--into", into) == (1, "", expected)


def test_very_many_images_are_made_only_if_their_number_is_given(tree, run, monkeypatch):
    monkeypatch.setattr(data_augmentation, "UNASKED", 59)
    expected = f"error: {tree}: this would make 60 new images; to confirm, pass --per-image 10, or fewer\n"
    assert run(main, "--data", tree, "--dry-run") == (1, "", expected)
    for asked in (["--per-image=10"], ["--total=66"], ["--images=5"]):
        assert run(main, "--data", tree, "--dry-run", *asked)[0] == 0


# --- interruptions -----------------------------------------------------------------------------------------------------
def test_killed_three_times_it_ends_with_the_same_tree(tmp_path, contents, kill_three_times):
    data, twin = tmp_path / "data", tmp_path / "twin"
    for i in range(40):
        for folder in (data, twin):
            draw(folder / f"train/{('Fake', 'Real')[i % 2]}/{i}.jpg", i, size=(32, 32))
    main(["--data", str(data), "--per-image", "2", "--seed", "9"])  # to be replaced
    how = ("--recipe", "both", "--per-image", "4")
    assert kill_three_times("data_augmentation.py", ("--data", data, *how), undisturbed=("--data", twin, *how)) == 0
    assert contents(data) == contents(twin)
    assert len(augmented(contents(data))) == 160


def test_an_interrupted_run_leaves_a_tree_that_nobody_takes_for_whole(tree, run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data_augmentation, "parallel", interrupted)
        code, _, err = run(main, "--data", tree, "--per-image", 2)
    assert (code, err) == (1, "error: interrupted; run the same command again to finish it\n")
    with pytest.raises(InputError) as caught:
        read_tree(tree, ("train",))
    command = f"data_augmentation.py --data {tree} --per-image 2"
    assert str(caught.value) == f"{tree}: a command was interrupted here; run it again to finish it: {command}"
    assert run(main, "--data", tree, "--per-image", 1)[0] == 0  # another one replaces what it began
    assert len(read_tree(tree, ("train",))["train"][0]) == 12
