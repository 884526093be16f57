"""Which way is quickest here? They are tried, for a moment each, on the tasks that are to be done."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

from lamina.emulation.simulator.backends import Way
from lamina.emulation.simulator.backends.pool import pooling
from lamina.emulation.simulator.backends.tasks import Recipe, Task, Training
from lamina.emulation.simulator.run_context import Ground
from lamina.models.machine import usable_cores

WayName = Literal["auto", "loop", "pool", "stack", "ray"]

_STEPS = 2  # of each device, in a trial
_MUCH_QUICKER = 1.1  # than the loop, for another way to be worth it


def open_way(name: str, ground: Ground, processes: int = 0, ray: str = "") -> AbstractContextManager[Way]:
    """The way of that name, over an arena of its own.

    Args:
        name: ``loop``, ``pool``, ``stack`` or ``ray``.
        ground: of the run.
        processes: of the pool, or lanes on Ray; 0: as many as there are cores to use.
        ray: address of a Ray cluster; empty starts one on this machine.
    """
    match name:
        case "loop":
            from lamina.emulation.simulator.backends.loop import looping  # torch is loaded where it is needed only

            return looping(ground.recipe, ground.slots, ground.data)
        case "pool":
            return pooling(ground.recipe, ground.slots, ground.data, processes)
        case "stack":
            from lamina.emulation.simulator.backends.stack import stacking

            return stacking(ground.recipe, ground.slots, ground.data)
        case "ray":
            from lamina.emulation.simulator.backends.ray import on_ray

            return on_ray(ground.recipe, ground.slots, ground.data, processes, ray)
    raise ValueError(f"there is no way {name!r} to carry out tasks")


def candidates(ground: Ground) -> list[str]:
    """The ways that can take this run."""
    names = ["loop"]
    if usable_cores() > 1 and ground.recipe.device == "cpu":
        names.append("pool")
    return [*names, "stack"] if stackable(ground.recipe) else names


def stackable(recipe: Recipe) -> bool:
    """Whether the stack can take the run: without running statistics, and without narrow networks."""
    statistics = any(layer.statistics_size for layer in recipe.spec.layers)
    return not statistics and all(variant.ratio == 1 for variant in recipe.variants)


def samples_per_s(ground: Ground, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """How many training samples each candidate does in a second, after a round to warm up."""
    tasks: list[Task] = [
        Training(slot, device, variant, 0, _STEPS, 0.0)
        for slot, (device, variant) in zip(range(ground.slots), ground.variants.items(), strict=False)
    ]
    seen = len(tasks) * _STEPS * ground.recipe.batch_size
    rates, names = {}, candidates(ground)
    for name in names:
        # a pool of one process does what a loop does, and this process need not load torch for the trial
        alone = name == "loop" and "pool" in names
        with open_way("pool", ground, 1) if alone else open_way(name, ground) as way:
            way.arena.base[:] = way.arena.rows[:] = ground.initial
            way.carry_out(tasks)
            began = clock()
            way.carry_out(tasks)
            rates[name] = seen / (clock() - began)
    return rates


def quickest(rates: dict[str, float]) -> str:
    """The way with the highest rate; the loop, where no other is quicker by a tenth."""
    best = max(rates, key=lambda name: rates[name])
    return best if rates[best] > _MUCH_QUICKER * rates["loop"] else "loop"
