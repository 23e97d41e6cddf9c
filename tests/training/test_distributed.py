import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import model_training
from detector.console import InputError
from detector.model import file as model_file
from detector.training.distributed import AGAIN, Place, Team, check_backend, place_of
from tests.conftest import ROOT

HERE = "127.0.0.1:7000"
SLURM = {"SLURM_JOB_ID": "4097", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "gpu[007-009,012],big1"}
KERAS = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": "train-0.train:6000", "KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}


# --- who and where ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given, environ, place", [
    ((None, None, None), {}, None),
    ((HERE, 1, 0), {}, None),
    ((HERE, 2, 1), {}, Place(HERE, 2, 1)),
    ((None, None, None), SLURM, Place("gpu007:61441", 3, 2)),
    ((None, None, None), {**SLURM, "SLURM_STEP_NODELIST": "a1,b2"}, Place("a1:61441", 3, 2)),
    ((None, None, None), {**SLURM, "SLURM_STEP_NODELIST": "r[1-2]n[3-4]"}, Place("r1n3:61441", 3, 2)),
    ((None, None, None), {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),  # srun --pty bash
    ((None, None, None), {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "a"}, None),
    (("b:1", None, None), SLURM, Place("b:1", 3, 2)),
    ((None, 1, None), SLURM, None),
    ((None, None, None), {**KERAS, "JOB_COMPLETION_INDEX": "1"}, Place("train-0.train:6000", 2, 1)),
    ((None, None, None), {**KERAS, "KERAS_DISTRIBUTION_PROCESS_ID": "0", "JOB_COMPLETION_INDEX": "1"},
     Place("train-0.train:6000", 2, 0)),
    ((None, None, None), {"JOB_COMPLETION_INDEX": "1"}, None),  # an indexed job that is not of several processes
    ((None, None, 0), {**KERAS, **SLURM}, Place("train-0.train:6000", 2, 0)),
])  # fmt: skip
def test_arguments_come_before_the_variables_of_a_cluster(given, environ, place):
    assert place_of(*given, environ) == place


@pytest.mark.parametrize("given, said", [
    ((HERE, None, 1), "several processes: expected --coordinator, --processes and --process-id (or the variables of a cluster), "
                      f"found {HERE}, None and 1; give all three"),
    (("node1", 2, 1), "--coordinator node1: expected HOST:PORT of process 0, such as node1:6000"),
    ((HERE, 2, 2), "--process-id 2: expected a number from 0 to 1, since --processes is 2"),
])  # fmt: skip
def test_a_place_that_makes_no_sense_is_one_line(given, said):
    with pytest.raises(InputError) as error:
        place_of(*given, {})
    assert str(error.value) == said


def test_processes_on_tensorflow_are_told_what_to_use(tmp_path, run, small_data):
    places = ["--data", small_data, "--output", tmp_path / "d.h5", "--log-dir", tmp_path / "log", "--architecture", "compact"]
    assert run(model_training.main, *places, "--coordinator", HERE, "--processes", "2", "--process-id", "1") == (
        1, "", "error: 2 processes: expected the backend jax, found tensorflow, whose MultiWorkerMirroredStrategy fails "
               "under Keras 3 (keras issue 20585); set KERAS_BACKEND=jax for every process\n"
    )  # fmt: skip
    check_backend(None, "tensorflow")


# --- the processes, without JAX --------------------------------------------------------------------------------------------

MEMBER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background, it would be ignored
from detector.training import distributed
distributed.PING, distributed.SILENCE, distributed.GRACE = 0.2, 2, 0.5
distributed._start_jax = lambda place, port: None
port, processes, process, doing = sys.argv[1:]
from detector.console import InputError, stage
@stage
def main(argv):
    with distributed.Team(distributed.Place("127.0.0.1:" + port, int(processes), int(process))) as team:
        team.meet({"--epochs": 7 if doing == "other" else 5}, 1.5 if doing == "impatient" else 60)
        print(team.gather([team.process] * 2), flush=True)
        team.agree("the images", "others" if doing == "images" else "those", "give every process the same --data")
        if doing == "fails":
            raise InputError("no room")
        if doing == "breaks":
            raise ValueError("all-reduce failed")
        if doing == "waits":
            time.sleep(60)
        if doing == "last":
            time.sleep(1)
            print("written", flush=True)
    print("left", flush=True)
