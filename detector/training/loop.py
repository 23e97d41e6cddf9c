"""The training loop: phases, callbacks, checkpoints and interruptions. Imports Keras at once: import it inside functions."""

from typing import NamedTuple

import keras

from detector.console import InputError, plural
from detector.model.file import read_metadata
from detector.training import callbacks
from detector.training.batches import ImageBatches
from detector.training.callbacks import Checkpoint, StopTrainingOnValidationLoss
from detector.training.config import TrainingConfig, resume_key
from detector.training.distributed import ProcessGroup, is_lost_process
from detector.training.networks import compile_network
from detector.training.schedules import plan_phases


class Outcome(NamedTuple):
    """The outcome of training; the rule knows the best weights, the checkpoint the history, and Ctrl-C may have ended it."""

    rule: StopTrainingOnValidationLoss
    checkpoint: Checkpoint
    interrupted: bool


def run_phases(model, train: ImageBatches, validation, config: TrainingConfig, fingerprint: str, group: ProcessGroup) -> Outcome:
    """Train all phases of a network, or continue an interrupted run from its checkpoint.

    Args:
        train, validation: as inputs.make_datasets returns them.
        fingerprint: of the images; a checkpoint made with other images is not continued.
    """
    rule, checkpoint, called = make_callbacks(model, train, validation, config, fingerprint, group)
    resumed = _find_checkpoint(model, rule, checkpoint, config, group)
    checkpoint.set_model(model)
    interruption = callbacks.Interruption()
    called.append(interruption)  # last, so that a checkpoint that is due is still written
    try:
        with interruption.handled():
            for phase in plan_phases(config):
                if rule.stopped_epoch or (resumed is not None and phase.end <= resumed):
                    continue
                compile_network(model, phase, config, train.steps, ignores_rows=train.devices > 1)
                if resumed is not None and phase.start <= resumed:
                    checkpoint.load()
                start = max(phase.start, len(checkpoint.history))
                fit(model, train, validation, called, start, phase.end, checkpoint.first_step)
    except (KeyboardInterrupt, Exception) as error:
        # If all processes were interrupted, another one may have ended before this one's step.
        if not isinstance(error, KeyboardInterrupt) and not (interruption.asked and is_lost_process(error)):
            raise
        if not checkpoint.history:
            raise KeyboardInterrupt from None
        return Outcome(rule, checkpoint, True)
    return Outcome(rule, checkpoint, False)


def make_callbacks(model, train, validation, config: TrainingConfig, fingerprint: str, group: ProcessGroup) -> tuple:
    """Return (rule, checkpoint, list of all callbacks in the order in which they must be called)."""
    after = config.head_epochs + config.stop_after_epoch
    rule = StopTrainingOnValidationLoss(config.log_dir, config.stop_patience, after, config.stop_rule, writes=group.rank == 0)
    key = {**resume_key(config, keras.backend.backend()), "the images": fingerprint}
    checkpoint = Checkpoint(config.log_dir, rule, key, 60 * config.checkpoint_minutes)
    called = [] if isinstance(validation, ImageBatches) else [callbacks.PooledValidation(validation, config.balance_groups)]
    if group.world_size > 1:
        check = callbacks.check_same_weights
        called.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: check(model, epoch, group)))
    called += [rule, checkpoint, callbacks.Progress(config.total_epochs, train)]
    if config.tensorboard and group.rank == 0:
        called.append(keras.callbacks.TensorBoard(config.log_dir / "tensorboard", write_graph=False))
    return rule, checkpoint, called


def _find_checkpoint(model, rule, checkpoint, config, group):
    """Return the epoch, from 0, in which an interrupted run is to be continued, or None; a new run starts with a clean folder."""
    resumed = checkpoint.find(config.overwrite)
    found = None if resumed is None else [len(checkpoint.history), checkpoint.first_step]
    group.check_equal({"the checkpoint": found}, "give every process the same --log-dir")
    if rule.writes:
        replaced = config.output.exists() and not config.overwrite  # Ctrl-C leaves a model that the same run may replace
        if replaced and read_metadata(config.output)["made"].get("run") != checkpoint.run:
            raise InputError(f"{config.output}: the model of another run; give another --output, or --overwrite")
        if resumed is None:
            callbacks.remove_checkpoint(config.log_dir)
            callbacks.save_weights(model, rule.best_weights)
    if resumed is not None:
        within = f" and {plural(checkpoint.first_step, 'step')}" if checkpoint.first_step else ""
        print(f"continuing the run in {config.log_dir} after {plural(len(checkpoint.history), 'epoch')}{within}", flush=True)
    return resumed


def fit(model, train: ImageBatches, validation, called: list, first_epoch: int, end: int, first_step: int = 0) -> None:
    """Call `fit` on a compiled model for the epochs `first_epoch` to before `end`, counted from 0. Only callbacks write files.

    Of the first epoch, `first_step` steps are done already. Raises InputError if memory runs out, or images became unreadable.
    """
    order = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: train.start_epoch(epoch, first_step))
    options = {"callbacks": [order, *called], "shuffle": False, "verbose": 0}
    if isinstance(validation, ImageBatches):
        options["validation_data"] = validation
    try:
        # Creates the metrics, whose sums a checkpoint restores. On JAX, `fit` would take a first batch for that, and train
        # on the others in an order that no checkpoint could know.
        model.test_on_batch(*train[0])
        while first_epoch < end:
            train.start_epoch(first_epoch, first_step)  # `fit` asks for the number of steps before the epoch begins
            last = first_epoch + 1 if first_step else end
            model.fit(train, initial_epoch=first_epoch, epochs=last, **options)
            if model.stop_training:
                return
            first_epoch, first_step = last, 0
    except Exception as error:
        if failure := train.failure or validation.failure:
            raise failure from None
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "ResourceExhausted" in type(error).__name__:
            raise InputError("out of memory; run the same command with a smaller --batch-size or --image-size") from None
        raise
