"""Configuration of a training run: the command line, and the frozen dataclass that it is resolved to."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from detector.console import (
    HelpFormatter,
    InputError,
    fraction,
    non_negative_int,
    number_type,
    positive_float,
    positive_int,
    seed,
)
from detector.images.pixels import NATIVE_POSITIONS, VIEW_KINDS
from detector.model.architectures import ARCHITECTURES, HIDDEN_UNITS, KERAS, SMALL_INPUT, STEMS, find

PLACEMENT = ("coordinator", "process_id", "join_timeout")  # how a run was started, not what it computes
# Options that a run's result does not follow from: another value does not make it another run.
_WITHOUT_EFFECT = {
    *PLACEMENT, "data", "output", "log_dir", "description", "max_error", "worst_error", "threshold_groups",
    "calibration_scores", "overwrite",
    "no_cache", "tensorboard", "test_time_flip", "checkpoint_minutes", "devices", "processes",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that a run is asked to do. The fields are the options of the command line, without their defaults.

    `weights` is 'imagenet', 'none' or a tuple of files. `image_size` and `hidden_units` may be None, and `stem` 'auto',
    until `for_images` sets them, since they depend on the train images and the weights.
    """

    data: Path
    output: Path
    log_dir: Path
    architecture: str
    weights: str | tuple
    image_size: int | None
    preprocessing: str
    patches: int
    views: tuple
    view_weights: tuple | None
    resize_range: tuple
    training_range: tuple | None
    hidden_units: int | None
    stem: str
    epochs: int
    head_epochs: int
    head_learning_rate: float
    batch_size: int
    balance_groups: bool
    seed: int
    learning_rate: float
    end_learning_rate: float
    schedule: str
    power: float
    warmup_epochs: float
    weight_decay: float
    label_smoothing: float
    l2: float
    freeze_batch_norm: bool
    mixed_precision: str | None
    stop_rule: str
    stop_patience: int
    stop_after_epoch: int
    test_time_flip: bool
    max_error: float
    calibration_scores: Path | None
    worst_error: float
    threshold_groups: str | None
    overwrite: bool
    description: str | None
    checkpoint_minutes: float
    no_cache: bool
    tensorboard: bool
    devices: int | None
    coordinator: str | None
    processes: int | None
    process_id: int | None
    join_timeout: float
    flip: bool
    rotation: float
    shift: float
    shear: float
    zoom: float
    degradation: float
    max_blur: float
    min_scale: float
    max_noise: float
    min_jpeg: int
    photo_degradation: float

    @property
    def network(self):
        """The architectures.Architecture."""
        return find(self.architecture)

    @property
    def weight_files(self):
        """The files to start from, a tuple."""
        return self.weights if isinstance(self.weights, tuple) else ()

    @property
    def total_epochs(self):
        """Number of epochs of both phases."""
        return self.head_epochs + self.epochs

    @property
    def whole_images(self):
        """Whether images are decoded whole, since each epoch cuts other inputs out of them."""
        return self.preprocessing != "resize"

    @property
    def preprocessing_metadata(self):
        """The part of a detector's metadata that says how an image becomes the network's inputs."""
        views = {"views": list(self.views), **({"view_weights": list(self.view_weights)} if self.view_weights else {})}
        own = {"patches": {"patches": self.patches}, "views": views, "resize": {}}
        return {"preprocessing": self.preprocessing, **own[self.preprocessing], "image_size": self.image_size}


def parse(argv: list | None = None) -> TrainingConfig:
    """Return the TrainingConfig that a command line asks for. Raises InputError if its options contradict one another."""
    values = vars(make_parser().parse_args(argv))
    network = find(values["architecture"])
    for name in ("weights", "learning_rate", "stop_rule", "stop_patience"):
        if values[name] is None:
            values[name] = getattr(network, name)
    if values["max_error"] is None:
        values["max_error"] = 0.02 if values["threshold_groups"] or values["calibration_scores"] else 0.01
    values["weights"] = _starting_weights(values["weights"])
    if values["head_epochs"] is None:
        partial = values["weights"] != "none" and network.has_backbone and not _starts_whole(values["weights"], network)
        values["head_epochs"] = int(partial and values["epochs"] > 0)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    config = TrainingConfig(**values)
    _check(config)
    return config


