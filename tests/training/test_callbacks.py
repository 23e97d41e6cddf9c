import numpy as np
import pytest

from detector.console import InputError
from detector.images import pixels
from detector.training import callbacks
from detector.training.augmentation import Augmentation, View
from detector.training.batches import ImageBatches, PooledScores
from detector.training.callbacks import PooledValidation, StopTrainingOnValidationLoss, keras
from detector.training.config import parse
from detector.training.dataset import DecodedImages, Split, index_split
from detector.training.metrics import fake_metrics
from tests.conftest import draw


def decoded(data, paths, labels, keep=False):
    return DecodedImages(index_split(data, "train", paths, labels), 32, keep)


def test_labels_order_and_targets_by_hand(small_data):
    images = decoded(small_data, ["train/Fake/0.png", "train/Real/0.png", "train/Real/1.png"], [0, 1, 1])
    batch, targets, weights = ImageBatches(images, "softmax", 3)[0]
    assert batch.shape == (3, 32, 32, 3) and batch.dtype == np.float32 and batch.max() > 100
    assert targets.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert weights.tolist() == [1.5, 0.75, 0.75]  # both classes weigh the same in all
    _, targets, _ = ImageBatches(images, "sigmoid_real", 3)[0]
    assert targets.tolist() == [[0], [1], [1]]


def test_a_batch_of_nothing_but_an_unreadable_image_takes_another(tmp_path):
    draw(1).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_text("no image")
    for keep in (False, True):
        feed = ImageBatches(decoded(tmp_path, ["good.png", "broken.png"], [0, 1], keep), "softmax", 1)
        assert feed[1][1].tolist() == [[1, 0]]
        assert list(feed.images.unreadable) == ["broken.png"]
    none = ImageBatches(DecodedImages(Split(tmp_path, ["broken.png"] * 2, [0, 1], None, None, ""), 32, keep=False), "softmax", 1)
    with pytest.raises(InputError, match=r"no image of the split can be read: run data_audit\.py$"):
        none[0]


def feed_of(small_data, **options):
    paths = [f"train/{name}/{i}.png" for name in ("Fake", "Real") for i in range(10)]
    return ImageBatches(decoded(small_data, paths, [0] * 10 + [1] * 10), "softmax", 6, **options)


def test_an_epoch_holds_every_image_once_in_an_order_of_its_own(small_data):
    feed, plain = feed_of(small_data, shuffle=True), feed_of(small_data)
    assert feed.steps == len(feed) == 4

    def sums(feed):
        return [float(image.sum()) for index in range(len(feed)) for image in feed[index][0]]

    first = sums(feed)
    feed.start_epoch(1)
    assert sums(feed) != first and sorted(sums(feed)) == sorted(first) == sorted(sums(plain))
    feed.start_epoch(0)
    assert sums(feed) == first


def test_an_epoch_taken_up_goes_on_with_the_same_batches(small_data):
    feed = feed_of(small_data, shuffle=True, augmentation=Augmentation(flip=True, degradation={"probability": 0.5}))
    feed.start_epoch(3)
    whole = [feed[index][0] for index in range(4)]
    feed.start_epoch(3, first=2)
    assert len(feed) == 2 and feed.steps == 4
    assert all((feed[index][0] == whole[2 + index]).all() for index in range(2))


@pytest.mark.parametrize("output, columns", [("softmax", lambda p: [p, 1 - p]), ("sigmoid_real", lambda p: [1 - p])])
def test_metrics_are_of_fake(output, columns):
    p_fake, is_fake = [0.9, 0.6, 0.2, 0.7], [True, True, True, False]
    given = np.array([columns(p) for p in p_fake], np.float32)
    truth = np.array([columns(float(fake)) for fake in is_fake], np.float32)
    found = {}
    for metric in (metric for some in fake_metrics(output).values() for metric in some):
        metric.update_state(truth, given)
        found[metric.name] = float(metric.result())
    assert found["accuracy"] == 0.5
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["auc"] == pytest.approx(1 / 3, abs=0.01)
    assert found["cross_entropy"] == pytest.approx(-np.log([0.9, 0.6, 0.2, 0.3]).mean(), rel=1e-5)


