"""Batches for `fit`. Imports Keras at once: import this module inside functions."""

import os

import cv2
import keras
import numpy as np

from detector.console import InputError
from detector.evaluation.thresholds import sample_weights
from detector.inference import scoring
from detector.model.runtime import FunctionDetector

WORKERS = max(2, (os.cpu_count() or 1) // 2)  # threads that read and augment; OpenCV releases the GIL
FILLER = -1  # in an order of images: a row without an image
IGNORED = -1.0  # target of such a row


class ImageBatches(keras.utils.PyDataset):
    """Batches of one split for `fit`, with weights that balance the classes or the sources.

    A batch is ((b, s, s, 3) float32 in 0..255, targets as `targets_of` returns them, (b,) float32 weights). Order and
    augmentation follow from the seed, the epoch and the batch's number alone. An unreadable image is left out of its batch.

    Each of several processes returns its rows of every batch, with its own augmentation. If devices share a batch, all parts must
    have the same size. In training, the first images of an epoch fill up its last batch, and other images of the part replace
    unreadable ones; in validation, rows that fill up a part have the weight 0 and the target IGNORED.

    Args:
        images: detector.training.dataset.DecodedImages.
        output: 'softmax' or 'sigmoid_real'.
        shuffle: a new order every epoch; False for validation.
        balance_groups: weight the sources, as `sample_weights`; otherwise only the classes.
        process, processes, devices: rank of this process, number of processes, and number of devices of all processes.

    Attributes:
        failure: exception that ended a thread, which TensorFlow would replace by one of its own; or None.
    """

    def __init__(
        self, images, output, batch_size, seed=0, shuffle=False, augmentation=None, balance_groups=False,
        process=0, processes=1, devices=1,
    ):  # fmt: skip
        super().__init__(workers=WORKERS, use_multiprocessing=False, max_queue_size=4)
        cv2.setNumThreads(1)  # its own threads would slow the network down more than they speed up small images
        self.images, self.split, self.labels = images, images.split, np.asarray(images.split.labels)
        self.output, self.batch_size, self.seed = output, batch_size, seed
        self.shuffle, self.augmentation = shuffle, augmentation
        self.process, self.processes, self.devices = process, processes, devices
        self.weights = sample_weights(self.labels, self.split.sources() if balance_groups else None)
        self.failure = None
        self.start_epoch(0)

    @property
    def steps(self):
        """Number of batches of a whole epoch."""
        return -(-len(self.labels) // self.batch_size)

    def __len__(self):
        """Return the number of batches of this epoch that are left."""
        return self.steps - self.first

    def start_epoch(self, epoch, first=0):
        """Set the order of the images for an epoch, counted from 0, of which `first` batches are done already."""
        self.epoch, self.first = epoch, first
        rng = np.random.default_rng([self.seed, epoch])
        self.order = rng.permutation(len(self.labels)) if self.shuffle else np.arange(len(self.labels))
        if missing := -len(self.order) % self.devices:
            self.order = np.append(self.order, np.resize(self.order, missing) if self.shuffle else np.full(missing, FILLER))

    def __getitem__(self, index):
        """Return batch `index` of those that are left in this epoch."""
        try:
            return self._batch(self.first + index)
        except Exception as error:
            self.failure = error
            raise

    def _batch(self, number):
        start = number * self.batch_size
        rng = np.random.default_rng([self.seed, self.epoch, number, *([self.process] if self.processes > 1 else [])])
        rows = self.order[start : start + self.batch_size]
        part = len(rows) // self.processes  # contiguous, so that the parts of all processes are the batch in order
        rows = rows[self.process * part : (self.process + 1) * part]
        inputs, readable = self._inputs(rows[rows != FILLER], rng)
        counted = len(inputs)
        if not inputs:  # `fit` needs a batch: take the next readable image
            inputs, readable = self._next_readable(start, rng)
        labels = self.labels[readable]
        batch = np.stack(inputs).astype(np.float32), targets_of(labels, self.output), self.weights[readable]
        return batch if self.devices == 1 else self._filled(batch, len(rows), counted)

    def _filled(self, batch, number, counted):
        """Fill up a part to `number` rows by repeating its rows; in validation only the first `counted` have a weight."""
        if len(batch[0]) < number:
            batch = (part[np.resize(np.arange(len(part)), number)] for part in batch)
        images, targets, weights = batch
        if not self.shuffle:
            targets[counted:], weights[counted:] = IGNORED, 0
            weights *= len(self.order) / len(self.labels)  # Keras takes the mean over all rows; this makes it the mean over images
        return images, targets, weights

    def _inputs(self, indices, rng):
        """Return (inputs, their indices). Whole images are read one by one: a batch of phone photographs takes gigabytes."""
        at_once = max(1, len(indices)) if self.images.size else 1
        inputs, readable = [], []
        for start in range(0, len(indices), at_once):
            images, found = self.images.read(indices[start : start + at_once])
            inputs += [self.augmentation(image, rng) for image in images] if self.augmentation else images
            readable += found
        return inputs, readable

    def _next_readable(self, start, rng):
        order = np.roll(self.order, -start)
        for i in order[order != FILLER]:
            inputs, readable = self._inputs([i], rng)
            if inputs:
                return inputs, readable
        raise InputError(f"{next(iter(self.images.unreadable.values()))}; no image of the split can be read: run data_audit.py")


class PooledScores:
    """Scores of a split's images as the app computes them: with views, an image's logit is the mean over them.

    Args:
        config: TrainingConfig with its image size.

    Attributes:
        unreadable: {path: reason} of the images that could not be read in the last call of `score`.
        failure: as in ImageBatches.
    """

    def __init__(self, split, config):
        self.split, self.output, self.batch = split, config.network.output, config.batch_size
        self.metadata = {**config.preprocessing_metadata, "temperature": 1.0}
        self.unreadable, self.failure = {}, None

    def score(self, logits_of):
        """Return (rows, logits), both (n,): indices and logits of Fake of the readable images.

        Args:
            logits_of: function from (b, s, s, 3) float32 to (b,) logits of Fake.
        """
        detector = FunctionDetector(logits_of, self.metadata, self.batch)
        self.unreadable, rows, logits = {}, [], []
        paths = [os.path.join(self.split.data, path) for path in self.split.paths]
        for row, score in enumerate(scoring.score_files(detector, paths)):
            if score.error:
                self.unreadable[self.split.paths[row]] = score.error
            else:
                rows.append(row)
                logits.append(score.logit)
        if len({self.split.labels[row] for row in rows}) < 2:
            raise InputError("expected readable validation images of both classes, found those of one; run data_audit.py")
        return np.array(rows), np.array(logits)


def targets_of(labels, output: str) -> np.ndarray:
    """Return the targets of labels, float32: (n, 2) one-hot in the order Fake, Real for 'softmax', else (n, 1), 1 for Real."""
    labels = np.asarray(labels)
    return np.eye(2, dtype=np.float32)[labels] if output == "softmax" else labels[:, None].astype(np.float32)
