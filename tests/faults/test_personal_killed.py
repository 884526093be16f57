"""An agent that is killed keeps its personal layers: nothing of them is lost, and no round is in them twice."""

from __future__ import annotations

import signal
from typing import Any

import msgspec
import numpy as np
import pytest

from lamina.emulation.rig.federation import Rig
from lamina.emulation.rig.program import wait_until
from tests.faults.conftest import MakeRig

Generations = dict[int, dict[str, bytes]]

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"rounds": 8, "local_steps": 4000, "lr": 0.05, "hyperparameters": {"momentum": 0.9}},
    "aggregation": {"phi": 2, "personal": ["4", "0.bias"]},
    "deadlines": {"round_s": 3600, "lost_s": 300, "broker_s": 0},
}


def generations(rig: Rig, device: int) -> Generations:
    """The personal layers on a device's disk, by the round that comes next."""
    path = rig.folder / f"agent-{device}" / "personal"
    return dict(msgspec.msgpack.decode(path.read_bytes()[8:], strict=False)["generations"]) if path.exists() else {}


@pytest.mark.parametrize("who", ["agent", "coordinator"])
def test_what_is_killed_and_comes_back_ends_with_the_same_personal_layers(rig: MakeRig, who: str) -> None:
    undisturbed, killed = rig(settings=SETTINGS), rig(settings=SETTINGS)
    undisturbed.start()
    assert undisturbed.wait_for_end() == 0
    killed.start()
    victim = killed.agent(1) if who == "agent" else killed.coordinator
    for round_ in (1, 2, 3, 5):
        wait_until(lambda round_=round_: killed.committed >= round_, what=f"round {round_}")  # type: ignore[misc]
        victim.signal(signal.SIGKILL)
        victim.wait()
        victim.start()
    assert killed.wait_for_end() == 0
    assert killed.model == undisturbed.model
    for device in (1, 2):
        assert generations(killed, device) == generations(undisturbed, device)
    first, second = generations(killed, 1), generations(killed, 2)
    assert sorted(first) == [7, 8]
    assert first[8] != second[8]  # they are its own


def test_a_device_that_was_away_for_cycles_goes_on_from_what_it_had(rig: MakeRig) -> None:
    settings = SETTINGS | {
        "training": SETTINGS["training"] | {"rounds": 30, "local_steps": 1000},
        "deadlines": {"round_s": 3600, "lost_s": 0.2, "broker_s": 0},
    }
    fleet = rig(settings=settings, agent_settings={"keep_state": True})
    fleet.start()
    fleet.wait_for_round(3)
    fleet.agent(1).signal(signal.SIGKILL)
    fleet.agent(1).wait()
    left = generations(fleet, 1)
    fleet.wait_for_round(max(left) + 4)
    (fleet.folder / "agent-1" / "state").unlink(missing_ok=True)  # the personal layers stand by themselves
    fleet.agent(1).start()
    wait_until(lambda: max(generations(fleet, 1)) > max(left), what="a round of the device that was away")
    came = generations(fleet, 1)
    if min(came) > max(left) + 1:  # its first round may be over already
        assert all(np.frombuffer(came[min(came)][name], "<f4").any() for name in left[max(left)])
    else:
        assert came[min(came)] == left[max(left)]
