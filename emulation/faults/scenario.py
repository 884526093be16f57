"""What a seed draws: a federation, and the faults that befall it. Both are plain values that can be printed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from lamina.emulation.faults.small_bundle import PEAKS_MIB

LOST_S = 60.0
"""For a device that vanished; longer than the longest wait before an agent dials again, and a short fault, together."""

ROUND_S = 3600.0
"""The deadline of a round; nothing but a fault in the programs makes a round last so long."""

LONG_QUEUE = 100_000
"""Messages for one client for which a broker has room. A short queue drops many, whatever befalls."""

SHORT_S, LONG_S = 15.0, 40.0
_SETTLING_S = 35.0  # after a fault, until an agent has dialled again for sure

Kind = Literal["kill", "term", "power", "cut", "freeze", "slow network", "slow training", "junk"]
COORDINATOR, BROKER, AGGREGATOR = "coordinator", "broker", "aggregator"


@dataclass(frozen=True, slots=True)
class Event:
    """One fault.

    Attributes:
        at_s: virtual seconds after the beginning.
        kind: what happens.
        target: whom it befalls: a program, or the broker.
        for_s: how long the program is down, or the fault lasts.
    """

    at_s: float
    kind: Kind
    target: str
    for_s: float

    def __str__(self) -> str:
        return f"{self.at_s:8.3f} s  {self.kind} {self.target} for {self.for_s:.3f} s"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One federation.

    Attributes:
        seed: of latencies and of what a power cut keeps.
        budgets_mib: of the devices.
        paces_s: of their training steps.
        rounds: to do.
        local_steps: a round.
        phi: rounds a cycle.
        codec: of updates.
        deltas: codec of deltas; empty for none.
        batched: whether updates share messages.
        aggregator: whether an aggregator folds the devices' updates.
        chunk_kib: of a message.
        broker_keeps: whether the broker has a disk.
        autosave_s: between two saves of it.
        queued: messages that wait for one client, at most; what comes then is dropped, though it was acknowledged.
    """

    seed: int
    budgets_mib: tuple[float, ...]
    paces_s: tuple[float, ...]
    rounds: int
    local_steps: int
    phi: int
    codec: str
    deltas: str
    batched: bool
    aggregator: bool
    chunk_kib: int
    broker_keeps: bool
    autosave_s: float
    queued: int

    @property
    def devices(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(f"d{index}" for index in range(len(self.budgets_mib)))


def draw_scenario(seed: int) -> Scenario:
    """A federation for a seed."""
    rng = random.Random(f"{seed} scenario")
    devices = rng.choice((1, 2, 2, 3, 3, 4))
    return Scenario(
        seed=seed,
        budgets_mib=tuple(rng.choice(tuple(PEAKS_MIB.values())) for _ in range(devices)),
        paces_s=tuple(round(rng.choice((0.02, 0.2, 2.0)) * rng.uniform(0.5, 1.5), 3) for _ in range(devices)),
        rounds=rng.randint(2, 6),
        local_steps=rng.randint(1, 3),
        phi=rng.choice((1, 2, 2, 3)),
        codec=rng.choice(("int8", "int8", "float32", "sign")),
        deltas=rng.choice(("int8", "int8", "")),
        batched=rng.random() < 0.7,
        aggregator=rng.random() < 0.25,
        chunk_kib=rng.choice((1, 1, 16)),
        broker_keeps=rng.random() < 0.6,
        autosave_s=rng.choice((2.0, 30.0, 300.0)),
        queued=rng.choice((LONG_QUEUE, LONG_QUEUE, LONG_QUEUE, 10, 2)),
    )


def draw_events(scenario: Scenario, lasts_s: float) -> tuple[Event, ...]:
    """Faults for a federation that lasts so long when nothing disturbs it."""
    rng = random.Random(f"{scenario.seed} events")
    targets = [COORDINATOR, COORDINATOR, BROKER, *scenario.devices, *([AGGREGATOR] if scenario.aggregator else [])]
    events = [_draw_event(rng, rng.choice(targets), lasts_s) for _ in range(rng.choice((1, 1, 2, 3, 4, 6)))]
    return tuple(sorted(events, key=lambda event: event.at_s))


def _draw_event(rng: random.Random, target: str, lasts_s: float) -> Event:
    kinds: tuple[Kind, ...]
    if target == BROKER:
        kinds = ("kill", "term", "term")
    elif target in (COORDINATOR, AGGREGATOR):
        kinds = ("kill", "kill", "term", "power", "cut", "freeze", "slow network")
    else:
        kinds = ("kill", "kill", "term", "power", "cut", "cut", "freeze", "slow network", "slow training", "junk")
    most_s = LONG_S if target == COORDINATOR else SHORT_S
    for_s = rng.choice((0.0, rng.uniform(0.0, 1.0), rng.uniform(0.0, most_s)))
    if target not in (COORDINATOR, BROKER) and rng.random() < 0.15:
        for_s = rng.uniform(2, 5) * LOST_S
    return Event(round(rng.uniform(0.0, 1.1 * lasts_s), 3), rng.choice(kinds), target, round(for_s, 3))


def may_lose(scenario: Scenario, events: tuple[Event, ...]) -> frozenset[str]:
    """Devices that may have been away for longer than anybody waits for them.

    Faults that follow one another closely count as one: a device that is back has not always been heard. One that says
    goodbye is not waited for at all.
    """
    lost = set()
    for device in scenario.devices:
        spans = [
            (event.at_s, event.at_s + event.for_s)
            for event in events
            if event.target in (device, BROKER) and event.kind not in ("slow training", "junk")
        ]
        said_goodbye = any(event.target == device and event.kind == "term" for event in events)
        if said_goodbye or _longest(spans) + _SETTLING_S > LOST_S:
            lost.add(device)
    return frozenset(lost)


def _longest(spans: list[tuple[float, float]]) -> float:
    """The longest time that is covered by spans with gaps of less than `_SETTLING_S`, gaps included."""
    longest, began, ended = 0.0, 0.0, -_SETTLING_S
    for start, stop in sorted(spans):
        if start - ended >= _SETTLING_S:
            began = start
        ended = max(ended, stop) if start - ended < _SETTLING_S else stop
        longest = max(longest, ended - began)
    return longest


def loses_drift(scenario: Scenario, events: tuple[Event, ...]) -> bool:
    """Whether a device may have begun afresh within a cycle, which changes what it trains, and nothing else.

    A power cut takes what was not synced.
    """
    return scenario.phi > 1 and any(event.kind == "power" for event in events)