main()
"""


@pytest.fixture
def members():
    """Give members("waits", "fails", ...): starts a process for each, and returns them; all are ended at the end."""
    started, port = [], free_port()

    def start(*doing, of=None):
        for process, what in enumerate(doing):
            if what:
                command = [sys.executable, "-c", MEMBER, str(port), str(of or len(doing)), str(process), what]
                started.append(subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started

    yield start
    for one in started:
        one.kill()
        one.communicate()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def ends(processes):
    """Wait for processes: [(exit code, stdout, stderr)]."""
    said = [process.communicate(timeout=60) for process in processes]
    return [(process.returncode, *of) for process, of in zip(processes, said, strict=True)]


def test_they_exchange_values_and_leave_together(members):
    met = "[[0, 0], [1, 1], [2, 2]]\n"
    assert ends(members("last", "plain", "plain")) == [(0, f"{met}written\nleft\n", "")] + 2 * [(0, f"{met}left\n", "")]


def test_one_that_never_comes_is_named(members):
    said = "error: process 2 of 4 did not come within 2 s; start all of them\n"
    started = members("impatient", "plain", None, "plain")
    assert ends(started) == 3 * [(1, "", said)]


def test_a_first_one_that_never_comes_is_told(members):
    (code, _, err), = ends(members(None, "impatient"))
    assert code == 1
    assert re.fullmatch(r"error: process 0 of 2 did not come within 2 s: nothing answers at 127\.0\.0\.1:\d+ "
                        r"\(Connection refused\); start it, or check --coordinator\n", err)  # fmt: skip


def test_other_arguments_are_refused(members):
    said = "process 1: expected --epochs 5 as process 0, found --epochs 7; "
    said += "start all with the same command, each with its --process-id"
    assert ends(members("plain", "other")) == 2 * [(1, "", f"error: {said}\n")]


def test_other_images_are_told_by_all(members):
    said = "error: process 1: expected the images of process 0, found another; give every process the same --data\n"
    assert [(code, err) for code, _, err in ends(members("plain", "images", "plain"))] == 3 * [(1, said)]


@pytest.mark.parametrize("dies", [0, 1])
@pytest.mark.parametrize("by, told", [("SIGKILL", "has died"), ("SIGSTOP", "has given no sign of life for 2 s")])
def test_one_that_dies_ends_the_others(dies, by, told, members):
    started = members("waits", "waits", "waits")
    for process in started:
        process.stdout.readline()
    began = time.monotonic()
    os.kill(started[dies].pid, getattr(signal, by))
    others = [process for process in started if process is not started[dies]]
    assert [(code, err) for code, _, err in ends(others)] == 2 * [(1, f"error: process {dies} {told}; {AGAIN}\n")]
    assert time.monotonic() - began < 30


def test_one_that_fails_says_why_to_all(members):
    ended = [(code, err) for code, _, err in ends(members("waits", "fails", "waits"))]
    of_another = (1, f"error: process 1 ended: no room; {AGAIN}\n")
    assert ended == [of_another, (1, "error: no room\n"), of_another]


@pytest.mark.parametrize("interrupted", [[0], [2], [0, 1, 2]])
def test_ctrl_c_is_one_line_in_each(interrupted, members):
    started = members("waits", "waits", "waits")
    for process in started:
        process.stdout.readline()
    for process in interrupted:
        started[process].send_signal(signal.SIGINT)
    of_another = (1, f"error: process {interrupted[0]} ended: interrupted; {AGAIN}\n")
    own = (1, "error: interrupted; run the same command again to finish it\n")
    ended = [(code, err) for code, _, err in ends(started)]
    assert ended == [own if process in interrupted else of_another for process in range(3)]


def test_what_another_breaks_off_is_told_as_that(members):
    ended = [(code, err) for code, _, err in ends(members("fails", "breaks"))]
    assert ended == [(1, "error: no room\n"), (1, f"error: process 0 ended: no room; {AGAIN}\n")]


def test_a_stranger_is_not_taken_for_a_process(members):
    started = members("plain", None, of=2)
    port = int(started[0].args[3])
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'["hello", {"process": "x"}]\n'):
        while True:
            try:
                stranger = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        stranger.sendall(said)
        stranger.close()
    members(None, "plain")
    assert [code for code, _, _ in ends(started)] == [0, 0]


def test_alone_nothing_is_waited_for():
    with Team() as team:
        team.meet({}, 0)
        assert team.gather(3) == [3] and team.first_then_all(lambda: 4) == 4
        team.agree("the images", 1, "")


# --- training --------------------------------------------------------------------------------------------------------------

# Runs model_training.py and notes what the processes agreed on. Each counts as long as it takes: machines of tests are busy.
NOTING = """
import sys
from pathlib import Path
import model_training
from detector.training import distributed
agree = distributed.Team.agree
def noting(team, what, value, cure):
    with open(Path(sys.argv[1], f"agreed-{team.process}"), "a") as file:
        print(what, value, sep=": ", file=file)
    agree(team, what, value, cure)
