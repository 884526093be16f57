"""The cost of a simulated device: overhead a round without training, throughput and memory, beside bare torch.

    python -m benchmarks.simulator [--quick] [--json FILE]

``overhead_ms_per_device_round`` is all that the simulator does beside training, of 100 devices with ResNet20's 272k
parameters, and ``..._1000`` of 1,000: tasks, the exact fold with its norms, new values, records. Medians of rounds; in
NumPy alone, and beside them a bare ``acc += w * x`` over the same arrays.

The bare pool and the bare loop are a few lines of torch without anything of Lamina: what could be had at best. They and
Lamina's backends take turns, and a ratio is the median of the ratios within a turn, so that what else the machine does
falls on both alike.

``peak_mib`` is that of a fresh process that simulates ResNet20 in the pool, and of all that it starts: the lanes, the
server that they are forked from, Python's resource tracker. It is the sum of their proportional set sizes (Linux's PSS:
pages of one process alone, and of shared pages, the arrays' included, each process's part), at its highest while three
rounds of eight devices are trained, folded and judged. ``start_s`` is from the process's first own line to the end of
the first round, of one step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks.reporting import Figures, Row, main
from lamina.emulation.simulator.backends import Backend
from lamina.emulation.simulator.backends.pool import pooling
from lamina.emulation.simulator.backends.run_arrays import RunArrays
from lamina.emulation.simulator.backends.tasks import RunTask, TaskResult, TaskSettings, TrainingTask, Variant
from lamina.emulation.simulator.run_context import RunContext, outline
from lamina.emulation.simulator.setting import Setting
from lamina.emulation.simulator.simulation import Simulation
from lamina.models.machine import usable_cores

QUESTION = "What does a simulated device cost, in time and memory?"

_DEVICES = 8
_BATCH = 32
_SAMPLE_S = 0.02  # between two looks at the memory
_DENSE = f"{__file__}:dense"

Turn = Callable[[], None]


def dense() -> Any:
    """A small dense network: 64 inputs, two hidden layers of 64."""
    from torch import nn

    from lamina.models.definition import Definition

    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return Definition("dense", module, (64,), 10)


def measure(quick: bool) -> tuple[Figures, Sequence[Row]]:
    """The figures, and a table with samples/s of every backend."""
    memory = fresh("memory()")
    overheads = {
        (devices, numba): fresh(f"overhead({devices}, {4 if quick else rounds}, {numba})")
        for devices, rounds in ((100, 21), (1000, 7))
        for numba in ((True, False) if find_spec("numba") else (False,))
    }
    rates, ratios = {}, {}
    for model, steps, turns in (("resnet20", 2, 2 if quick else 7), (_DENSE, 20, 3 if quick else 15)):
        seconds = in_turns(model, steps, turns)
        rates[model] = {name: _DEVICES * steps * _BATCH / median(taken) for name, taken in seconds.items()}
        ratios[model] = {
            (mine, bare): median(b / a for a, b in zip(seconds[mine], seconds[bare], strict=True))
            for mine in seconds
            for bare in ("bare loop, all threads", "bare pool")
        }
    best_dense = max(("pool", "loop", "stack"), key=lambda name: rates[_DENSE][name])
    best = bool(find_spec("numba"))
    figures = {
        "overhead_ms_per_device_round": overheads[100, best]["ms"],
        "overhead_ms_per_device_round_1000": overheads[1000, best]["ms"],
        "overhead_numpy_ms_per_device_round": overheads[100, False]["ms"],
        "overhead_numpy_ms_per_device_round_1000": overheads[1000, False]["ms"],
        "bare_numpy_ms_per_device_round": overheads[1000, best]["bare_ms"],
        "throughput_vs_pool": ratios["resnet20"]["pool", "bare pool"],
        "throughput_vs_loop": ratios["resnet20"]["pool", "bare loop, all threads"],
        "dense_vs_loop": ratios[_DENSE][best_dense, "bare loop, all threads"],
        **memory,
    }
    heads: Row = ("samples/s", "ResNet20", "dense")
    names = list(rates[_DENSE])
    return figures, [heads, *((name, *(f"{rates[m].get(name, np.nan):.0f}" for m in rates)) for name in names)]


def fresh(call: str) -> dict[str, float]:
    """What a call of one of these functions comes to in a process that has done nothing else."""
    script = f"import json; from benchmarks import simulator; print(json.dumps(simulator.{call}))"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


# -- overhead ----------------------------------------------------------------------------------------------------------


class NoTraining:
    """A backend that does no training: what is left is the simulator's own work."""

    name = "none"

    def __init__(self, arrays: RunArrays) -> None:
        self.arrays = arrays

    def carry_out(self, tasks: Sequence[RunTask]) -> list[TaskResult]:
        """Nothing, but for what a device takes of the global state."""
        for task in tasks:
            if isinstance(task, TrainingTask):
                self.arrays.entering(task.slot, task.takes)
        return [TaskResult(0.0, 0, 1) for _ in tasks]


