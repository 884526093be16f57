"""Carries out many runs: beside each other, a process each, while there are enough; else one after another.

A run alone gains from a pool of processes for its devices; many runs gain more from a process each: nothing is shared,
and nobody waits at the end of a round.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from lamina.emulation.simulator.backends.choosing import BackendName
from lamina.emulation.simulator.backends.processes import context
from lamina.emulation.simulator.run import Result, known_result, run
from lamina.emulation.simulator.setting import Setting
from lamina.models.errors import LaminaError
from lamina.models.machine import usable_cores

_LOOK_S = 0.5  # between two looks at how far the runs are


@dataclass(frozen=True)
class Means:
    """What runs are carried out with.

    Attributes:
        cache: folder of all runs, by digest.
        backend: of a run that is alone; runs beside each other are loops.
        processes: at most; 0: as many as there are cores to use.
        ray: address of a Ray cluster, for the backend ``ray``.
        device: torch's name of where to compute.
    """

    cache: Path
    backend: BackendName = "auto"
    processes: int = 0
    ray: str = ""
    device: str = "cpu"


def carry_out(
    settings: Sequence[Setting], means: Means, progress: Callable[[float], None] = lambda share: None
) -> dict[str, Result]:
    """The result of every setting, by its digest; what is in the cache is taken from there.

    Args:
        settings: of the runs; equal ones are one run.
        means: to carry them out with.
        progress: is told which share of all rounds is done, now and then.

    Raises:
        LaminaError: a run failed; those that had ended are in the cache.
    """
    wanted = {setting.digest: setting for setting in settings}
    results = {digest: known for digest, setting in wanted.items() if (known := known_result(setting, means.cache))}
    missing = [setting for digest, setting in wanted.items() if digest not in results]
    lanes = min(means.processes or usable_cores(), len(missing))
    beside = lanes > 1 and means.backend in ("auto", "loop") and means.device == "cpu"
    tally = _Tally(sum(setting.rounds for setting in missing), progress)
    for result in _beside(missing, means, lanes, tally) if beside else _in_turn(missing, means, tally):
        results[result.setting.digest] = result
    return results


class _Tally:
    """Rounds done, of all."""

    def __init__(self, rounds: int, progress: Callable[[float], None]) -> None:
        self._rounds, self._done, self._progress = rounds, 0, progress

    def set(self, done: int) -> None:
        self._done = done
        self._progress(done / self._rounds if self._rounds else 1.0)

    def add(self, _: object = None) -> None:
        self.set(self._done + 1)


def _in_turn(settings: Sequence[Setting], means: Means, tally: _Tally) -> Iterator[Result]:
    for setting in settings:
        yield run(
            setting,
            means.cache,
            backend=means.backend,
            processes=means.processes,
            ray=means.ray,
            device=means.device,
            observe=tally.add,
        )


def _beside(settings: Sequence[Setting], means: Means, lanes: int, tally: _Tally) -> Iterator[Result]:
    """Longest first, so that no long one is left for the end."""
    starting = context()
    counter = starting.Value("q", 0)
    ordered = sorted(settings, key=lambda setting: -setting.rounds * setting.training.local_steps)
    with _executor(starting, lanes, counter) as executor:
        running: set[Future[Result]] = {executor.submit(_run_alone, setting, means.cache) for setting in ordered}
        while running:
            done, running = wait(running, _LOOK_S, FIRST_COMPLETED)
            tally.set(counter.value)
            for future in done:
                try:
                    yield future.result()
                except BrokenProcessPool as error:
                    raise LaminaError(
                        "a run's process vanished, most often for lack of memory: use fewer --processes"
                    ) from error


@contextmanager
def _executor(starting: Any, lanes: int, counter: Any) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor. If the caller ends early, its runs are broken off, and go on from their checkpoints another
    time.
    """
    executor = ProcessPoolExecutor(lanes, starting, _equip, (counter,))
    try:
        yield executor
        executor.shutdown()
    except BaseException:
        for process in list((executor._processes or {}).values()):
            process.terminate()
        executor.shutdown(cancel_futures=True)
        raise


_rounds_done: Any = None  # of this lane's process, shared with its parent


def _equip(counter: Any) -> None:
    global _rounds_done
    os.environ["OMP_NUM_THREADS"] = "1"
    _rounds_done = counter
    threading.Thread(target=_end_with_the_caller, name="watch the caller", daemon=True).start()


def _end_with_the_caller() -> None:
    """A caller that was killed can't end its lanes. One that went on would write where the next try writes."""
    if caller := parent_process():
        caller.join()
        os._exit(1)


def _run_alone(setting: Setting, cache: Path) -> Result:
    def count(_: object) -> None:
        with _rounds_done.get_lock():
            _rounds_done.value += 1

    return run(setting, cache, backend="loop", observe=count)
