"""Train a detector: reads data/{train,validation}/{Fake,Real} -> writes detector.h5 and training/.

    python model_training.py --architecture resnet101
    python model_training.py --architecture compact --weights none --epochs 12 --batch-size 128 --flip

Killed and started again with the same command, it goes on after the last checkpoint: one after every epoch, and within long
ones every ten minutes. KERAS_BACKEND=jax trains on JAX. All GPUs of the machine train together; on several machines, with JAX:

    python model_training.py ... --coordinator HOST:PORT --processes N --process-id I
"""
import argparse
import contextlib
import csv
import hashlib
import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from detector.console import (
    HelpFormatter,
    InputError,
    fraction,
    non_negative_int,
    number_type,
    plural,
    positive_float,
    positive_int,
    require_packages,
    seed,
    stage,
)
from detector.data import tree as data_tree
from detector.files import digest_of, require_folder
from detector.images.pixels import NATIVE_POSITIONS, VIEW_KINDS
from detector.model.architectures import ARCHITECTURES, STEMS
from detector.model.file import PREPROCESSING
from detector.training import distributed


@dataclass(frozen=True)
class Phase:
    """Some epochs, counted from 0 to before `end`, that are trained in one way."""

    start: int
    end: int
    learning_rate: float
    end_learning_rate: float
    head_only: bool = False


def plan_phases(args):
    """Return the Phases of a run: the head alone where the backbone is pretrained and that is asked for, then all layers."""
    phases = [
        Phase(0, args.head_epochs, args.head_learning_rate, args.head_learning_rate, head_only=True),
        Phase(args.head_epochs, args.head_epochs + args.epochs, args.learning_rate, args.end_learning_rate),
    ]
    return [phase for phase in phases if phase.end > phase.start]


def train(model, feed, validation, callbacks, first_epoch, end, first_step=0):
    """Run `fit` on a compiled model; the callbacks write what is kept. Nothing else touches the disk.

    Args:
        feed: training.ImageFeed.
        validation: another, or training.PooledScores, for which a callback is among `callbacks`.
        first_epoch, end: epochs to train, counted from 0, to before `end`.
        first_step: number of steps of the first epoch that are done already.

    Raises:
        InputError: memory ran out.
    """
    import keras

    from detector.training.batches import ImageFeed

    order = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: feed.start_epoch(epoch, first_step))
    given = {"callbacks": [order, *callbacks], "shuffle": False, "verbose": 0}
    if isinstance(validation, ImageFeed):
        given["validation_data"] = validation
    try:
        # Makes the metrics, to which a checkpoint gives their sums. On JAX, `fit` would take a first batch for that, and train
        # on the others in an order that no checkpoint could know.
        model.test_on_batch(*feed[0])
        while first_epoch < end:
            feed.start_epoch(first_epoch, first_step)  # `fit` asks for the number of steps before the epoch begins
            last = first_epoch + 1 if first_step else end
            model.fit(feed, initial_epoch=first_epoch, epochs=last, **given)
            if model.stop_training:
                return
            first_epoch, first_step = last, 0
    except Exception as error:
        if failure := feed.failure or validation.failure:
            raise failure from None
        if not _is_out_of_memory(error):
            raise
        raise InputError("memory ran out; run the same command with a smaller --batch-size or --image-size") from None


def _is_out_of_memory(error):
    """Tell whether an exception is how TensorFlow, JAX or Python say that memory ran out."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "ResourceExhausted" in type(error).__name__


def compile_model(model, output, phase, args, steps_per_epoch, some_ignored=False):
    """Compile with Adam, decoupled weight decay where asked for (AdamW, arXiv 1711.05101), and binary cross-entropy.

    For a softmax(2) that is 'categorical_crossentropy' on one-hot targets. Named 'binary_crossentropy' there, Keras 3 on
    TensorFlow takes the two logits for two independent sigmoids: another loss, not that of the probabilities given out.
    """
    import keras

    from detector.model.architectures import backbone_of
    from detector.training.metrics import fake_metrics

    if network := backbone_of(model):
        network.trainable = not phase.head_only  # the backbone alone: the normalisation before it stays as it is
    adam = keras.optimizers.Adam(make_schedule(phase, args, steps_per_epoch), weight_decay=args.weight_decay or None)
    if args.weight_decay:
        adam.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    kind = keras.losses.CategoricalCrossentropy if output == "softmax" else keras.losses.BinaryCrossentropy
    model.compile(adam, loss=kind(label_smoothing=args.label_smoothing), **fake_metrics(output, some_ignored))


def make_schedule(phase, args, steps_per_epoch):
    """Return the learning rate by step of a phase, down to its end rate: PolynomialDecay, or half a cosine wave after a warm-up."""
    import keras

    schedules = keras.optimizers.schedules
    steps = max(1, (phase.end - phase.start) * steps_per_epoch)
    if args.schedule == "polynomial" or phase.head_only:
        return schedules.PolynomialDecay(phase.learning_rate, steps, phase.end_learning_rate, args.power)
    warm_up = min(round(args.warmup_epochs * steps_per_epoch), steps - 1)
    end = phase.end_learning_rate / phase.learning_rate
    if not warm_up:
        return schedules.CosineDecay(phase.learning_rate, steps, end)
    return schedules.CosineDecay(0.0, steps - warm_up, end, warmup_target=phase.learning_rate, warmup_steps=warm_up)


def read_splits(data):
    """Return {split: feed.Split} of train and validation."""
    from detector.training.dataset import look_at

    tree = data_tree.read_tree(data, ("train", "validation"))
    return {split: look_at(data, split, paths, labels) for split, (paths, labels) in tree.items()}


def fingerprint(splits):
    """Return a SHA-256 over the names and contents of a data set's images: another one means another data set."""
    digest = hashlib.sha256()
    for images in splits.values():
        digest.update("\n".join(images.paths).encode(errors="surrogateescape"))
        digest.update(images.digests.tobytes())
    return digest.hexdigest()


