import inspect
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data_augmentation
from data_augmentation import augment_file, main, output_name, parse, plan_augmentation, recipe_of
from detector.console import InputError
from detector.data.placing import JOURNAL, LOCK
from detector.data.tree import read_tree
from detector.images import corruptions, transforms
from detector.images.pixels import read_image

SCRIPT = Path(data_augmentation.__file__)


def draw(path, seed, size=(16, 12), **options):
    """Write a small picture of soft random blocks, a different one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).save(path, **options)


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


def shell(capsys, *arguments):
    """Call main; return (exit code, stdout, stderr) as a shell would see them."""
    code, told = 0, ""
    try:
        main(list(map(str, arguments)))
    except SystemExit as end:
        code, told = (end.code, "") if isinstance(end.code, int) else (1, f"{end.code}\n")
    out, err = capsys.readouterr()
    return code, out, err + told


def files(folder):
    """{relative path: bytes} of every file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def augmented(folder):
    return {path: content for path, content in files(folder).items() if "__augmented-" in path}


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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"images": 7}, "--images 7: expected 1 to 6, the number of originals in train"),
        ({"images": 0}, "--images 0: expected 1 to 6, the number of originals in train"),
        ({"total": 6}, "--total 6: expected more than 6, the number of originals in train"),
    ],
)
def test_what_cannot_be_planned(arguments, told):
    with pytest.raises(InputError) as error:
        plan_augmentation(names(4, 2), **arguments)
    assert str(error.value) == told


def test_names_do_not_clash():
    assert output_name("train/Fake/a.jpg", 3, "jpeg") == "train/Fake/a.jpg__augmented-03.jpg"
    assert output_name("train/Fake/a.png", 123, "png") == "train/Fake/a.png__augmented-123.png"


# --- the images --------------------------------------------------------------------------------------------------------


def test_the_counts_at_the_end_and_what_is_there(tree, capsys):
    before = files(tree)
    code, out, err = shell(capsys, "--data", tree)
    assert (code, err) == (0, "")
    assert out == (
        "                  Fake  Real  total\n"
        "train                4     2      6\n"
        "test                 1     1      2\n"
        "train, augmented    40    20     60\n"
    )
    made = augmented(tree)
    assert len(made) == 60 and {path: content for path, content in files(tree).items() if path not in made} == before
    assert set(made) == {f"{path}__augmented-{i:02d}.jpg" for path in before if path.startswith("train") for i in range(10)}
    assert len(set(made.values())) == 60


def test_new_images_have_their_original_s_size_one_format_and_no_metadata(tree):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    draw(tree / "train/Real/turned.jpg", 5, size=(40, 24), exif=exif, comment=b"told", dpi=(300, 300))
    main(["--data", str(tree), "--per-image", "2"])
    for path, content in augmented(tree).items():
        image = Image.open(io.BytesIO(content))
        expected = read_image(tree / path.split("__augmented-")[0]).shape
        assert (image.format, image.mode, image.height, image.width) == ("JPEG", "RGB", *expected[:2])
        assert not image.getexif() and set(image.info) == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert image.info["jfif_density"] == (1, 1)
        assert image.layer[0][1:3] == (2, 2) and image.quantization[0][0] == 2  # 4:2:0, quality 95
    tables = {str(Image.open(io.BytesIO(content)).quantization) for content in augmented(tree).values()}
    assert len(tables) == 1


def test_png_instead(tree):
    main(["--data", str(tree), "--format", "png", "--images", "2", "--per-image", "1"])
    assert {Image.open(io.BytesIO(content)).format for content in augmented(tree).values()} == {"PNG"}
    assert all(path.endswith("__augmented-00.png") for path in augmented(tree))


