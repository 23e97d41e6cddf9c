import hashlib

import numpy as np
import pytest

from detector.console import InputError
from detector.data import placing
from detector.evaluation import dataset
from detector.images import corruptions
from detector.model import file as model_file
from tests.conftest import draw
from tests.model.test_file import METADATA, bias_model


@pytest.fixture
def sources(make_tree, tmp_path):
    return make_tree(tmp_path / "data", {"test/Fake/sd": 2, "test/Fake/gan": 1, "test/Real": 2, "train/Fake": 1, "train/Real": 2})


def refused(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


def test_a_split_tree(sources):
    splits, train = dataset.list_items(sources)
    assert splits == {"test": [
        dataset.Item("test/Fake/gan/0.jpg", True, None), dataset.Item("test/Fake/sd/0.jpg", True, None),
        dataset.Item("test/Fake/sd/1.jpg", True, None), dataset.Item("test/Real/0.jpg", False, None),
        dataset.Item("test/Real/1.jpg", False, None),
    ]}  # fmt: skip
    assert train == ["train/Fake/0.jpg", "train/Real/0.jpg", "train/Real/1.jpg"]
    assert list(dataset.list_items(sources, ["train", "test"])[0]) == ["train", "test"]


def test_skipped_files_are_reported(sources):
    for name in ("Thumbs.db", ".hidden.jpg"):
        (sources / "test/Real" / name).write_text("")
    skipped = []
    assert len(dataset.list_items(sources, skipped=skipped)[0]["test"]) == 5
    assert len(skipped) == 1 and "2 entries" in skipped[0] and "Thumbs.db" in skipped[0]


def test_class_folders_without_splits(make_tree, tmp_path):
    flat = make_tree(tmp_path / "x", {"real_images": 1, "GeneratedArt/a": 1})
    splits, train = dataset.list_items(flat)
    assert [item[:2] for item in splits["all"]] == [("GeneratedArt/a/0.jpg", True), ("real_images/0.jpg", False)] and train is None
    assert refused(dataset.list_items, flat, ["test"]).startswith(f"{flat}: expected the split test, found class folders without")


def test_what_is_missing_is_told_in_one_line(sources, tmp_path, make_tree):
    assert refused(dataset.list_items, sources, ["validation"]).startswith(
        f"{sources}: expected the split validation, found train, "
    )
    one = make_tree(tmp_path / "one", {"test/Fake": 2})
    assert refused(dataset.list_items, one).startswith(f"{one / 'test'}: expected folders of both classes, found none for Real")
    (one / "test" / "Real").mkdir()
    assert refused(dataset.list_items, one).startswith(f"{one / 'test/Real'}: expected images of class Real, found an empty folder")


def test_a_tree_that_a_stage_has_not_finished(sources):
    (sources / placing.JOURNAL).write_text('{"job": ["data_split.py", "raw"], "cwd": "/", "report": null}\n')
    assert "a command was interrupted here; run it again to finish it: data_split.py raw" in refused(dataset.list_items, sources)


@pytest.mark.parametrize("group_by, expected", [
    ("folder", ["gan", "sd", "sd", "(none)", "(none)"]),
    (r"/(\d+)\.jpg", ["0", "0", "1", "0", "1"]),
    (r"(?:sd|gan)/", ["gan/", "sd/", "sd/", "(none)", "(none)"]),
    (r"sd(x)?", ["(none)"] * 5),
])  # fmt: skip
def test_groups(sources, group_by, expected):
    assert [item.group for item in dataset.list_items(sources, group_by=group_by)[0]["test"]] == expected


def test_groups_that_cannot_be_made(sources, monkeypatch):
    assert refused(dataset.list_items, sources, None, "(").startswith("--group-by (: expected 'folder' or a regular expression")
    monkeypatch.setattr(dataset, "MOST_GROUPS", 1)
    assert refused(dataset.list_items, sources, None, "[01]").startswith("--group-by: expected at most 1 groups, found 2")


def test_digests_of_an_old_model_and_of_a_new_one(sources, tmp_path):
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    train = sources / "train/Real/0.jpg"
    digest = hashlib.sha256(train.read_bytes())
    model_file.save(bias_model([1.0, 0.0]), old, METADATA)
    model_file.save(bias_model([1.0, 0.0]), new, METADATA, np.frombuffer(digest.digest()[:8], np.uint8)[None])
    assert dataset.known_digests(sources, old, None) == {"in_train": None, "in_train_of_model": None}
    assert dataset.known_digests(sources, new, ["train/Real/0.jpg"]) == {
        "in_train": {digest.hexdigest()}, "in_train_of_model": {digest.hexdigest()[:16]},
    }  # fmt: skip
    paths = ["train/Real/0.jpg", "test/Real/1.jpg"]
    assert [dataset.count_trained_on(sources, paths, path) for path in (old, new)] == [None, 1]
    counts, which = dataset.find_leaks(sources, paths, dataset.known_digests(sources, old, None))
    assert counts == {"in_train": None, "in_train_of_model": None, "either": None} and not which.any()


def test_corruptions_are_deterministic():
    image = np.asarray(draw(1, (40, 30)))
    functions = dataset.corruption_functions()
    assert list(functions) == [
        "JPEG 90", "JPEG 70", "JPEG 50", "JPEG 30", "blur 1", "blur 2", "blur 3", "noise 0.05", "noise 0.10",
        "scale 1/2", "scale 1/4", "WebP 50", "flip",
    ]  # fmt: skip
    once, again = ([corrupt(image) for corrupt in functions.values()] for _ in range(2))
    assert all((one == two).all() for one, two in zip(once, again, strict=True))
    assert {(one.shape, one.dtype.name) for one in once} == {((30, 40, 3), "uint8")}
    exact = {
        "JPEG 30": corruptions.jpeg(image, 30), "blur 2": corruptions.blur(image, 2), "scale 1/2": corruptions.scale(image, 0.5),
        "scale 1/4": corruptions.scale(image, 0.25), "WebP 50": corruptions.webp(image, 50), "flip": np.fliplr(image),
    }  # fmt: skip
    assert [name for name, expected in exact.items() if (functions[name](image) != expected).any()] == []
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert [functions[f"noise {sigma}"](grey).std() for sigma in ("0.05", "0.10")] == pytest.approx([12.75, 25.5], rel=0.05)
    other = np.asarray(draw(2, (40, 30)))
    noise = [functions["noise 0.10"](one).astype(int) - one for one in (image, other)]
    assert (noise[0] != noise[1]).mean() > 0.9  # each image has a noise of its own


def test_delivery_tiers_are_those_of_the_documentation():
    large = np.zeros((900, 2160, 3), np.uint8)
    tiers = dataset.tier_functions()
    assert {name: deliver(large).shape for name, deliver in tiers.items()} == {"web": (450, 1080, 3), "hard": (213, 512, 3)}
    small = np.asarray(draw(1, (40, 30)))
    assert (tiers["web"](small) == corruptions.jpeg(small, 80)).all()
    assert (tiers["hard"](small) == corruptions.jpeg(small, 40)).all()
