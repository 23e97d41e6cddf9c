"""Kill every data stage at random moments, run it again, and compare the tree with that of an undisturbed run.

    python benchmarks/faults.py data/raw/cifake                  twenty kills for each stage
    python benchmarks/faults.py data/raw/cifake --only split     only the rows whose name begins with the word

reads   a published data set with train and test folders; hard links to some of its files are made, it is not changed
prints  for each stage: kills, kills while files were being changed, and how many trees were the same as undisturbed

Exit code 1 if trees differ, or if fewer kills than requested hit a stage before its end.
Each trial starts from fresh inputs. SIGKILL goes to the stage's own process, at a moment drawn uniformly from the time of an
undisturbed run, in every other trial from the time after its first change; then the same command runs to its end. Compared is
everything below the folder: names, bytes and what is left of the inputs.
"""

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from measuring import ROOT, WORK, make_parser

TRANSFERS = ("hardlink", "copy", "move")
RUNS = 3  # undisturbed; their median is how long a stage takes
TRIALS = 10  # for each kill; some hit after the end


@dataclass
class Case:
    """One row: the inputs that a trial starts from (names of the stock), and the command, in which {0} is the trial's folder."""

    name: str
    inputs: tuple
    command: str
    deletes: str = ""  # what the command removes: if it is gone, there is nothing to run again


MERGE = "data_merger.py {0}/more --into {0}/tree --on-conflict skip"  # in CIFAKE, train twins of the other part's test
CASES = [
    Case("unzip", ("set.zip",), "data_unzipper.py {0}/set.zip --to {0}/raw"),
    Case("zip", ("set",), "data_zipper.py {0}/set {0}/packed.zip --overwrite"),
    *(Case(f"split, {t}", ("set", "data"), f"data_split.py {{0}}/set --data {{0}}/data --transfer {t}") for t in TRANSFERS),
    *(Case(f"merge, {t}", ("tree", "more"), f"{MERGE} --transfer {t}") for t in TRANSFERS),
    Case("augmentation", ("tree",), "data_augmentation.py --data {0}/tree --images 60"),
    Case("delete", ("tree", "more"), "data_deleter.py {0}/tree --yes", deletes="tree"),
    Case("delete, augmented", ("augmented",), "data_deleter.py {0}/augmented --augmented --yes"),
]


def start(command, *folders):
    """Start a stage, with the folders for {0}, {1} …"""
    stage, *arguments = (part.format(*folders) for part in command.split())
    command = [sys.executable, ROOT / stage, *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(command, *folders):
    """Run a stage to its end; return the seconds it took."""
    began = time.perf_counter()
    process = start(command, *folders)
    _, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"error: {command}: {error.strip()}")
    return time.perf_counter() - began


