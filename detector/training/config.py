"""Configuration of a training run: the command line, and the frozen dataclass that it is resolved to."""
# ruff: noqa: RUF009 (`_option` returns a field and not a default that objects would share)

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from detector.console import HelpFormatter, InputError, fraction, non_negative_int, number_type, positive_float, positive_int, seed
from detector.images.pixels import VIEW_POSITIONS
from detector.model.architectures import ARCHITECTURES, HIDDEN_UNITS, KERAS, SMALL_INPUT, STEMS, find
from detector.model.file import MAX_IMAGE_SIZE

PLACEMENT = ("coordinator", "process_id", "join_timeout")  # how a run was started, not what it computes
# Options that a run's result does not follow from: another value does not make it another run.
_WITHOUT_EFFECT = {
    *PLACEMENT, "data", "output", "log_dir", "description", "max_error", "worst_error", "threshold_groups", "calibration_scores",
    "overwrite", "no_cache", "tensorboard", "test_time_flip", "checkpoint_minutes", "devices", "processes",
}  # fmt: skip
_VIEWS = ("whole", "between", "native", "native", "native")  # of --preprocessing views, by default
_GROUPS = {  # of options in --help, by their first option
    "devices": ("several devices and machines", "all GPUs of a machine are used; see docs/scaling.md"),
    "flip": ("augmentation", "on the fly, of train images, the same for both classes; off by default"),
}


def architecture_name(text: str) -> str:
    """Return the name of an architecture. Raises ArgumentTypeError for an unknown name."""
    if text not in ARCHITECTURES and not text.startswith(KERAS):
        raise argparse.ArgumentTypeError(f"expected {', '.join(ARCHITECTURES)}, or {KERAS}NAME, found {text}")
    return text


def _option(default, help, *, also=(), **settings):
    """Return the field of an option: its default and help, its older names, and further arguments of argparse."""
    return dataclasses.field(default=default, metadata={"help": help, "also": also, **settings})


