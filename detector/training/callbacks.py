"""Callbacks for `fit`. Imports Keras at once: import this module inside functions."""

import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import time

import keras
import numpy as np

from detector.console import InputError, progress
from detector.evaluation.thresholds import sample_weights
from detector.files import atomic_write
from detector.model.backend import undistributed
from detector.model.file import check_room
from detector.model.scores import p_fake_of
from detector.training.batches import targets_of
from detector.training.metrics import fake_metrics


class PooledValidation(keras.callbacks.Callback):
    """After every epoch, add the loss and metrics of validation to its logs, of whole images scored by their views (PooledScores).

    In place of `fit`'s own validation, which would take each view for an image; before all callbacks that read the logs.
    """

    def __init__(self, scores, balance_groups=False):
        super().__init__()
        self.scores, self.balance_groups = scores, balance_groups

    def on_epoch_end(self, epoch, logs):
        """Score the images and add val_loss and the others."""
        output = self.scores.output
        rows, logits = self.scores.score(self._logits)
        labels = np.asarray(self.scores.split.labels)[rows]
        sources = np.array(self.scores.split.sources())[rows].tolist() if self.balance_groups else None
        p_fake = p_fake_of(logits, 1.0).astype(np.float32)
        given = np.stack([p_fake, 1 - p_fake], axis=1) if output == "softmax" else 1 - p_fake[:, None]
        targets, weights = targets_of(labels, output), sample_weights(labels, sources)
        penalties = sum(float(penalty) for penalty in self.model.losses)
        logs["val_loss"] = float(self.model.loss(targets, given, weights)) + penalties
        for kind, metrics in fake_metrics(output).items():
            for metric in metrics:
                metric.update_state(targets, given, weights if kind == "weighted_metrics" else None)
                logs[f"val_{metric.name}"] = float(metric.result())

    def _logits(self, batch):
        """Return logits from probabilities: a network within `fit` is not taken apart for its logits."""
        p = np.clip(np.asarray(self.model.predict_on_batch(batch), np.float64), 1e-30, 1 - 1e-16)
        return np.log(p[:, 0]) - np.log(p[:, 1]) if self.scores.output == "softmax" else np.log1p(-p[:, 0]) - np.log(p[:, 0])


class StopTrainingOnValidationLoss(keras.callbacks.Callback):
    """Stop when the validation loss exceeds the training loss; keep the weights of the lowest validation loss.

    Args:
        folder: pathlib.Path that the best weights are written to, so that they outlive the process.
        patience: stop only after this many such epochs in a row; 1 is the rule to the letter.
        after_epoch: look only at epochs after this one, counted from 1.
        rule: what counts as such an epoch: 'exceeds', as above; 'plateau', the validation loss is not lower than ever before (early
            stopping as usual); 'never'.
        writes: off for all processes of a run but the first, which follow the rule all the same.

    Attributes:
        best_epoch: epoch of the lowest validation loss, counted from 1; 0 before the first epoch.
        stopped_epoch: epoch after which training was stopped, counted from 1; 0 if it was not.
    """

    def __init__(self, folder, patience=1, after_epoch=0, rule="exceeds", writes=True):
        super().__init__()
        self.folder, self.patience, self.after_epoch, self.rule, self.writes = folder, patience, after_epoch, rule, writes
        self.resume({})

    @property
    def best_weights(self):
        """Path of the best weights, another one for each epoch, so that a killed run finds those that its state names."""
        return self.folder / f"best-{self.best_epoch}.weights.h5"

    def resume(self, state):
        """Restore the state of an interrupted run, as `state` returns it."""
        initial = {"best_loss": float("inf"), "best_epoch": 0, "stopped_epoch": 0, "bad_epochs": 0}
        vars(self).update(initial | state)

    def state(self):
        """Return what `resume` needs, as a dict for JSON."""
        return {name: getattr(self, name) for name in ("best_loss", "best_epoch", "stopped_epoch", "bad_epochs")}

    def on_train_batch_end(self, batch, logs=None):
        """End the run if the loss is not finite: no later one would be."""
        _require_finite(f"step {batch + 1} of this epoch", float((logs or {}).get("loss", 0)))

    def on_epoch_end(self, epoch, logs=None):
        """Compare the two losses of an epoch."""
        loss, val_loss = float(logs["loss"]), float(logs["val_loss"])
        _require_finite(f"epoch {epoch + 1}", loss, val_loss)
        bad = val_loss > loss if self.rule == "exceeds" else val_loss >= self.best_loss
        bad = bad and self.rule != "never" and epoch + 1 > self.after_epoch
        if val_loss < self.best_loss:
            self.best_loss, self.best_epoch = val_loss, epoch + 1
            if self.writes:
                save_weights(self.model, self.best_weights)
        self.bad_epochs = self.bad_epochs + 1 if bad else 0
        if self.bad_epochs >= self.patience:
            self.stopped_epoch = epoch + 1
            self.model.stop_training = True