def make_stock(source, stock, images):
    """Make the inputs of all trials: a published set, its zip, two split trees, one of them augmented."""
    for folder in sorted(folder for folder in source.glob("*/*") if folder.is_dir()):
        names = sorted(os.listdir(folder))
        for part, chosen in (("set", names[: images // 4]), ("other", names[-images // 8 :])):
            there = stock / part / folder.relative_to(source)
            there.mkdir(parents=True)
            for name in chosen:
                os.link(folder / name, there / name)
    (stock / "data").mkdir()  # empty, so that making it does not count as the first change
    with zipfile.ZipFile(stock / "set.zip", "w") as archive:
        for path in sorted((stock / "set").rglob("*.*")):
            archive.write(path, path.relative_to(stock))
    for part, tree in (("set", "tree"), ("other", "more"), ("set", "augmented")):
        finish("data_split.py {0} --data {1}", stock / part, stock / tree)
    finish("data_augmentation.py --data {0} --images 60", stock / "augmented")


def fresh(stock, here, case):
    """Make the inputs of a trial by hard link."""
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    for name in case.inputs:
        if (stock / name).is_dir():
            shutil.copytree(stock / name, here / name, copy_function=os.link)
        else:
            os.link(stock / name, here / name)


def digest(folder):
    """Return one SHA-256 of all names and bytes below a folder."""
    whole = hashlib.sha256()
    for here, folders, names in os.walk(folder):
        folders.sort()
        whole.update(f"{here[len(str(folder)) :]}/\n".encode())
        for name in sorted(names):
            whole.update(f"{name} {hashlib.sha256(Path(here, name).read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def state(here):
    """Return the modification times of the folder and of the folders in two levels below it."""
    folders = [here, *(path for depth in ("*", "*/*") for path in here.glob(depth) if path.is_dir())]
    return [(folder, folder.stat().st_mtime_ns) for folder in folders if folder.exists()]


def wait_for_change(process, here):
    """Wait until the process has changed something, or has ended; return the seconds that took."""
    began, before = time.perf_counter(), state(here)
    while process.poll() is None:
        try:
            if state(here) != before:
                break
        except FileNotFoundError:  # a folder was removed meanwhile
            break
    return time.perf_counter() - began


def trial(case, here, stock, moment, changing, before, wanted):
    """Kill once, run again: (killed, killed between changes, same tree as undisturbed).

    The moment counts from the start or, if `changing`, from the first change.
    """
    fresh(stock, here, case)
    process = start(case.command, here)
    if changing:
        wait_for_change(process, here)
    try:
        process.communicate(timeout=moment)
        killed = False
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        killed = process.returncode != 0
    midst = killed and digest(here) not in (before, wanted)
    if not case.deletes or (here / case.deletes).exists():
        finish(case.command, here)
    return killed, midst, digest(here) == wanted


def run_undisturbed(case, here, stock):
    """Run once to the end: (seconds, seconds until the first change, digest before, digest after)."""
    fresh(stock, here, case)
    before, began = digest(here), time.perf_counter()
    process = start(case.command, here)
    until_change = wait_for_change(process, here)
    _, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"error: {case.command}: {error.strip()}")
    return time.perf_counter() - began, until_change, before, digest(here)


def kill_until(kills, spans, chance, once):
    """Call once(moment, changing) until `kills` of the trials hit before the end; return a list of what it returned.

    Moments are drawn uniformly from spans[0], in every other trial, with `changing`, from spans[1]. A miss means that the stage is
    faster now than when it was measured, so the span is shortened. Gives up after TRIALS for each kill.
    """
    done, spans = [], list(spans)
    while sum(killed for killed, *_ in done) < kills and len(done) < TRIALS * kills:
        changing = len(done) % 2 == 1
        done.append(once(chance.uniform(0, spans[changing]), changing))
        if not done[-1][0]:
            spans[changing] *= 0.9
    return done


def run_case(case, work, stock, kills, chance):
    """Measure undisturbed runs, then kill; print the row and return what is wrong with it, a list of sentences."""
    here = work / "here"  # one folder for all, as a stage may write its path
    seconds, until_change, before, wanted = sorted(run_undisturbed(case, here, stock) for _ in range(RUNS))[RUNS // 2]

    def once(moment, changing):
        return trial(case, here, stock, moment, changing, before, wanted)

    done = kill_until(kills, (seconds, seconds - until_change), chance, once)
    killed, midst, same = (sum(column) for column in zip(*done, strict=True))
    print(f"{case.name:18} {seconds:7.2f} {killed:6} {midst:6} {same:6} of {len(done)}", flush=True)
    few = [f"{case.name}: {killed} of {kills} kills hit before its end"] if killed < kills else []
    return few + ([f"{case.name}: {len(done) - same} of {len(done)} trees differ"] if same < len(done) else [])


def main(argv=None):
    """Run the table."""
    args = make_parser(
        __doc__, "source", work=WORK, kills=(20, "for each stage"), images=(4000, "of the source to work with"),
        seed=(0, "of the moments"), only=("", "only the rows whose name begins with this"),
    ).parse_args(argv)  # fmt: skip
    source = args.source.resolve()
    chance, wrong = random.Random(args.seed), []
    with tempfile.TemporaryDirectory(dir=args.work or source.parent, prefix="faults-") as work:
        stock = Path(work) / "stock"
        make_stock(source, stock, args.images)
        print(f"{'':18} {'seconds':>7} {'kills':>6} {'midst':>6} {'same':>6}")
        for case in CASES:
            if case.name.startswith(args.only):
                wrong += run_case(case, Path(work), stock, args.kills, chance)
    if wrong:
        raise SystemExit(f"error: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
