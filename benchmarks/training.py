"""Images per second of training from a data tree with degradation, compared with the same step on one constant batch.

    python benchmarks/training.py data                                                compact, 32 px
    python benchmarks/training.py photos --architecture mobilenetv2 --batch-size 16   224 px
    python benchmarks/training.py data --starts                                       start and memory of whole runs

reads   a data tree; keeps decoded images in its .decoded/, as training does; writes nothing else that stays

The constant batch is in memory and is passed as tf.data and as a PyDataset; the faster one counts. The original project's
ImageDataGenerator.flow_from_directory, in batches of 16 without augmentation, is measured too. All sources train the same network
in turn, with the same number of images per round. The best rounds, which are disturbed least, and the medians are compared.
Target: at least 0.95 of the constant batch.

On a busy machine, rounds differ more than the sources do. Therefore the CPU time of a step and of preparing its batch are measured
separately, too: the step's fraction of both is the efficiency when all cores are busy.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from measuring import ROOT, make_parser, measure

import model_training
from detector.console import plural, stage, table
from detector.model import backend
from detector.training import distributed
from detector.training.config import parse
from detector.training.networks import compile_network
from detector.training.schedules import plan_phases

TARGET = 0.95
ORIGINAL_BATCH = 16


def prepare(args):
    """Return (compiled model, train batches, input size) as in model_training.py, with every degradation."""
    command = ["--data", str(args.data), "--architecture", args.architecture, "--weights", "none", "--flip", "--degradation", "0.5"]
    command += ["--batch-size", str(args.batch_size), *args.more]
    group = distributed.ProcessGroup()
    config = parse(command)
    backend.import_keras()
    config, _, model, batches, _ = model_training.prepare(config, group, distributed.Devices(group, 1))
    compile_network(model, plan_phases(config)[0], config, batches.steps)
    return model, batches, config.image_size


def sources(batches, args, size):
    """Return {name: (function that returns the input of `fit`, images per step)}."""
    import keras
    import tensorflow as tf
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    batch = tuple(tf.constant(part) for part in batches[0])

    class Constant(keras.utils.PyDataset):
        def __len__(self):
            return batches.steps

        def __getitem__(self, index):
            return batch

    def original():
        kind = "categorical" if batches.output == "softmax" else "binary"
        given = {"target_size": (size, size), "classes": ["Fake", "Real"], "class_mode": kind, "batch_size": ORIGINAL_BATCH}
        return ImageDataGenerator().flow_from_directory(str(args.data / "train"), **given)

    return {
        "constant batch, tf.data": (lambda: tf.data.Dataset.from_tensors(batch).repeat(), len(batch[0])),
        "constant batch, PyDataset": (Constant, len(batch[0])),
        "data tree": (lambda: batches, len(batch[0])),
        "ImageDataGenerator, batches of 16": (original, ORIGINAL_BATCH),
    }


def compare(model, found, images, rounds):
    """Train on `images` images of each source in turn; return {name: [images per second]}. The first round is a warm-up."""
    rates = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, (source, batch) in found.items():
            steps = -(-images // batch)
            data = source()
            began = time.perf_counter()
            model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False)
            if turn:
                rates[name].append(steps * batch / (time.perf_counter() - began))
    return rates


def cpu_time(model, batches, images):
    """Return the CPU time per image, in seconds of all threads, of (a step on a constant batch, preparing a batch)."""
    batch = batches[0]
    model.train_on_batch(*batch)
    steps = -(-images // len(batch[0]))
    began = time.process_time()
    for _ in range(steps):
        model.train_on_batch(*batch)
    stepped = time.process_time()
    prepared = sum(len(batches[index % batches.steps][0]) for index in range(steps))
    return (stepped - began) / (steps * len(batch[0])), (time.process_time() - stepped) / prepared


def starts(args):
    """Run model_training.py --epochs 0 without and with a cache of decoded images; print seconds and peak memory."""
    shutil.rmtree(args.data / ".decoded", ignore_errors=True)
    for name in ("first", "second"):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, ROOT / "model_training.py", "--data", args.data, "--architecture", args.architecture]
            command += ["--weights", "none", "--epochs", str(args.epochs), "--output", Path(folder, "d.h5"), "--log-dir", folder]
            seconds, _, peak = measure(command)
        print(f"{name} run, {plural(args.epochs, 'epoch')}: {seconds:.1f} s, peak memory {peak / 1024:.2f} GiB")


@stage
def main(argv=None):
    """Run the benchmark."""
    args, args.more = make_parser(
        __doc__, "data", architecture=("compact", "network to train"), batch_size=(128, "of all sources but ImageDataGenerator"),
        images=(3840, "of each source and round"), rounds=(9, "number of rounds after the warm-up"),
        starts=(False, "time the start of whole runs instead, and their peak memory"), epochs=(0, "of those"),
    ).parse_known_args(argv)  # fmt: skip
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if args.starts:
        return starts(args)
    model, batches, size = prepare(args)
    rates = compare(model, sources(batches, args, size), args.images, args.rounds)
    shown = {name: [*some, statistics.median(some), max(some)] for name, some in rates.items()}
    rows = [[name, *(f"{rate:.4g}" for rate in some)] for name, some in shown.items()]
    print(table(rows, ["images per second", *(f"round {i + 1}" for i in range(args.rounds)), "median", "best"]))
    for what, place in (("best rounds", -1), ("medians", -2)):
        *constant, tree, original = (some[place] for some in shown.values())
        print(f"{what}: data tree / constant batch {tree / max(constant):.3f} (target: at least {TARGET}), ", end="")
        print(f"data tree / ImageDataGenerator {tree / original:.2f}")
    step, batch = cpu_time(model, batches, args.images)
    efficiency = step / (step + batch)
    print(f"CPU time per image: step {step * 1e6:,.0f} µs, batch {batch * 1e6:,.0f} µs; the step's fraction {efficiency:.3f}")


if __name__ == "__main__":
    main()
