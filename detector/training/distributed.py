"""Training on several devices and in several processes: who takes part, what each one computes, and what happens when one is lost.

`tf.distribute.MirroredStrategy` and `keras.distribution.DataParallel` do the computing. What they leave unsaid is said here: a
process that never came, that was started with other arguments, or that died. For that, each process keeps one connection to
process 0 beside those of JAX. Neither is encrypted nor asks who is there: for a network whose machines trust one another.
"""
import atexit
import contextlib
import json
import os
import queue
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass

from detector.console import InputError

PING = 5  # seconds between two signs of life
SILENCE = 30  # without any, a process counts as lost; JAX would wait for 100
GRACE = 5  # for another thread to say what it knows of a failure, before this one speaks
AGAIN = "run the same command again on every machine to go on from the last checkpoint"


# --- how many, and which one -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Place:
    """The place of this process among `processes`, counted from 0; process 0 listens at `coordinator`, HOST:PORT."""

    coordinator: str
    processes: int
    process: int


def place_of(coordinator, processes, process, environ=os.environ):
    """Return the Place that the arguments give, or where they are None the variables of a cluster; None for one process alone."""
    sources = [(coordinator, processes, process), _of_keras(environ), _of_slurm(environ)]
    coordinator, processes, process = (next((one for one in some if one is not None), None) for some in zip(*sources, strict=True))
    if processes == 1 or (coordinator, processes, process) == (None, None, None):
        return None
    if None in (coordinator, processes, process):
        raise InputError(
            f"several processes: expected --coordinator, --processes and --process-id (or the variables of a cluster), found "
            f"{coordinator}, {processes} and {process}; give all three"
        )
    if not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise InputError(f"--coordinator {coordinator}: expected HOST:PORT of process 0, such as node1:6000")
    if not 0 <= process < processes:
        raise InputError(f"--process-id {process}: expected a number from 0 to {processes - 1}, since --processes is {processes}")
    return Place(coordinator, processes, process)


def _of_keras(environ):
    """Return what Keras's own variables say. Kubernetes counts the pods of an indexed job, and leaves the rest to its author."""
    processes, addresses = environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES"), environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES")
    if not processes or not addresses:
        return None, None, None
    process = environ.get("KERAS_DISTRIBUTION_PROCESS_ID") or environ.get("JOB_COMPLETION_INDEX")
    return addresses.split(",")[0], int(processes), int(process) if process else None


def _of_slurm(environ):
    """Return what `srun` says. Not the variables of the job: a shell or a batch script within it has those too, and is alone."""
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_JOB_ID")
    if not all(environ.get(name) for name in names) or int(environ["SLURM_STEP_NUM_TASKS"]) < 2:
        return None, None, None
    first = re.sub(r"\[(\d+)[^\]]*\]", r"\1", environ["SLURM_STEP_NODELIST"]).split(",")[0]  # gpu[007-009,012],other: gpu007
    port = 61440 + int(environ["SLURM_JOB_ID"]) % 4096
    return f"{first}:{port}", int(environ["SLURM_STEP_NUM_TASKS"]), int(environ["SLURM_PROCID"])


def check_backend(place, backend):
    """Raise InputError where processes are to train together on a backend that cannot."""
    if place and backend != "jax":
        raise InputError(
            f"{place.processes} processes: expected the backend jax, found {backend}, whose MultiWorkerMirroredStrategy fails "
            "under Keras 3 (keras issue 20585); set KERAS_BACKEND=jax for every process"
        )


