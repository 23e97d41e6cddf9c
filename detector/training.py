"""What `fit` is given: a feed of images, the metrics, and the callbacks. Needs Keras at once: import it inside functions."""
import json
import os
import re

import keras
import numpy as np

from detector import damage, pixels
from detector.console import InputError
from detector.data_tree import UNFINISHED


class ImageFeed(keras.utils.PyDataset):
    """Batches of one split for `fit`: images decoded and fitted as everywhere else, weighted by class.

    A batch is ((b, s, s, 3) float32 in 0..255, targets, (b,) float32 weights); the targets are (b, 2) one-hot in the order
    Fake, Real for a softmax and (b, 1), 1 for Real, for 'sigmoid_real'. Order and augmentation follow from seed and epoch
    alone. An image that cannot be read is left out of its batch and named in `unreadable`.

    Args:
        paths: list of image files.
        labels: list of 0 (Fake) and 1 (Real).
        size: side of the network's input, in pixels.
        shuffle: new order and new augmentation every epoch; off for validation.
        flip: mirror half of the images left to right.
        damage_probability: chance of each of blur, scaling, noise and JPEG (detector.damage.random_damage).
    """

    def __init__(self, paths, labels, size, output, batch_size, seed=0, shuffle=False, flip=False, damage_probability=0.0):
        super().__init__(workers=2, use_multiprocessing=False, max_queue_size=8)
        self.paths, self.labels = paths, np.asarray(labels)
        self.size, self.output, self.batch_size, self.seed = size, output, batch_size, seed
        self.shuffle, self.flip, self.damage_probability = shuffle, flip, damage_probability
        counts = np.bincount(self.labels, minlength=2)
        self.class_weights = (counts.sum() / (2 * counts)).astype(np.float32)
        self.unreadable = {}
        self.start_epoch(0)

    def __len__(self):
        """Return the number of batches."""
        return -(-len(self.paths) // self.batch_size)

    def start_epoch(self, epoch):
        """Set the order of the images for an epoch, counted from 0. `fit` calls on_epoch_end once too often to count by it."""
        self.epoch = epoch
        rng = np.random.default_rng([self.seed, epoch])
        self.order = rng.permutation(len(self.paths)) if self.shuffle else np.arange(len(self.paths))

    def __getitem__(self, index):
        """Return batch `index` of this epoch."""
        rng = np.random.default_rng([self.seed, self.epoch, index])
        start = index * self.batch_size
        images, labels = self._read(self.order[start : start + self.batch_size], rng)
        if not images:  # `fit` cannot do without a batch: the next image that can be read makes one
            images, labels = self._read(np.roll(self.order, -start), rng, at_most=1)
        if not images:
            raise InputError(f"{next(iter(self.unreadable.values()))}; no image of the split can be read: run data_audit.py")
        images, labels = np.stack(images), np.array(labels)
        targets = np.eye(2, dtype=np.float32)[labels] if self.output == "softmax" else labels[:, None].astype(np.float32)
        return images.astype(np.float32), targets, self.class_weights[labels]

    def _read(self, chosen, rng, at_most=None):
        images, labels = [], []
        for i in chosen:
            try:
                images.append(self.augmented(pixels.read_fitted(self.paths[i], self.size), rng))
                labels.append(self.labels[i])
            except (InputError, OSError) as error:
                self.unreadable[self.paths[i]] = str(error)
            if len(images) == at_most:
                break
        return images, labels

    def augmented(self, image, rng):
        """Return a (s, s, 3) uint8 image flipped and damaged at random, where the feed is asked to."""
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return damage.random_damage(image, rng, self.damage_probability) if self.damage_probability else image


def fake_metrics(output):
    """Return the metrics for `compile`, all of P(Fake): accuracy, precision, recall, auc, cross-entropy without penalties."""

    def p_fake(values):
        return values[:, :1] if output == "softmax" else 1 - values

    def of_fake(kind, name):
        class OfFake(kind):
            def update_state(self, y_true, y_pred, sample_weight=None):
                return super().update_state(p_fake(y_true), p_fake(y_pred), sample_weight)

        OfFake.__name__ = f"{kind.__name__}OfFake"
        return OfFake(name=name)

    kinds = keras.metrics
    return [
        of_fake(kinds.BinaryAccuracy, "accuracy"),
        of_fake(kinds.Precision, "precision"),
        of_fake(kinds.Recall, "recall"),
        of_fake(kinds.AUC, "auc"),
        of_fake(kinds.BinaryCrossentropy, "cross_entropy"),
    ]


class StopTrainingOnValidationLoss(keras.callbacks.Callback):
    """Stop when the validation loss exceeds the training loss; keep the weights of the lowest validation loss.

    Args:
        patience: stop only after this many such epochs in a row; 1 is the rule to the letter.
        after_epoch: look only at epochs after this one, counted from 1.
        folder: pathlib.Path that the best weights are written to, so that they outlive the process.

    Attributes:
        best_weights: path of the best weights; before the first epoch those the run began with belong there.
        best_epoch: epoch of the lowest validation loss, counted from 1; 0 before there is one.
        stopped_epoch: epoch after which training was stopped, counted from 1; 0 where it was not.
    """

    def __init__(self, folder, patience=1, after_epoch=0):
        super().__init__()
        self.folder, self.patience, self.after_epoch = folder, patience, after_epoch
        self.resume({})

    @property
    def best_weights(self):
        """Path of the best weights: a name of its own for each epoch, so that a killed run finds those its state speaks of."""
        return self.folder / f"best-{self.best_epoch}.weights.h5"

    def resume(self, state):
        """Take up the state of an interrupted run, as `state` returns it."""
        self.best_loss = state.get("best_loss", float("inf"))
        self.best_epoch = state.get("best_epoch", 0)
        self.stopped_epoch = state.get("stopped_epoch", 0)
        self.exceeded = state.get("exceeded", 0)

    def state(self):
        """Return what `resume` needs, as a dict for JSON."""
        return {name: getattr(self, name) for name in ("best_loss", "best_epoch", "stopped_epoch", "exceeded")}

    def on_epoch_end(self, epoch, logs=None):
        """Compare the two losses of an epoch."""
        loss, val_loss = float(logs["loss"]), float(logs["val_loss"])
        if not (np.isfinite(loss) and np.isfinite(val_loss)):
            raise InputError(
                f"epoch {epoch + 1}: expected finite losses, found {loss} (train) and {val_loss} (validation); "
                "start again with a lower --learning-rate and --overwrite"
            )
        if val_loss < self.best_loss:
            self.best_loss, self.best_epoch = val_loss, epoch + 1
            save_weights(self.model, self.best_weights)
        self.exceeded = self.exceeded + 1 if val_loss > loss else 0
        if self.exceeded >= self.patience and epoch + 1 > self.after_epoch:
            self.stopped_epoch = epoch + 1
            self.model.stop_training = True


class Checkpoint(keras.callbacks.Callback):
    """After every epoch, write what a killed run needs to go on: weights, optimizer, history, the rule's state.

    Args:
        folder: pathlib.Path; holds last.weights.h5 and state.json, the JSON written last.
        rule: the StopTrainingOnValidationLoss of the run, called before this one.
        facts: dict that must be the same for a run to be taken up (arguments, data).
    """

    def __init__(self, folder, rule, facts):
        super().__init__()
        self.folder, self.rule, self.facts = folder, rule, facts
        self.history = []

    def load(self, overwrite=False):
        """Take up an interrupted run.

        Returns:
            The number of epochs done; 0 where there is nothing to take up, or another run's that may be overwritten.

        Raises:
            InputError: the folder holds the checkpoint of another run, with other arguments or other data.
        """
        file = self.folder / "state.json"
        try:
            state = json.loads(file.read_text("utf-8"))
            before = state["facts"]
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: expected a checkpoint of this script, found another file; give another --log-dir") from None
        if before != self.facts:
            if overwrite:
                return 0
            changed = [name for name, value in self.facts.items() if before.get(name) != value]
            raise InputError(
                f"{self.folder}: expected the checkpoint of this run, found one that differs in {', '.join(changed)}; "
                "run its command again, give another --log-dir, or start anew with --overwrite"
            )
        self.model.optimizer.build(self.model.trainable_variables)  # else its state is passed over without a word
        try:
            self.model.load_weights(self.folder / state["weights"])
        except (OSError, ValueError):
            raise InputError(
                f"{self.folder / state['weights']}: expected the weights of the checkpoint, found none; start anew with --overwrite"
            ) from None
        for variable, value in zip(random_states(self.model), state["random_states"], strict=True):
            variable.assign(value)
        self.rule.resume(state["rule"])
        self.history = state["history"]
        return len(self.history)

    def on_epoch_end(self, epoch, logs=None):
        """Write the checkpoint of an epoch."""
        self.history.append({"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}})
        name = f"last-{epoch + 1}.weights.h5"
        save_weights(self.model, self.folder / name)
        states = [keras.ops.convert_to_numpy(variable).tolist() for variable in random_states(self.model)]
        state = {"facts": self.facts, "weights": name, "random_states": states, "rule": self.rule.state(), "history": self.history}
        unfinished = self.folder / f"state.json{UNFINISHED}"
        unfinished.write_text(json.dumps(state, indent=1), "utf-8")
        os.replace(unfinished, self.folder / "state.json")
        for old in own_weights(self.folder):
            if old.name not in (name, self.rule.best_weights.name):
                old.unlink()


def own_weights(folder):
    """Return the weights files, unfinished ones too, that a run writes into its folder: nobody else's are touched."""
    return [path for path in folder.glob("*.weights.h5") if re.fullmatch(r"(best|last)-\d+(\.part)?\.weights\.h5", path.name)]


def remove_checkpoint(folder):
    """Remove what only a killed run would need, the JSON first: without it the rest counts for nothing."""
    for file in [folder / "state.json", *own_weights(folder)]:
        file.unlink(missing_ok=True)


def random_states(model):
    """Return the variables that dropout and noise draw from; a weights file does not hold them."""
    return [variable for variable in model.variables if "seed_generator" in variable.path]


def save_weights(model, path):
    """Write weights and optimizer state to a .weights.h5, beside and then renamed."""
    unfinished = path.with_name(f"{path.name.removesuffix('.weights.h5')}{UNFINISHED}.weights.h5")
    model.save_weights(unfinished, overwrite=True)
    os.replace(unfinished, path)
