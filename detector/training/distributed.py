"""Training on several devices and in several processes, on top of `jax.distributed` and `jax.experimental.multihost_utils`.

`tf.distribute.MirroredStrategy` and `keras.distribution.DataParallel` do the computing. This module finds the topology, starts JAX,
checks that all processes train the same thing, and turns the loss of a process into one line. Nothing here is encrypted or
authenticated: use it within a network whose machines trust one another.
"""

import atexit
import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
from dataclasses import dataclass

from detector.console import InputError

HEARTBEAT_TIMEOUT = 60  # seconds without a sign of life after which JAX counts a process as lost
LOST = "another process was lost; run the same command again on every machine to continue from the last checkpoint"


@dataclass(frozen=True)
class Topology:
    """This process's rank, counted from 0, among `world_size` processes; rank 0 listens at `coordinator`, HOST:PORT."""

    coordinator: str
    world_size: int
    rank: int


def find_topology(coordinator: str | None, world_size: int | None, rank: int | None, environ=os.environ) -> Topology | None:
    """Return the Topology from the arguments or, if they are None, from a cluster's variables; None for a single process.

    JAX detects Slurm too, but then gives each process a single GPU; here a process uses all GPUs of its machine.
    """
    sources = [(coordinator, world_size, rank), _from_keras(environ), _from_slurm(environ)]
    coordinator, world_size, rank = (next((v for v in values if v is not None), None) for values in zip(*sources, strict=True))
    if world_size == 1 or (coordinator, world_size, rank) == (None, None, None):
        return None
    if None in (coordinator, world_size, rank):
        found = f"{coordinator}, {world_size} and {rank}"
        raise InputError(f"several processes: expected --coordinator, --processes and --process-id, found {found}; give all three")
    if not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise InputError(f"--coordinator {coordinator}: expected HOST:PORT of process 0, such as node1:6000")
    if not 0 <= rank < world_size:
        raise InputError(f"--process-id {rank}: expected a number from 0 to {world_size - 1}, since --processes is {world_size}")
    return Topology(coordinator, world_size, rank)


def _from_keras(environ):
    """Return what Keras's variables define; on Kubernetes an indexed job numbers its pods."""
    world_size, addresses = environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES"), environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES")
    if not world_size or not addresses:
        return None, None, None
    rank = environ.get("KERAS_DISTRIBUTION_PROCESS_ID") or environ.get("JOB_COMPLETION_INDEX")
    return addresses.split(",")[0], int(world_size), int(rank) if rank else None


def _from_slurm(environ):
    """Return what `srun` defines for a step. A shell or a batch script within a job has only the job's variables and runs alone."""
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_JOB_ID")
    if not all(environ.get(name) for name in names) or int(environ["SLURM_STEP_NUM_TASKS"]) < 2:
        return None, None, None
    first = re.sub(r"\[(\d+)[^\]]*\]", r"\1", environ["SLURM_STEP_NODELIST"]).split(",")[0]  # gpu[007-009,012],other: gpu007
    port = 61440 + int(environ["SLURM_JOB_ID"]) % 4096
    return f"{first}:{port}", int(environ["SLURM_STEP_NUM_TASKS"]), int(environ["SLURM_PROCID"])


class ProcessGroup:
    """The processes of a run, from `join` to the end of the `with` block; without a topology, this process alone.

    Attributes:
        rank, world_size: number of this process, counted from 0, and of all.
    """

    def __init__(self, topology: Topology | None = None):
        self.topology, self._joined = topology, False
        self.rank, self.world_size = (topology.rank, topology.world_size) if topology else (0, 1)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if not self._joined:
            return
        if error is None:
            self.barrier("end of the run")  # rank 0 is still writing results
        elif is_lost_process(error):
            _exit_with(LOST)
        else:
            atexit.register(_exit_now)  # JAX's own exit handler would wait for the others

    def join(self, seconds: float) -> None:
        """Wait until all processes have started, and start JAX in them.

        Raises:
            InputError: rank 0 cannot listen at the coordinator's port.

        If a process has not joined after that many seconds, the others exit with one line.
        """
        if not self.topology:
            return
        if self.rank == 0:
            _check_port(self.topology.coordinator)
        waited = f"process {self.rank} of {self.world_size} waited {seconds:g} s at {self.topology.coordinator}, and not all joined"
        cure = "start every process with the same --coordinator and --processes, each with its own --process-id"
        late = threading.Timer(seconds, _exit_with, [f"{waited}; {cure}"])
        late.daemon = True
        late.start()
        _replace_abort_message()
        _start_jax(self.topology, seconds)
        self._joined = True
        self.barrier("start")
        late.cancel()

    def barrier(self, name: str) -> None:
        """Wait until all processes have come here."""
        if self.world_size > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(name)

    def check_equal(self, values: dict, cure: str) -> None:
        """Raise InputError, in every process, unless all have the same values ({name: value for JSON}) as rank 0."""
        if self.world_size == 1:
            return
        import numpy as np
        from jax.experimental import multihost_utils

        digests = [hashlib.sha256(json.dumps(value).encode()).digest() for value in values.values()]
        gathered = multihost_utils.process_allgather(np.frombuffer(b"".join(digests), np.uint8).reshape(len(values), -1))
        different = (gathered != gathered[0]).any(axis=2)  # (world size, values)
        if different.any():
            ranks = ", ".join(map(str, np.flatnonzero(different.any(axis=1))))
            names = ", ".join(name for name, differs in zip(values, different.any(axis=0), strict=True) if differs)
            raise InputError(f"process {ranks}: expected the same as process 0, found another value of {names}; {cure}")

    def rank_zero_first(self, work):
        """Return the result of `work()`, called by rank 0 before all others, which find in a shared folder what it wrote."""
        if self.rank:
            self.barrier("rank 0 first")
        result = work()
        if not self.rank:
            self.barrier("rank 0 first")
        return result