def _starting_weights(names):
    """Return 'imagenet', 'none' or a tuple of files, from the values of --weights or the name of a default."""
    if isinstance(names, str):
        return names
    words = [name for name in names if name in ("imagenet", "none")]
    if words and len(names) > 1:
        raise InputError(f"--weights {' '.join(names)}: expected only files if there are several, found {words[0]}; leave it out")
    return words[0] if words else tuple(names)


def detectors_among(weights: str | tuple) -> list:
    """Return which of the starting weights are files of whole detectors."""
    from detector.model.weights import is_detector

    return [path for path in weights if is_detector(path)] if isinstance(weights, tuple) else []


def starts_whole(config: TrainingConfig) -> bool:
    """Return whether the files of --weights hold the whole network and not only its backbone."""
    return _starts_whole(config.weights, config.network)


def _starts_whole(weights, network):
    from detector.model.weights import holds_head

    if not isinstance(weights, tuple):
        return False
    whole = [path for path in weights if holds_head(path)]
    if network.has_backbone and 0 < len(whole) < len(weights):
        other = next(path for path in weights if path not in whole)
        raise InputError(f"--weights {other}: expected a network with a head as {whole[0]}, found another kind; give one kind")
    return bool(whole) or not network.has_backbone


def _check(config):
    """Raise InputError if options contradict one another."""
    low, high = config.resize_range
    if config.head_epochs and (config.weights == "none" or not config.network.has_backbone):
        raise InputError(f"--head-epochs {config.head_epochs}: expected a pretrained backbone, found none; give --weights, or 0")
    if low > high:
        raise InputError(f"--resize-range {low:g} {high:g}: expected the smaller factor first; swap them")
    if config.training_range and config.training_range[0] > config.training_range[1]:
        sides = " ".join(map(str, config.training_range))
        raise InputError(f"--training-range {sides}: expected the smaller side first; swap them")
    if config.preprocessing != "patches" and config.resize_range != (1, 1):
        raise InputError(
            f"--resize-range {low:g} {high:g}: expected --preprocessing patches, found {config.preprocessing}; leave it out"
        )
    if config.views.count("native") > len(NATIVE_POSITIONS) or any(config.views.count(kind) > 1 for kind in ("whole", "between")):
        expected = f"whole and between once, native up to {len(NATIVE_POSITIONS)} times"
        raise InputError(f"--views {' '.join(config.views)}: expected {expected}; give fewer")
    if config.view_weights and len(config.view_weights) != len(config.views):
        found = f"--view-weights: expected {len(config.views)} numbers, found {len(config.view_weights)}"
        raise InputError(f"{found}; give one for each of --views")
    if config.photo_degradation and not config.whole_images:
        raise InputError("--photo-degradation: expected --preprocessing patches or views, found resize; use --degradation")
    if config.warmup_epochs and config.schedule != "cosine":
        given = f"--warmup-epochs {config.warmup_epochs:g}"
        raise InputError(f"{given}: expected --schedule cosine, found {config.schedule}; leave it out")
    if not config.network.has_stems and config.stem != "auto":
        with_stems = ", ".join(name for name, one in ARCHITECTURES.items() if one.has_stems)
        raise InputError(f"--stem {config.stem}: expected auto for {config.architecture}; only {with_stems} have a choice")