def counts_of(splits):
    """Return {split: {'Fake': n, 'Real': n}}."""
    return {split: {"Fake": images.labels.count(0), "Real": images.labels.count(1)} for split, images in splits.items()}


def score_validation(model, validation):
    """Return (is_fake, logits) of the validation images with the model's current weights, both (n,)."""
    import numpy as np

    from detector.model import backend, scores
    from detector.training.batches import PooledScores

    output, is_fake = validation.output, []
    if isinstance(validation, PooledScores):
        with backend.linear_output(model):
            labels, logits = validation.score(lambda batch: scores.fake_logits(model.predict_on_batch(batch), output))
        return labels == 0, logits

    def batches():
        for index in range(len(validation)):
            images, targets, _ = validation[index]
            is_fake.append(targets[:, 0] == (1 if output == "softmax" else 0))
            yield images

    logits = backend.keras_logits(model, batches(), output)
    is_fake = np.concatenate(is_fake)
    if is_fake.all() or not is_fake.any():
        raise InputError("expected validation images of both classes that can be read, found those of one; run data_audit.py")
    return is_fake, logits


def write_history(history, folder):
    """Write history.csv and one picture per metric, train and validation in one plot, the best epoch marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    epochs = [row["epoch"] for row in history]
    best = min(history, key=lambda row: row["val_loss"])["epoch"]
    for metric in ("loss", "cross_entropy", "accuracy", "precision", "recall", "auc", "f1"):
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        axes.plot(epochs, [row[metric] for row in history], "o-", color="0.55", label="train")
        axes.plot(epochs, [row[f"val_{metric}"] for row in history], "s-", color="#0057b8", label="validation")
        axes.axvline(best, color="0.3", linestyle=":", label=f"lowest validation loss (epoch {best})")
        axes.set(xlabel="epoch", ylabel=metric.replace("_", " "), title=f"{metric.replace('_', ' ')} by epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        figure.savefig(folder / f"{metric}.png", dpi=120)
        plt.close(figure)


def with_f1(history):
    """Return the history with f1 and val_f1 (of Fake) computed from precision and recall."""

    def f1(precision, recall):
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    return [
        {**row, "f1": f1(row["precision"], row["recall"]), "val_f1": f1(row["val_precision"], row["val_recall"])} for row in history
    ]


def draw_architecture(model, folder):
    """Draw the network with plot_model; without Graphviz say what to install. The summary is written as text in any case."""
    import keras

    lines = []
    model.summary(print_fn=lambda line, line_break=None: lines.append(line), line_length=110)
    (folder / "architecture.txt").write_text("\n".join(lines) + "\n", "utf-8")
    try:
        keras.utils.plot_model(model, folder / "architecture.png", show_shapes=True, show_layer_names=True, dpi=80)
    except (ImportError, OSError, AssertionError):
        print("architecture.png was not drawn: it needs Graphviz (https://graphviz.org/download); architecture.txt says the same")


def trained_on(args, counts, sizes, started_from=()):
    """Return a sentence for people on what a detector has seen, and what those had seen that it started from."""
    train = counts["train"]
    low, high = sizes["shorter_side"]
    span = f"{low}" if low == high else f"{low} to {high}"
    before = list(dict.fromkeys(source["trained_on"] for source in started_from))
    if before and not args.epochs and not args.description:
        return "; ".join(before)
    origin = args.description or f"the images of {args.data.resolve().name}"
    now = f"{origin}: {train['Fake']:,} Fake and {train['Real']:,} Real images with a shorter side of {span} pixels"
    return "; before that: ".join([now, *(text for text in before if text != now)]) if args.epochs else now


NOBODYS = ("coordinator", "process_id", "join_timeout")  # arguments that say how a run was started, not what it did


def make_metadata(args, what, made, temperature, thresholds):
    """Return the metadata that detector.model.file keeps in the .h5."""
    from detector.model import backend
    from detector.model import file as model_file

    # of files and folders the name alone: where they lie on a user's disk is nobody's business to whom the model is given
    arguments = {name: value.name if isinstance(value, Path) else value for name, value in vars(args).items()
                 if name not in NOBODYS}  # fmt: skip
    if isinstance(args.weights, list):
        arguments["weights"] = [Path(name).name for name in args.weights]
    return {
        "format": model_file.FORMAT,
        "architecture": args.architecture,
        "class_names": list(data_tree.CLASSES),
        "output": ARCHITECTURES[args.architecture].output,
        **preprocessing_of(args),
        "temperature": temperature,
        "thresholds": thresholds,
        "training_range": training_range(what["sizes"], args),
        "trained_on": trained_on(args, what["counts"], what["sizes"], what["started_from"]),
        "made": {
            "arguments": arguments, "counts": what["counts"], "started_from": what["started_from"], **made,
            "versions": backend.versions(),
        },
    }


def preprocessing_of(args):
    """Return the part of a detector's metadata that says how an image becomes the network's inputs."""
    more = {name: getattr(args, name) for name in ("patches", "views") if name == args.preprocessing}
    return {"preprocessing": args.preprocessing, **more, "image_size": args.image_size}


def augmentation_of(args):
    """Return the feed.Augmentation that the arguments ask for, or None."""
    from detector.training.augmentation import Augmentation, Crop, View

    moves = {"rotation": args.rotation, "shift": args.shift, "shear": args.shear, "zoom": args.zoom}
    damages = {
        "probability": args.damage, "max_blur": args.max_blur, "min_scale": args.min_scale, "max_noise": args.max_noise,
        "min_quality": args.min_jpeg,
    }  # fmt: skip
    crops = {"patches": Crop(args.image_size, *args.resize_range), "views": View(args.image_size), "resize": None}
    crop = crops[args.preprocessing]
    wanted = Augmentation(args.flip, moves if any(moves.values()) else None, damages if args.damage else None, crop)
    return wanted if wanted != Augmentation() else None


def prepare(args, group=None, devices=None):
    """Read the data and build the network.

    Args:
        group, devices: distributed.ProcessGroup and Devices; None for one process with one device.

    Returns:
        (model, feed, validation feed, what the images are)
    """

    from detector.images import pixels
    from detector.model import backend

    group = group or distributed.ProcessGroup()
    splits = group.rank_zero_first(lambda: read_splits(args.data))
    what = {"counts": counts_of(splits), "fingerprint": fingerprint(splits)}
    files = [digest_of(path) for path in args.weights if Path(path).is_file()] if isinstance(args.weights, list) else []
    group.check_equal({"the images": what["fingerprint"], "the weights": files}, "give every process the same --data and --weights")
    sizes = splits["train"].sizes
    sizes = sizes[sizes.any(axis=1)]
    of_all = what["counts"].items()
    print(data_tree.counts_table({(split, name): n for split, of in of_all for name, n in of.items()}), flush=True)
    args.image_size = args.image_size or pixels.choose_size(sizes)
    keras = backend.import_keras()
    keras.utils.set_random_seed(args.seed)
    with devices.scope() if devices else contextlib.nullcontext():
        model = build(args)
    part = {"process": group.rank, "processes": group.world_size, "devices": len(devices) if devices else 1}
    feed, validation = group.rank_zero_first(lambda: make_feeds(args, splits, part))
    print(f"{args.architecture}: {model.count_params():,} parameters, {args.image_size} px, ", end="")
    print(f"{plural(feed.steps, 'step')} an epoch", flush=True)
    what |= {"sizes": pixels.training_range(sizes), **seen_before(args, splits)}
    return model, feed, validation, what


def seen_before(args, splits):
    """Return {'train_digests': of all images that the weights will have been trained on, 'started_from': of which detectors}.

    The first are (n, DIGEST_BYTES) uint8, or None where a detector to start from does not hold its own. Says how many of the
    validation images one was trained on: temperature and thresholds would promise too much.
    """
    import numpy as np

    from detector.model import file as model_file

    digests, validation = ([splits[name].digests[:, : model_file.DIGEST_BYTES]] for name in ("train", "validation"))
    started_from = []
    for path in detectors_among(args.weights):
        metadata, its = model_file.read_metadata(path), model_file.read_train_digests(path)
        started_from.append({"name": Path(path).name, "sha256": digest_of(path), "trained_on": metadata["trained_on"]})
        digests = None if digests is None or its is None else [*digests, its]
        known = set() if its is None else set(map(bytes, its))
        if seen := sum(bytes(digest) in known for digest in validation[0]):
            print(f"warning: {path} was trained on {plural(seen, 'image')} of these validation images: what is fitted on them, "
                  "temperature, thresholds and the best epoch, will look better than it is")  # fmt: skip
    return {"train_digests": digests and np.unique(np.concatenate(digests), axis=0), "started_from": started_from}


def make_feeds(args, splits, part):
    """Return (training.ImageFeed of train, another or training.PooledScores of validation); `part`: what falls to this process."""
    from detector.training.batches import ImageFeed, PooledScores
    from detector.training.dataset import Decoded

    whole = args.preprocessing != "resize"  # and of validation nothing is kept: it is decoded and scored as the app does it
    size, kept = None if whole else args.image_size, ["train"] if whole else list(splits)
    images = {split: Decoded(of, size, keep=split in kept and not args.no_cache) for split, of in splits.items()}
    for some in images.values():
        check_readable(some)
    print(told_of_decoding([images[split] for split in kept], args))
    output = ARCHITECTURES[args.architecture].output
    common = {"output": output, "batch_size": args.batch_size, "seed": args.seed, **part}
    feed = ImageFeed(images["train"], **common, shuffle=True, augmentation=augmentation_of(args))
    feed[0]  # where nothing can be read, it is said here and not from within `fit`
    if whole:
        validation = PooledScores(splits["validation"], output, preprocessing_of(args), args.batch_size)
    else:
        validation = ImageFeed(images["validation"], **common)
        validation[0]
    return feed, validation


def training_range(sizes, args):
    """Return the sizes that a detector gives verdicts for, from pixels.training_range of its train images.

    A resize before cropping makes larger and smaller images of them; --judge-sides replaces what came out.
    """
    shorter = [max(1, round(side * factor)) for side, factor in zip(sizes["shorter_side"], args.resize_range, strict=True)]
    return {**sizes, "shorter_side": args.judge_sides or shorter}


def check_readable(images):
    """Raise InputError where no image of a class can be read. (Without kept images that shows only while they are read.)"""
    split = images.split
    left = {label for path, label, size in zip(split.paths, split.labels, split.sizes, strict=True)
            if size.any() and path not in images.unreadable}  # fmt: skip
    for label, name in enumerate(data_tree.CLASSES):
        if label not in left:
            folder = split.data / split.paths[0].split("/")[0] / name
            raise InputError(f"{folder}: expected images that can be read, found none; run data_audit.py")


def told_of_decoding(images, args):
    """Return a sentence on where decoded images are kept."""
    if all(some.file for some in images):
        size = sum(some.file.stat().st_size for some in images)
        return f"decoded images: {size / 2**20:,.0f} MiB in {next(iter(images)).file.parent}, which may be deleted"
    why = "as asked" if args.no_cache else "for want of room or of permission to write there"
    return f"decoded images: not kept, {why}; each is decoded in every epoch"


def settle(args):
    """Replace what the arguments leave open by what the architecture is trained with."""
    architecture = ARCHITECTURES[args.architecture]
    for name in ("weights", "learning_rate", "stop_rule", "stop_patience"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(architecture, name))
    args.weights = starting_weights(args.weights)
    pretrained = args.weights != "none" and architecture.has_backbone
    if args.head_epochs is None:
        args.head_epochs = 1 if pretrained and args.epochs and not starts_whole(args) else 0
    if args.head_epochs and not pretrained:
        raise InputError(f"--head-epochs {args.head_epochs}: expected a pretrained backbone, found none; give --weights, or 0")
    args.resize_range = tuple(args.resize_range)
    low, high = args.resize_range
    if low > high:
        raise InputError(f"--resize-range {low:g} {high:g}: expected the smaller factor first; turn them round")
    if args.judge_sides and args.judge_sides[0] > args.judge_sides[1]:
        raise InputError(f"--judge-sides {' '.join(map(str, args.judge_sides))}: expected the smaller side first; turn them round")
    if args.preprocessing != "patches" and args.resize_range != (1, 1):
        raise InputError(
            f"--resize-range {low:g} {high:g}: expected --preprocessing patches, found {args.preprocessing}; leave it out"
        )
    if args.views.count("native") > len(NATIVE_POSITIONS) or any(args.views.count(kind) > 1 for kind in ("whole", "between")):
        expected = f"whole and between once, native up to {len(NATIVE_POSITIONS)} times"
        raise InputError(f"--views {' '.join(args.views)}: expected {expected}; give fewer")
    if args.warmup_epochs and args.schedule != "cosine":
        raise InputError(f"--warmup-epochs {args.warmup_epochs:g}: expected --schedule cosine, found {args.schedule}; leave it out")
    if not architecture.has_stems and args.stem != "auto":
        some = ", ".join(name for name, one in ARCHITECTURES.items() if one.has_stems)
        raise InputError(f"--stem {args.stem}: expected auto for {args.architecture}; only {some} have a choice")


def starting_weights(names):
    """Return 'imagenet', 'none' or a list of files, from the names that --weights gives or from the name of a default."""
    if isinstance(names, str):
        return names
    words = [name for name in names if name in ("imagenet", "none")]
    if words and len(names) > 1:
        raise InputError(f"--weights {' '.join(names)}: expected files where there are several, found {words[0]}; leave it out")
    return words[0] if words else names


def detectors_among(weights):
    """Return the files that are whole detectors among what --weights gives."""
    from detector.model.architectures import is_detector

    return [path for path in weights if is_detector(path)] if isinstance(weights, list) else []


def starts_whole(args):
    """Tell whether files give the whole network, and not the backbone alone."""
    if not isinstance(args.weights, list):
        return False
    whole = detectors_among(args.weights)
    if ARCHITECTURES[args.architecture].has_backbone and 0 < len(whole) < len(args.weights):
        other = next(path for path in args.weights if path not in whole)
        raise InputError(f"--weights {other}: expected a detector as {whole[0]}, found another kind of file; give one kind")
    return bool(whole) or not ARCHITECTURES[args.architecture].has_backbone


def choose_stem(args, whole):
    """Return the stem of the network, by its full name, from --stem, the weights and the size of its input."""
    from detector.model import architectures

    if whole:
        found = architectures.stem_of(args.weights[0])
        if args.stem not in ("auto", found, found.removesuffix("_7x7")):
            raise InputError(f"--stem {args.stem}: expected that of {args.weights[0]}, {found.removesuffix('_7x7')}; leave it out")
        return found
    stem = args.stem
    if stem == "auto":
        stem = "small" if args.image_size < architectures.SMALL_INPUT else "standard"
    return "small_7x7" if stem == "small" and args.weights != "none" else stem


def build(args):
    """Build the network that the arguments name, in the precision that is asked for."""
    from detector.model import architectures, backend

    keras = backend.import_keras()
    keras.config.set_dtype_policy(f"mixed_{args.mixed_precision}" if args.mixed_precision else "float32")
    architecture, whole, stem = ARCHITECTURES[args.architecture], starts_whole(args), {}
    if architecture.has_stems:
        args.stem = stem["stem"] = choose_stem(args, whole)
    try:
        model = architecture.build(args.image_size, "none" if whole else args.weights, args.l2, **stem)
    except ValueError as error:
        reason = " ".join(str(error).split())[:120]
        size = args.image_size
        raise InputError(f"--image-size {size}: expected a size that {args.architecture} can be built for ({reason})") from None
    if whole:
        architectures.load_files(model, args.weights)
    return model


def build_again(args, **changed):
    """Build the network of a run once more, for weights that are there already: --weights is not read again."""
    return build(argparse.Namespace(**{**vars(args), "weights": "none", **changed}))


def in_full_precision(model, args):
    """Return the trained network as one of float32 throughout, which is what scores are computed with."""
    if not args.mixed_precision:
        return model
    plain = build_again(args, mixed_precision=None)
    plain.set_weights(model.get_weights())
    return plain


def what_counts(args):
    """Return {option: value}, as text, of the arguments that a run's result follows from, and its backend.

    How many share the work is not among them: a run may be taken up by fewer.
    """
    import keras

    ignored = ("data", "output", "log_dir", "description", "max_error", "overwrite", "no_cache", "tensorboard", "test_time_flip")
    ignored += ("checkpoint_minutes", "devices", "processes", *NOBODYS)
    same = {f"--{name.replace('_', '-')}": str(value) for name, value in vars(args).items() if name not in ignored}
    if isinstance(args.weights, list):
        same["--weights"] = " ".join(args.weights)
    return {**same, "the backend": keras.backend.backend()}


def make_callbacks(args, feed, validation, what, group):
    """Return (the rule, the checkpoint, all callbacks)."""
    import keras

    from detector.training.batches import PooledScores
    from detector.training.callbacks import Checkpoint, PooledValidation, Progress, SameWeights, StopTrainingOnValidationLoss

    after = args.head_epochs + args.stop_after_epoch
    rule = StopTrainingOnValidationLoss(args.log_dir, args.stop_patience, after, args.stop_rule, writes=group.rank == 0)
    same = {**what_counts(args), "the images": what["fingerprint"]}
    checkpoint = Checkpoint(args.log_dir, rule, same, 60 * args.checkpoint_minutes)
    first = [PooledValidation(validation)] if isinstance(validation, PooledScores) else []
    first += [SameWeights(group)] if group.world_size > 1 else []
    callbacks = [*first, rule, checkpoint, Progress(args.head_epochs + args.epochs, feed)]
    if args.tensorboard and group.rank == 0:
        callbacks.append(keras.callbacks.TensorBoard(args.log_dir / "tensorboard", write_graph=False))
    return rule, checkpoint, callbacks


def fit_phases(model, feed, validation, args, what, group):
    """Train, or go on where an interrupted run stopped.

    Returns:
        (rule, checkpoint, whether Ctrl-C ended it)
    """
    from detector.training.callbacks import Interruption, remove_checkpoint, save_weights

    rule, checkpoint, callbacks = make_callbacks(args, feed, validation, what, group)
    interruption = Interruption()
    saved_in = checkpoint.find(args.overwrite)
    found = [len(checkpoint.history), checkpoint.first_step] if saved_in is not None else None
    group.check_equal({"the checkpoint": found}, "give every process the same --log-dir")
    if rule.writes:
        check_own(args, checkpoint)
    if saved_in is None and rule.writes:
        remove_checkpoint(args.log_dir)
        save_weights(model, rule.best_weights)
    if saved_in is not None:
        within = f" and {plural(checkpoint.first_step, 'step')}" if checkpoint.first_step else ""
        print(f"taking up the run in {args.log_dir} after {plural(len(checkpoint.history), 'epoch')}{within}", flush=True)
    checkpoint.set_model(model)
    callbacks.append(interruption)  # last: a checkpoint that is due is still written
    try:
        with interruption.heard():
            for phase in plan_phases(args):
                if rule.stopped_epoch or (saved_in is not None and phase.end <= saved_in):
                    continue
                output = ARCHITECTURES[args.architecture].output
                compile_model(model, output, phase, args, feed.steps, some_ignored=feed.devices > 1)
                if saved_in is not None and phase.start <= saved_in:
                    checkpoint.load()
                start = max(phase.start, len(checkpoint.history))
                train(model, feed, validation, callbacks, start, phase.end, checkpoint.first_step)
    except (KeyboardInterrupt, Exception) as error:
        other_was_quicker = interruption.asked and distributed.is_lost_process(error)  # to end; all were interrupted
        if not isinstance(error, KeyboardInterrupt) and not other_was_quicker:
            raise
        if not checkpoint.history:
            raise KeyboardInterrupt from None
        return rule, checkpoint, True
    return rule, checkpoint, False


def check_own(args, checkpoint):
    """Raise InputError where another run's model would be replaced unasked: Ctrl-C leaves one that the same run replaces."""
    from detector.model import file as model_file

    if args.output.exists() and not args.overwrite and model_file.read_metadata(args.output)["made"].get("run") != checkpoint.run:
        raise InputError(f"{args.output}: another run's model is there; give another --output, or --overwrite")