def is_lost_process(error: Exception) -> bool:
    """Return whether an exception means that a collective operation failed because another process has ended."""
    return bool(re.search(r"gloo|nccl|coordination service|UNAVAILABLE|DEADLINE_EXCEEDED", str(error), re.IGNORECASE))


def _start_jax(topology, seconds):
    """Start JAX as one of several processes, as keras.distribution.initialize does, but with more settings."""
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM, and the run would not stop
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # one step at a time: all must exchange in the same order
    # With http_proxy set, as on many clusters, gRPC would wait forever; it reads this variable's name in lower case.
    host = topology.coordinator.rsplit(":", 1)[0]
    own = [os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy"), "127.0.0.1", host.strip("[]")]  # noqa: SIM112
    os.environ["no_grpc_proxy"] = ",".join(filter(None, own))  # noqa: SIM112
    jax.config.update("jax_check_proxy_envs", False)  # so its warning is not needed
    jax.distributed.initialize(
        topology.coordinator, topology.world_size, topology.rank, cluster_detection_method="deactivate",
        initialization_timeout=int(seconds) + 60,  # later than ours: JAX aborts instead of raising an exception
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT, shutdown_timeout_seconds=60,
    )  # fmt: skip


def _check_port(coordinator):
    """Raise InputError if the coordinator's port is taken: JAX would crash."""
    try:
        socket.create_server(("", int(coordinator.rsplit(":", 1)[1]))).close()
    except OSError as error:
        found = f"({error.strerror or error}); give every process another one"
        raise InputError(f"--coordinator {coordinator}: expected a free port on this machine {found}") from None


def _replace_abort_message():
    """End with one line if JAX aborts this process because another one is lost.

    JAX writes a message and a stack trace to file descriptor 2 and then calls abort(). Its callback for this event cannot be used:
    in jaxlib 0.10.2 it fails with std::bad_cast. So a thread reads what is written there and passes on everything else.
    """
    stderr = os.dup(2)
    sys.stderr = open(stderr, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)

    def forward():
        dropped = False
        with open(reader, "rb") as lines:
            for line in lines:
                if b"JAX distributed service detected fatal errors" in line:
                    _exit_with(LOST)
                if re.match(rb"[IWEF]\d{4} ", line):  # the first line of a log entry
                    dropped = b"coordination_service" in line
                if not dropped:
                    os.write(stderr, line)

    threading.Thread(target=forward, daemon=True).start()


_exiting = threading.Lock()


def _exit_with(message):
    """End this process at once with one line: its main thread may be waiting for a process that will not answer."""
    _exiting.acquire()  # and is never released: of two threads that notice the loss, one reports it
    print(f"error: {message}", file=sys.stderr, flush=True)
    _exit_now()


def _exit_now():
    sys.stdout.flush()
    os._exit(1)


class Devices:
    """The devices that train together: all GPUs of every process, or its CPU; models built within `scope()` are on all of them.

    Args:
        group: ProcessGroup, joined.
        limit: number of devices of each process at most; None for all.
    """

    def __init__(self, group: ProcessGroup, limit: int | None = None):
        import keras

        self.backend = keras.backend.backend()
        by_rank = _devices_by_rank(group, self.backend)
        numbers = sorted({len(names) for names in by_rank})
        if len(numbers) > 1 and not (limit and limit <= numbers[0]):
            raise InputError(f"expected as many devices in each process, found {numbers}; give --devices {numbers[0]}")
        if (limit or 1) > numbers[0]:
            raise InputError(f"--devices {limit}: expected at most {numbers[0]}, those of this machine; give fewer, or omit it")
        self.names = [name for names in by_rank for name in names[:limit]]

    def __len__(self):
        return len(self.names)

    def scope(self):
        """Return a context in which Keras makes models that are trained on all devices; it may be entered again."""
        import keras

        if len(self) == 1:
            return contextlib.nullcontext()
        if self.backend == "jax":
            return keras.distribution.DataParallel(devices=self.names, auto_shard_dataset=False).scope()
        import tensorflow as tf

        self.strategy = getattr(self, "strategy", None) or tf.distribute.MirroredStrategy(self.names)
        return self.strategy.scope()


def _devices_by_rank(group, backend):
    """Return a list of the names of each process's devices: all GPUs, or the CPU."""
    if backend == "tensorflow":
        from tensorflow import config

        return [[device.name for device in config.list_logical_devices("GPU") or config.list_logical_devices("CPU")]]
    import jax

    names = [[] for _ in range(group.world_size)]
    for device in jax.devices():
        names[device.process_index].append(f"{device.platform}:{device.id}")
    return names
