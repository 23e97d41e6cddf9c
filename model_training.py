"""Train a detector: reads data/{train,validation}/{Fake,Real} -> writes detector.h5 and training/.

    python model_training.py --architecture resnet101
    python model_training.py --architecture compact --weights none --epochs 12 --batch-size 128 --flip

Killed and started again with the same command, it goes on after the last whole epoch.
"""
import argparse
import csv
import hashlib
import os
import sys
from pathlib import Path

from detector import data_tree
from detector.architectures import ARCHITECTURES
from detector.console import InputError, plural, stage


def train(model, feed, validation, callbacks, first_epoch, epochs):
    """Run `fit` on a compiled model; the callbacks write what is kept. Nothing else touches the disk."""
    import keras

    order = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: feed.start_epoch(epoch))
    callbacks = [order, *callbacks]
    given = {"validation_data": validation, "epochs": epochs, "initial_epoch": first_epoch, "callbacks": callbacks}
    model.fit(feed, **given, shuffle=False, verbose=1 if sys.stdout.isatty() else 2)


def compile_model(model, output, learning_rate, end_learning_rate, power, steps):
    """Compile with Adam under a PolynomialDecay over `steps` steps, and binary cross-entropy.

    For a softmax(2) that is 'categorical_crossentropy' on one-hot targets. Named 'binary_crossentropy' there, Keras 3 on
    TensorFlow takes the two logits for two independent sigmoids: another loss, not that of the probabilities given out.
    """
    import keras

    from detector.training import fake_metrics

    schedule = keras.optimizers.schedules.PolynomialDecay(learning_rate, max(1, steps), end_learning_rate, power)
    metrics = fake_metrics(output)
    loss = "categorical_crossentropy" if output == "softmax" else "binary_crossentropy"
    model.compile(keras.optimizers.Adam(schedule), loss=loss, metrics=metrics)


def read_splits(data, image_size):
    """Return ({split: (paths, labels)} of train and validation, image size, facts about the sizes of the train images)."""
    from detector import pixels

    tree = data_tree.read_tree(data, ("train", "validation"))
    root = os.fspath(data)
    splits = {split: ([os.path.join(root, path) for path in paths], labels) for split, (paths, labels) in tree.items()}
    sizes = pixels.image_sizes(splits["train"][0])
    return splits, image_size or pixels.choose_size(sizes), pixels.sizes_seen(sizes)


def fingerprint(data, splits):
    """Return a SHA-256 over the names and sizes in bytes of a data set's images: another one means another data set."""
    digest = hashlib.sha256()
    for paths, _ in splits.values():
        for path in paths:
            digest.update(os.fsencode(os.path.relpath(path, data)) + f"\0{os.stat(path).st_size}\n".encode())
    return digest.hexdigest()


def counts_of(splits):
    """Return {split: {'Fake': n, 'Real': n}}."""
    return {split: {"Fake": labels.count(0), "Real": labels.count(1)} for split, (_, labels) in splits.items()}


def score_validation(model, validation, output):
    """Return (is_fake, margins) of the validation images with the model's current weights."""
    import numpy as np

    from detector import model_file

    activation = model.layers[-1].activation
    model = model_file.to_logits(model)
    margins, is_fake = [], []
    for index in range(len(validation)):
        images, targets, _ = validation[index]
        margins.append(model_file.margins_of(model.predict_on_batch(images), output))
        is_fake.append(targets[:, 0] == (1 if output == "softmax" else 0))
    model.layers[-1].activation = activation
    return np.concatenate(is_fake), np.concatenate(margins)


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
        keras.utils.plot_model(model, folder / "architecture.png", show_shapes=True, dpi=80)
    except (ImportError, OSError, AssertionError):
        print("architecture.png was not drawn: it needs Graphviz (https://graphviz.org/download); architecture.txt says the same")


def trained_on(args, counts, sizes):
    """Return a sentence for people on what a detector has seen."""
    train = counts["train"]
    low, high = sizes["shorter_side"]
    span = f"{low}" if low == high else f"{low} to {high}"
    origin = args.description or f"the images of {args.data.resolve().name}"
    return f"{origin}: {train['Fake']:,} Fake and {train['Real']:,} Real images with a shorter side of {span} pixels"


