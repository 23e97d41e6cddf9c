"""Fixtures for all tests: small drawn images in class folders, and a stage run as from the shell."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def pytest_xdist_auto_num_workers(config):
    """Return the number of processes that `-n auto` starts: one per core, at most 4; none if files or folders are named."""
    if config.args_source == config.ArgsSource.ARGS:
        return 0  # a few tests: starting a worker takes longer than they do
    cores = os.cpu_count() or 1
    return min(cores, 4) if cores > 1 else 0


MARKED = {
    "trained": "slow",
    "kill_three_times": "kill",
    "browser": "browser",
    "start_members": "multiprocess",
    "tiny": "multiprocess",
}


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items):
    """Mark the tests that use one of the fixtures in MARKED."""
    for item in items:
        for fixture in MARKED.keys() & set(item.fixturenames):
            item.add_marker(MARKED[fixture])


def draw(seed, size=(32, 32), mode="RGB"):
    """Return a small picture, a different one for each seed: coarse random blocks, so that JPEG keeps them apart."""
    from PIL import Image

    blocks = Image.frombytes("RGB", (8, 8), random.Random(str(seed)).randbytes(192))
    return blocks.resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture(scope="session")
def make_tree():
    """Give make_tree(root, {"train/FAKE": 5, "train/REAL": 5}, suffix=".jpg", size=(32, 32)): draws 0.jpg … 4.jpg in each."""

    def make(root, folders, suffix=".jpg", size=(32, 32)):
        for folder, number in folders.items():
            here = Path(root) / folder
            here.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                draw(f"{folder}/{i}", size).save(here / f"{i}{suffix}")
        return Path(root)

    return make


@pytest.fixture(scope="session")
def make_files():
    """Give make_files(root, {"fake/a.jpg": "text"}): files with a JPEG header and a text, for stages that look no further."""

    def make(root, contents):
        for path, text in contents.items():
            file = Path(root) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"\xff\xd8\xff" + str(text).encode())
        return Path(root)

    return make


@pytest.fixture
def run(capsys):
    """Give run(main, *arguments) -> (exit code, stdout, stderr) as the shell would see them."""

    def call(main, *arguments):
        capsys.readouterr()
        code, said = 0, ""
        try:
            main([os.fspath(argument) if isinstance(argument, Path) else str(argument) for argument in arguments])
        except SystemExit as leave:
            code = leave.code or 0
            if isinstance(code, str):
                code, said = 1, f"{code}\n"
        out, err = capsys.readouterr()
        return code, out, err + said

    return call


# Runs a stage and kills it with SIGKILL just before its n-th change of the file system (0: never; tells the number of changes).
KILLER = """
import atexit, os, runpy, signal, sys
last, changes, writing = int(sys.argv[1]), 0, os.O_WRONLY | os.O_RDWR | os.O_CREAT
def watch(event, details):
    global changes
    if event in ("os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir") or event == "open" and details[2] & writing:
        changes += 1
        if changes == last:
            os.kill(os.getpid(), signal.SIGKILL)
atexit.register(lambda: print("changes:", changes, file=sys.stderr))
sys.addaudithook(watch)
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="session")
def kill_three_times():
    """Give kill_three_times("data_split.py", *arguments): kills the stage at three random moments, then lets it finish.

    The moments are drawn among its changes of the file system, as counted in `undisturbed`, the same command's arguments with
    another target. Returns the exit code of the last run.
    """

    def call(moment, stage, arguments):
        command = [sys.executable, "-B", "-c", KILLER, str(moment), str(ROOT / stage), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    def kill(stage, arguments, undisturbed):
        whole = call(0, stage, undisturbed)
        assert whole.returncode == 0, whole.stderr
        left = int(whole.stderr.split("changes: ")[1])
        chance = random.Random(f"{stage} {left}")
        for _ in range(3):
            moment = chance.randint(1, max(left // 2, 1))
            assert call(moment, stage, arguments).returncode == -signal.SIGKILL
            left -= moment
        return call(0, stage, arguments).returncode

    return kill


@pytest.fixture
def small_disk(tmp_path):
    """Give (folder, remount): a file system of 1 MB, and remount("size=2m") or remount("ro"); skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode == 0

    try:
        mounted = mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no small file system can be mounted here (it needs root on Linux)")
    yield folder, lambda option: mount("-o", f"remount,{option}")
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def contents():
    """Give contents(folder) -> {relative POSIX path: bytes} of every file below it, hidden ones too."""

    def read(folder):
        return {
            os.path.relpath(os.path.join(here, name), folder).replace(os.sep, "/"): Path(here, name).read_bytes()
            for here, _, names in os.walk(folder)
            for name in names
        }

    return read


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A data tree of 32 px images that a network can learn: the Real ones are noisier; one in 16 is like the other class."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("small") / "data"
    rng = np.random.default_rng(0)
    for split, number in {"train": 64, "validation": 32, "test": 32}.items():
        for name in ("Fake", "Real"):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                image = np.asarray(draw(f"{split}/{name}/{i}"), np.float32)
                image = image + rng.normal(0, 20 if (name == "Real") != (i % 16 == 7) else 2, image.shape)
                Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Return a temporary folder that all pytest-xdist workers of this run share."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def trained(small_data, shared, own_cache):
    """Train a detector on `small_data` for a few epochs; return the paths of detector.h5 and of its log folder."""
    import model_training
    from detector.model import export

    model, logs = shared / "detector.h5", shared / "training"
    with FileLock(shared / "trained.lock"):  # the first worker trains, the others wait for it
        if not (shared / "trained").exists():
            model_training.main([
                "--data", str(small_data), "--output", str(model), "--log-dir", str(logs),
                "--architecture", "compact", "--epochs", "6", "--batch-size", "16", "--stop-after-epoch", "6", "--flip",
            ])  # fmt: skip
            export.open_detector(model)  # exported here, so that no test sees its message on stderr
            (shared / "trained").touch()
    return model, logs


@pytest.fixture(autouse=True, scope="session")
def own_cache(shared):
    """Keep the exported models of the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME") if sys.platform == "darwin" else ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(shared / f"cache-{name}"))
        yield
