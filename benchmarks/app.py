"""Seconds of the first verdict, as a whole process, against Keras; images per second of a folder, against what its parts allow.

    python benchmarks/app.py cold resnet101.h5
    python benchmarks/app.py bulk models/compact.h5 data/validation

reads   detectors, a folder of images; writes nothing that stays

cold    `python app.py IMAGE --model MODEL.h5`, the model used before, against a process that loads the same .h5 with Keras and
        calls predict on the same image. Target: at least 10 times as fast. Beside them `python app.py IMAGE` with what ships in
        models/, with an empty cache: as on the very first day.
bulk    app.py over the folder into a CSV file, against 1 / (engine seconds per image + decoding seconds per image / cores): the
        engine, with images in memory, in the faster of two ways (one engine on all cores, or one for each core), decoding in one
        thread, image by image. Target: at least 0.9 of what the parts allow.

The variants run in turn, --rounds times after a warm-up; the ratio is taken within each round, so that what slows
the machine down slows all of them, and the median of the ratios counts.
"""

import contextlib
import io
import os
import statistics
import sys
import tempfile
from pathlib import Path

from measuring import ROOT, against_parts, make_parser, measure, parts

from detector.console import plural, stage, table

COLD_TARGET, BULK_TARGET = 10, 0.9
KERAS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np
from PIL import Image
model = keras.models.load_model(sys.argv[1], compile=False)
size = model.input_shape[1:3]
image = np.asarray(Image.open(sys.argv[2]).convert("RGB").resize(size, Image.Resampling.BICUBIC), np.float32)
print(model.predict(image[None], verbose=0))
"""


def draw(path, size):
    """Write a JPEG of blurred noise with the given number of pixels."""
    import numpy as np
    from PIL import Image, ImageFilter

    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)).save(path)


def cold(args):
    """Measure the first verdict; return whether the target is met."""
    from detector.model.export import open_detector

    open_detector(args.model)  # compiled, where it was not
    with tempfile.TemporaryDirectory(prefix="app-") as work:
        image = Path(work, "image.jpg")
        draw(image, args.size)
        first_day = {**os.environ, "XDG_CACHE_HOME": work, "LOCALAPPDATA": work, "HOME": work}
        commands = {
            "app.py, this model": ([sys.executable, ROOT / "app.py", image, "--model", args.model, "--force"], {}),
            "app.py, what ships": ([sys.executable, ROOT / "app.py", image, "--force"], {"env": first_day}),
            "Keras, this model": ([sys.executable, "-c", KERAS, args.model, image], {"stderr": -3}),
        }
        rounds = [{name: measure(command, **more) for name, (command, more) in commands.items()} for _ in range(args.rounds + 1)]
    rounds = rounds[1:]
    times = [{name: one[name][0] for name in commands} for one in rounds]
    rows = [[name, *(f"{one[name]:.2f}" for one in times), f"{statistics.median(one[name] for one in times):.2f}",
             f"{statistics.median(one[name][1] for one in rounds):.2f}", f"{statistics.median(one[name][2] for one in rounds):.0f}"]
            for name in commands]  # fmt: skip
    ratios = [one["Keras, this model"] / one["app.py, this model"] for one in times]
    ratio = statistics.median(ratios)
    rows.append(["times as fast as Keras", *(f"{one:.1f}" for one in ratios), f"{ratio:.1f}", "", ""])
    print(table(rows, ["seconds of the process", *(f"round {i + 1}" for i in range(args.rounds)), "median", "CPU s", "peak MB"]))
    print(f"{args.model.name}: first verdict {ratio:.1f} times as fast as Keras (target: at least {COLD_TARGET})")
    return ratio >= COLD_TARGET


def bulk(args):
    """Measure a folder; return whether the target is met."""
    import app
    from detector.inference.predictor import find_images
    from detector.model.export import open_detector

    paths = find_images([args.folder])
    with tempfile.TemporaryDirectory(prefix="app-") as work:
        command = [args.folder, "--model", args.model, "--force", "--no-provenance", "--threshold", "0.5", "--overwrite"]
        command += ["--csv", Path(work, "verdicts.csv")]

        def whole():
            with contextlib.redirect_stdout(io.StringIO()):
                app.main([*map(str, command)])

        timed = {**parts(open_detector(args.model), paths), "app.py": (whole, len(paths))}
        ratio, _ = against_parts(timed, "app.py", args.rounds)
    print(f"{plural(len(paths), 'image')}, {plural(os.cpu_count() or 1, 'core')}: {ratio:.3f} of what the parts allow ", end="")
    print(f"(target: at least {BULK_TARGET})")
    return ratio >= BULK_TARGET


@stage
def main(argv=None):
    """Run the benchmark; exit code 1 where the target is missed."""
    parser = make_parser(__doc__, rounds=(5, "after a warm-up round"))
    parser.add_argument("what", choices=("cold", "bulk"), help="the first verdict, or a folder")
    parser.add_argument("model", type=Path, help="detector (.h5)")
    parser.add_argument("folder", type=Path, nargs="?", help="bulk: folder of images")
    parser.add_argument("--size", type=int, nargs=2, default=(32, 32), metavar=("W", "H"), help="cold: of the image")
    args = parser.parse_args(argv)
    if (args.what == "bulk") != (args.folder is not None):
        parser.error("expected: cold MODEL, or bulk MODEL FOLDER")
    if not (cold if args.what == "cold" else bulk)(args):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
