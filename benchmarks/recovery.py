"""What does a federation of real processes lose when one of its programs is killed, and how soon does it go on?

Each kill has a run of its own, over a mosquitto of its own, with two devices. The program is killed at a seeded instant
of a seeded round (while devices train, while they deliver, while the round is committed, when the next one is planned),
by SIGKILL and SIGTERM in turn, and started again 0 to 40 s later (an agent or an aggregator at most 5 s later: a round
waits for a device that vanished for ``deadlines.lost_s`` only).

    bit_identical         share of the runs that end in the parameters of a run that nothing disturbed
    rounds_past_deadline  rounds that waited for their deadline, or closed with fewer updates than were due
    rows_lost             rounds that are missing in ``rounds.csv``
    recovery_s_*          from when the program could go on (it had loaded, and the devices had done their steps) to the
                          commit of the round that it was killed in; the start of Python is not counted

``--who`` kills the coordinator, an agent, an aggregator or the broker. Runs share the machine, ``--at-once`` of them.
"""

from __future__ import annotations

import random
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import Figures, Row, command_line, show
from lamina.emulation.rig.federation import Rig
from lamina.emulation.rig.program import Program, wait_until
from lamina.models.build import build_bundle
from lamina.models.definition import Definition

PHASES = ("training", "delivery", "commit", "plan")
ROUNDS = 8
DEADLINE_S = 300.0
_FEATURES, _CLASSES, _DEVICES = 6, 3, 2
_LIMIT_S = 900.0


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        who: the program: coordinator, agent, aggregator or broker.
        round: 0-based.
        phase: of it; one of `PHASES`.
        by: the signal.
        after_s: into the phase.
        away_s: until the program is started again.
    """

    who: str
    round: int
    phase: str
    by: signal.Signals
    after_s: float
    away_s: float

    @classmethod
    def drawn(cls, who: str, index: int) -> Kill:
        """The kill of a number: the same for the same number."""
        rng = random.Random(f"{who} {index}")
        phase = PHASES[index % len(PHASES)]
        return cls(
            who=who,
            round=rng.randint(1, ROUNDS - 2),
            phase=phase,
            by=(signal.SIGKILL, signal.SIGTERM)[index // len(PHASES) % 2],
            after_s=rng.uniform(0.0, 0.8) if phase == "training" else rng.uniform(0.0, 0.03),
            away_s=rng.uniform(0.0, 5.0 if who in ("agent", "aggregator") else 40.0),
        )


@dataclass(frozen=True)
class Found:
    """What a run with a kill came to."""

    kill: Kill
    model: str
    past_deadline: int
    rows_lost: int
    recovery_s: float


def measure(who: str, kills: int, at_once: int) -> tuple[Figures, list[Row]]:
    """The figures, and a line a kill."""
    with tempfile.TemporaryDirectory(prefix="lamina-recovery-") as name, ThreadPoolExecutor(at_once) as pool:
        folder = Path(name)
        bundle, data = _bundle(folder / "bundle"), _data(folder)
        expected = _undisturbed(folder / "undisturbed", who, bundle, data)
        drawn = [Kill.drawn(who, index) for index in range(kills)]
        found = list(
            pool.map(lambda pair: _killed(folder / f"kill-{pair[0]}", pair[1], bundle, data), enumerate(drawn))
        )
    recoveries = [each.recovery_s for each in found]
    figures = {
        "bit_identical": sum(each.model == expected for each in found) / len(found),
        "rounds_past_deadline": float(sum(each.past_deadline for each in found)),
        "rows_lost": float(sum(each.rows_lost for each in found)),
        "recovery_s_median": statistics.median(recoveries),
        "recovery_s_worst": max(recoveries),
    }
    return figures, [_HEADS, *(_row(each, expected) for each in found)]


def _undisturbed(folder: Path, who: str, bundle: Path, data: Sequence[Path]) -> str:
    with _rig(folder, who, bundle, data) as rig:
        _start(rig, who)
        status = rig.wait_for_end(_LIMIT_S)
        if status:
            raise RuntimeError(f"the undisturbed run ended with status {status}\n{rig.account()}")
        return rig.model


def _killed(folder: Path, kill: Kill, bundle: Path, data: Sequence[Path]) -> Found:
    with _rig(folder, kill.who, bundle, data) as rig:
        victim = _start(rig, kill.who)
        _reach(rig, kill)
        victim.signal(kill.by)
        victim.wait()
        time.sleep(kill.away_s)
        committed, started = rig.committed, time.time()
        if rig.coordinator.running or kill.who == "coordinator":
            victim.start()
            if kill.who == "coordinator" and committed < ROUNDS:
                rig.wait_for_round(min(committed + 1, ROUNDS), _LIMIT_S)
        else:
            raise RuntimeError(f"the coordinator ended while the {kill.who} was away\n{rig.account()}")
        if kill.who != "coordinator":
            rig.wait_for_round(min(committed + 1, ROUNDS), _LIMIT_S)
        done = time.time()
        able = max(_loaded_at(victim, kill.who, started), _trained_at(rig, committed))
        status = rig.wait_for_end(_LIMIT_S)
        if status:
            raise RuntimeError(f"{kill}: the run ended with status {status}\n{rig.account()}")
        rows = rig.rows
        late = sum(float(row["round_s"]) >= DEADLINE_S or row["updates"] != row["expected"] for row in rows)
        missing = set(range(ROUNDS)) - {int(row["round"]) for row in rows}
        return Found(kill, rig.model, late, len(missing), max(done - able, 0.0))


def _rig(folder: Path, who: str, bundle: Path, data: Sequence[Path]) -> Rig:
    settings: dict[str, dict[str, Any]] = {
        "training": {"rounds": ROUNDS, "local_steps": 6000, "lr": 0.05, "hyperparameters": {"momentum": 0.9}},
        "aggregation": {"phi": 2, "aggregators": int(who == "aggregator")},
        "deadlines": {"round_s": DEADLINE_S, "lost_s": 120.0, "broker_s": 0.0},
    }
    return Rig(folder, bundle, data, settings)


def _start(rig: Rig, who: str) -> Program:
    """Start everything; returns the program that is to be killed."""
    aggregator = rig.aggregator("--share", "1/1") if who == "aggregator" else None
    if aggregator is not None:
        aggregator.start()
    rig.start()
    victims = {"coordinator": rig.coordinator, "broker": rig.broker, "agent": rig.agent(1), "aggregator": aggregator}
    victim = victims[who]
    assert victim is not None
    return victim


def _reach(rig: Rig, kill: Kill) -> None:
    """Return at the kill's instant."""
    rig.wait_for_round(kill.round, _LIMIT_S)
    if kill.phase == "delivery":
        wait_until(lambda: f"round {kill.round}: loss" in rig.agent(1).words, _LIMIT_S)
    if kill.phase == "commit":
        words = (rig.agent(1), rig.agent(2))
        wait_until(lambda: all(f"round {kill.round}: loss" in agent.words for agent in words), _LIMIT_S)
    if kill.phase == "plan":
        rig.wait_for_round(kill.round + 1, _LIMIT_S)
    time.sleep(kill.after_s)


