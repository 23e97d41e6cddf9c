import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from detector.console import InputError
from detector.data.tree import read_tree
from detector.files import digest_of
from detector.images import pixels
from detector.training.dataset import DecodedImages, index_split
from tests.conftest import draw


@pytest.fixture
def data(make_tree, tmp_path):
    return make_tree(tmp_path / "data", {"train/Fake": 4, "train/Real": 3}, size=(40, 30))


def split_of(data):
    return index_split(data, "train", *read_tree(data, ("train",))["train"])


def test_look_at_gives_digests_and_sizes(data):
    (data / "train/Real/no.jpg").write_text("no image")
    found = split_of(data)
    assert found.labels == [0] * 4 + [1] * 4
    assert [digest.tobytes().hex() for digest in found.digests[:7]] == [digest_of(data / path) for path in found.paths[:7]]
    assert found.sizes.tolist() == [[40, 30]] * 7 + [[0, 0]]
    assert not found.digests[7].any()


def test_a_second_look_reads_no_image_until_one_changes(data, monkeypatch):
    first = split_of(data)
    opened = []
    monkeypatch.setattr("detector.training.dataset.read_bytes", lambda path: opened.append(path) or Path(path).read_bytes())
    again = split_of(data)
    assert not opened and (again.digests == first.digests).all() and (again.sizes == first.sizes).all()
    draw("other", (40, 30)).save(data / "train/Fake/0.jpg")
    changed = split_of(data)
    assert len(opened) == 7 and (changed.digests[1:] == first.digests[1:]).all() and (changed.digests[0] != first.digests[0]).any()


def test_images_none_of_which_can_be_opened(tmp_path):
    (tmp_path / "a.jpg").write_text("none")
    with pytest.raises(InputError, match=r"a\.jpg: expected images, found none that can be opened"):
        index_split(tmp_path, "train", ["a.jpg"], [0])


def test_images_are_decoded_and_resized_as_everywhere_and_unreadable_ones_reported(data):
    (data / "train/Real/no.jpg").write_text("no image")
    split = split_of(data)
    found = [DecodedImages(split, 32, keep) for keep in (False, True, True)]
    for one in found:
        images, there = one.read([7, 2, 5])
        assert there == [2, 5]
        assert all((image == pixels.read_resized(data / split.paths[i], 32)).all() for i, image in zip(there, images, strict=True))
        assert one.unreadable == found[0].unreadable and list(one.unreadable) == ["train/Real/no.jpg"]


def test_what_is_kept_is_used_again_and_made_anew_when_an_image_changes(data, monkeypatch):
    DecodedImages(split_of(data), 32)
    decoded = []
    whole = pixels.read_resized
    monkeypatch.setattr(pixels, "read_resized", lambda *given: decoded.append(given) or whole(*given))
    DecodedImages(split_of(data), 32)
    assert not decoded
    draw("other", (40, 30)).save(data / "train/Fake/0.jpg")
    images, _ = DecodedImages(split_of(data), 32).read([0])
    assert len(decoded) == 7
    assert (images[0] == whole(data / "train/Fake/0.jpg", 32)).all()


def test_what_was_cut_short_is_made_anew(data):
    kept = DecodedImages(split_of(data), 32)
    whole = kept.file.read_bytes()
    for spoil in (lambda: kept.file.write_bytes(whole[:-1]), lambda: kept.file.with_suffix(".json").write_text("{")):
        spoil()
        assert DecodedImages(split_of(data), 32).file.read_bytes() == whole
    for spoilt in (b"spoilt", b""):
        (data / ".decoded" / "train.npz").write_bytes(spoilt)
        assert split_of(data).sizes.tolist() == [[40, 30]] * 7


def test_no_room_and_no_permission_mean_decoding_each_time(data, monkeypatch):
    split = split_of(data)
    monkeypatch.setattr("detector.training.dataset.shutil.disk_usage", lambda _: type("usage", (), {"free": 1000}))
    assert DecodedImages(split, 32).file is None
    monkeypatch.undo()

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("detector.files.os.replace", refused)
    images = DecodedImages(split, 32)
    assert images.file is None and len(images.read(range(7))[0]) == 7
    assert not [name for name in os.listdir(data / ".decoded") if name.endswith((".part", ".rgb"))]


@pytest.mark.parametrize("spoil", [lambda file: shutil.rmtree(file.parent), lambda file: file.write_bytes(file.read_bytes()[:100])])
def test_what_is_kept_may_be_deleted_or_cut_at_any_time(data, spoil):
    images = DecodedImages(split_of(data), 32)
    before, _ = images.read(range(7))
    spoil(images.file)
    after, there = images.read(range(7))
    assert there == list(range(7)) and (np.stack(after) == np.stack(before)).all()


def test_the_unfinished_file_of_another_run_is_left_to_it_for_a_day(data):
    store = data / ".decoded"
    store.mkdir()
    fresh, old = store / ".train-32px-0.rgb.1.part", store / ".train-32px-0.rgb.2.part"
    for path in (fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    DecodedImages(split_of(data), 32)
    assert fresh.exists() and not old.exists()


def test_images_kept_for_a_later_run_are_not_taken_for_those_of_an_earlier_one(data):
    earlier = DecodedImages(split_of(data), 32)
    before, _ = earlier.read([6])
    draw("first of all", (40, 30)).save(data / "train/Fake/00.jpg")  # every other image moves on by one
    later = DecodedImages(split_of(data), 32)
    assert (earlier.read([6])[0][0] == before[0]).all() and (later.read([7])[0][0] == before[0]).all()
    assert len(list((data / ".decoded").glob("*.rgb"))) == 1


@pytest.mark.parametrize("keep", [True, False])
def test_whole_images_are_read_as_they_are(data, keep):
    draw("wide", (70, 20)).save(data / "train/Fake/wide.png")
    turned = draw("turned", (50, 30))
    turned.getexif()[0x0112] = 6
    turned.save(data / "train/Real/turned.jpg", exif=turned.getexif())
    draw("turned png", (50, 30)).save(data / "train/Real/turned.png", exif=turned.getexif())
    (data / "train/Real/no.jpg").write_text("no image")
    split = split_of(data)
    resized, kept = DecodedImages(split, 32), DecodedImages(split, None, keep)
    assert (kept.file is not None) == keep and resized.file.exists()  # one does not take the place of the other
    images, there = kept.read(range(11))
    assert [split.paths[i] for i in range(11) if i not in there] == list(kept.unreadable) == ["train/Real/no.jpg"]
    assert {image.shape for image in images} == {(30, 40, 3), (20, 70, 3), (50, 30, 3)}
    assert all((image == pixels.read_image(data / split.paths[i])).all() for i, image in zip(there, images, strict=True))


def test_an_image_whose_indexed_size_is_transposed_is_cached(data):
    split = split_of(data)
    split.sizes = split.sizes[:, ::-1]  # as for a file whose orientation tag comes after its pixels
    images, _ = DecodedImages(split, None).read(range(7))
    assert all((image == pixels.read_image(data / path)).all() for image, path in zip(images, split.paths, strict=True))
