"""A coordinator that is killed and started again: the run ends in the bits of one that nothing disturbed."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from lamina.emulation.rig.program import wait_until
from tests.faults.conftest import MakeRig

ROUNDS = 8
SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"rounds": ROUNDS, "local_steps": 6000, "lr": 0.05, "hyperparameters": {"momentum": 0.9}},
    "aggregation": {"phi": 1},
    "deadlines": {"round_s": 3600, "lost_s": 120},
}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("instant", ["while devices train", "while they deliver"])
def test_a_coordinator_killed_in_a_round_loses_nothing(rig: MakeRig, instant: str, end: signal.Signals) -> None:
    undisturbed, killed = rig(settings=SETTINGS), rig(settings=SETTINGS)
    for each in (undisturbed, killed):
        each.start()
    assert undisturbed.wait_for_end() == 0
    killed.wait_for_round(3)
    time.sleep(0.3 if instant == "while devices train" else 0.0)
    killed.coordinator.signal(end)
    killed.coordinator.wait()
    for agent in killed.agents.values():  # the devices are done with the round, and have said so to nobody
        wait_until(lambda agent=agent: "round 3: loss" in agent.words, what="the end of its round")
    killed.start_coordinator()
    assert killed.wait_for_end() == 0
    assert killed.model == undisturbed.model
    assert [row["updates"] for row in killed.rows] == [row["expected"] for row in killed.rows]
