"""Functions shared by the benchmarks: the command line, the time of a process, and the times of the parts of scoring."""

import argparse
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # of a script, only its own folder is there
WORK = (None, "folder on the same disk to work in (default: the source's parent)")  # an option
POSITIONAL = {
    "model": "detector (.h5)",
    "data": "data tree",
    "folder": "folder of images; only read",
    "source": "unpacked data set with train and test; only read",
    "archive": "CIFAKE as a tar",
}


def make_parser(description, *names, **options):
    """Return the command line of a benchmark; --help shows the description unchanged, and all defaults.

    Args:
        description: docstring of the benchmark.
        names: paths that must be given, keys of POSITIONAL.
        options: {name: (default, help)}; a default of False makes a flag, None a path that need not be given.
    """
    from detector.console import HelpFormatter

    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    for name in names:
        parser.add_argument(name, type=Path, help=POSITIONAL[name])
    for name, (default, text) in options.items():
        kind = {"action": "store_true"} if default is False else {"type": Path if default is None else type(default)}
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, help=text, **kind)
    return parser


def measure(command, may_end_with=(), **options):
    """Run a command: (wall seconds, CPU seconds, peak memory in MB of its largest process)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    _, status, usage = os.wait4(process.pid, 0)
    if status and os.waitstatus_to_exitcode(status) not in may_end_with:
        raise SystemExit(f"error: {command} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _seconds_per_image(work, images):
    """Call a function; return its time in seconds, divided by the number of images."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / images


def parts(detector, paths):
    """Return {name: (function, number of images)}: the engine with images in memory, in both ways, and decoding in one thread.

    Args:
        detector: detector.model.runtime.Detector whose preprocessing is 'resize'.
        paths: list of image files.
    """
    import numpy as np

    from detector.images import pixels

    cores = os.cpu_count() or 1
    batch = np.stack([pixels.read_resized(path, detector.metadata["image_size"]) for path in paths[: detector.batch]])
    turns = max(1, len(paths) // len(batch) // 4 // cores)  # a quarter of the images is enough

    def engine_for_each_core():
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda _: detector.logits(batch, cores), range(cores * turns)))

    return {
        "engine on all cores": (lambda: [detector.logits(batch) for _ in range(cores * turns)], cores * turns * len(batch)),
        "engine for each core": (engine_for_each_core, cores * turns * len(batch)),
        "decoding": (lambda: [pixels.read_resized(path, detector.metadata["image_size"]) for path in paths[::4]], len(paths[::4])),
    }


def against_parts(timed, whole, number):
    """Run the functions in turn, `number` rounds after a warm-up round, and print the table.

    Args:
        timed: {name: (function, number of images)}: `parts`, and others.
        whole: name of the function that is compared with the parts.

    Returns:
        (median over the rounds of the fraction of the limit that the parts set, [{name: seconds per image} of each round])
    """
    from detector.console import table

    rounds = [{name: _seconds_per_image(*way) for name, way in timed.items()} for _ in range(number + 1)][1:]
    ratios = [_allowed_by(one) / one[whole] for one in rounds]
    ratio, rows = statistics.median(ratios), []
    for name in timed:
        times = [one[name] for one in rounds]
        middle = statistics.median(times)
        rows.append([name, *(f"{seconds * 1e6:.0f}" for seconds in times), f"{middle * 1e6:.0f}", f"{1 / middle:,.0f}"])
    rows.append(["fraction of the limit", *(f"{one:.3f}" for one in ratios), f"{ratio:.3f}", ""])
    print(table(rows, ["microseconds per image", *(f"round {i + 1}" for i in range(number)), "median", "images per second"]))
    return ratio, rounds


def _allowed_by(times):
    """Return the lower limit of seconds per image: the faster way to run the engine, and decoding on all cores."""
    engine = min(times["engine on all cores"], times["engine for each core"])
    return engine + times["decoding"] / (os.cpu_count() or 1)
