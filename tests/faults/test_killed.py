"""An agent, an aggregator or the broker that is killed and started again: the run ends in undisturbed bits."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from lamina.emulation.rig.federation import Rig
from lamina.emulation.rig.program import Program, wait_until
from tests.faults.conftest import MakeRig

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"rounds": 8, "local_steps": 4000, "lr": 0.05, "hyperparameters": {"momentum": 0.9}},
    "aggregation": {"phi": 2},
    "deadlines": {"round_s": 3600, "lost_s": 300, "broker_s": 0},
}


def started(rig: Rig, who: str) -> Program:
    """Everything, started; returns the program that is to be killed."""
    aggregator = rig.aggregator("--share", "1/1")
    if who == "aggregator":
        aggregator.start()
    rig.start()
    return {"agent": rig.agent(1), "aggregator": aggregator, "broker": rig.broker}[who]


def is_in(rig: Rig, instant: str, round_: int) -> bool:
    if instant == "while devices train":
        return rig.committed >= round_
    return all(f"round {round_}: loss" in agent.words for agent in rig.agents.values())


@pytest.mark.parametrize("instant", ["while devices train", "while they deliver"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("who", ["agent", "aggregator", "broker"])
def test_what_is_killed_and_comes_back_leaves_no_trace(
    rig: MakeRig, who: str, end: signal.Signals, instant: str
) -> None:
    settings = {**SETTINGS, "aggregation": {"phi": 2, "aggregators": int(who == "aggregator")}}
    undisturbed, killed = rig(settings=settings), rig(settings=settings)
    started(undisturbed, who)
    assert undisturbed.wait_for_end() == 0
    victim = started(killed, who)
    for round_ in (2, 5):
        wait_until(lambda round_=round_: is_in(killed, instant, round_), what=f"round {round_}")  # type: ignore[misc]
        victim.signal(end)
        victim.wait()
        victim.start()
    assert killed.wait_for_end() == 0
    assert killed.model == undisturbed.model
    assert [row["updates"] for row in killed.rows] == [row["expected"] for row in killed.rows]
