"""The commands of README and docs, word for word and in order, on archives of a few drawn images in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
FAILS = "# exit 1"  # marks a command that exits with a finding


def commands(page, heading):
    """The lines of the shell blocks below a heading of a page."""
    section = (ROOT / page).read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("python ")]


@pytest.fixture(scope="module")
def project(tmp_path_factory, make_tree):
    """A copy of the scripts, with archives that have the layouts of the published ones."""
    folder = tmp_path_factory.mktemp("project")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    for name in ("detector", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    cifake = make_tree(folder / "a", {"train/FAKE": 30, "train/REAL": 30, "test/FAKE": 10, "test/REAL": 10})
    shutil.copy(cifake / "test/FAKE/0.jpg", cifake / "train/FAKE/0.jpg")  # a twin, as CIFAKE has 378
    with tarfile.open(folder / "cifake.tar.xz", "w:xz") as archive:
        for name in ("train", "test"):
            archive.add(cifake / name, name)
    for archive, fake, real in (("photos", "fake_images", "real_images"), ("web", "ai", "real")):
        tree = make_tree(folder / "a" / archive, {f"{archive}/{fake}": 20, f"{archive}/{real}": 20}, size=(48, 48))
        with zipfile.ZipFile(folder / f"{archive}.zip", "w") as packed:
            for path in sorted(tree.rglob("*.jpg")):
                packed.write(path, path.relative_to(tree / archive))
    shutil.rmtree(folder / "a")
    return folder


def shell(command, folder):
    environment = {**os.environ, "PYTHONUTF8": "1"}
    argv = [sys.executable, *command.split("#")[0].split()[1:]]
    argv = [re.sub(r'^"|"$', "", word) for word in argv]
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_pipeline_and_the_seed_recipe(project, trained):
    page = "docs/pipeline.md"
    lines = commands(page, "The pipeline") + commands(page, "Several data sets in one tree")
    assert len(lines) >= 12
    for line in lines:
        line = re.sub(r"--epochs \d+", "--epochs 1", line).replace("--images 200", "--images 20")
        done = shell(line, project)
        assert done.returncode == (1 if FAILS in line else 0), f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, line
    assert (project / "detector.h5").is_file()
    assert sorted(path.name for path in (project / "data/left_out/twin_of_test/Fake").iterdir()) == ["0.jpg"]


def test_every_script_is_named_and_every_link_leads_somewhere():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    for path in ROOT.glob("*.py"):
        assert f"`{path.name}`" in text, path.name
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "models").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_two_commands_are_those_of_the_quick_start():
    text = (ROOT / "README.md").read_text("utf-8").split("\n## Quick start\n")[1].split("\n## ")[0]
    assert "pip install -r requirements-app.txt && python app.py --example\n" in text
    assert "pip install -r requirements-dev.txt && python -m pytest\n" in text
    assert "pip install -r requirements-dev.txt && python -m pytest\n" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_stage_answers_help_without_tensorflow(tmp_path):
    for path in sorted(ROOT.glob("*.py")):
        blocked = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None"
        program = f"{blocked}; import {path.stem} as stage; stage.main(['--help'])"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("usage: "), f"{path.name}\n{done.stderr}"
