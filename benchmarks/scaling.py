"""Images per second of training in 1 and in 2 processes with one core each, and the cost of exchanging gradients.

    python benchmarks/scaling.py data                                                     compact, 32 px
    python benchmarks/scaling.py data --architecture resnet101 --batch-size 16 --steps 4

reads   a data tree; keeps decoded images in its .decoded/, as training does; writes nothing else that stays

Each process trains on --batch-size images per step, on JAX, pinned to its own core: two processes do twice the work. The exchange
is also timed alone: a sum over the processes of as many float32 numbers as the network has gradients, and one of 64 numbers.
BatchNormalization over the whole batch needs such small sums in each of its layers, forward and backward, one after the other; in
the rows "fixed" it is frozen, and only gradients are exchanged. All processes run on one machine and exchange through its memory;
a network between machines is slower. Linux only: other systems cannot pin a process to a core.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time

from measuring import make_parser

import model_training
from detector.console import InputError, stage, table
from detector.training import distributed
from detector.training.config import parse
from detector.training.networks import compile_network
from detector.training.schedules import plan_phases

SMALL = 64  # numbers of a sum, as many as BatchNormalization's have


def work(args):
    """Run one of the processes: train and exchange; rank 0 prints the seconds of each step and exchange as JSON."""
    topology = distributed.Topology(args.coordinator, args.processes, args.process) if args.processes > 1 else None
    command = ["--data", str(args.data), "--architecture", args.architecture, "--weights", "none", "--flip"]
    config = parse([*command, "--batch-size", str(args.batch_size * args.processes)])
    os.environ["KERAS_BACKEND"] = "jax"
    with distributed.ProcessGroup(topology) as group:
        devices = model_training.join_processes(config, group)
        config, _, model, batches, _ = model_training.prepare(config, group, devices)
        with devices.scope():
            compile_network(model, plan_phases(config)[0], config, batches.steps)
            for layer in layers(model) if args.fixed else ():  # after compile_network, which makes the backbone trainable
                layer.trainable = False
            steps = time_steps(model, batches, args.steps)
        numbers = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        exchanges, sums = (time_exchange(count, args.steps) if args.processes > 1 else [] for count in (numbers, SMALL))
        if not group.rank:
            print(json.dumps({"steps": steps, "exchanges": exchanges, "sums": sums, "numbers": numbers}))


def layers(model):
    """Yield the BatchNormalization layers of a model, and of the models within it."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from layers(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            yield layer


def time_steps(model, batches, number):
    """Return the seconds of `number` steps of `fit`, after two warm-up steps."""
    import keras

    class Clock(keras.callbacks.Callback):
        times = []  # noqa: RUF012

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.times.append(time.perf_counter())

    clock = Clock()
    model.fit(batches, steps_per_epoch=number + 2, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
    return [after - before for before, after in zip(clock.times[1:], clock.times[2:], strict=False)]


def time_exchange(numbers, rounds):
    """Return the seconds of sums over the processes, each of `numbers` float32 numbers."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("batch",))
    everywhere, shared = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    own = jax.make_array_from_process_local_data(shared, np.ones((1, numbers), np.float32))
    total = jax.jit(lambda values: values.sum(axis=0), out_shardings=everywhere)
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        total(own).block_until_ready()
        times.append(time.perf_counter() - began)
    return times[1:]


def measure(args, processes, fixed):
    """Run the processes, each on its own core; return what rank 0 prints."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
    cores, started = sorted(os.sched_getaffinity(0)), []
    for process in range(processes):
        command = [sys.executable, __file__, str(args.data), "--architecture", args.architecture]
        command += ["--batch-size", str(args.batch_size), "--steps", str(args.steps)]
        command += ["--worker", coordinator, str(processes), str(process), *(["--fixed"] if fixed else [])]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        preexec_fn=lambda core=cores[process]: os.sched_setaffinity(0, {core})))  # fmt: skip
    said = [one.communicate() for one in started]
    if any(one.returncode for one in started):
        raise InputError(f"{processes} processes: {' '.join(said[0][1].split())[-300:]}")
    return json.loads(said[0][0].splitlines()[-1])


@stage
def main(argv=None):
    """Run the benchmark."""
    parser = make_parser(
        __doc__, "data", architecture=("compact", "network to train"), batch_size=(64, "images per step of each process"),
        steps=(20, "number of steps after two warm-up steps"),
    )  # fmt: skip
    parser.add_argument("--only", type=int, choices=(1, 2), help="measure only this number of processes")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--fixed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        args.coordinator, args.processes, args.process = args.worker[0], int(args.worker[1]), int(args.worker[2])
        return work(args)
    rows, rates = [], {}
    for fixed in (False, True):
        for processes in (args.only,) if args.only else (1, 2):
            found = measure(args, processes, fixed)
            step = statistics.median(found["steps"])
            rates[fixed, processes] = processes * args.batch_size / step
            alone = [f"{1000 * statistics.median(found[one]):.1f}" if found[one] else "" for one in ("exchanges", "sums")]
            mebibytes = found["numbers"] * 4 / 2**20
            rows.append(["fixed" if fixed else "whole batch", f"{processes}", f"{rates[fixed, processes]:.1f}",
                         f"{1000 * step:.0f}", f"{mebibytes:.1f}", *alone])  # fmt: skip
    print(table(rows, ["normalization", "processes", "images/s", "step, ms", "gradients, MiB", "exchange, ms", "small sum, ms"]))
    if not args.only:
        whole, fixed = (rates[one, 2] / rates[one, 1] for one in (False, True))
        print(f"2 processes / 1 process: {whole:.2f} of 2, with fixed normalization {fixed:.2f}")


if __name__ == "__main__":
    main()
