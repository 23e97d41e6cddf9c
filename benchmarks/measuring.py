"""What the benchmarks share: a command timed as a whole process; the parts of scoring timed each by itself."""
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor


def measure(command, may_end_with=(), **options):
    """Run a command: (wall seconds, CPU seconds, peak memory in MB of its largest process)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    _, status, usage = os.wait4(process.pid, 0)
    if status and os.waitstatus_to_exitcode(status) not in may_end_with:
        raise SystemExit(f"error: {command} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def seconds_per_image(work, images):
    """Call a function; return the seconds it took for each of so many images."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / images


def parts(detector, paths):
    """Return {name: (function, images it works on)}: the engine with images in memory, in both ways, and decoding in one thread.

    Args:
        detector: detector.model_file.Detector, for 'resize'.
        paths: of the images.
    """
    import numpy as np

    from detector import pixels

    cores = os.cpu_count() or 1
    batch = np.stack([pixels.read_fitted(path, detector.size) for path in paths[: detector.batch]])
    turns = max(1, len(paths) // len(batch) // 4 // cores)  # a quarter of the images says as much

    def engine_for_each_core():
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda _: detector.margins(batch, cores), range(cores * turns)))

    return {
        "engine on all cores": (lambda: [detector.margins(batch) for _ in range(cores * turns)], cores * turns * len(batch)),
        "engine for each core": (engine_for_each_core, cores * turns * len(batch)),
        "decoding": (lambda: [pixels.read_fitted(path, detector.size) for path in paths[::4]], len(paths[::4])),
    }


def allowed_by(times):
    """Return the seconds per image that the parts allow: of the faster way to run the engine, and of decoding on all cores."""
    engine = min(times["engine on all cores"], times["engine for each core"])
    return engine + times["decoding"] / (os.cpu_count() or 1)
