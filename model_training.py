"""Train a detector: reads data/{train,validation}/{Fake,Real} -> writes detector.h5 and training/.

    python model_training.py --architecture resnet101
    python model_training.py --architecture compact --weights none --epochs 12 --batch-size 128 --flip

If it is killed, the same command continues from the last checkpoint: one after every epoch, and every ten minutes within long
epochs. KERAS_BACKEND=jax trains on JAX. All GPUs of the machine train together; on several machines, with JAX:

    python model_training.py ... --coordinator HOST:PORT --processes N --process-id I
"""

import contextlib
import io
import tempfile
import warnings
from pathlib import Path

import numpy as np

from detector.console import InputError, plural, require_packages, stage
from detector.files import digest_of, require_folder
from detector.training.config import TrainingConfig, for_images, parse, resume_key
from detector.training.distributed import Devices, ProcessGroup, find_topology


def train_detector(config: TrainingConfig, group: ProcessGroup) -> None:
    """Train as configured, and write the model file and the history; of several processes, rank 0 writes."""
    from detector.model import backend

    backend.import_keras()  # if that fails, it does so before all images are read
    devices = join_processes(config, group)
    config, data, model, train, validation = prepare(config, group, devices)
    from detector.training.inputs import read_origins
    from detector.training.loop import run_phases
    from detector.training.networks import rebuild

    digests, sources = read_origins(config, data)
    with devices.scope():
        outcome = run_phases(model, train, validation, config, data.fingerprint, group)
    if group.rank:
        if outcome.interrupted:
            raise KeyboardInterrupt
        return
    if len(devices) > 1 or outcome.interrupted:  # on JAX, an interrupted step takes the network's variables with it
        model = rebuild(config)
    save_result(model, config, data, outcome, digests, sources, train.images.unreadable)