def make_facts(args, architecture, size, sizes, counts, made, temperature, thresholds):
    """Return the facts that detector.model_file keeps in the .h5."""
    from detector import model_file

    arguments = {name: os.fspath(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    return {
        "format": model_file.FORMAT,
        "architecture": args.architecture,
        "class_names": list(data_tree.CLASSES),
        "output": architecture.output,
        "fitting": "resize",
        "image_size": size,
        "temperature": temperature,
        "thresholds": thresholds,
        "seen": sizes,
        "trained_on": trained_on(args, counts, sizes),
        "made": {"arguments": arguments, "counts": counts, **made, "versions": model_file.versions()},
    }


def prepare(args):
    """Read the data, build and compile the network.

    Returns:
        (model, feed, validation feed, image size, sizes seen, counts, what must be the same for a run to be taken up)
    """
    from detector import model_file

    architecture = ARCHITECTURES[args.architecture]
    splits, size, sizes = read_splits(args.data, args.image_size)
    counts = counts_of(splits)
    print(data_tree.counts_table({(split, name): n for split, of in counts.items() for name, n in of.items()}), flush=True)
    keras = model_file.import_keras()
    keras.utils.set_random_seed(args.seed)
    from detector.training import ImageFeed

    common = {"size": size, "output": architecture.output, "batch_size": args.batch_size, "seed": args.seed}
    feed = ImageFeed(*splits["train"], **common, shuffle=True, flip=args.flip, damage_probability=args.damage)
    validation = ImageFeed(*splits["validation"], **common)
    for images in (feed, validation):
        images[0]  # where nothing can be read, it is said here and not from within `fit`
    try:
        model = architecture.build(size, args.weights or architecture.weights, args.l2)
    except ValueError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"--image-size {size}: expected a size that {args.architecture} can be built for ({reason})") from None
    rate = architecture.learning_rate if args.learning_rate is None else args.learning_rate
    compile_model(model, architecture.output, rate, args.end_learning_rate, args.power, args.epochs * len(feed))
    print(f"{args.architecture}: {model.count_params():,} parameters, {size} px, {plural(len(feed), 'step')} an epoch", flush=True)
    ignored = ("data", "log_dir", "description", "max_error", "overwrite")
    same = {f"--{name.replace('_', '-')}": str(value) for name, value in vars(args).items() if name not in ignored}
    return model, feed, validation, size, sizes, counts, {**same, "the images": fingerprint(args.data, splits)}


def run(args):
    """Train as the arguments say and write everything that a run leaves."""
    model, feed, validation, size, sizes, counts, same = prepare(args)
    from detector import metrics, model_file
    from detector.training import Checkpoint, StopTrainingOnValidationLoss, remove_checkpoint, save_weights

    architecture = ARCHITECTURES[args.architecture]
    rule = StopTrainingOnValidationLoss(args.log_dir, args.stop_patience, args.stop_after_epoch)
    checkpoint = Checkpoint(args.log_dir, rule, same)
    checkpoint.set_model(model)
    done = checkpoint.load(args.overwrite)
    if done:
        print(f"taking up the run in {args.log_dir} after epoch {done}", flush=True)
    else:
        remove_checkpoint(args.log_dir)
        save_weights(model, rule.best_weights)
    interrupted = False
    if not rule.stopped_epoch:
        try:
            train(model, feed, validation, [rule, checkpoint], done, args.epochs)
        except KeyboardInterrupt:
            if not checkpoint.history:
                raise
            interrupted = True
    print(told(rule, checkpoint.history, args, interrupted))
    model.load_weights(rule.best_weights)
    draw_architecture(model, args.log_dir)
    is_fake, margins = score_validation(model, validation, architecture.output)
    temperature, thresholds = metrics.calibrate(is_fake, margins, args.max_error)
    made = {"best_epoch": rule.best_epoch, "epochs_run": len(checkpoint.history), "data_fingerprint": same["the images"]}
    facts = make_facts(args, architecture, size, sizes, counts, made, temperature, thresholds)
    model_file.save(model, args.output, facts)
    if checkpoint.history:
        write_history(with_f1(checkpoint.history), args.log_dir)
    report(args, is_fake, margins, facts, {**feed.unreadable, **validation.unreadable})
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


def told(rule, history, args, interrupted):
    """Return a sentence on why training ended and which weights are kept."""
    kept = f"the weights of epoch {rule.best_epoch} (lowest validation loss, {rule.best_loss:.4f}) are kept"
    if not history:
        return "no epoch was trained: the weights are those it started with"
    if rule.stopped_epoch:
        last = history[rule.stopped_epoch - 1]
        losses = f"validation loss {last['val_loss']:.4f} exceeds training loss {last['loss']:.4f}"
        plain = f"the cross-entropy alone is {last['val_cross_entropy']:.4f} and {last['cross_entropy']:.4f}"
        return f"stopped after epoch {rule.stopped_epoch} of {args.epochs}: {losses} ({plain}); {kept}"
    return f"{'interrupted' if interrupted else 'done'} after epoch {len(history)} of {args.epochs}; {kept}"


def report(args, is_fake, margins, facts, unreadable):
    """Print what came out, on validation, and what could not be read."""
    from detector import metrics, model_file

    found = metrics.figures(is_fake, model_file.p_fake_of(margins, facts["temperature"]), facts["thresholds"])
    for path, reason in list(unreadable.items())[:10]:
        print(f"not read: {reason or path}")
    if unreadable:
        print(f"{plural(len(unreadable), 'image')} could not be read and were left out")
    limits = facts["thresholds"]
    print(
        f"validation: accuracy {found['accuracy']:.4f}, AUC {found['auc']:.4f}, ECE {found['ece']:.4f}; temperature "
        f"{facts['temperature']:.3f}, Fake from {limits['fake']:.4f}, Real up to {limits['real']:.4f}"
    )
    print(f"{args.output} written ({args.output.stat().st_size / 2**20:.1f} MiB), history in {args.log_dir}")


def make_parser():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, default=Path("data"), help="data tree with train and validation")
    add("--output", type=Path, default=Path("detector.h5"), help="the model file to write")
    add("--log-dir", type=Path, default=Path("training"), help="history, pictures, and the checkpoint of a run that was cut short")
    add("--architecture", choices=list(ARCHITECTURES), default="resnet101", help="the network")
    add("--weights", metavar="imagenet|none|FILE", help="what to start from (default: none for compact, imagenet for the others)")
    add("--image-size", type=positive, help="side of the input (default: 32 where the median shorter side is <= 64, else 224)")
    add("--epochs", type=whole, default=10, help="passes over the train images; 0 builds and saves")
    add("--batch-size", type=positive, default=64, help="images a step")
    add("--seed", type=whole, default=0, help="same seed, same history on the CPU")
    add("--learning-rate", type=above_0, help="rate of the first step (default: 3e-3 for compact, 1e-4 for the others)")
    add("--end-learning-rate", type=above_0, default=1e-5, help="rate of the last step")
    add("--power", type=above_0, default=2.0, help="of the PolynomialDecay between them")
    add("--l2", type=probability, default=1e-3, help="L2 penalty on the head's dense kernel")
    add("--flip", action="store_true", help="mirror half of the train images, on the fly")
    add("--damage", type=probability, default=0.0, metavar="P", help="chance of each of blur, scaling, noise and JPEG, on the fly")
    add("--stop-patience", type=positive, default=1, help="epochs in a row with validation loss above training loss that stop it")
    add("--stop-after-epoch", type=whole, default=0, help="the rule looks only at epochs after this one")
    add("--max-error", type=error_rate, default=0.01, help="share of each class on the wrong side of its threshold, on validation")
    add("--overwrite", action="store_true", help="replace a model file, or the checkpoint of another run, that is there")
    add("--description", help="what the images are, for people (a part of the model file)")
    return parser


def whole(text):
    """Return a whole number of at least 0."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found {text}")
    return int(text)


def positive(text):
    """Return a whole number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return int(text)


def probability(text):
    """Return a number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text}")
    return float(text)


def above_0(text):
    """Return a number above 0."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return float(text)


def error_rate(text):
    """Return a number from 0 to below 0.5."""
    if not 0 <= float(text) < 0.5:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 0.5, found {text}")
    return float(text)


@stage
def main(argv=None):
    """Train a detector."""
    args = make_parser().parse_args(argv)
    data_tree.require_folder(args.data, holding="train, validation and test")
    check_places(args)
    run(args)


if __name__ == "__main__":
    main()