def test_the_same_seed_gives_the_same_images_and_another_gives_others(tree, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        main(["--data", str(tree), "--into", str(tmp_path / name), "--seed", str(seed), "--recipe", "both"])
    first, again, other = (files(tmp_path / name) for name in "abc")
    assert first == again and set(first) == set(other)
    assert not any(first[path] == other[path] for path in first)


@pytest.mark.parametrize("recipe", ["geometric", "damage", "both"])
def test_an_image_depends_neither_on_the_number_of_others_nor_of_processes(tree, tmp_path, recipe, monkeypatch):
    main(["--data", str(tree), "--into", str(tmp_path / "few"), "--per-image", "2", "--recipe", recipe])
    monkeypatch.setattr(data_augmentation, "parallel", lambda make, jobs, **_: [make(job) for job in reversed(jobs)])
    main(["--data", str(tree), "--into", str(tmp_path / "many"), "--per-image", "20", "--recipe", recipe])
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    assert len(few) == 12 and len(many) == 120 and few.items() <= many.items()


def test_processes_make_what_one_process_makes(tree, tmp_path):
    for i in range(40):
        draw(tree / f"train/Fake/more/{i}.jpg", 100 + i)
    arguments = ["--data", str(tree), "--per-image", "5"]
    main([*arguments, "--into", str(tmp_path / "many")])
    recipe = recipe_of(parse(arguments))
    for job in plan_augmentation(data_augmentation.read_originals(tree), per_image=5).items():
        augment_file(job, tree, tmp_path / "one", recipe)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert len(files(tmp_path / "one")) == 46 * 5


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
    for function, arguments in ((transforms.random_affine, recipe.affine), (corruptions.random_degradation, recipe.degradation)):
        defaults = {name: one.default for name, one in inspect.signature(function).parameters.items()}
        assert arguments == {name: default for name, default in defaults.items() if default is not inspect.Parameter.empty}


# --- rerun, into, dry run ----------------------------------------------------------------------------------------------


def test_a_rerun_replaces_and_never_augments_what_is_augmented(tree):
    main(["--data", str(tree), "--per-image", "5"])
    first = files(tree)
    (tree / "train/Fake/9.jpg__augmented-07.jpg").write_bytes(b"of an original that is gone")
    (tree / "train/Fake/1.jpg__augmented-02.jpg.part").write_bytes(b"half")
    (tree / "train/Fake/0.jpg__augmented-00.jpg").write_bytes(b"damaged")
    main(["--data", str(tree), "--per-image", "5"])
    assert files(tree) == first
    main(["--data", str(tree), "--per-image", "2", "--format", "png"])
    assert len(augmented(tree)) == 12
    main(["--data", str(tree), "--per-image", "5"])
    assert files(tree) == first


def test_into_a_tree_of_its_own(tree, tmp_path, capsys):
    before = files(tree)
    code, out, _ = shell(capsys, "--data", tree, "--into", tmp_path / "new/tree", "--per-image", "1")
    assert (code, out) == (0, "                  Fake  Real  total\ntrain, augmented     4     2      6\n")
    assert files(tree) == before
    assert set(files(tmp_path / "new/tree")) == {f"{path}__augmented-00.jpg" for path in before if path.startswith("train")}


def test_dry_run_prints_the_plan_and_changes_nothing(tree, capsys):
    main(["--data", str(tree), "--images", "6", "--per-image", "1"])
    before = files(tree)
    capsys.readouterr()
    code, out, err = shell(capsys, "--data", tree, "--total", "8", "--images", "3", "--dry-run")
    *lines, fake, real, removed = out.splitlines()
    assert (code, err, files(tree)) == (0, "", before)
    made = [line for line in lines if " -> " in line]
    assert len(made) == 2 and len(lines) == 2 + 4
    for line in made:
        source, destination = line.split(" -> ")
        assert destination == f"{tree}/{source}__augmented-00.jpg" and source in before
    assert fake == "Fake: 1 new image from 1 original" and real == "Real: 1 new image from 1 original"
    assert removed == "to remove: 4 images of earlier runs"


# --- expected failures -------------------------------------------------------------------------------------------------


def test_an_original_whose_name_is_too_long_to_add_to_is_told_and_skipped(tree, capsys):
    long = "x" * 246 + ".jpg"
    (tree / "train/Fake/0.jpg").rename(tree / "train/Fake" / long)
    code, out, err = shell(capsys, "--data", tree, "--per-image", "2")
    assert (code, err) == (
        0, f"train/Fake/{long}: expected a name that new images can add to, found one too long; rename it, 13 bytes shorter\n",
    )  # fmt: skip
    assert "unusable, without new images: 1 original (" in out
    assert (tree / "train/Fake/1.jpg__augmented-01.jpg").exists() and not list(tree.glob(f"train/Fake/{long}__*"))


def test_an_unreadable_original_is_told_and_skipped(tree, capsys):
    bad = tree / "train/Fake/0.jpg"
    main(["--data", str(tree), "--per-image", "1"])
    bad.write_text("no image")
    capsys.readouterr()
    code, out, err = shell(capsys, "--data", tree, "--per-image", "1")
    assert code == 0 and err.startswith(f"{bad}: expected an image") and err.count("\n") == 1
    assert out == (
        "                  Fake  Real  total\n"
        "train                4     2      6\n"
        "test                 1     1      2\n"
        "train, augmented     3     2      5\n"
        f"unusable, without new images: 1 original ({bad})\n"
    )
    assert bad.read_text() == "no image"


def test_none_of_them_readable(tree, capsys):
    for path in (tree / "train").rglob("*.*"):
        path.write_bytes(b"")
    code, _, err = shell(capsys, "--data", tree)
    assert code == 1
    assert err.splitlines()[-1] == f"error: {tree}: expected images in train, found none that can be read; run data_audit.py"
    assert len(err.splitlines()) == 7


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--images", "7"], "--images 7: expected 1 to 6, the number of originals in train"),
        (["--total", "5"], "--total 5: expected more than 6, the number of originals in train"),
    ],
)
def test_more_or_fewer_than_there_are(tree, capsys, arguments, told):
    before = files(tree)
    assert shell(capsys, "--data", tree, *arguments) == (1, "", f"error: {told}\n")
    assert files(tree) == before