class Model:
    """What the callbacks touch of a model."""

    variables, optimizer = (), None

    def __init__(self):
        self.stop_training, self.saved = False, []

    def save_weights(self, path, overwrite):
        self.saved.append(self.epoch)
        path.write_text(f"weights of {self.epoch}")


def follow(rule, losses):
    model = Model()
    rule.set_model(model)
    for epoch, (loss, val_loss) in enumerate(losses):
        model.epoch = epoch + 1
        rule.on_epoch_end(epoch, {"loss": loss, "val_loss": val_loss})
        if model.stop_training:
            break
    return rule.stopped_epoch, rule.best_epoch, model.saved


@pytest.mark.parametrize("options, losses, stopped, best, saved", [
    ({}, [(0.9, 0.8), (0.7, 0.6), (0.5, 0.55), (0.4, 0.3)], 3, 3, [1, 2, 3]),
    ({}, [(0.9, 0.8), (0.7, 0.7)], 0, 2, [1, 2]),
    ({}, [(0.9, 0.8), (0.7, 0.85)], 2, 1, [1]),
    ({"patience": 2}, [(0.9, 1.0), (0.7, 0.6), (0.5, 0.7), (0.4, 0.8)], 4, 2, [1, 2]),
    ({"after_epoch": 2}, [(0.9, 1.0), (0.7, 0.9), (0.5, 0.8), (0.4, 0.3)], 3, 3, [1, 2, 3]),
    ({"patience": 2, "after_epoch": 2}, [(0.9, 1.0), (0.7, 0.9), (0.5, 0.8), (0.4, 0.7), (0.3, 0.6)], 4, 4, [1, 2, 3, 4]),
    ({"rule": "plateau"}, [(0.9, 1.0), (0.7, 0.9), (0.5, 0.9), (0.4, 0.3)], 3, 2, [1, 2]),
    ({"rule": "plateau", "patience": 2}, [(0.9, 1.0), (0.7, 1.1), (0.5, 0.9), (0.4, 1), (0.3, 1)], 5, 3, [1, 3]),
    ({"rule": "never"}, [(0.9, 1.0), (0.7, 1.1), (0.5, 1.2)], 0, 1, [1]),
])  # fmt: skip
def test_the_stopping_rule_by_hand(tmp_path, options, losses, stopped, best, saved):
    rule = StopTrainingOnValidationLoss(tmp_path, **options)
    assert follow(rule, losses) == (stopped, best, saved)
    assert rule.best_weights.read_text() == f"weights of {best}"


def test_a_loss_that_is_no_number_ends_the_run_after_the_step_or_the_epoch(tmp_path):
    rule = StopTrainingOnValidationLoss(tmp_path)
    with pytest.raises(InputError, match=r"epoch 1: .* found nan"):
        follow(rule, [(float("nan"), 0.5)])
    rule.on_train_batch_end(0, {"loss": 0.7})
    with pytest.raises(InputError, match=r"step 3 .* found inf"):
        rule.on_train_batch_end(2, {"loss": np.inf})


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("detector.model.file.shutil.disk_usage", lambda _: type("usage", (), {"free": 1000}))
    with pytest.raises(OSError) as error:
        callbacks.save_weights(Model(), tmp_path / "best-1.weights.h5")
    assert (error.value.errno, error.value.filename) == (28, str(tmp_path / "best-1.weights.h5")) and not list(tmp_path.iterdir())


def scores_of(split, *views, batch_size=8, architecture="compact"):
    options = ["--preprocessing", "views", "--views", *views, "--image-size", "16", "--batch-size", str(batch_size)]
    return PooledScores(split, parse(["--architecture", architecture, "--weights", "none", *options]))