def for_images(config: TrainingConfig, sizes) -> TrainingConfig:
    """Return the config with the input size and the stem of the network.

    Args:
        sizes: (n, 2) array, width and height of the train images.
    """
    from detector.images import pixels
    from detector.model.weights import hidden_units_of, stem_of

    size = config.image_size or pixels.choose_size(sizes)
    if config.network.has_hidden_units and config.hidden_units is None:
        units = hidden_units_of(config.weights[0]) if starts_whole(config) else HIDDEN_UNITS
        config = dataclasses.replace(config, hidden_units=units)
    if not config.network.has_stems:
        return dataclasses.replace(config, image_size=size)
    if starts_whole(config):
        stem = stem_of(config.weights[0])
        if config.stem not in ("auto", stem):
            if stem == "small":  # the only one with a 3x3 kernel: its weights do not fit the others
                raise InputError(f"--stem {config.stem}: expected that of {config.weights[0]}, {stem}; leave it out")
            stem = "small_7x7" if config.stem == "small" else config.stem
    else:
        stem = config.stem
        if stem == "auto":
            stem = "small" if size < SMALL_INPUT else "standard"
        if stem == "small" and config.weights != "none":
            stem = "small_7x7"
    return dataclasses.replace(config, image_size=size, stem=stem)


def resume_key(config: TrainingConfig, backend: str) -> dict:
    """Return {option: value as text} of everything that a run's result follows from: another key means another run.

    The number of processes is not part of it: a run may be continued by fewer.
    """
    values = {**dataclasses.asdict(config), "weights": " ".join(config.weight_files) or config.weights}
    key = {f"--{name.replace('_', '-')}": str(value) for name, value in values.items() if name not in _WITHOUT_EFFECT}
    return {**key, "the backend": backend}


def shareable(config: TrainingConfig) -> dict:
    """Return the options for a model file: of files and folders only the name, since others need not know a user's folders."""
    values = {name: value.name if isinstance(value, Path) else value for name, value in dataclasses.asdict(config).items()}
    values["weights"] = [Path(name).name for name in config.weight_files] or config.weights
    return {name: value for name, value in values.items() if name not in PLACEMENT}