distributed.Team.agree = noting
model_training.main(sys.argv[2:])
"""
MORE = [
    "--architecture", "compact", "--image-size", "8", "--batch-size", "8", "--epochs", "2", "--stop-rule", "never",
    "--learning-rate", "3e-4",
]  # fmt: skip
# A float32 has 24 bits. The devices' sums are added up in another order than that of one device, and differ in the last of them;
# Adam divides a gradient by its own size, so that where it is all but 0 a weight may take its whole step to the other side, and
# from step to step that grows: with ten times this learning rate, two processes were seen to differ from one by 7e-5 of the loss
# after five steps and by 1e-3 after ten.
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A data tree of 8 px images, 40 for training, and 18 for validation: four devices cannot share them evenly."""
    root = tmp_path_factory.mktemp("tiny") / "data"
    rng = np.random.default_rng(0)
    for split, numbers in {"train": (24, 16), "validation": (11, 7)}.items():
        for name, number in zip(("Fake", "Real"), numbers, strict=True):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                image = rng.integers(60, 190, (1, 1, 3)) + rng.normal(0, 20 if (name == "Real") != (i % 5 == 3) else 6, (8, 8, 3))
                Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def start(data, folder, processes, *more, backend="jax", devices=1):
    """Start a run as so many processes, on CPUs; return them."""
    folder.mkdir(exist_ok=True)
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} if devices > 1 else {}
    environ = {**os.environ, "KERAS_BACKEND": backend, "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": "", **flags}
    environ["http_proxy"] = "http://127.0.0.1:9"  # as clusters have one: JAX is not to ask there for process 0
    # most of a run this small is compiling, of the same program each time
    environ["JAX_COMPILATION_CACHE_DIR"] = str(data.parent / "compiled")
    environ["JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-c", NOTING, str(folder), "--data", str(data), "--output", str(folder / "d.h5")]
    command += ["--log-dir", str(folder / "log"), *MORE, *more]
    place = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(processes)] if processes > 1 else []
    started = []
    for process in range(processes):
        own = [*place, "--process-id", str(process)] if place else []
        with open(folder / f"out-{process}", "w") as out, open(folder / f"err-{process}", "w") as err:
            started.append(subprocess.Popen([*command, *own], cwd=ROOT, env=environ, stdout=out, stderr=err))
    return started


def train(*given, **options):
    """Run to the end, with success; return the folder."""
    folder = given[1]
    codes = [process.wait(timeout=600) for process in start(*given, **options)]
    assert not any(codes), "".join(path.read_text() for path in folder.glob("err-*"))
    return folder