def run(args, group):
    """Train as the arguments say and write everything that a run leaves: of several processes, the first does."""
    from detector.model import backend

    settle(args)
    backend.import_keras()  # where that fails, it is said before all images are looked at
    devices = join(args, group)
    model, feed, validation, what = prepare(args, group, devices)
    with devices.scope():
        rule, checkpoint, interrupted = fit_phases(model, feed, validation, args, what, group)
    if not rule.writes:
        if interrupted:
            raise KeyboardInterrupt
        return
    if len(devices) > 1 or interrupted:  # on JAX, a step that is broken off takes the network's variables with it
        model = build_again(args)
    if len(devices) > 1:
        validation = validation.alone()
    finish(model, feed, validation, args, what, rule, checkpoint, interrupted)


def join(args, group):
    """Wait for the other processes, check that all were started alike, and return the distributed.Devices."""
    import keras

    from detector.model import backend

    distributed.check_backend(group.topology, keras.backend.backend())
    group.join(args.join_timeout)
    versions = {name: version for name, version in backend.versions().items() if name != "date"}
    same = {**what_counts(args), "--overwrite": args.overwrite, **versions}
    group.check_equal(same, "start all with the same command, each with its own --process-id")
    devices = distributed.Devices(group, args.devices)
    devices.check_batch_size(args.batch_size)
    if len(devices) > 1:
        if args.preprocessing != "resize":
            found = f"--preprocessing {args.preprocessing}"
            raise InputError(f"{found}: expected one device, found several; give --devices 1 and one process")
        of, images = f" of {group.world_size} processes" if group.topology else "", plural(args.batch_size // len(devices), "image")
        print(f"{len(devices)} devices{of}, {images} of each batch on each", flush=True)
    return devices


def finish(model, feed, validation, args, what, rule, checkpoint, interrupted):
    """Calibrate the best weights and write the model file and the history."""
    from detector.evaluation.thresholds import calibrate
    from detector.model import backend
    from detector.model import file as model_file
    from detector.model.architectures import with_test_time_flip
    from detector.training.callbacks import remove_checkpoint

    print(told(rule, checkpoint.history, args, interrupted))
    backend.compute_in_float32()
    with warnings.catch_warnings(action="ignore"):  # the optimizer there may be that of the other phase: nobody needs it
        model.load_weights(rule.best_weights)
    model = in_full_precision(model, args)
    draw_architecture(model, args.log_dir)
    if args.test_time_flip:
        model = with_test_time_flip(model)
    is_fake, logits = score_validation(model, validation)
    temperature, thresholds = calibrate(is_fake, logits, args.max_error)
    made = {"best_epoch": rule.best_epoch, "epochs_run": len(checkpoint.history), "data_fingerprint": what["fingerprint"]}
    made |= {"run": checkpoint.run}
    metadata = make_metadata(args, what, made, temperature, thresholds)
    model_file.save(model, args.output, metadata, what["train_digests"])
    if checkpoint.history:
        write_history(with_f1(checkpoint.history), args.log_dir)
    not_read = validation.unreadable if args.preprocessing != "resize" else validation.images.unreadable
    report(args, is_fake, logits, metadata, {**feed.images.unreadable, **not_read})
    if interrupted:
        raise KeyboardInterrupt
    remove_checkpoint(args.log_dir)


def check_places(args):
    """Make the folders to write to, and raise InputError where something is there that would be replaced unasked."""
    if args.output.suffix != ".h5":
        raise InputError(f"--output {args.output}: expected a name that ends in .h5")
    if not args.overwrite and not (args.log_dir / "state.json").exists():
        if args.output.exists():
            raise InputError(f"{args.output}: a model is there already; give another --output, or --overwrite")
        if (args.log_dir / "history.csv").exists():
            raise InputError(f"{args.log_dir}: the history of another run is there; give another --log-dir, or --overwrite")
    for folder in (args.log_dir, args.output.parent):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # where it cannot be written to, that is said now and not after the last epoch


def told(rule, history, args, interrupted):
    """Return a sentence on why training ended and which weights are kept."""
    kept = f"the weights of epoch {rule.best_epoch} (lowest validation loss, {rule.best_loss:.4f}) are kept"
    if not history:
        return "no epoch was trained: the weights are those it started with"
    epochs = args.head_epochs + args.epochs
    if not rule.stopped_epoch:
        return f"{'interrupted' if interrupted else 'done'} after epoch {len(history)} of {epochs}; {kept}"
    last = history[rule.stopped_epoch - 1]
    if rule.rule == "plateau":
        why = f"validation loss {last['val_loss']:.4f} is no lower than {rule.best_loss:.4f}, of epoch {rule.best_epoch}"
    else:
        why = f"validation loss {last['val_loss']:.4f} exceeds training loss {last['loss']:.4f}"
    plain = f"without penalties they are {last['val_cross_entropy']:.4f} and {last['cross_entropy']:.4f}"
    return f"stopped after epoch {rule.stopped_epoch} of {epochs}: {why} ({plain}); {kept}"


def report(args, is_fake, logits, metadata, unreadable):
    """Print what came out, on validation, and what could not be read."""
    from detector.evaluation import metrics
    from detector.model import scores

    found = metrics.classification_metrics(is_fake, scores.p_fake_of(logits, metadata["temperature"]), metadata["thresholds"])
    for path, reason in list(unreadable.items())[:10]:
        print(f"not read: {reason or path}")
    if unreadable:
        print(f"{plural(len(unreadable), 'image')} could not be read and were left out")
    limits = metadata["thresholds"]
    print(
        f"validation: accuracy {found['accuracy']:.4f}, AUC {found['auc']:.4f}, ECE {found['ece']:.4f}; temperature "
        f"{metadata['temperature']:.3f}, Fake from {limits['fake']:.4f}, Real up to {limits['real']:.4f}"
    )
    print(f"{args.output} written ({args.output.stat().st_size / 2**20:.1f} MiB), history in {args.log_dir}")


def make_parser():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=HelpFormatter)
    from detector.model.file import MAX_IMAGE_SIZE, MAX_PATCHES

    add = parser.add_argument
    add("--data", type=Path, default=Path("data"), help="data tree with train and validation")
    add("--output", type=Path, default=Path("detector.h5"), help="the model file to write")
    add("--log-dir", type=Path, default=Path("training"), help="history, pictures, and the checkpoint of a run that was cut short")
    add("--architecture", choices=list(ARCHITECTURES), default="resnet101", help="the network")
    add("--weights", nargs="+", metavar=("imagenet|none|FILE", "FILE"),
        help="what to start from; FILE: a detector (.h5) of the same architecture, with its head, or the weights of the backbone "
             "as keras.applications saves them; of several files the mean (default: none for compact, else imagenet)")  # fmt: skip
    add("--image-size", type=number_type(int, at_least=1, at_most=MAX_IMAGE_SIZE),
        help="side of the input (default: 32 where the median shorter side is <= 64, else 224)")  # fmt: skip
    add("--preprocessing", "--fitting", choices=PREPROCESSING, default="resize",
        help="how an image becomes the network's input: the whole image resized; squares at its own resolution (patches); or the "
             "whole image and crops at its own resolution (views). The logits of several inputs are averaged")  # fmt: skip
    add("--views", nargs="+", choices=VIEW_KINDS, default=["whole", "between", "native", "native", "native"], metavar="KIND",
        help="kinds, for --preprocessing views: whole, native (up to five times), between (a scale between both)")  # fmt: skip
    add("--patches", type=number_type(int, at_least=1, at_most=MAX_PATCHES), default=9,
        help="squares of an image at most, of validation and when it is used")  # fmt: skip
    add("--resize-range", type=positive_float, nargs=2, default=(1.0, 1.0), metavar=("LOW", "HIGH"),
        help="factor by which a train image is resized, at random, before a square is cut out of it")  # fmt: skip
    add("--judge-sides", type=positive_int, nargs=2, metavar=("LOW", "HIGH"),
        help="shorter sides, in pixels, that the detector gives verdicts for (default: those of the train images)")  # fmt: skip
    add("--stem", choices=("auto", *STEMS), default="auto",
        help="of a resnet; small: stride 1 and no max-pool (auto: small below 96 px; slow without a GPU)")  # fmt: skip
    add("--epochs", type=non_negative_int, default=10, help="passes over the train images, all layers; 0 builds and saves")
    add("--head-epochs", type=non_negative_int,
        help="passes before them, of the head alone (default: 1 for pretrained weights, else 0)")  # fmt: skip
    add("--head-learning-rate", type=positive_float, default=1e-3, help="rate of those")
    add("--batch-size", type=positive_int, default=64, help="images a step")
    add("--seed", type=seed, default=0, help="same seed, same history on the CPU")
    add("--learning-rate", type=positive_float, help="rate of the first step (default: 3e-3 for compact, 1e-4 for the others)")
    add("--end-learning-rate", type=positive_float, default=1e-5, help="rate of the last step")
    add("--schedule", choices=("polynomial", "cosine"), default="polynomial", help="how the rate falls between them")
    add("--power", type=positive_float, default=2.0, help="of the PolynomialDecay")
    add("--warmup-epochs", type=number_type(at_least=0), default=0.0, help="in which the rate rises from 0, before the cosine")
    add("--weight-decay", type=fraction, default=0.0, help="of all kernels, decoupled (AdamW); 0 is plain Adam")
    add("--label-smoothing", type=number_type(at_least=0, at_most=0.5), default=0.0,
        help="share of the target that is spread over both classes")  # fmt: skip
    add("--l2", type=fraction, default=1e-3, help="L2 penalty on the head's dense kernel (resnet50v2 has none)")
    add("--mixed-precision", nargs="?", const="float16", choices=("float16", "bfloat16"),
        help="compute in 16 bits, where that is faster; what is saved is float32 (without a value: float16)")  # fmt: skip
    add("--stop-rule", choices=("exceeds", "plateau", "never"),
        help="stop where validation loss exceeds training loss, or where it falls no further (default: plateau for resnet50v2, "
             "exceeds for the others)")  # fmt: skip
    add("--stop-patience", type=positive_int,
        help="such epochs in a row that stop it (default: 3 for resnet50v2, 1 for the others)")  # fmt: skip
    add("--stop-after-epoch", type=non_negative_int, default=0,
        help="the rule looks only at epochs after this one, of those of all layers")  # fmt: skip
    add("--test-time-flip", action="store_true",
        help="the saved network judges by the mean of an image's and its mirror image's logits, in twice the time")  # fmt: skip
    add("--max-error", type=number_type(at_least=0, below=0.5), default=0.01,
        help="share of each class that may be on the wrong side of its threshold: they are fitted on validation so that this "
             "holds on other images like these, with 95 %% confidence")  # fmt: skip
    add("--overwrite", action="store_true", help="replace a model file, or the checkpoint of another run, that is there")
    add("--description", help="what the images are, for people (a part of the model file)")
    add("--checkpoint-minutes", type=positive_float, default=10.0, help="between two checkpoints within an epoch")
    add("--no-cache", action="store_true", help="decode images each time, and keep none decoded in the data folder")
    add("--tensorboard", action="store_true", help="write the log for TensorBoard, to tensorboard/ in --log-dir")
    add_devices(parser.add_argument_group("several devices and machines", "all GPUs of a machine are used; docs/scaling.md"))
    add_augmentation(parser.add_argument_group("augmentation", "on the fly, of train images of both classes alike; off by default"))
    return parser


