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

from detector.console import InputError
from detector.model import file as model_file
from detector.training.config import make_parser
from detector.training.distributed import LOST, ProcessGroup, Topology, find_topology
from tests.conftest import ROOT
from tests.tiny import TRAINING
from tests.tiny import read_history as history

HERE = "127.0.0.1:7000"
SLURM = {"SLURM_JOB_ID": "4097", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "gpu[007-009,012],big1"}
KERAS = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": "train-0.train:6000", "KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}


@pytest.mark.parametrize("given, environ, place", [
    ((None, None, None), {}, None),
    ((HERE, 1, 0), {}, None),
    ((HERE, 2, 1), {}, Topology(HERE, 2, 1)),
    ((None, None, None), SLURM, Topology("gpu007:61441", 3, 2)),
    ((None, None, None), {**SLURM, "SLURM_STEP_NODELIST": "a1,b2"}, Topology("a1:61441", 3, 2)),
    ((None, None, None), {**SLURM, "SLURM_STEP_NODELIST": "r[1-2]n[3-4]"}, Topology("r1n3:61441", 3, 2)),
    ((None, None, None), {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),  # srun --pty bash
    ((None, None, None), {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "a"}, None),
    (("b:1", None, None), SLURM, Topology("b:1", 3, 2)),
    ((None, 1, None), SLURM, None),
    ((None, None, None), {**KERAS, "JOB_COMPLETION_INDEX": "1"}, Topology("train-0.train:6000", 2, 1)),
    ((None, None, None), {**KERAS, "KERAS_DISTRIBUTION_PROCESS_ID": "0", "JOB_COMPLETION_INDEX": "1"},
     Topology("train-0.train:6000", 2, 0)),
    ((None, None, None), {"JOB_COMPLETION_INDEX": "1"}, None),  # an indexed job that is not of several processes
    ((None, None, 0), {**KERAS, **SLURM}, Topology("train-0.train:6000", 2, 0)),
])  # fmt: skip
def test_arguments_come_before_the_variables_of_a_cluster(given, environ, place):
    assert find_topology(*given, environ) == place


@pytest.mark.parametrize("given, said", [
    ((HERE, None, 1), f"several processes: .* found {HERE}, None and 1"),
    (("node1", 2, 1), "--coordinator node1: expected HOST:PORT"),
    ((HERE, 2, 2), "--process-id 2: expected a number from 0 to 1"),
])  # fmt: skip
def test_an_impossible_topology_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        find_topology(*given, {})


MEMBER = """
import sys, time
from detector.training import distributed
from detector.console import InputError, stage
distributed.HEARTBEAT_TIMEOUT = 5
port, world_size, rank, action = sys.argv[1:]
@stage
def main(argv):
    topology = distributed.Topology("127.0.0.1:" + port, int(world_size), int(rank))
    with distributed.ProcessGroup(topology) as group:
        group.join(1.5 if action == "impatient" else 60)
        values = {"--epochs": 5, "--data": "b" if action == "other" else "a", "--seed": 0}
        group.check_equal(values, "start all with the same command")
        print("equal", flush=True)
        if action == "fails":
            raise InputError("no room")
        group.barrier("waiting")
        time.sleep(0.5)
main()
"""


@pytest.fixture
def start_members():
    """Give start_members("plain", "fails", ...): starts a process for each and returns them; all are killed at the end."""
    started, port = [], free_port()

    def start(*actions, world_size=None):
        environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
        for rank, action in enumerate(actions):
            command = [sys.executable, "-c", MEMBER, str(port), str(world_size or len(actions)), str(rank), action]
            started.append(
                subprocess.Popen(command, cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            )
        return started

    yield start
    for one in started:
        one.kill()
        one.communicate()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def results(processes):
    """Wait for processes: [(exit code, stderr)]."""
    outputs = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, err) for process, (_, err) in zip(processes, outputs, strict=True)]


def test_a_process_that_never_comes_ends_the_others_with_one_line(start_members):
    ((code, err),) = results(start_members("impatient", world_size=2))
    assert code == 1 and re.fullmatch(r"error: process 0 of 2 waited 1\.5 s .*--process-id\n", err)


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("", 0)) as server, pytest.raises(InputError, match="--coordinator"):
        ProcessGroup(Topology(f"127.0.0.1:{server.getsockname()[1]}", 2, 0)).join(1)


def test_processes_with_other_values_all_say_which(start_members):
    line = "error: process 1: expected the same as process 0, found another value of --data; start all with the same command\n"
    assert results(start_members("plain", "other")) == 2 * [(1, line)]


def test_a_process_that_fails_ends_the_other(start_members):
    assert results(start_members("plain", "fails")) == [(1, f"error: {LOST}\n"), (1, "error: no room\n")]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP here")
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_hangs_ends_the_other(stopped, start_members):
    started = start_members("plain", "plain")
    started[stopped].stdout.readline()
    os.kill(started[stopped].pid, signal.SIGSTOP)
    assert results([started[1 - stopped]]) == [(1, f"error: {LOST}\n")]


def test_a_single_process_waits_for_nobody():
    with ProcessGroup() as group:
        group.join(0)
        assert group.rank_zero_first(lambda: 4) == 4
        group.check_equal({"the images": 1}, "")