def join_processes(config: TrainingConfig, group: ProcessGroup) -> Devices:
    """Wait for the other processes, check that all have the same configuration, and return the devices."""
    import keras

    from detector.model import backend

    on = keras.backend.backend()
    if group.topology and on != "jax":  # TensorFlow's strategy fails under Keras 3 (keras issue 20585)
        cure = "set KERAS_BACKEND=jax for every process"
        raise InputError(f"{group.world_size} processes: expected the backend jax, found {on}; {cure}")
    group.join(config.join_timeout)
    versions = {name: version for name, version in backend.versions().items() if name != "date"}
    same = {**resume_key(config, on), "--overwrite": config.overwrite, **versions}
    group.check_equal(same, "start all with the same command, each with its own --process-id")
    devices = Devices(group, config.devices)
    if config.batch_size % len(devices):
        cure = "give another, or limit --devices"
        raise InputError(f"--batch-size {config.batch_size}: expected a multiple of {len(devices)}, the number of devices; {cure}")
    if len(devices) > 1:
        if config.preprocessing == "views":
            raise InputError("--preprocessing views: expected one device, found several; give --devices 1 and one process")
        processes = f" of {group.world_size} processes" if group.topology else ""
        images = plural(config.batch_size // len(devices), "image")
        print(f"{len(devices)} devices{processes}, {images} of each batch on each", flush=True)
    return devices


def prepare(config: TrainingConfig, group: ProcessGroup, devices: Devices) -> tuple:
    """Read the data and build the network.

    Returns:
        (config with input size and stem, inputs.RunData, model, train and validation datasets)
    """
    from detector.evaluation.thresholds import read_calibration_scores
    from detector.model import backend
    from detector.training.inputs import make_datasets, read_data
    from detector.training.networks import build_network

    if config.calibration_scores:
        read_calibration_scores(config.calibration_scores)  # a wrong table should fail now, not after the last epoch
    data = group.rank_zero_first(lambda: read_data(config.data))
    files = [digest_of(path) for path in config.weight_files if Path(path).is_file()]
    group.check_equal({"the images": data.fingerprint, "the weights": files}, "give every process the same --data and --weights")
    print(data.table(), flush=True)
    config = for_images(config, data.sizes)
    backend.import_keras().utils.set_random_seed(config.seed)
    with devices.scope():
        model = build_network(config)
    train, validation = group.rank_zero_first(lambda: make_datasets(config, data, group, len(devices)))
    print(f"{config.architecture}: {model.count_params():,} parameters, {config.image_size} px, ", end="")
    print(f"{plural(train.steps, 'step')} an epoch", flush=True)
    return config, data, model, train, validation


def save_result(model, config, data, outcome, digests, sources, unreadable):
    """Calibrate the best weights, and write the model file, the history and the summary."""
    from detector.evaluation.thresholds import calibrate, calibrate_from_scores
    from detector.model import backend
    from detector.model import file as model_file
    from detector.model.architectures import with_test_time_flip
    from detector.training import history, result
    from detector.training.batches import PooledScores
    from detector.training.callbacks import remove_checkpoint
    from detector.training.networks import in_full_precision

    rule, epochs = outcome.rule, outcome.checkpoint.history
    print(history.stop_summary(rule, epochs, config.total_epochs, outcome.interrupted, config.head_epochs))
    backend.compute_in_float32()
    with warnings.catch_warnings(action="ignore"):  # the optimizer may be that of the other phase: it is not needed
        model.load_weights(rule.best_weights)
    model = in_full_precision(model, config)
    history.draw_architecture(model, config.log_dir)
    if config.test_time_flip:
        model = with_test_time_flip(model)
    validation = PooledScores(data.splits["validation"], config)
    rows, logits = result.validation_logits(model, validation)
    is_fake = np.array(validation.split.labels)[rows] == 0
    if config.calibration_scores:
        temperature, thresholds = calibrate_from_scores(config.calibration_scores, config.max_error, config.worst_error)
    else:
        groups = np.array(validation.split.sources())[rows] if config.threshold_groups else None
        temperature, thresholds = calibrate(is_fake, logits, config.max_error, groups, config.worst_error)
    strict = history.strict_stop_epoch(epochs, config.head_epochs)
    run = {"best_epoch": rule.best_epoch, "epochs_run": len(epochs), "strict_stop_epoch": strict, "run": outcome.checkpoint.run}
    metadata = result.make_metadata(config, data, sources, run, temperature, thresholds)
    model_file.save(model, config.output, metadata, digests)
    if epochs:
        history.write_history(epochs, config.log_dir)
    result.print_result(config, is_fake, logits, metadata, {**unreadable, **validation.unreadable})
    if outcome.interrupted:
        raise KeyboardInterrupt
    remove_checkpoint(config.log_dir)


def check_outputs(config: TrainingConfig) -> None:
    """Create the folders to write to. Raises InputError if something would be overwritten that --overwrite does not cover."""
    if config.output.suffix != ".h5":
        raise InputError(f"--output {config.output}: expected a name that ends in .h5")
    if not config.overwrite and not (config.log_dir / "state.json").exists():
        if config.output.exists():
            raise InputError(f"{config.output}: the file exists; give another --output, or --overwrite")
        if (config.log_dir / "history.csv").exists():
            raise InputError(f"{config.log_dir}: the folder has the history of another run; give another --log-dir, or --overwrite")
    for folder in (config.log_dir, config.output.parent):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # a folder that cannot be written to fails now and not after the last epoch


@stage
def main(argv=None):
    """Train a detector."""
    config = parse(argv)
    require_folder(config.data, holding="train, validation and test")
    require_packages("cv2", "h5py", "matplotlib", "sklearn", *(("tensorflow", "tensorboard") if config.tensorboard else ()))
    topology = find_topology(config.coordinator, config.processes, config.process_id)
    group = ProcessGroup(topology)
    if group.rank == 0:
        check_outputs(config)
    with contextlib.redirect_stdout(io.StringIO()) if group.rank else contextlib.nullcontext(), group:
        train_detector(config, group)


if __name__ == "__main__":
    main()
