"""One seed of the fault simulation: a federation undisturbed and with faults, and what both must have in common."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lamina.emulation.faults.federation import Ending, World
from lamina.emulation.faults.promises import broken_promises
from lamina.emulation.faults.scenario import LONG_QUEUE, Event, Scenario, draw_events, draw_scenario
from lamina.emulation.faults.shrinking import shortest_failing
from lamina.models.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed whose federation broke a promise.

    Attributes:
        seed: of scenario and events.
        scenario: what it drew.
        broken: promises, in words.
        events: the shortest list that still breaks one; empty where the undisturbed federation does.
    """

    seed: int
    scenario: Scenario
    broken: tuple[str, ...]
    events: tuple[Event, ...]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {'; '.join(self.broken)}", f"    {self.scenario}"]
        lines += [f"    {event}" for event in self.events] or ["    (no event is needed)"]
        return "\n".join(lines)


def check_seed(seed: int, bundle: Bundle, *, shrink: bool = True) -> Failure | None:
    """Run a seed; ``None`` when every promise holds."""
    scenario = draw_scenario(seed)
    undisturbed = played(replace(scenario, queued=LONG_QUEUE), (), bundle)
    if undisturbed.problems or not undisturbed.model:
        return Failure(seed, scenario, tuple(undisturbed.problems or ["there is no model"]), ())
    events = draw_events(scenario, undisturbed.lasted_s)

    def broken(some: Sequence[Event]) -> list[str]:
        return broken_promises(scenario, tuple(some), undisturbed, played(scenario, tuple(some), bundle))

    if not broken(events):
        return None
    if shrink:
        events = tuple(shortest_failing(events, lambda some: bool(broken(some))))
    return Failure(seed, scenario, tuple(broken(events)), events)


def played(
    scenario: Scenario, events: tuple[Event, ...], bundle: Bundle, say: Callable[[str], None] = lambda line: None
) -> Ending:
    """What becomes of a federation."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="lamina-faults-", dir=memory if memory.is_dir() else None))
    try:
        return World(scenario, events, bundle, folder, say).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