def overhead(devices: int, rounds: int, numba: bool) -> dict[str, float]:
    """Milliseconds a device and round of ResNet20 when nobody trains; all devices active.

    Args:
        devices: how many.
        rounds: that are timed.
        numba: whether it may be used; for a process that has not loaded it.
    """
    from lamina.emulation.simulator.backends.run_arrays import private_arrays

    if not numba:
        sys.modules["numba"] = None  # type: ignore[assignment] # as if it weren't installed
    context = context_of("resnet20", devices, rounds + 1)
    arrays = private_arrays(devices, len(context.initial), context.data)
    simulation = Simulation(context, NoTraining(arrays))
    arrays.rows[:] = np.random.default_rng(0).standard_normal(arrays.rows.shape, np.float32) * 1e-2
    simulation.advance()
    total, seconds, bare_seconds = np.zeros(len(context.initial), np.float32), [], []
    for _ in range(rounds):
        began = time.perf_counter()
        simulation.advance()
        between = time.perf_counter()
        for row in arrays.rows:
            total += 1.5 * row
        seconds.append(between - began)
        bare_seconds.append(time.perf_counter() - between)
    return {"ms": 1e3 * median(seconds) / devices, "bare_ms": 1e3 * median(bare_seconds) / devices}


# -- memory ------------------------------------------------------------------------------------------------------------


def memory() -> dict[str, float]:
    """What a run in the pool takes; for a process that has done nothing else."""
    began = time.perf_counter()
    context = context_of("resnet20", _DEVICES, rounds=4)
    with pooling(context.common, context.slots, context.data) as pool:
        simulation = Simulation(context, pool)
        simulation.advance()
        start_s = time.perf_counter() - began
        seen = [pss_mib()]
        done = threading.Event()

        def look() -> None:
            while not done.wait(_SAMPLE_S):
                seen.append(pss_mib())

        looking = threading.Thread(target=look)
        looking.start()
        while not simulation.finished:
            simulation.advance()
        done.set()
        looking.join()
    return {"peak_mib": max(seen), "start_s": start_s, "kib_per_active_device": 2 * context.initial.nbytes / 1024}


def pss_mib() -> float:
    """Proportional set sizes of this process and its children, together."""
    process = psutil.Process()
    return float(sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True)))) / 2**20


# -- throughput --------------------------------------------------------------------------------------------------------


