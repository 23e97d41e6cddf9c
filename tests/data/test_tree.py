import json

import pytest

from detector.console import InputError
from detector.data import placing
from detector.data import tree as data_tree


def split_tree(make_files, folder):
    folders = [f"{split}/{name}" for split in data_tree.SPLITS for name in data_tree.CLASSES]
    return make_files(folder, {f"{where}/1.jpg": where for where in folders})


# --- names and headers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("known", "names"),
    [
        ("Fake", ["Fake", "FAKE", "fake_images", "GeneratedArt", "ai", "AI-generated", "synthetic"]),
        ("Real", ["Real", "REAL", "real_images", "RealArt", "human", "Photos"]),
        (None, ["cats", "train"]),
    ],
)
def test_names_of_class_folders(known, names):
    assert {data_tree.class_of(name) for name in names} == {known}


def test_names_of_split_folders():
    assert [data_tree.split_of(name) for name in ("Training", "val", "TEST", "extra")] == ["train", "validation", "test", None]


# --- layouts -----------------------------------------------------------------------------------------------------------
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
            {"train": {"Fake": ["train/FAKE"], "Real": ["train/REAL"]}, "validation": {"Fake": ["val/FAKE"], "Real": ["val/REAL"]}},
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
         "{0}: expected folders Fake and Real, or train and test that hold them, found cats, dogs; rename them"),
        (["fake/1.jpg"], "{0}: expected folders of both classes, found none for Real; add it"),
        (["fake/1.jpg", "real/1.jpg", "cats/1.jpg"],
         "{0}: expected only Fake, Real or a known alias, found also cats; rename or move it"),
        (["train/fake/1.jpg", "train/real/1.jpg", "more/1.jpg"],
         "{0}: expected only train, validation and test, found also more; move it away"),
        (["train/a/1.jpg"], "{0}/train: expected class folders (Fake and Real, or a known alias), found none; rename them"),
        (["Fake/test/1.jpg", "Real/train/1.jpg"],
         "{0}/Fake/test: expected splits above the classes, as in test/Fake; swap the folders"),
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
        ("cats/1.jpg", "{0}: expected the folders train, validation, test, found also cats; move it away"),
        ("test/cats/1.jpg", "{0}/test: expected the folders Fake, Real, found also cats; move it away"),
        ("test/Real/.1.jpg", "{0}/test/Real: expected images of class Real, found an empty folder; run data_split.py first"),
        (".unfinished.jsonl", "{0}: a command was interrupted here; run it again to finish it: data_split.py raw"),
    ],
)  # fmt: skip
def test_trees_that_are_not_read(make_files, tmp_path, path, message):
    data = split_tree(make_files, tmp_path)
    make_files(data, {path: ""})
    if "Real" in path:
        (data / "test/Real/1.jpg").unlink()
    if path == placing.JOURNAL:
        (data / path).write_text(json.dumps({"job": ["data_split.py", "raw"], "cwd": "/", "report": []}) + "\n")
    with pytest.raises(InputError) as error:
        data_tree.read_tree(data)
    assert str(error.value) == message.format(data)
