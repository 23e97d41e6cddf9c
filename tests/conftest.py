"""Fixtures for all tests: small drawn images in class folders, and a stage run as from the shell."""
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


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


@pytest.fixture
def start():
    """Give start("data_split.py", *arguments) -> Popen of the stage in a process of its own; it is ended with the test."""
    running = []

    def begin(stage, *arguments, **options):
        command = [sys.executable, str(ROOT / stage), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


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