@pytest.mark.parametrize("argument", [
    "--per-image=0", "--rotation=-1", "--shift=nan", "--zoom=1", "--quality=100", "--jpeg=0", "--degradation=2", "--scale=0",
])  # fmt: skip
def test_numbers_out_of_range(tree, capsys, argument):
    code, _, err = shell(capsys, "--data", tree, argument)
    assert code == 2 and f"argument {argument.partition('=')[0]}" in err and "expected a" in err


def test_more_than_was_asked_for(tmp_path, monkeypatch, capsys):
    originals = names(10_000, 10_000)
    monkeypatch.setattr(data_augmentation, "read_originals", lambda data: originals)
    monkeypatch.setattr(data_augmentation, "print_plan", lambda *_: None)
    data = tmp_path / "data"
    told = (
        "error: expected at most 100,000 new images if no number is given, this makes 200,000 (20,000 x 10); "
        "pass --images 20000 --per-image 10 for all of them, or fewer, or --total\n"
    )
    assert shell(capsys, "--data", data, "--dry-run") == (1, "", told)
    assert shell(capsys, "--data", data, "--dry-run", "--per-image", "10") == (1, "", told)
    assert shell(capsys, "--data", data, "--dry-run", "--images", "20000") == (1, "", told)
    assert shell(capsys, "--data", data, "--dry-run", "--images", "10000")[0] == 0
    assert shell(capsys, "--data", data, "--dry-run", "--images", "20000", "--per-image", "10")[0] == 0
    assert shell(capsys, "--data", data, "--dry-run", "--total", "130000")[0] == 0


def test_folders_that_will_not_do(tree, tmp_path, capsys):
    missing = tmp_path / "none"
    code, out, err = shell(capsys, "--data", missing)
    assert (code, out) == (1, "")
    expected = "expected a folder with train, validation and test, found nothing of that name; check the path"
    assert err == f"error: {missing}: {expected}\n"
    (tree / "train/Real").rename(tmp_path / "away")
    expected = f"error: {tree / 'train/Real'}: expected images of class Real, found no such folder; run data_split.py first\n"
    assert shell(capsys, "--data", tree) == (1, "", expected)
    draw(tree / "train/Real/1.png__augmented-00.jpg", 1)
    expected = f"error: {tree / 'train/Real'}: expected originals, found only augmented images; run data_split.py first\n"
    assert shell(capsys, "--data", tree) == (1, "", expected)


def test_into_a_folder_that_would_be_stray(tree, capsys):
    into = tree / "augmented"
    expected = f"expected a folder outside {tree}, where it would be taken for a split; choose another --into"
    assert shell(capsys, "--data", tree, "--into", into) == (1, "", f"error: {into}: {expected}\n")


def test_a_file_in_the_way(tree, tmp_path, capsys):
    into = tmp_path / "into"
    into.write_text("")
    code, out, err = shell(capsys, "--data", tree, "--into", into)
    assert (code, out) == (1, "") and err.startswith(f"error: {into}") and err.count("\n") == 1 and "Traceback" not in err