def in_turns(model: str, steps: int, turns: int) -> dict[str, list[float]]:
    """Seconds of each contender for the same number of samples, turn by turn, after one that does not count."""
    from lamina.emulation.simulator.backends.loop import looping
    from lamina.emulation.simulator.backends.stack import stacking

    context = context_of(model, _DEVICES)
    arguments = context.common, context.slots, context.data
    with ExitStack() as stack:
        backends: dict[str, Backend] = {
            "pool": stack.enter_context(pooling(*arguments)),
            "loop": stack.enter_context(looping(*arguments)),
        }
        if model == _DENSE:
            backends["stack"] = stack.enter_context(stacking(*arguments))
        contenders: dict[str, Turn] = {
            "bare loop, all threads": stack.enter_context(bare_loop(model, _DEVICES, steps)),
            "bare pool": stack.enter_context(bare_pool(model, steps)),
            **{name: _turn(backend, context, steps) for name, backend in backends.items()},
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(turns + 1):
            for name, run in contenders.items():
                began = time.perf_counter()
                run()
                if turn:
                    seconds[name].append(time.perf_counter() - began)
    return seconds


def _turn(backend: Backend, context: RunContext, steps: int) -> Turn:
    return lambda: train(backend, context, steps)


def train(backend: Backend, context: RunContext, steps: int) -> None:
    """One round of all devices, which begin with the global state."""
    backend.arrays.base[:] = context.initial
    takes = ((0, len(context.initial)),)
    names = enumerate(context.setting.names)
    backend.carry_out([TrainingTask(slot, name, 0, 0, steps, 0.01, takes, forgets=True) for slot, name in names])


@contextmanager
def bare_loop(model: str, devices: int, steps: int, threads: int = 0) -> Iterator[Turn]:
    """Plain training on random samples, with as many threads as there are cores, or so many."""
    import torch
    import torch.nn.functional as F

    from lamina.models.definition import load_definition

    definition = load_definition(model)
    module = definition.module.train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    x, y, *_ = (torch.from_numpy(part) for part in samples(definition.input_shape, _BATCH * steps))
    x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def run() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or usable_cores())
        for _ in range(devices):
            for start in range(0, _BATCH * steps, _BATCH):
                optimiser.zero_grad()
                F.cross_entropy(module(x[start : start + _BATCH]), y[start : start + _BATCH]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        torch.set_num_threads(before)

    yield run


@contextmanager
def bare_pool(model: str, steps: int) -> Iterator[Turn]:
    """Run as many plain loops with one thread as there are cores, at the same time; together they do all devices."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    cores = usable_cores()
    shares = [len(range(core, _DEVICES, cores)) for core in range(cores)]
    barrier = context.Barrier(cores + 1)
    processes = [context.Process(target=_bare, args=(model, share, steps, barrier), daemon=True) for share in shares]
    for process in processes:
        process.start()

    def run() -> None:
        barrier.wait()  # they begin
        barrier.wait()  # they have ended

    yield run
    barrier.abort()
    for process in processes:
        process.join()


def _bare(model: str, devices: int, steps: int, barrier: Any) -> None:
    with bare_loop(model, devices, steps, threads=1) as run:
        while True:
            try:
                barrier.wait()
                run()
                barrier.wait()
            except threading.BrokenBarrierError:
                return


# -- what is trained ---------------------------------------------------------------------------------------------------


def context_of(model: str, devices: int, rounds: int = 1) -> RunContext:
    """A run on random samples, 40 a device at most."""
    from lamina.coordinator.settings import Aggregation, Cohorts, Training
    from lamina.emulation.experiment import Partition
    from lamina.emulation.simulator.setting import TierCounts

    setting = Setting(
        model=model,
        batch_size=_BATCH,
        fleet=TierCounts(strong=devices),
        partition=Partition(kind="iid"),
        training=Training(rounds=rounds, local_steps=1, lr=0.01),
        aggregation=Aggregation(phi=1),
        cohorts=Cohorts(active=1.0),
    )
    drawn = outline(setting, apart=True)
    held, count = 40, min(4000, 40 * devices)
    data = samples(drawn.spec.input_shape, count)
    common = TaskSettings(
        model, drawn.spec, 0, _BATCH, 0.9, 1e-4, 0.0, False, (Variant(),),
        {name: np.arange(index * held, (index + 1) * held) % count for index, name in enumerate(setting.names)},
    )  # fmt: skip
    return RunContext(setting, common, data, drawn.initial, dict.fromkeys(setting.names, 0), None, devices)


def samples(shape: tuple[int, ...], count: int) -> tuple[Any, Any, Any, Any]:
    """Random training and test sets."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((count, *shape), np.float32), rng.integers(0, 10, count)
    return x, y, x[:10], y[:10]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(QUESTION, measure)
