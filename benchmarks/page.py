"""The page under load: many clients of the REST API at once; errors, seconds, memory of the server, and the shell's scores.

    python benchmarks/page.py data/validation
    python benchmarks/page.py web --model models/compact.h5 --requests 1000

reads   a folder of images, a detector; writes nothing that stays

app.py serves the page in its own process. Each of --clients threads sends images to /judge until --requests are
answered, with `force`, so that every score counts. After each quarter all clients wait until every request is answered, and the
server's memory is taken: while images are decoded it shows how large those are. Targets: no error; memory after the last quarter at
most 5 % above that after the first; scores within 1e-6 of those of Predictor; no upload left on the disk.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from measuring import ROOT, make_parser

from detector import files
from detector.console import InputError, plural, stage

GROWTH, TOLERANCE = 1.05, 1e-6


def start(model, folder):
    """Open the page; return (process, its address)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "BROWSER": "true", **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))}
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--model", str(model)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    if "The page is running" not in process.stdout.readline():
        raise InputError("expected the page to open, but it ended; see above")
    return process, f"http://127.0.0.1:{port}"


def ask(client, address, path):
    """Send an image to /judge; return (P(Fake) or None, message, seconds)."""
    began = time.perf_counter()
    answer = client.post(f"{address}/judge", files={"image": (path.name, path.read_bytes())}, data={"force": "true"})
    seconds = time.perf_counter() - began
    if answer.status_code != 200:
        return None, answer.text, seconds
    row = answer.json()
    return row["p_fake"], row["error"], seconds


def memory(process):
    """Return the megabytes that a process has in memory now."""
    told = subprocess.run(["ps", "-o", "rss=", "-p", str(process.pid)], capture_output=True, text=True, check=True)
    return int(told.stdout) / 1024


def load(process, address, paths, clients, requests):
    """Send the requests; return ([(path, P(Fake), message, seconds)], [memory after each quarter], wall seconds)."""
    import httpx2 as httpx

    lock, answers, quarters = threading.Lock(), [], []

    def run(turns):
        with httpx.Client(timeout=300) as client:
            while True:
                with lock:
                    turn = next(turns, None)
                if turn is None:
                    return
                path = paths[turn % len(paths)]
                answer = (path, *ask(client, address, path))
                with lock:
                    answers.append(answer)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for quarter in range(4):
            turns = iter(range(quarter * requests // 4, (quarter + 1) * requests // 4))
            list(pool.map(run, [turns] * clients))
            quarters.append(memory(process))
    return answers, quarters, time.perf_counter() - began


def largest_difference(model, answers):
    """Return how far the scores are from those of Predictor, at most, and whether the same files could be read."""
    from detector.inference import Predictor

    given = {path: p_fake for path, p_fake, _, _ in answers}
    expected = {Path(row["path"]): row["p_fake"] for row in Predictor(model).predict(list(given), force=True)}
    same = all((given[path] is None) == (expected[path] is None) for path in given)
    both = [path for path in given if given[path] is not None and expected[path] is not None]
    return max(abs(given[path] - expected[path]) for path in both), same


@stage
def main(argv=None):
    """Put the page under load and print what came of it."""
    args = make_parser(
        __doc__, "folder", model=(ROOT / "models" / "compact.h5", "the detector"), clients=(50, "clients at once"),
        requests=(2000, "requests of all clients together"),
    ).parse_args(argv)  # fmt: skip
    paths = [args.folder / path for path in islice(files.scan(args.folder), args.requests)]
    if not paths:
        raise InputError(f"{args.folder}: expected images, found none; give another folder")
    with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as folder:
        process, address = start(args.model, folder)
        try:
            before = memory(process)
            answers, quarters, wall = load(process, address, paths, args.clients, args.requests)
            left = [path for path in Path(folder).rglob("*") if path.is_file()]
        finally:
            process.kill()
            process.wait()
    difference, same = largest_difference(args.model, answers)
    refused = [message for _, p_fake, message, _ in answers if p_fake is None and "expected a" not in (message or "")]
    seconds = sorted(seconds for *_, seconds in answers)
    print(f"{plural(len(answers), 'request')} of {args.clients} clients, {len(paths):,} different images, in {wall:.1f} s: "
          f"{len(answers) / wall:.1f} a second")  # fmt: skip
    print(f"seconds a request: median {statistics.median(seconds):.2f}, slowest {seconds[-1]:.2f}")
    unread = sum(p_fake is None for _, p_fake, _, _ in answers) - len(refused)
    print(f"errors: {len(refused)} {refused[:1] or ''}; requests with an image that cannot be read: {unread}")
    print(f"memory in MB: {before:.0f} before, then after each quarter {', '.join(f'{one:.0f}' for one in quarters)}")
    print(f"largest difference from the shell's P(Fake): {difference:.1e}; uploads left: {len(left)}")
    met = not refused and same and difference <= TOLERANCE and quarters[-1] <= GROWTH * quarters[0] and not left
    print(f"targets {'met' if met else 'NOT met'}")
    return None if met else 1


if __name__ == "__main__":
    sys.exit(main())
