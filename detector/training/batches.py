"""Batches for `fit`. Imports Keras at once: import this module inside functions."""
import os

import cv2
import keras
import numpy as np

from detector.console import InputError
from detector.inference import scoring
from detector.model.runtime import FunctionDetector

WORKERS = max(2, (os.cpu_count() or 1) // 2)  # threads that read and augment; OpenCV does not hold the interpreter's lock
NOBODY = -1  # in an order of images: a row that none of them takes
IGNORED = -1.0  # target of such a row


class ImageFeed(keras.utils.PyDataset):
    """Batches of one split for `fit`, weighted by class.

    A batch is ((b, s, s, 3) float32 in 0..255, targets as `feed.targets_of` gives them, (b,) float32 weights). Order and
    augmentation follow from seed, epoch and the batch's number alone. An image that cannot be read is left out of its batch.

    Of several processes each gives its share of the rows of every batch, and augments it in a way of its own. Where devices share a
    batch, all shares must be of one size. Of train images, the first of an epoch fill up its last batch, and others of the share
    stand for those that cannot be read; of validation, what fills a share has the weight 0 and the target IGNORED.

    Args:
        images: detector.training.dataset.Decoded.
        output: 'softmax' or 'sigmoid_real'.
        shuffle: a new order every epoch; off for validation.
        augmentation: detector.training.augmentation.Augmentation, or None.
        process, processes, devices: of detector.training.distributed: the number of this process, and of all, and of all devices.
    """

    def __init__(
        self, images, output, batch_size, seed=0, shuffle=False, augmentation=None, process=0, processes=1, devices=1
    ):  # fmt: skip
        super().__init__(workers=WORKERS, use_multiprocessing=False, max_queue_size=4)
        cv2.setNumThreads(1)  # threads of its own would take from the network what they do not gain on small images
        self.images, self.labels = images, np.asarray(images.split.labels)
        self.output, self.batch_size, self.seed = output, batch_size, seed
        self.shuffle, self.augmentation = shuffle, augmentation
        self.process, self.processes, self.devices = process, processes, devices
        self.class_weights = class_weights(self.labels)
        self.failure = None  # what ended a thread that `fit` reads by: TensorFlow gives it on as an error of its own
        self.start_epoch(0)

    @property
    def steps(self):
        """The number of batches of a whole epoch."""
        return -(-len(self.labels) // self.batch_size)

    def __len__(self):
        """Return the number of batches of this epoch that are still to come."""
        return self.steps - self.first

    def start_epoch(self, epoch, first=0):
        """Set the order of the images for an epoch, counted from 0, of which `first` batches are done already.

        (`fit` calls on_epoch_end once too often to count by it.)
        """
        self.epoch, self.first = epoch, first
        rng = np.random.default_rng([self.seed, epoch])
        self.order = rng.permutation(len(self.labels)) if self.shuffle else np.arange(len(self.labels))
        if missing := -len(self.order) % self.devices:
            self.order = np.append(self.order, np.resize(self.order, missing) if self.shuffle else np.full(missing, NOBODY))

    def alone(self):
        """Give whole batches from now on, as for one process with one device."""
        self.process, self.processes, self.devices = 0, 1, 1
        self.start_epoch(self.epoch)
        return self

    def __getitem__(self, index):
        """Return batch `index` of what is to come of this epoch."""
        try:
            return self._batch(index)
        except Exception as error:
            self.failure = error
            raise

    def _batch(self, index):
        start = (self.first + index) * self.batch_size
        rng = np.random.default_rng([self.seed, self.epoch, self.first + index, *([self.process] if self.processes > 1 else [])])
        rows = self._share(self.order[start : start + self.batch_size])
        inputs, there = self._inputs(rows[rows != NOBODY], rng)
        counted = len(inputs)
        if not inputs:  # `fit` cannot do without a batch: the next image that can be read makes one
            inputs, there = self._next_readable(start, rng)
        labels = self.labels[there]
        batch = np.stack(inputs).astype(np.float32), targets_of(labels, self.output), self.class_weights[labels]
        return batch if self.devices == 1 else self._filled(batch, len(rows), counted)

    def _share(self, rows):
        """Return this process's rows of a batch: one piece, so that the pieces of all are the batch in its order."""
        size = len(rows) // self.processes
        return rows[self.process * size : (self.process + 1) * size]

    def _filled(self, batch, number, counted):
        """Return a share as one of `number` rows, by repeating its own; of validation only the first `counted` count."""
        if len(batch[0]) < number:
            batch = (part[np.resize(np.arange(len(part)), number)] for part in batch)
        images, targets, weights = batch
        if not self.shuffle:
            targets[counted:], weights[counted:] = IGNORED, 0
            weights *= len(self.order) / len(self.labels)  # a loss is the mean over all rows, and over images it should be
        return images, targets, weights

    def _inputs(self, indices, rng):
        """Return (inputs, their indices). Whole images are held one at a time: a batch of them from a phone takes gigabytes."""
        at_once = max(1, len(indices)) if self.images.size else 1
        inputs, there = [], []
        for start in range(0, len(indices), at_once):
            images, readable = self.images.read(indices[start : start + at_once])
            inputs += [self.augmentation(image, rng) for image in images] if self.augmentation else images
            there += readable
        return inputs, there

    def _next_readable(self, start, rng):
        order = np.roll(self.order, -start)
        for i in order[order != NOBODY]:
            inputs, there = self._inputs([i], rng)
            if inputs:
                return inputs, there
        why = next(iter(self.images.unreadable.values()))
        raise InputError(f"{why}; no image of the split can be read: run data_audit.py")


class PooledScores:
    """Scores of a split's images as the app computes them: the mean of the logits of an image's patches or views.

    Args:
        split: detector.training.dataset.Split.
        output: 'softmax' or 'sigmoid_real'.
        preprocessing: that part of a detector's metadata: {'preprocessing', 'image_size', and 'patches' or 'views'}.
        batch_size: number of inputs that are computed together.

    Attributes:
        unreadable: {path: reason} of the images that could not be read by the last call of `score`.
        failure: None; as in ImageFeed.
    """

    def __init__(self, split, output, preprocessing, batch_size):
        self.split, self.output, self.batch = split, output, batch_size
        self.metadata = {**preprocessing, "temperature": 1.0}
        self.unreadable, self.failure = {}, None

    def score(self, logits_of):
        """Return (labels, pooled logits), both (n,), of the images that can be read.

        Args:
            logits_of: function from (b, s, s, 3) float32 to (b,) logits of Fake.
        """
        detector = FunctionDetector(logits_of, self.metadata, self.batch)
        self.unreadable, labels, logits = {}, [], []
        paths = [os.path.join(self.split.data, path) for path in self.split.paths]
        for path, label, score in zip(self.split.paths, self.split.labels, scoring.score_files(detector, paths), strict=True):
            if score.error:
                self.unreadable[path] = score.error
            else:
                labels.append(label)
                logits.append(score.logit)
        if len(set(labels)) < 2:
            raise InputError("expected validation images of both classes that can be read, found those of one; run data_audit.py")
        return np.array(labels), np.array(logits)


def class_weights(labels):
    """Return (2,) float32 weights by label with which both classes weigh the same in all."""
    counts = np.bincount(labels, minlength=2)
    return (counts.sum() / (2 * counts)).astype(np.float32)


def targets_of(labels, output):
    """Return the targets of labels, float32: (n, 2) one-hot in the order Fake, Real for 'softmax', else (n, 1), 1 for Real."""
    labels = np.asarray(labels)
    return np.eye(2, dtype=np.float32)[labels] if output == "softmax" else labels[:, None].astype(np.float32)