def test_an_original_that_vanishes_meanwhile(tree, monkeypatch, capsys):
    gone = tree / "train/Fake/0.jpg"
    monkeypatch.setattr(data_augmentation, "left_overs", lambda *_: gone.unlink() or [])
    code, out, err = shell(capsys, "--data", tree)
    assert (code, out) == (1, "")
    assert err == (
        f"error: {gone}: No such file or directory: it does not exist, or no longer; "
        "check the path and run the same command again\n"
    )


def test_a_full_disk(tree, tmp_path, capsys):
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        before = files(tree)
        code, out, err = shell(capsys, "--data", tree, "--into", mount, "--per-image", "90")
        assert (code, out) == (1, "") and err.startswith(f"error: {mount}/train/Fake/")
        assert err.endswith("No space left on device: free some space and run the same command again\n")
        assert files(tree) == before and not any(path.endswith(".part") for path in files(mount))
        for content in augmented(mount).values():
            read_image(content)
    finally:
        subprocess.run(["umount", mount], check=True)


# --- as a process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--images", "many"], "argument --images: invalid int value: 'many'"),
        (["--total", "9", "--per-image", "2"], "argument --per-image: not allowed with argument --total"),
        (["more"], "unrecognized arguments: more"),
    ],
)
def test_wrong_usage(arguments, told, capsys):
    code, out, err = shell(capsys, *arguments)
    assert (code, out) == (2, "") and err.endswith(f"error: {told}\n")


def test_help_needs_no_heavy_import():
    code = "import sys, data_augmentation as stage\ntry: stage.main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert "--per-image" in done.stdout and not {"'numpy'", "'PIL'", "'tensorflow'"} & set(done.stdout.split("[")[-1].split(", "))


def test_killed_three_times_it_ends_with_the_same_tree(tmp_path):
    data, undisturbed = tmp_path / "data", tmp_path / "undisturbed"
    for i in range(60):
        draw(data / f"train/{('Fake', 'Real')[i % 2]}/{i}.jpg", i, size=(32, 32))
    command = [sys.executable, SCRIPT, "--data", data, "--recipe", "both", "--per-image", "4"]
    before = files(data)
    start = time.monotonic()
    subprocess.run([*command, "--into", undisturbed], check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - start
    luck = random.Random()
    subprocess.run([*command, "--per-image", "2", "--seed", "9"], check=True, stdout=subprocess.DEVNULL)  # to be replaced
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(luck.uniform(0.3, 1) * took)
        process.send_signal(signal.SIGKILL)
        process.wait()
        originals = {path: content for path, content in files(data).items() if "__augmented-" not in path}
        for name in (JOURNAL, LOCK):
            originals.pop(name, None)
        assert originals == before
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert files(data) == before | files(undisturbed)
    assert len(files(undisturbed)) == 240


def test_interrupted_by_the_user(tmp_path):
    for i in range(60):
        draw(tmp_path / f"data/train/{('Fake', 'Real')[i % 2]}/{i}.jpg", i, size=(250, 250))
    command = [sys.executable, SCRIPT, "--data", tmp_path / "data", "--per-image", "400"]
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a shell's background job would not hear Ctrl-C
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, **heard, start_new_session=True)
    deadline = time.monotonic() + 30
    begun = {}
    while sum(0 < number < 400 for number in begun.values()) < 2 and time.monotonic() < deadline:  # until two workers work
        time.sleep(0.05)
        begun = Counter(path.name.split("__")[0] for path in (tmp_path / "data").rglob("*__augmented-*"))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == "error: interrupted; run the same command again to finish it\n"


def test_an_interrupted_run_leaves_a_tree_that_nobody_takes_for_whole(tree, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data_augmentation, "parallel", interrupted)
        code, _, err = shell(capsys, "--data", tree, "--per-image", 2)
    assert (code, err) == (1, "error: interrupted; run the same command again to finish it\n")
    with pytest.raises(InputError) as caught:
        read_tree(tree, ("train",))
    command = f"data_augmentation.py --data {tree} --per-image 2"
    assert str(caught.value) == f"{tree}: a command was interrupted here; run it again to finish it: {command}"
    assert shell(capsys, "--data", tree, "--per-image", 1)[0] == 0  # another one replaces what it began
    assert len(read_tree(tree, ("train",))["train"][0]) == 12
