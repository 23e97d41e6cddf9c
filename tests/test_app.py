import csv
import json
import os
import socket
import subprocess
import sys
import time

import pytest

import app
from detector import model_file
from tests.conftest import ROOT, draw


@pytest.fixture
def model(trained):
    return ["--model", trained[0]]


def test_one_image_in_words(model, small_data, run, trained):
    path = small_data / "test" / "Fake" / "3.png"
    code, out, err = run(app.main, path, *model)
    assert (code, err) == (0, "")
    facts = model_file.read_facts(trained[0])
    p_fake = json.loads(run(app.main, path, *model, "--json")[1])[0]["p_fake"]
    verdict = model_file.verdict_of(p_fake, facts["thresholds"])
    first, second, last = out.splitlines()
    assert first == f"{path}: {verdict}, P(Fake) = {p_fake:.4f}"
    assert second.startswith("  Fake is said from ")
    assert last.startswith("detector: compact (detector.h5), trained on the images of data: 64 Fake and 64 Real images")


def test_verdicts_of_both_classes_point_the_right_way(model, small_data, run):
    _, out, _ = run(app.main, small_data / "test" / "Fake", small_data / "test" / "Real", *model, "--json")
    rows = json.loads(out)
    fakes = [row["p_fake"] for row in rows if "/Fake/" in row["path"].replace("\\", "/")]
    reals = [row["p_fake"] for row in rows if "/Real/" in row["path"].replace("\\", "/")]
    assert len(fakes) == len(reals) == 32
    assert sum(fakes) / 32 > 0.7 > 0.3 > sum(reals) / 32


def test_an_image_of_another_size_is_uncertain_unless_forced(model, tmp_path, run):
    path = tmp_path / "photo.jpg"
    draw(5, (640, 427)).save(path)
    code, out, _ = run(app.main, path, *model)
    assert code == 0
    assert out.splitlines()[:2] == [
        f"{path}: uncertain",
        "  it is 640 x 427 pixels; the detector has only seen images with a shorter side of 32 pixels. "
        "(With --force it is judged all the same.)",
    ]
    row = json.loads(run(app.main, path, *model, "--json")[1])[0]
    assert (row["verdict"], row["width"], row["height"]) == ("uncertain", 640, 427)
    forced = run(app.main, path, *model, "--force")[1]
    assert "P(Fake) = " in forced.splitlines()[0]
    assert forced.splitlines()[1].startswith("  Do not rely on it: it is 640 x 427 pixels;")


def test_json_of_a_folder_with_a_broken_file(model, tmp_path, run):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    draw(1).save(folder / "a.png")
    draw(2).save(folder / "deep" / "no suffix", "PNG")
    (folder / "broken.jpg").write_text("hello")
    (folder / "notes.txt").write_text("not an image, and not said to be one")
    code, out, err = run(app.main, folder, *model, "--json")
    rows = json.loads(out)
    assert [row["path"] for row in rows] == [str(folder / name) for name in ("a.png", "broken.jpg", "deep/no suffix")]
    assert [row["verdict"] is None for row in rows] == [False, True, False]
    assert rows[1]["p_fake"] is None
    assert rows[1]["error"].startswith(f"{folder / 'broken.jpg'}: expected an image (JPEG, PNG,")
    assert (code, err) == (1, "error: 1 of 3 images could not be read; the reason stands beside each\n")


def test_csv_of_many(model, small_data, tmp_path, run):
    table = tmp_path / "verdicts.csv"
    code, out, _ = run(app.main, small_data / "validation", *model, "--csv", table)
    assert (code, out) == (0, f"64 rows written to {table}\n")
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64 and {row["verdict"] for row in rows} <= {"Fake", "Real", "uncertain"}
    assert all(0 <= float(row["p_fake"]) <= 1 for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == ["verdicts.csv"]
    photo = small_data / "test" / "Real" / "0.png"
    before = photo.read_bytes()
    assert run(app.main, photo, *model, "--csv", photo) == (
        1, "", f"error: {photo}: a file is there already; give another --csv, or --overwrite\n"
    )  # fmt: skip
    assert photo.read_bytes() == before
    assert run(app.main, photo, *model, "--csv", table, "--overwrite")[0] == 0
    nowhere = tmp_path / "nowhere" / "v.csv"
    assert run(app.main, photo, *model, "--csv", nowhere)[2] == (
        f"error: {nowhere}: expected a folder to write to, found no {nowhere.parent}; make it or give another --csv\n"
    )
    assert run(app.main, *model, "--json")[0] == 2


def test_many_images_in_a_table_with_counts(model, small_data, run):
    out = run(app.main, small_data / "test", *model)[1].splitlines()
    counts = [int(part.split()[0]) for part in out[-2].split(", ")]
    assert len(out) == 66 and sum(counts) == 64


def test_bad_input_is_one_line(model, tmp_path, run):
    nothing = tmp_path / "nothing.jpg"
    assert run(app.main, nothing, *model) == (
        1, "", f"error: {nothing}: expected an image or a folder, found nothing of that name; check the path\n"
    )  # fmt: skip
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(app.main, empty, *model) == (
        1, "", f"error: {empty}: expected images, found none in the folder; give another one\n"
    )  # fmt: skip
    image = tmp_path / "image.png"
    draw(1).save(image)
    assert run(app.main, image, "--model", image) == (
        1, "", f"error: {image}: expected a model file (.h5), found another kind of file; "
               "give the .h5 that model_training.py wrote\n"
    )  # fmt: skip


def test_the_shipped_detector_judges_without_tensorflow_and_keras(tmp_path):
    draw(7).save(tmp_path / "small.png")
    program = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'h5py', 'sklearn', 'scipy', 'matplotlib'): sys.modules[name] = None\n"
        "import app; app.main([sys.argv[1], '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "small.png")], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["verdict"] in {"Fake", "Real", "uncertain"}


def test_what_ships_is_compiled_from_the_h5_beside_it():
    shipped = list(model_file.SHIPPED.glob("*.h5"))
    assert app.DEFAULT_MODEL in shipped
    for path in shipped:
        facts, flatbuffer = model_file._shipped(path)
        assert facts == model_file.read_facts(path)
        assert flatbuffer.is_file()
        assert sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*")) <= 12 * 2**20


def test_the_example_is_a_file_that_an_installed_package_brings():
    pytest.importorskip("gradio")
    from detector.pixels import image_size

    assert image_size(app.example_image()) == (256, 256)


def test_the_page_judges_as_the_shell_does(model, small_data, run):
    pytest.importorskip("gradio")
    from gradio_client import Client, handle_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), *map(str, model), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "BROWSER": "true"})
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert server.poll() is None, "the page ended by itself"
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        path = small_data / "test" / "Real" / "1.png"
        said = Client(f"http://127.0.0.1:{port}", verbose=False).predict([handle_file(str(path))], False, api_name="/judge")
    finally:
        server.kill()
        server.wait()
    assert said.splitlines()[0].startswith("1.png: ")
    shell = run(app.main, path, *model)[1]
    assert said.splitlines()[0].split(": ", 1)[1] == shell.splitlines()[0].split(": ", 1)[1]
