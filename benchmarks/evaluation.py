"""Images per second of scoring, compared with its parts and with Keras on a folder; peak memory of the whole stage.

    python benchmarks/evaluation.py models/compact.h5 data --split validation

Reads a detector and a data tree; keeps no output.

The parts set an upper limit of 1 / (engine seconds per image + decoding seconds per image / cores). The engine has its images in
memory and runs in the faster of two ways (one engine on all cores, or one per core); decoding is timed in one thread.
`model.predict` on `keras.utils.image_dataset_from_directory` runs with the same batch size. All of them take turns in one process,
--rounds times after a warm-up round. The ratio is computed within each round, so that a slow phase of the machine affects all
parts alike; the median is reported. Target: at least 0.9 of the limit.
"""

import os
import statistics
from pathlib import Path

from measuring import against_parts, make_parser, parts

import evaluate
from detector.console import plural, stage
from detector.evaluation.dataset import list_items

TARGET = 0.9


def timed_functions(args, items):
    """Return {name: (function, number of images it processes)}."""
    from detector.model import export
    from detector.model import file as model_file

    detector = export.open_detector(args.model)
    paths = [os.path.join(args.data, item.path) for item in items]
    model, metadata = model_file.load(args.model)
    batches = -(-len(items) // detector.batch)
    dataset = folder_dataset(Path(args.data, args.split), metadata["image_size"], detector.batch).take(batches)
    return {
        **parts(detector, paths),
        "scoring": (lambda: evaluate.score_items(detector, args.data, items), len(items)),
        "predict over a folder": (lambda: model.predict(dataset, verbose=0), len(items)),
    }


def folder_dataset(folder, size, batch):
    """Return Keras's own dataset of a split."""
    import contextlib
    import io

    from detector.model.backend import import_keras

    with contextlib.redirect_stdout(io.StringIO()):
        return import_keras().utils.image_dataset_from_directory(
            str(folder), batch_size=batch, image_size=(size, size), class_names=["Fake", "Real"], shuffle=True, seed=0
        )


def spread(items, number):
    """Return about `number` items, evenly spread over the list, so that both classes occur."""
    return items[:: max(1, len(items) // number)]


@stage
def main(argv=None):
    """Run the benchmark; exit code 1 if the target is missed."""
    args = make_parser(
        __doc__, "model", "data", split=("validation", "split to use"), images=(20_000, "maximum number of images"),
        rounds=(5, "number of rounds after the warm-up"),
    ).parse_args(argv)  # fmt: skip
    items = list_items(args.data, [args.split])[0][args.split]
    items = spread(items, args.images)[: args.images]
    timed = timed_functions(args, items)
    ratio, rounds = against_parts(timed, "scoring", args.rounds)
    faster = statistics.median(one["predict over a folder"] / one["scoring"] for one in rounds)
    print(f"{plural(len(items), 'image')}, {plural(os.cpu_count() or 1, 'core')}: {ratio:.3f} of what the parts allow ", end="")
    print(f"(target: at least {TARGET}), {faster:.2f} times as fast as predict over a folder")
    if ratio < TARGET:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