def history(folder):
    with (folder / "log" / "history.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def agreed(folder, process):
    """Return the digests of the weights after each epoch, as a process gave them."""
    lines = (folder / f"agreed-{process}").read_text().splitlines()
    return [line for line in lines if line.startswith("the weights after epoch")]


@pytest.fixture(scope="module")
def by_one(tiny, tmp_path_factory):
    return train(tiny, tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def by_two(tiny, tmp_path_factory):
    return train(tiny, tmp_path_factory.mktemp("two"), 2, "--checkpoint-minutes", "1e-9")


def same_curve(folder, other):
    one, another = history(folder), history(other)
    assert [list(row) for row in one] == [list(row) for row in another]
    for row, its in zip(one, another, strict=True):
        for name in ("loss", "cross_entropy", "val_loss", "val_cross_entropy"):
            assert row[name] == pytest.approx(its[name], rel=TOLERANCE), name
        for name in ("accuracy", "val_accuracy", "recall", "val_recall"):  # of 40 images, and of 18: one may fall to the other side
            assert row[name] == pytest.approx(its[name], abs=1 / 18 + 1e-6), name


def test_two_processes_train_as_one(by_one, by_two):
    same_curve(by_two, by_one)


def test_four_processes_train_as_one_on_rows_that_do_not_divide(by_one, tiny, tmp_path):
    four = train(tiny, tmp_path / "four", 4)
    same_curve(four, by_one)
    assert len(agreed(four, 0)) == 2 and all(agreed(four, process) == agreed(four, 0) for process in range(4))


def test_two_devices_of_one_process_train_as_one(by_one, tiny, tmp_path):
    two = train(tiny, tmp_path / "devices", 1, devices=2)
    assert (two / "out-0").read_text().startswith("2 devices, 4 images of each batch on each\n")
    same_curve(two, by_one)


# Trains a network without BatchNormalization, which MirroredStrategy computes for each device by itself, on 1 and on 4 devices. All
# train images are one batch: under MirroredStrategy Keras draws one before it begins, and then trains in another order.
ON_DEVICES = """
import json, os, sys
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    four = 4 * [tf.config.LogicalDeviceConfiguration()]
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], four)
import keras
import model_training
from detector.training import batches, dataset, distributed, metrics

def curve(engine, output):
    devices = engine.devices
    train, validation = (
        batches.ImageFeed(dataset.Decoded(split, 8, keep=False), output, 40, shuffle=name == "train", devices=devices)
        for name, split in model_training.read_splits(sys.argv[1]).items()
    )
    keras.utils.set_random_seed(0)
    with engine.scope():
        image = keras.Input((8, 8, 3))
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
        units, kind, last = (2, keras.losses.CategoricalCrossentropy, "softmax") if output == "softmax" else (
            1, keras.losses.BinaryCrossentropy, "sigmoid")
        x = keras.layers.Dropout(0.0)(keras.layers.Dense(units, activation=last, kernel_regularizer="l2")(x))
        model = keras.Model(image, x)
        model.compile(keras.optimizers.SGD(0.01), loss=kind(), **metrics.fake_metrics(output, devices > 1))
        model.test_on_batch(*train[0])
        return model.fit(train, validation_data=validation, epochs=2, shuffle=False, verbose=0).history
engines = [distributed.Engine(distributed.Team(), devices) for devices in (1, 4)]
assert [engine.devices for engine in engines] == [1, 4]
print(json.dumps([[curve(engine, output) for engine in engines] for output in ("softmax", "sigmoid_real")]))
"""


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_four_devices_give_the_losses_and_metrics_of_one(backend, tiny):
    environ = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3",
               "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}  # fmt: skip
    command = [sys.executable, "-c", ON_DEVICES, str(tiny)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for one, four in json.loads(done.stdout.splitlines()[-1]):
        assert one.keys() == four.keys() and len(one) == 12
        for name in one:
            assert four[name] == pytest.approx(one[name], rel=1e-4), name


def test_the_weights_are_the_same_after_each_epoch_and_the_first_alone_writes(by_two):
    assert len(agreed(by_two, 0)) == 2 and agreed(by_two, 1) == agreed(by_two, 0)
    assert "epoch" not in (by_two / "out-1").read_text()
    assert "epoch 2 of 2" in (by_two / "out-0").read_text()
    assert model_file.read_metadata(by_two / "d.h5")["made"]["epochs_run"] == 2
    assert not list((by_two / "log").glob("*.weights.h5"))


def when(condition, processes, folder):
    """Wait until something holds of the state of a run, while all of its processes are there."""
    state, until = folder / "log" / "state.json", time.monotonic() + 600
    while not (state.exists() and condition(json.loads(state.read_text()))):
        assert not any(one.poll() for one in processes) and time.monotonic() < until, (folder / "err-0").read_text()
        time.sleep(0.01)


def test_one_killed_in_the_middle_ends_the_other_and_the_run_goes_on_to_the_same_end(by_two, tiny, tmp_path):
    folder = tmp_path / "killed"
    more = (tiny, folder, 2, "--checkpoint-minutes", "1e-9")
    for killed, epochs, steps in ((1, 0, 2), (0, 1, 1)):
        both = start(*more)
        when(lambda state: (len(state["history"]), state["step"]) >= (epochs, steps), both, folder)  # noqa: B023
        both[killed].kill()
        began = time.monotonic()
        assert both[1 - killed].wait(timeout=600) == 1 and time.monotonic() - began < 60
        assert (folder / f"err-{1 - killed}").read_text().splitlines()[-1] == f"error: process {killed} has died; {AGAIN}"
    shutil.copytree(folder, tmp_path / "alone")
    train(*more)
    assert "taking up the run in" in (folder / "out-0").read_text()
    assert history(folder) == history(by_two)
    assert agreed(folder, 0)[-1] == agreed(by_two, 0)[-1]
    alone = train(tiny, tmp_path / "alone", 1)
    assert "taking up the run in" in (alone / "out-0").read_text()
    same_curve(alone, by_two)


# --- the examples ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_the_example_for_slurm_is_a_script():
    subprocess.run(["bash", "-n", str(ROOT / "docs" / "slurm.sh")], check=True)


def test_the_example_for_kubernetes_names_its_first_pod():
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text("utf-8"))
    pod = job["spec"]["template"]["spec"]
    assert (service["kind"], job["kind"], job["spec"]["completionMode"]) == ("Service", "Job", "Indexed")
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
    environ = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    place = place_of(None, None, None, {**environ, "JOB_COMPLETION_INDEX": "3"})
    assert place == Place(f"{job['metadata']['name']}-0.{pod['subdomain']}:6000", job["spec"]["completions"], 3)
    assert pod["subdomain"] == service["metadata"]["name"] and environ["KERAS_BACKEND"] == "jax"


@pytest.mark.parametrize("example", ["slurm.sh", "kubernetes.yaml"])
def test_the_arguments_of_the_examples_are_known(example):
    text = (ROOT / "docs" / example).read_text("utf-8")
    given = re.search(r"model_training\.py(.*)", text)[1].translate(str.maketrans("", "", '",]')).split()
    assert model_training.make_parser().parse_args(given).batch_size % 32 == 0  # four machines of eight GPUs