def _loaded_at(victim: Program, who: str, started: float) -> float:
    """When the program that was started again had loaded, on the wall clock; a broker answers at once."""
    first = {"coordinator": "going on after round", "agent": "linked to federation", "aggregator": "folds"}.get(who)
    if first is None:
        return started
    return _last_said(victim, first) or started


def _trained_at(rig: Rig, round_: int) -> float:
    """When the last device had done the steps of a round."""
    return max(_last_said(agent, f"round {round_}: loss") or 0.0 for agent in rig.agents.values())


def _last_said(program: Program, words: str) -> float | None:
    """When the program last said these words, by its log."""
    lines = [line for line in program.words.splitlines() if words in line]
    return datetime.strptime(lines[-1][:23], "%Y-%m-%d %H:%M:%S,%f").timestamp() if lines else None


def _bundle(folder: Path) -> Path:
    from torch import nn  # it is slow to load, and nothing else here needs it

    module = nn.Sequential(nn.Linear(_FEATURES, 8), nn.Tanh(), nn.Linear(8, _CLASSES))
    build_bundle(Definition("small", module, (_FEATURES,), _CLASSES), folder, batch_size=8, measure=lambda *_: 10.0)
    return folder


def _data(folder: Path) -> list[Path]:
    """Clouds that a small network can tell apart."""
    paths = []
    for seed in range(_DEVICES):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, _CLASSES, 24)
        x = rng.normal(size=(24, _FEATURES)) + 3.0 * np.eye(_CLASSES, _FEATURES)[y]
        paths.append(folder / f"device-{seed + 1}.npz")
        np.savez(paths[-1], x=x.astype(np.float32), y=y.astype(np.int64))
    return paths


_HEADS = ("killed", "in round", "while", "by", "away s", "same bits", "late rounds", "lost rows", "recovery s")


def _row(found: Found, expected: str) -> Row:
    kill = found.kill
    return (
        kill.who,
        str(kill.round),
        kill.phase,
        kill.by.name,
        f"{kill.away_s:.1f}",
        "yes" if found.model == expected else "no",
        str(found.past_deadline),
        str(found.rows_lost),
        f"{found.recovery_s:.2f}",
    )


def main() -> None:
    """Run it from the command line."""
    question = "What does a federation lose when one of its programs is killed, and how soon does it go on?"
    parser = command_line(question)
    parser.add_argument("--kills", type=int, default=20, help="how many (20)")
    parser.add_argument("--who", choices=("coordinator", "agent", "aggregator", "broker"), default="coordinator")
    parser.add_argument("--at-once", type=int, default=4, help="runs at a time (4)")
    options = parser.parse_args()
    show(question, *measure(options.who, 4 if options.quick else options.kills, options.at_once), options.json)


if __name__ == "__main__":
    main()