def _switch(help):
    return _option(False, help, action="store_true")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that a run is asked to do: the options of the command line, resolved by `parse`.

    `weights` is 'imagenet', 'none' or a tuple of files. `image_size` and `hidden_units` may be None, and `stem` 'auto',
    until `for_images` sets them, since they depend on the train images and the weights.
    """

    data: Path = _option(Path("data"), "data tree with train and validation", type=Path)
    output: Path = _option(Path("detector.h5"), "the model file to write", type=Path)
    log_dir: Path = _option(Path("training"), "folder for the history, its plots and the checkpoint", type=Path)
    overwrite: bool = _switch("replace an existing model file, or the checkpoint of another run")
    description: str | None = _option(None, "what the images are, in words; stored in the model file")
    checkpoint_minutes: float = _option(10.0, "minutes between two checkpoints within an epoch", type=positive_float)
    no_cache: bool = _switch("decode images in every epoch, and keep no decoded images in the data folder")
    tensorboard: bool = _switch("write a TensorBoard log to tensorboard/ in --log-dir")

    architecture: str = _option(
        "resnet101", f"the network: {', '.join(ARCHITECTURES)}, or {KERAS}NAME, any network of keras.applications",
        type=architecture_name, metavar="NAME")  # fmt: skip
    weights: str | tuple = _option(
        None, "what to start from; FILE: a detector (.h5) of the same architecture, with its head, or backbone weights as "
        "keras.applications saves them (for EfficientNet-Lite also .npz); several files are averaged (default: none for "
        "compact, else imagenet)", nargs="+", metavar=("imagenet|none|FILE", "FILE"))  # fmt: skip
    image_size: int | None = _option(
        None, "side of the input (default: 32 if the median shorter side is <= 64, else 224)",
        type=number_type(int, at_least=1, at_most=MAX_IMAGE_SIZE))  # fmt: skip
    preprocessing: str = _option(
        "resize", "input of the network: resize, the whole image resized; or views, the whole image and crops at native "
        "resolution, with averaged logits", also=("--fitting",), choices=("resize", "views"))  # fmt: skip
    views: tuple | None = _option(
        None, "kinds, for --preprocessing views: whole (up to three times), native (five), between (five; a scale between both) "
        "(default: whole between native native native)", nargs="+", choices=VIEW_POSITIONS, metavar="KIND")  # fmt: skip
    view_weights: tuple | None = _option(
        None, "weights of the views' logits, 0.001 to 1000 (default: all the same)",
        type=number_type(at_least=1e-3, at_most=1e3), nargs="+", metavar="W")  # fmt: skip
    training_range: tuple | None = _option(
        None, "shorter sides, in pixels, that the detector gives verdicts for (default: those of the train images)",
        also=("--judge-sides",), type=positive_int, nargs=2, metavar=("LOW", "HIGH"))  # fmt: skip
    hidden_units: int | None = _option(
        None, "size of the hidden layer in EfficientNet-Lite's head; 0: none (default: as in the weights, else 256)",
        type=number_type(int, at_least=0, at_most=8192))  # fmt: skip
    stem: str = _option(
        "auto", "of a resnet; small: stride 1 and no max-pooling (slow without a GPU); medium: stride 2 and no max-pooling "
        "(auto: small below 96 px)", choices=("auto", *STEMS))  # fmt: skip

    epochs: int = _option(10, "epochs of training all layers; 0 only calibrates and saves", type=non_negative_int)
    head_epochs: int = _option(
        None, "epochs of the head alone, before --epochs (default: 1 if pretrained, else 0)", type=non_negative_int)  # fmt: skip
    head_learning_rate: float = _option(1e-3, "learning rate of the head epochs", type=positive_float)
    batch_size: int = _option(64, "images per step", type=positive_int)
    balance_groups: bool = _switch(
        "weight sources (folders in the class folders) by the square root of their size, classes equally"
    )
    seed: int = _option(0, "same seed, same history on the CPU", type=seed)
    learning_rate: float = _option(None, "learning rate of the first step (default: that of the network)", type=positive_float)
    end_learning_rate: float = _option(1e-5, "learning rate of the last step", type=positive_float)
    schedule: str = _option("polynomial", "how the learning rate falls", choices=("polynomial", "cosine"))
    power: float = _option(2.0, "power of the polynomial schedule", type=positive_float)
    warmup_epochs: float = _option(0.0, "epochs in which the rate rises from 0 (cosine only)", type=number_type(at_least=0))
    weight_decay: float = _option(0.0, "of all kernels, decoupled (AdamW); 0 is plain Adam", type=fraction)
    label_smoothing: float = _option(0.0, "part of the target spread over both classes", type=number_type(at_least=0, at_most=0.5))
    l2: float = _option(1e-3, "L2 penalty on the head's dense kernel (resnet50v2 has none)", type=fraction)
    freeze_batch_norm: bool = _switch("keep the backbone's BatchNormalization at the averages and scales it starts with")
    mixed_precision: str | None = _option(
        None, "compute in 16 bits, if that is faster; the saved network is float32 (without a value: float16)",
        nargs="?", const="float16", choices=("float16", "bfloat16"))  # fmt: skip

    stop_rule: str = _option(
        None, "stop when the validation loss exceeds the training loss, or no longer falls (default: plateau for resnet50v2, "
        "else exceeds)", choices=("exceeds", "plateau", "never"))  # fmt: skip
    stop_patience: int = _option(None, "number of such epochs in a row (default: 3 for resnet50v2, else 1)", type=positive_int)
    stop_after_epoch: int = _option(0, "apply the rule only after this many epochs of training all layers", type=non_negative_int)
    test_time_flip: bool = _switch("save a network that averages the logits of an image and its mirror image, in twice the time")
    max_error: float = _option(
        None, "error guarantee of the thresholds: the fraction of each class that may be on the wrong side, with 95 %% confidence, "
        "for images like the validation images (default: 0.01; with --threshold-groups 0.02, mean over groups)",
        type=number_type(at_least=0, below=0.5))  # fmt: skip
    threshold_groups: str | None = _option(
        None, "fit temperature and thresholds by the folders in the class folders of validation", choices=("folder",))  # fmt: skip
    calibration_scores: Path | None = _option(
        None, "fit temperature and thresholds by sources on these logits, such as those of a cross-validation, instead of on the "
        "validation images: columns label, source, logit and, if wanted, tier and weight (docs/training.md)",
        type=Path, metavar="FILE.csv")  # fmt: skip
    worst_error: float = _option(
        None, "with --threshold-groups or --calibration-scores: the fraction that may be on the wrong side in the worst group "
        "(default: 0.08)", type=number_type(at_least=0, below=0.5))  # fmt: skip

    devices: int | None = _option(None, "most devices of each process (default: all GPUs, else the CPU)", type=positive_int)
    coordinator: str | None = _option(None, "address at which process 0 listens for the others; JAX only", metavar="HOST:PORT")
    processes: int | None = _option(
        None, "number of processes, one per machine, with the same command but for --process-id", type=positive_int)  # fmt: skip
    process_id: int | None = _option(None, "rank of this process; process 0 alone writes files and prints", type=non_negative_int)
    join_timeout: float = _option(300.0, "seconds to wait for the other processes to start", type=positive_float)

    flip: bool = _switch("mirror half of the images")
    rotation: float = _option(0.0, "largest angle to either side, in degrees", type=number_type(at_least=0, at_most=180))
    shift: float = _option(0.0, "largest shift, as a fraction of each side; whole pixels if nothing else moves", type=fraction)
    shear: float = _option(0.0, "largest shear, in radians", type=fraction)
    zoom: float = _option(0.0, "shows 1 - ZOOM to 1 + ZOOM of each side", type=number_type(at_least=0, at_most=0.9))
    degradation: float = _option(
        0.0, "probability of each of blur, scaling, noise and JPEG", also=("--damage",), type=fraction, metavar="P")  # fmt: skip
    max_blur: float = _option(3.0, "largest sigma, in pixels", type=number_type(at_least=0, at_most=100))
    min_scale: float = _option(0.25, "smallest factor of scaling down and up again", type=fraction)
    max_noise: float = _option(0.1, "largest sigma, as a fraction of full range", type=fraction)
    min_jpeg: int = _option(30, "lowest quality; the highest is 95", type=number_type(int, at_least=1, at_most=95))
    photo_degradation: float = _option(
        0.0, "with --preprocessing views: probability of the resizing, blur, noise and JPEG or WebP of sharing on the web",
        type=fraction, metavar="P")  # fmt: skip

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
    def preprocessing_metadata(self):
        """The preprocessing as a detector's metadata store it."""
        own = {name: list(value) for name in ("views", "view_weights") if (value := getattr(self, name))}
        return {"preprocessing": self.preprocessing, **own, "image_size": self.image_size}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of model_training.py: an option for each field of TrainingConfig."""
    parser = argparse.ArgumentParser(
        prog="model_training.py", description="Train a detector: reads data/{train,validation}/{Fake,Real}, writes a model file.",
        formatter_class=HelpFormatter,
    )  # fmt: skip
    group: argparse._ActionsContainer = parser
    for field in dataclasses.fields(TrainingConfig):
        if field.name in _GROUPS:
            group = parser.add_argument_group(*_GROUPS[field.name])
        settings = dict(field.metadata)
        group.add_argument(_flag(field.name), *settings.pop("also"), default=field.default, **settings)
    return parser


def _flag(name):
    return f"--{name.replace('_', '-')}"


def parse(argv: list | None = None) -> TrainingConfig:
    """Return the TrainingConfig that a command line asks for. Raises InputError if its options contradict one another."""
    values = vars(make_parser().parse_args(argv))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    network = find(values["architecture"])
    grouped = values["threshold_groups"] or values["calibration_scores"]
    if values["worst_error"] is not None and not grouped:
        given = f"--worst-error {values['worst_error']:g}"
        raise InputError(f"{given}: expected --threshold-groups or --calibration-scores with it, found neither; add one")
    for name in ("views", "view_weights"):
        if values[name] and values["preprocessing"] != "views":
            raise InputError(f"{_flag(name)}: expected --preprocessing views, found {values['preprocessing']}; add it")
    defaults = {name: getattr(network, name) for name in ("weights", "learning_rate", "stop_rule", "stop_patience")}
    defaults |= {"max_error": 0.02 if grouped else 0.01, "worst_error": 0.08}
    defaults |= {"views": _VIEWS} if values["preprocessing"] == "views" else {}
    values |= {name: default for name, default in defaults.items() if values[name] is None}
    if values["weights"] in (("imagenet",), ("none",)):
        values["weights"] = values["weights"][0]
    config = TrainingConfig(**values)
    if config.head_epochs is None:
        partial = config.weights != "none" and network.has_backbone and not starts_whole(config)
        config = dataclasses.replace(config, head_epochs=int(partial and config.epochs > 0))
    _check(config)
    return config


def starts_whole(config: TrainingConfig) -> bool:
    """Return whether the files of --weights hold the whole network and not only its backbone."""
    from detector.model.weights import holds_head

    whole = [path for path in config.weight_files if holds_head(path)]
    other = [path for path in config.weight_files if path not in whole]
    if whole and other and config.network.has_backbone:
        raise InputError(f"--weights {other[0]}: expected a network with a head as {whole[0]}, found another kind; give one kind")
    return bool(whole or (other and not config.network.has_backbone))


def _check(config):
    """Raise InputError if options contradict one another."""
    network, views, weights = config.network, config.views or (), config.view_weights
    if config.training_range and config.training_range[0] > config.training_range[1]:
        low, high = config.training_range
        raise InputError(f"--training-range {low} {high}: expected the smaller side first; swap them")
    if config.head_epochs and (config.weights == "none" or not network.has_backbone):
        raise InputError(f"--head-epochs {config.head_epochs}: expected a pretrained backbone, found none; give --weights, or 0")
    if any(views.count(kind) > len(places) for kind, places in VIEW_POSITIONS.items()):
        most = ", ".join(f"{kind} {len(places)} times" for kind, places in VIEW_POSITIONS.items())
        raise InputError(f"--views {' '.join(views)}: expected at most {most}; give fewer")
    if weights and len(weights) != len(views):
        raise InputError(f"--view-weights: expected {len(views)} numbers, one for each of --views, found {len(weights)}")
    if config.photo_degradation and config.preprocessing != "views":
        raise InputError("--photo-degradation: expected --preprocessing views, found resize; use --degradation")
    if config.warmup_epochs and config.schedule != "cosine":
        raise InputError(f"--warmup-epochs: expected --schedule cosine, found {config.schedule}; leave it out")
    if "stem" not in network.options and config.stem != "auto":
        with_stems = ", ".join(name for name, one in ARCHITECTURES.items() if "stem" in one.options)
        raise InputError(f"--stem {config.stem}: expected auto for {config.architecture}; only {with_stems} have a choice")


def for_images(config: TrainingConfig, sizes) -> TrainingConfig:
    """Return the config with the input size and the stem of the network.

    Args:
        sizes: (n, 2) array, width and height of the train images.
    """
    from detector.images import pixels
    from detector.model.weights import hidden_units_of, stem_of

    size = config.image_size or pixels.choose_size(sizes)
    units, stem = config.hidden_units, config.stem
    if "hidden_units" in config.network.options and units is None:
        units = hidden_units_of(config.weights[0]) if starts_whole(config) else HIDDEN_UNITS
    if "stem" in config.network.options:
        own = stem_of(config.weights[0]) if starts_whole(config) else None
        if own == "small" and stem not in ("auto", own):  # the only one with a 3x3 kernel: its weights do not fit the others
            raise InputError(f"--stem {stem}: expected that of {config.weights[0]}, {own}; leave it out")
        if stem == "auto":
            stem = own or ("small" if size < SMALL_INPUT else "standard")
        if stem == "small" and own != "small" and config.weights != "none":
            stem = "small_7x7"
    return dataclasses.replace(config, image_size=size, hidden_units=units, stem=stem)


def resume_key(config: TrainingConfig, backend: str) -> dict:
    """Return {option: value as text} of everything that a run's result follows from: another key means another run.

    The number of processes is not part of it: a run may be continued by fewer.
    """
    values = {**dataclasses.asdict(config), "weights": " ".join(config.weight_files) or config.weights}
    key = {_flag(name): str(value) for name, value in values.items() if name not in _WITHOUT_EFFECT}
    return {**key, "the backend": backend}


def shareable(config: TrainingConfig) -> dict:
    """Return the options for a model file: of files and folders only the name, since others need not know a user's folders."""
    values = {name: value.name if isinstance(value, Path) else value for name, value in dataclasses.asdict(config).items()}
    values["weights"] = [Path(name).name for name in config.weight_files] or config.weights
    return {name: value for name, value in values.items() if name not in PLACEMENT}