MORE = [
    "--architecture", "tiny", "--image-size", "8", "--batch-size", "8", "--epochs", "2", "--stop-rule", "never",
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
    (root.parent / "stub").mkdir()  # Keras on JAX would import TensorFlow, too, which takes longer than the training
    (root.parent / "stub" / "tensorflow.py").write_text("raise ModuleNotFoundError('no TensorFlow', name='tensorflow')\n")
    rng = np.random.default_rng(0)
    for split, numbers in {"train": (24, 16), "validation": (11, 7)}.items():
        for name, number in zip(("Fake", "Real"), numbers, strict=True):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                image = rng.integers(60, 190, (1, 1, 3)) + rng.normal(0, 20 if (name == "Real") != (i % 5 == 3) else 6, (8, 8, 3))
                Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def start(data, folder, processes, *more, backend="jax", devices=1):
    """Start the processes of a run on CPUs; return them."""
    folder.mkdir(exist_ok=True)
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} if devices > 1 else {}
    environ = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(data.parent / "stub"), "CUDA_VISIBLE_DEVICES": "", **flags}
    environ["http_proxy"] = "http://127.0.0.1:9"  # as clusters have one: JAX is not to ask there for process 0
    # most of a run this small is compiling, of the same program each time
    environ["JAX_COMPILATION_CACHE_DIR"] = str(data.parent / "compiled")
    environ["JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-c", TRAINING, "--data", str(data), "--output", str(folder / "d.h5")]
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
    assert "epoch" not in (by_two / "out-1").read_text()  # rank 0 alone reports and writes
    assert "epoch 2 of 2" in (by_two / "out-0").read_text()
    assert model_file.read_metadata(by_two / "d.h5")["made"]["epochs_run"] == 2
    assert not list((by_two / "log").glob("*.weights.h5"))


# Trains a network without BatchNormalization, which MirroredStrategy computes for each device by itself, on 1 and on 4 devices. All
# train images are one batch: under MirroredStrategy Keras draws one before it begins, and then trains in another order.
ON_DEVICES = """
import json, os, sys
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    four = 4 * [tf.config.LogicalDeviceConfiguration()]
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], four)
import keras
from detector.training import batches, dataset, distributed, inputs, metrics

def curve(placement):
    devices = len(placement)
    train, validation = (
        batches.ImageBatches(dataset.DecodedImages(split, 8, keep=False), "softmax", 40, shuffle=name == "train", devices=devices)
        for name, split in inputs.read_data(sys.argv[1]).splits.items()
    )
    keras.utils.set_random_seed(0)
    with placement.scope():
        image = keras.Input((8, 8, 3))
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
        x = keras.layers.Dropout(0.0)(keras.layers.Dense(2, activation="softmax", kernel_regularizer="l2")(x))
        model = keras.Model(image, x)
        loss = keras.losses.CategoricalCrossentropy()
        model.compile(keras.optimizers.SGD(0.01), loss=loss, **metrics.fake_metrics("softmax", devices > 1))
        model.test_on_batch(*train[0])
        return model.fit(train, validation_data=validation, epochs=2, shuffle=False, verbose=0).history
placements = [distributed.Devices(distributed.ProcessGroup(), devices) for devices in (1, 4)]
assert [len(placement) for placement in placements] == [1, 4]
print(json.dumps([curve(placement) for placement in placements]))
"""


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_four_devices_give_the_losses_and_metrics_of_one(backend, tiny):
    environ = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3",
               "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}  # fmt: skip
    command = [sys.executable, "-c", ON_DEVICES, str(tiny)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    one, four = json.loads(done.stdout.splitlines()[-1])
    assert one.keys() == four.keys() and len(one) == 12
    for name in one:
        assert four[name] == pytest.approx(one[name], rel=1e-4), name


def when(condition, processes, folder):
    """Wait until something holds of the state of a run, while all of its processes are there."""
    state, until = folder / "log" / "state.json", time.monotonic() + 600
    while not (state.exists() and condition(json.loads(state.read_text()))):
        assert not any(one.poll() for one in processes) and time.monotonic() < until, (folder / "err-0").read_text()
        time.sleep(0.01)


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.kill
def test_a_killed_process_ends_the_other_and_the_run_continues(killed, by_two, tiny, tmp_path):
    """Rank 1 is killed in epoch 1, and two processes continue to the same end; or rank 0 in epoch 2, and one continues."""
    folder = tmp_path / "killed"
    both = start(tiny, folder, 2, "--checkpoint-minutes", "1e-9")
    when(lambda state: (len(state["history"]), state["step"]) >= (1 - killed, 1), both, folder)
    both[killed].kill()
    assert both[1 - killed].wait(timeout=120) == 1
    errors = (folder / f"err-{1 - killed}").read_text()
    assert errors.splitlines()[-1] == f"error: {LOST}" and "stack trace" not in errors
    train(tiny, folder, 1 + killed, "--checkpoint-minutes", "1e-9")
    assert "continuing the run in" in (folder / "out-0").read_text()
    if killed:
        assert history(folder) == history(by_two)
    else:
        same_curve(folder, by_two)


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
    topology = find_topology(None, None, None, {**environ, "JOB_COMPLETION_INDEX": "3"})
    assert topology == Topology(f"{job['metadata']['name']}-0.{pod['subdomain']}:6000", job["spec"]["completions"], 3)
    assert pod["subdomain"] == service["metadata"]["name"] and environ["KERAS_BACKEND"] == "jax"


@pytest.mark.parametrize("example", ["slurm.sh", "kubernetes.yaml"])
def test_the_arguments_of_the_examples_are_known(example):
    text = (ROOT / "docs" / example).read_text("utf-8")
    given = re.search(r"model_training\.py(.*)", text)[1].translate(str.maketrans("", "", '",]')).split()
    assert make_parser().parse_args(given).batch_size % 32 == 0  # four machines of eight GPUs