# --- the processes ---------------------------------------------------------------------------------------------------------
class Team:
    """The processes of a run, from the meeting to the end of the `with` block; for a run of one process, nobody else.

    Args:
        place: Place, or None for one process alone.

    Attributes:
        process, processes: number of this one, counted from 0, and of all.
    """

    def __init__(self, place=None):
        self.place, self.over = place, False
        self.process, self.processes = (place.process, place.processes) if place else (0, 1)
        self._peers = {}  # {process: (socket, what comes from it by lines)}
        self._said = {}  # {process: what it said and nobody has asked for yet}
        self._sending = threading.Lock()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if not self._peers:
            return
        if error is None:
            self.gather(None)  # none leaves before process 0 has written everything
            self.over = True
            return
        if not isinstance(error, (InputError, KeyboardInterrupt, SystemExit)):
            time.sleep(GRACE)  # where another's death broke off the computing, that is told instead, and this process ends here
        if isinstance(error, KeyboardInterrupt):
            self.leave("interrupted", GRACE)  # where all are interrupted, each says so itself
        self.leave(" ".join(str(error).split())[:300] or kind.__name__)
        atexit.register(os._exit, 1)  # before JAX waits there for the others

    def leave(self, why, wait=0):
        """Tell the others that this process goes on without them: they end, after so many seconds."""
        if not self.over:
            self.over = True
            self._tell(["end", f"process {self.process} ended: {why}; {AGAIN}", wait])

    def gather(self, value):
        """Return [value of process 0, of process 1, ...] in every process; the values are for JSON. All processes must call it."""
        if not self._peers:
            return [value]
        if self.process:
            self._tell(["say", value])
            return self._said[0].get()
        values = [value, *(self._said[process].get() for process in sorted(self._peers))]
        self._tell(["say", values])
        return values

    def agree(self, what, value, cure):
        """Raise InputError, in every process, unless all have the same value, as process 0."""
        values = self.gather(value)
        others = [str(process) for process, other in enumerate(values) if other != values[0]]
        if others:
            self.over = True  # each says so itself
            raise InputError(f"process {', '.join(others)}: expected {what} of process 0, found another; {cure}")

    def first_then_all(self, work):
        """Return what a function does, done by process 0 before all others, which find in a shared folder what it wrote."""
        if self.process:
            self.gather(None)
        done = work()
        if not self.process:
            self.gather(None)
        return done

    def meet(self, facts, seconds):
        """Wait until all processes are there, with the same facts ({name: value}), and start JAX in them.

        Raises:
            InputError: some did not come within so many seconds, or came with other facts.
        """
        if not self.place:
            return
        hello = {"process": self.process, "processes": self.processes, "facts": facts}
        port = self._report(hello, seconds) if self.process else self._receive(hello, seconds)
        for process, (peer, lines) in self._peers.items():
            peer.settimeout(SILENCE)
            self._said[process] = queue.SimpleQueue()
            threading.Thread(target=self._listen, args=(process, lines), daemon=True).start()
        threading.Thread(target=self._ping, daemon=True).start()
        _start_jax(self.place, port)

    def _report(self, hello, seconds):
        """Tell process 0 that this one is there; return the port of JAX's coordinator."""
        host, port = self.place.coordinator.rsplit(":", 1)
        end = time.monotonic() + seconds
        while True:
            try:
                peer = socket.create_connection((host, int(port)), timeout=5)
                break
            except OSError as error:
                if time.monotonic() > end:
                    raise InputError(
                        f"process 0 of {self.processes} did not come within {seconds:.0f} s: nothing answers at "
                        f"{self.place.coordinator} ({error.strerror or error}); start it, or check --coordinator"
                    ) from None
                time.sleep(0.2)
        self._peers[0] = peer, peer.makefile("rb")
        self._tell(["hello", hello])
        peer.settimeout(seconds + SILENCE)  # the last one may still be on its way
        try:
            kind, answer = _read(self._peers[0][1])
        except (OSError, ValueError, TypeError):
            kind, answer = "end", f"{self.place.coordinator}: expected process 0, found none that answers; check --coordinator"
        if kind == "port":
            return answer
        self.over = True
        raise InputError(answer)

    def _receive(self, hello, seconds):
        """Wait for all others; return a port for JAX's coordinator, and tell it them."""
        port, end = int(self.place.coordinator.rsplit(":", 1)[1]), time.monotonic() + seconds
        try:
            server = _server(port)
        except OSError as error:
            raise InputError(
                f"--coordinator {self.place.coordinator}: expected a free port on this machine ({error.strerror or error}); "
                "give every process another"
            ) from None
        with server:
            while missing := sorted({*range(1, self.processes)} - {*self._peers}):
                left = end - time.monotonic()
                if left <= 0:
                    numbers = ", ".join(map(str, missing))
                    self._refuse(f"process {numbers} of {self.processes} did not come within {seconds:.0f} s; start all of them")
                server.settimeout(left)
                with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # a stranger's connection is none
                    self._welcome(server.accept()[0], hello, missing)
        with _server(0) as free:
            port = free.getsockname()[1]
        self._tell(["port", port])
        return port

    def _welcome(self, peer, hello, missing):
        peer.settimeout(GRACE)
        lines = peer.makefile("rb")
        _, other = _read(lines)
        process, different = int(other["process"]), _difference(hello, other)
        if process not in missing:
            different = f"one of {', '.join(map(str, missing))}, which are still missing"
        self._peers[-1 if different else process] = peer, lines
        if different:
            self._refuse(f"process {process}: expected {different}; start all with the same command, each with its --process-id")

    def _refuse(self, said):
        self._tell(["end", said])
        self.over = True
        raise InputError(said)

    def _tell(self, message):
        """Send a message to all that this process is connected with; who cannot be reached is told of by `_listen`."""
        line = b"\n" if message is None else json.dumps(message).encode() + b"\n"
        with self._sending:
            for peer, _ in self._peers.values():
                with contextlib.suppress(OSError):
                    peer.sendall(line)

    def _ping(self):
        while not self.over:
            self._tell(None)
            time.sleep(PING)

    def _listen(self, process, lines):
        """Take what a process says until the run is over; end this process where that one is lost."""
        lost = "has died"
        try:
            while message := _read(lines):
                if message[0] == "end":
                    return self._end(*message[1:])
                self._said[process].put(message[1])
        except TimeoutError:
            lost = f"has given no sign of life for {SILENCE} s"
        except OSError:
            pass
        self._end(f"process {process} {lost}; {AGAIN}")

    def _end(self, said, wait=0):
        """End this process at once with a line, and the others: the main thread may be waiting for one that will not answer."""
        time.sleep(wait)
        if self.over:
            return
        self.over = True
        if not self.process:
            self._tell(["end", said, 0])
        print(f"error: {said}", file=sys.stderr, flush=True)
        os._exit(1)


