"""The quickest backend is found by trying each for a moment on the tasks that are to be done."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

from lamina.emulation.simulator.backends import Backend
from lamina.emulation.simulator.backends.pool import pooling
from lamina.emulation.simulator.backends.tasks import RunTask, TaskSettings, TrainingTask
from lamina.emulation.simulator.run_context import RunContext
from lamina.models.machine import usable_cores

BackendName = Literal["auto", "loop", "pool", "stack", "ray"]

_STEPS = 2  # of each device, in a trial
_MUCH_QUICKER = 1.1  # than the loop, for another backend to be worth it


def open_backend(name: str, context: RunContext, processes: int = 0, ray: str = "") -> AbstractContextManager[Backend]:
    """The backend of that name, over arrays of its own.

    Args:
        name: ``loop``, ``pool``, ``stack`` or ``ray``.
        context: of the run.
        processes: of the pool, or lanes on Ray; 0: as many as there are cores to use.
        ray: address of a Ray cluster; empty starts one on this machine.
    """
    match name:
        case "loop":
            from lamina.emulation.simulator.backends.loop import looping  # torch is loaded where it is needed only

            return looping(context.common, context.slots, context.data)
        case "pool":
            return pooling(context.common, context.slots, context.data, processes)
        case "stack":
            from lamina.emulation.simulator.backends.stack import stacking

            return stacking(context.common, context.slots, context.data)
        case "ray":
            from lamina.emulation.simulator.backends.ray import on_ray

            return on_ray(context.common, context.slots, context.data, processes, ray)
    raise ValueError(f"there is no backend {name!r}")


def candidates(context: RunContext) -> list[str]:
    """The backends that can take this run."""
    names = ["loop"]
    if usable_cores() > 1 and context.common.device == "cpu":
        names.append("pool")
    return [*names, "stack"] if stackable(context.common) else names


def stackable(common: TaskSettings) -> bool:
    """Whether the stack can take the run: without running statistics, and without narrow networks."""
    statistics = any(layer.statistics_size for layer in common.spec.layers)
    return not statistics and all(variant.ratio == 1 for variant in common.variants)


def samples_per_s(context: RunContext, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """How many training samples each candidate does in a second, after a round to warm up."""
    tasks: list[RunTask] = [
        TrainingTask(slot, device, variant, 0, _STEPS, 0.0)
        for slot, (device, variant) in zip(range(context.slots), context.variants.items(), strict=False)
    ]
    seen = len(tasks) * _STEPS * context.common.batch_size
    rates, names = {}, candidates(context)
    for name in names:
        # a pool of one process does what a loop does, and this process need not load torch for the trial
        alone = name == "loop" and "pool" in names
        with open_backend("pool", context, 1) if alone else open_backend(name, context) as backend:
            backend.arrays.base[:] = backend.arrays.rows[:] = context.initial
            backend.carry_out(tasks)
            began = clock()
            backend.carry_out(tasks)
            rates[name] = seen / (clock() - began)
    return rates


def quickest(rates: dict[str, float]) -> str:
    """The backend with the highest rate; the loop, where no other is quicker by a tenth."""
    best = max(rates, key=lambda name: rates[name])
    return best if rates[best] > _MUCH_QUICKER * rates["loop"] else "loop"