def _require_finite(when, *losses):
    if not np.isfinite(losses).all():
        found = " and ".join(map(str, losses))
        raise InputError(f"{when}: expected a finite loss, found {found}; start again with a lower --learning-rate and --overwrite")


class Interruption(keras.callbacks.Callback):
    """Ends training after the current step on Ctrl-C, which a library may swallow within a step. A second Ctrl-C ends at once."""

    asked = False

    @contextlib.contextmanager
    def handled(self):
        """Handle Ctrl-C within the block; KeyboardInterrupt is raised at its end at the latest.

        Does nothing if another handler is installed.
        """
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._ask)
        try:
            yield
            self._check()
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, *_):
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if sys.stderr.isatty():
            os.write(2, b"\ninterrupted: ending after this step; press Ctrl-C again to end at once\n")  # print is not reentrant

    def _check(self, *_, **__):
        if self.asked:
            raise KeyboardInterrupt

    on_train_begin = on_epoch_begin = on_train_batch_begin = on_train_batch_end = _check
    on_test_begin = on_test_batch_begin = on_test_batch_end = on_epoch_end = _check


class Checkpoint(keras.callbacks.Callback):
    """After every epoch, and every `seconds` within it, write what a killed run needs to continue.

    That is: weights, optimizer, random states of noise and dropout, sums of the metrics, history, and the state of the stop rule.

    Args:
        folder: pathlib.Path; contains last-*.weights.h5 and state.json, which is written last.
        rule: the StopTrainingOnValidationLoss of the run, called before this callback; if it does not write, neither does this.
        resume_key: dict that must be equal for a run to be continued (options, data).

    Attributes:
        history: list of dicts, one for each complete epoch.
        first_step: number of steps of the next epoch that are done.
    """

    def __init__(self, folder, rule, resume_key, seconds=600):
        super().__init__()
        self.folder, self.rule, self.resume_key, self.seconds = folder, rule, resume_key, seconds
        self.history, self.first_step, self.saved = [], 0, None
        self.run = hashlib.sha256(json.dumps(resume_key).encode()).hexdigest()[:16]  # identifies the run in its model file

    def find(self, overwrite=False):
        """Look for an interrupted run, and restore its history and the state of the stop rule.

        Returns the epoch, counted from 0, in or after which its weights were saved; None if there is no checkpoint, or one of
        another run that may be overwritten. Raises InputError if the checkpoint is that of a run with other options or other data.
        """
        file = self.folder / "state.json"
        try:
            state = json.loads(file.read_text("utf-8"))
            before = state["resume_key"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: expected a checkpoint of this script, found another file; give another --log-dir") from None
        if before != self.resume_key:
            if overwrite:
                return None
            changed = ", ".join(name for name, value in self.resume_key.items() if before.get(name) != value)
            cure = "run its command again, give another --log-dir, or start over with --overwrite"
            raise InputError(f"{self.folder}: expected the checkpoint of this run, found one that differs in {changed}; {cure}")
        self.saved = state
        self.rule.resume(state["rule"])
        self.history, self.first_step = state["history"], state["step"]
        return len(self.history) - (self.first_step == 0)

    def load(self):
        """Restore weights, optimizer and random states of the run that `find` found; the model must be compiled."""
        self.model.optimizer.build(self.model.trainable_variables)  # otherwise Keras silently skips its state
        try:
            with undistributed():
                self.model.load_weights(self.folder / self.saved["weights"])
        except (OSError, ValueError):
            file, cure = self.folder / self.saved["weights"], f"remove {self.folder / 'state.json'} to start over"
            raise InputError(f"{file}: expected the weights of the checkpoint, found none that load; {cure}") from None
        assign(random_states(self.model), self.saved["random_states"])

    def on_epoch_begin(self, epoch, logs=None):
        """Restore the sums of the metrics within a continued epoch, after `fit` has reset them."""
        self.written = time.monotonic()
        if self.first_step and epoch == len(self.history) and self.saved:
            assign(self.model.metrics_variables, self.saved["metrics"])
            self.saved = None

    def on_train_batch_end(self, batch, logs=None):
        """Write a checkpoint if it is due; not after the last step, which `on_epoch_end` follows."""
        if self.rule.writes and time.monotonic() - self.written >= self.seconds and batch + 1 < self.params["steps"]:
            self.write(self.first_step + batch + 1, values(self.model.metrics_variables))

    def on_epoch_end(self, epoch, logs=None):
        """Write the checkpoint of an epoch."""
        self.history.append({"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}})
        self.first_step = 0
        self.write(0, [])

    def write(self, step, metrics):
        """Write a checkpoint: the weights under a name of their own, then the JSON that names them."""
        if not self.rule.writes:
            return
        name = f"last-{len(self.history)}-{step}.weights.h5"
        save_weights(self.model, self.folder / name)
        state = {"resume_key": self.resume_key, "weights": name, "step": step, "rule": self.rule.state(), "history": self.history}
        state |= {"random_states": values(random_states(self.model)), "metrics": metrics}
        with atomic_write(self.folder / "state.json") as temporary:
            temporary.write_text(json.dumps(state, indent=1), "utf-8")
        for old in own_weights(self.folder):
            if old.name not in (name, self.rule.best_weights.name):
                old.unlink()
        self.written = time.monotonic()


class Progress(keras.callbacks.Callback):
    """A bar with the time left for every epoch, on stderr if that is a terminal, and one line an epoch on stdout."""

    def __init__(self, epochs, feed):
        super().__init__()
        self.epochs, self.feed = epochs, feed

    def on_epoch_begin(self, epoch, logs=None):
        """Open the bar."""
        self.began = time.monotonic()
        self.bar = progress(None, total=self.feed.steps, unit="step", desc=f"epoch {epoch + 1} of {self.epochs}")
        self.bar.update(self.feed.first)

    def on_train_batch_end(self, batch, logs=None):
        """Advance the bar."""
        self.bar.update()
        self.bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        """Close the bar and print the line."""
        self.bar.close()
        shown = ("loss", "cross_entropy", "accuracy", "auc")
        train, validation = (", ".join(f"{name.replace('_', ' ')} {logs[of + name]:.4f}" for name in shown) for of in ("", "val_"))
        seconds = time.monotonic() - self.began
        print(f"epoch {epoch + 1} of {self.epochs} ({seconds:.0f} s): train {train}; validation {validation}", flush=True)


def check_same_weights(model, epoch, group):
    """Raise InputError unless all processes have the same weights, bit for bit, after an epoch counted from 0."""
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    cure = "the machines do not compute alike: run the same command again, and if it comes back, leave that machine out"
    group.check_equal({f"the weights after epoch {epoch + 1}": digest.hexdigest()}, cure)


def values(variables):
    """Return the values of Keras variables as nested lists."""
    return [keras.ops.convert_to_numpy(variable).tolist() for variable in variables]


def assign(variables, kept):
    """Assign to Keras variables what `values` returned."""
    for variable, value in zip(variables, kept, strict=True):
        variable.assign(value)


def own_weights(folder):
    """Return the weights files that runs write into a folder, unfinished ones too; no others are ever removed."""
    ours = re.compile(r"\.?(best|last)-\d+(-\d+)?\.weights\.h5(\.part\.weights\.h5)?")
    return [path for path in folder.glob("*.weights.h5") if ours.fullmatch(path.name)]


def remove_checkpoint(folder):
    """Remove a checkpoint, state.json first, without which the rest is ignored."""
    for file in [folder / "state.json", *own_weights(folder)]:
        file.unlink(missing_ok=True)


def random_states(model):
    """Return the random states of dropout and noise, which a weights file does not contain."""
    return [variable for variable in model.variables if "seed_generator" in variable.path]


def save_weights(model, path):
    """Write weights and optimizer state to a .weights.h5, atomically. Raises OSError if the disk has not enough space."""
    optimizer = getattr(model, "optimizer", None)
    check_room(path, [*model.variables, *(optimizer.variables if optimizer else ())])
    with atomic_write(path, suffix=".weights.h5") as temporary, undistributed():
        model.save_weights(temporary, overwrite=True)