def add_devices(group):
    """Add where a run takes place."""
    add = group.add_argument
    add("--devices", type=positive_int, help="of each process at most (default: all GPUs, without any the CPU)")
    add("--coordinator", metavar="HOST:PORT", help="where process 0 listens, for the others to find it; JAX alone")
    add("--processes", type=positive_int,
        help="of the run, one a machine; each is started with the same command but for --process-id")  # fmt: skip
    add("--process-id", type=non_negative_int, help="number of this one, from 0; the first alone writes files and speaks")
    add("--join-timeout", type=positive_float, default=300.0, help="seconds to wait for a process that has not come")


def add_augmentation(group):
    """Add what is done to train images on the fly."""
    add = group.add_argument
    add("--flip", action="store_true", help="mirror half of the images")
    add("--rotation", type=number_type(at_least=0, at_most=180), default=0.0, help="largest angle to either side, in degrees")
    add("--shift", type=fraction, default=0.0, help="largest shift, a share of each side; by whole pixels where nothing else moves")
    add("--shear", type=fraction, default=0.0, help="largest shear, in radians")
    add("--zoom", type=number_type(at_least=0, at_most=0.9), default=0.0, help="shows 1 - ZOOM to 1 + ZOOM of each side")
    add("--damage", type=fraction, default=0.0, metavar="P", help="chance of each of blur, scaling, noise and JPEG, in this order")
    add("--max-blur", type=number_type(at_least=0, at_most=100), default=3.0, help="largest sigma, in pixels")
    add("--min-scale", type=fraction, default=0.25, help="smallest factor, down and up again")
    add("--max-noise", type=fraction, default=0.1, help="largest sigma, as a share of full range")
    add("--min-jpeg", type=number_type(int, at_least=1, at_most=95), default=30, help="lowest quality, up to 95")


@stage
def main(argv=None):
    """Train a detector."""
    args = make_parser().parse_args(argv)
    require_folder(args.data, holding="train, validation and test")
    require_packages("cv2", "h5py", "matplotlib", "sklearn", *(("tensorflow", "tensorboard") if args.tensorboard else ()))
    group = distributed.ProcessGroup(distributed.find_topology(args.coordinator, args.processes, args.process_id))
    if group.rank == 0:
        check_places(args)
        said = contextlib.nullcontext()
    else:
        said = contextlib.redirect_stdout(io.StringIO())
    with said, group:
        run(args, group)


if __name__ == "__main__":
    main()