def _read(lines):
    """Return the next message, [kind, ...], or None at the end; a sign of life is none."""
    for line in lines:
        if line.strip():
            return json.loads(line)
    return None


def _difference(hello, other):
    """Return in what another process's hello differs from one's own, or None."""
    if other["processes"] != hello["processes"]:
        return f"--processes {hello['processes']}, found {other['processes']}"
    mine, its = ({name: str(facts.get(name)) for name in hello["facts"]} for facts in (hello["facts"], other["facts"]))
    names = [name for name in mine if mine[name] != its[name]]
    if not names:
        return None
    told = [", ".join(f"{name} {of[name]}" for name in names) for of in (mine, its)]
    return f"{told[0]} as process 0, found {told[1]}"


def _server(port):
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _start_jax(place, port):
    """Start JAX as one of several processes: as keras.distribution.initialize does, which cannot be told the rest."""
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself and let the run go on
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # one step at a time: all must exchange in the same order
    host = place.coordinator.rsplit(":", 1)[0]
    # Where http_proxy is set, as on many clusters, gRPC would wait for ever; it looks for this name in small letters.
    own = [os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy"), "127.0.0.1", host.strip("[]")]  # noqa: SIM112
    os.environ["no_grpc_proxy"] = ",".join(filter(None, own))  # noqa: SIM112
    jax.config.update("jax_check_proxy_envs", False)  # nor need it warn of that
    jax.distributed.initialize(
        _relay(host, port) if place.process else f"{host}:{port}", place.processes, place.process,
        cluster_detection_method="deactivate", shutdown_timeout_seconds=60,
    )  # fmt: skip


def _relay(host, port):
    """Return an address on this machine, from which everything goes to process 0 and back.

    A break of JAX's own connection to process 0 ends a process within milliseconds by a C++ abort, before Python can say why.
    Behind a relay it does not break.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def pass_on(source, target):
        with contextlib.suppress(OSError):
            while some := source.recv(1 << 16):
                target.sendall(some)

    def serve():
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection((host, port))
            except OSError:  # process 0 is not that far yet; JAX tries again
                near.close()
                continue
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pass_on, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


# --- the devices -----------------------------------------------------------------------------------------------------------
class Engine:
    """The devices that train together: all GPUs of every process, or its CPU; models built within `scope()` are on all of them.

    Args:
        team: Team, after its meeting.
        limit: devices of each process at most; None for all.

    Attributes:
        devices: number of all of them.
    """

    def __init__(self, team, limit=None):
        import keras

        self.team, self.backend = team, keras.backend.backend()
        names = _jax_devices(team) if self.backend == "jax" else [_tensorflow_devices()]
        here = len(names[team.process])
        team.agree("the number of devices", here, "limit all to the same by --devices")
        if (limit or 1) > here:
            raise InputError(f"--devices {limit}: expected at most {here}, those of this machine; give fewer, or leave it out")
        self.names = [name for some in names for name in some[:limit]]
        self.devices = len(self.names)

    def scope(self):
        """Return a context in which Keras makes models that are trained on all devices; it may be entered again."""
        import keras

        if self.devices == 1:
            return contextlib.nullcontext()
        if self.backend == "jax":
            return keras.distribution.DataParallel(devices=self.names, auto_shard_dataset=False).scope()
        import tensorflow as tf

        self.strategy = getattr(self, "strategy", None) or tf.distribute.MirroredStrategy(self.names)
        return self.strategy.scope()

    def check_batch(self, size):
        """Raise InputError where a batch cannot be shared out evenly."""
        if size % self.devices:
            nearest = max(1, round(size / self.devices)) * self.devices
            raise InputError(
                f"--batch-size {size}: expected a multiple of {self.devices}, the number of devices, which share each batch; "
                f"give {nearest}, or limit --devices"
            )




def _jax_devices(team):
    import jax

    return [[f"{one.platform}:{one.id}" for one in jax.devices() if one.process_index == i] for i in range(team.processes)]


def _tensorflow_devices():
    import tensorflow as tf

    return [one.name for one in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]