def split_of_sizes(folder, sizes=((40, 30), (64, 20), (16, 16), (90, 33))):
    paths = []
    for i, size in enumerate(sizes):
        paths.append(f"{i}.png")
        draw(i, size).save(folder / paths[-1])
    return index_split(folder, "validation", paths, [0, 1, 0, 1][: len(sizes)])


def test_pooled_scores_are_the_means_over_the_views_computed_in_batches_of_one_size(tmp_path):
    split, shapes = split_of_sizes(tmp_path), set()
    scores = scores_of(split, "whole", "native", batch_size=3)
    rows, logits = scores.score(lambda batch: shapes.add(batch.shape) or batch.mean(axis=(1, 2, 3)))
    assert rows.tolist() == [0, 1, 2, 3] and shapes == {(3, 16, 16, 3)}
    images = [pixels.read_image(tmp_path / path) for path in split.paths]
    by_hand = [pixels.preprocess(image, scores.metadata).mean(axis=(1, 2, 3)).mean() for image in images]
    assert logits == pytest.approx(by_hand, rel=1e-5)


def test_pooled_scores_tell_what_cannot_be_read(tmp_path):
    split = split_of_sizes(tmp_path)
    (tmp_path / "2.png").write_text("no image")
    scores = scores_of(split, "whole", "native")
    rows, _ = scores.score(lambda batch: batch[:, 0, 0, 0])
    assert rows.tolist() == [0, 1, 3] and list(scores.unreadable) == ["2.png"]
    (tmp_path / "0.png").write_text("no image")
    with pytest.raises(InputError, match="both classes"):
        scores.score(lambda batch: batch[:, 0, 0, 0])


@pytest.mark.parametrize("output", ["softmax", "sigmoid_real"])
def test_validation_by_views_adds_the_metrics_of_whole_images_to_the_logs(tmp_path, output):
    given = np.array([[0.9], [0.4], [0.8]], np.float32)  # P(Fake) of the images 0 (Fake), 1 (Real), 3 (Real)

    class Network:
        losses = (0.25,)
        loss = keras.losses.CategoricalCrossentropy() if output == "softmax" else keras.losses.BinaryCrossentropy()

        def predict_on_batch(self, batch):
            p = np.interp(batch.mean(axis=(1, 2, 3)), means[np.argsort(means)], given[np.argsort(means), 0])[:, None]
            return np.concatenate([p, 1 - p], axis=1) if output == "softmax" else 1 - p

    split = split_of_sizes(tmp_path, ((16, 16),) * 4)
    (tmp_path / "2.png").write_text("no image")
    scores = scores_of(split, "native", architecture="compact" if output == "softmax" else "resnet50v2")
    images = [pixels.read_image(tmp_path / split.paths[i]) for i in (0, 1, 3)]
    means = np.array([pixels.preprocess(image, scores.metadata).mean() for image in images])
    callback, logs = PooledValidation(scores), {"loss": 1.0}
    callback.set_model(Network())
    callback.on_epoch_end(0, logs)
    losses, weights = -np.log([0.9, 0.6, 0.2]), np.array([1.5, 0.75, 0.75])
    assert logs["val_loss"] == pytest.approx((losses * weights).mean() + 0.25, rel=1e-4)
    assert logs["val_cross_entropy"] == pytest.approx((losses * weights).mean(), rel=1e-4)
    assert logs["val_accuracy"] == pytest.approx(2 / 3) and logs["val_recall"] == 1 and logs["val_precision"] == 0.5
    assert logs["val_auc"] == pytest.approx(1, abs=0.01) and logs["loss"] == 1.0


def test_whole_images_are_held_one_at_a_time(tmp_path):
    images = DecodedImages(split_of_sizes(tmp_path), None, keep=False)
    asked, read = [], images.read
    images.read = lambda indices: asked.append(len(indices)) or read(indices)
    feed = ImageBatches(images, "softmax", 4, augmentation=Augmentation(view=View(16)))
    batch, targets, _ = feed[0]
    assert batch.shape == (4, 16, 16, 3) and targets[:, 0].tolist() == [1, 0, 1, 0] and asked == [1] * 4
    assert (feed[0][0] == batch).all()