# --- command line ----------------------------------------------------------------------------------------------------------
def architecture_name(text: str) -> str:
    """Return the name of an architecture. Raises ArgumentTypeError for an unknown name."""
    if text not in ARCHITECTURES and not text.startswith(KERAS):
        raise argparse.ArgumentTypeError(f"expected {', '.join(ARCHITECTURES)}, or {KERAS}NAME, found {text}")
    return text


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of model_training.py."""
    parser = argparse.ArgumentParser(
        prog="model_training.py", description="Train a detector: reads data/{train,validation}/{Fake,Real}, writes a model file.",
        formatter_class=HelpFormatter,
    )  # fmt: skip
    _add_files(parser.add_argument)
    _add_network(parser.add_argument)
    _add_recipe(parser.add_argument)
    _add_stopping(parser.add_argument)
    _add_devices(parser.add_argument_group("several devices and machines", "all GPUs of a machine are used; see docs/scaling.md"))
    _add_augmentation(
        parser.add_argument_group("augmentation", "on the fly, of train images, the same for both classes; off by default")
    )
    return parser


def _add_files(add):
    add("--data", type=Path, default=Path("data"), help="data tree with train and validation")
    add("--output", type=Path, default=Path("detector.h5"), help="the model file to write")
    add("--log-dir", type=Path, default=Path("training"), help="folder for the history, its plots and the checkpoint")
    add("--overwrite", action="store_true", help="replace an existing model file, or the checkpoint of another run")
    add("--description", help="what the images are, in words; stored in the model file")
    add("--checkpoint-minutes", type=positive_float, default=10.0, help="minutes between two checkpoints within an epoch")
    add("--no-cache", action="store_true", help="decode images in every epoch, and keep no decoded images in the data folder")
    add("--tensorboard", action="store_true", help="write a TensorBoard log to tensorboard/ in --log-dir")


def _add_network(add):
    from detector.model.file import MAX_IMAGE_SIZE, MAX_PATCHES, PREPROCESSING

    add("--architecture", type=architecture_name, default="resnet101", metavar="NAME",
        help=f"the network: {', '.join(ARCHITECTURES)}, or {KERAS}NAME, any network of keras.applications")  # fmt: skip
    add("--weights", nargs="+", metavar=("imagenet|none|FILE", "FILE"),
        help="what to start from; FILE: a detector (.h5) of the same architecture, with its head, or backbone weights as "
             "keras.applications saves them (for EfficientNet-Lite also .npz); several files are averaged (default: none for "
             "compact, else imagenet)")  # fmt: skip
    add("--image-size", type=number_type(int, at_least=1, at_most=MAX_IMAGE_SIZE),
        help="side of the input (default: 32 if the median shorter side is <= 64, else 224)")  # fmt: skip
    add("--preprocessing", "--fitting", choices=PREPROCESSING, default="resize",
        help="how an image becomes the network's input: the whole image resized; squares at its own resolution (patches); or the "
             "whole image and crops at its own resolution (views). The logits of several inputs are averaged")  # fmt: skip
    add("--views", nargs="+", choices=VIEW_KINDS, default=["whole", "between", "native", "native", "native"], metavar="KIND",
        help="kinds, for --preprocessing views: whole, native (up to five times), between (a scale between both)")  # fmt: skip
    add("--view-weights", type=positive_float, nargs="+", metavar="W", help="weights of the views' logits (default: all the same)")
    add("--patches", type=number_type(int, at_least=1, at_most=MAX_PATCHES), default=9,
        help="maximum number of squares of an image, in validation and prediction")  # fmt: skip
    add("--resize-range", type=positive_float, nargs=2, default=(1.0, 1.0), metavar=("LOW", "HIGH"),
        help="factor by which a train image is resized, at random, before a square is cut out of it")  # fmt: skip
    add("--training-range", "--judge-sides", type=positive_int, nargs=2, metavar=("LOW", "HIGH"),
        help="shorter sides, in pixels, that the detector gives verdicts for (default: those of the train images)")  # fmt: skip
    add("--hidden-units", type=number_type(int, at_least=0, at_most=8192),
        help="size of the hidden layer in EfficientNet-Lite's head; 0: none (default: as in the weights, else 256)")  # fmt: skip
    add("--stem", choices=("auto", *STEMS), default="auto",
        help="of a resnet; small: stride 1 and no max-pooling (slow without a GPU); medium: stride 2 and no max-pooling "
             "(auto: small below 96 px)")  # fmt: skip


def _add_recipe(add):
    add("--epochs", type=non_negative_int, default=10, help="epochs of training all layers; 0 only calibrates and saves")
    add("--head-epochs", type=non_negative_int,
        help="epochs of training only the head, before --epochs (default: 1 for pretrained weights, else 0)")  # fmt: skip
    add("--head-learning-rate", type=positive_float, default=1e-3, help="learning rate of the head epochs")
    add("--batch-size", type=positive_int, default=64, help="images per step")
    add("--balance-groups", action="store_true",
        help="weight the sources (folders in the class folders) by the square root of their size, the classes equally")  # fmt: skip
    add("--seed", type=seed, default=0, help="same seed, same history on the CPU")
    add("--learning-rate", type=positive_float, help="learning rate of the first step (default: 3e-3 for compact, else 1e-4)")
    add("--end-learning-rate", type=positive_float, default=1e-5, help="learning rate of the last step")
    add("--schedule", choices=("polynomial", "cosine"), default="polynomial", help="how the learning rate falls")
    add("--power", type=positive_float, default=2.0, help="power of the polynomial schedule")
    add("--warmup-epochs", type=number_type(at_least=0), default=0.0, help="epochs in which the rate rises from 0 (cosine only)")
    add("--weight-decay", type=fraction, default=0.0, help="of all kernels, decoupled (AdamW); 0 is plain Adam")
    add("--label-smoothing", type=number_type(at_least=0, at_most=0.5), default=0.0,
        help="part of the target that is spread over both classes")  # fmt: skip
    add("--l2", type=fraction, default=1e-3, help="L2 penalty on the head's dense kernel (resnet50v2 has none)")
    add("--freeze-batch-norm", action="store_true",
        help="keep the backbone's BatchNormalization at the averages and scales it starts with")  # fmt: skip
    add("--mixed-precision", nargs="?", const="float16", choices=("float16", "bfloat16"),
        help="compute in 16 bits, if that is faster; the saved network is float32 (without a value: float16)")  # fmt: skip


def _add_stopping(add):
    add("--stop-rule", choices=("exceeds", "plateau", "never"),
        help="stop when the validation loss exceeds the training loss, or no longer falls (default: plateau for resnet50v2, "
             "else exceeds)")  # fmt: skip
    add("--stop-patience", type=positive_int, help="stop after this many such epochs in a row (default: 3 for resnet50v2, else 1)")
    add("--stop-after-epoch", type=non_negative_int, default=0,
        help="apply the rule only after this many epochs in which all layers are trained")  # fmt: skip
    add("--test-time-flip", action="store_true",
        help="the saved network averages the logits of an image and its mirror image, which takes twice the time")  # fmt: skip
    add("--max-error", type=number_type(at_least=0, below=0.5),
        help="error guarantee of the thresholds: the fraction of each class that may be on the wrong side, with 95 %% confidence, "
             "for images like the validation images (default: 0.01; with --threshold-groups 0.02, mean over groups)")  # fmt: skip
    add("--threshold-groups", choices=("folder",),
        help="fit temperature and thresholds by groups of validation images: the folders in the class folders")  # fmt: skip
    add("--calibration-scores", type=Path, metavar="FILE.csv",
        help="fit temperature and thresholds by sources on these logits, such as those of a cross-validation, instead of on the "
             "validation images: columns label, source, logit and, if wanted, tier and weight (docs/training.md)")  # fmt: skip
    add("--worst-error", type=number_type(at_least=0, below=0.5), default=0.08,
        help="with --threshold-groups: the fraction that may be on the wrong side in the worst group")  # fmt: skip


def _add_devices(group):
    add = group.add_argument
    add("--devices", type=positive_int, help="maximum number of devices of each process (default: all GPUs, else the CPU)")
    add("--coordinator", metavar="HOST:PORT", help="address at which process 0 listens for the others; JAX only")
    add("--processes", type=positive_int,
        help="number of processes, one per machine, all started with the same command but for --process-id")  # fmt: skip
    add("--process-id", type=non_negative_int, help="rank of this process, from 0; process 0 alone writes files and prints")
    add("--join-timeout", type=positive_float, default=300.0, help="seconds to wait for the other processes to start")


def _add_augmentation(group):
    add = group.add_argument
    add("--flip", action="store_true", help="mirror half of the images")
    add("--rotation", type=number_type(at_least=0, at_most=180), default=0.0, help="largest angle to either side, in degrees")
    add("--shift", type=fraction, default=0.0, help="largest shift, as a fraction of each side; whole pixels if nothing else moves")
    add("--shear", type=fraction, default=0.0, help="largest shear, in radians")
    add("--zoom", type=number_type(at_least=0, at_most=0.9), default=0.0, help="shows 1 - ZOOM to 1 + ZOOM of each side")
    add("--degradation", "--damage", type=fraction, default=0.0, metavar="P",
        help="probability of each of blur, scaling, noise and JPEG, in this order")  # fmt: skip
    add("--max-blur", type=number_type(at_least=0, at_most=100), default=3.0, help="largest sigma, in pixels")
    add("--min-scale", type=fraction, default=0.25, help="smallest factor of scaling down and up again")
    add("--max-noise", type=fraction, default=0.1, help="largest sigma, as a fraction of full range")
    add("--min-jpeg", type=number_type(int, at_least=1, at_most=95), default=30, help="lowest quality; the highest is 95")
    add("--photo-degradation", type=fraction, default=0.0, metavar="P",
        help="probability of sending a train image of either class through the resizing, blur, noise and JPEG or WebP that sharing "
             "on the web applies, before views are cut (not with --preprocessing resize)")  # fmt: skip
