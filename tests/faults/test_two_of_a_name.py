"""Two programs of one name: one of them says so and ends, and the federation comes to its end with the other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.emulation.rig.federation import Rig
from lamina.emulation.rig.program import Program
from tests.faults.conftest import MakeRig

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"rounds": 6, "local_steps": 4000},
    "aggregation": {"phi": 1},
    "deadlines": {"round_s": 3600, "lost_s": 120},
}


def second_coordinator(rig: Rig, folder: Path) -> Program:
    """Another coordinator of the rig's federation, with a folder of its own."""
    text = (rig.folder / "federation.toml").read_text().replace(str(rig.run_folder), str(folder))
    (rig.folder / "second.toml").write_text(text)
    command = [sys.executable, "-P", "-m", "lamina.coordinator.cli", "run", str(rig.folder / "second.toml")]
    program = Program(command, rig.folder / "second.log")
    rig.others.append(program)
    return program


@pytest.mark.parametrize("same_folder", [True, False])
def test_a_second_coordinator_is_refused_and_told_who_leads(rig: MakeRig, same_folder: bool) -> None:
    first = rig(settings=SETTINGS)
    first.start()
    first.wait_for_round(2)
    second = second_coordinator(first, first.run_folder if same_folder else first.folder / "other")
    second.start()
    assert second.wait() == 2
    assert f"process {first.coordinator.pid}" in second.words
    assert "since" in second.words
    assert first.wait_for_end() == 0
    assert [row["updates"] for row in first.rows] == [row["expected"] for row in first.rows]
    assert "dropped" not in first.coordinator.words


def test_a_frozen_coordinator_that_was_replaced_ends_when_it_wakes(rig: MakeRig) -> None:
    first = rig(settings=SETTINGS)
    first.start()
    first.wait_for_round(2)
    first.coordinator.freeze()
    second = second_coordinator(first, first.folder / "other")
    second.start()
    assert second.wait() == 2  # the process is there, and the lease is its
    first.coordinator.thaw()
    assert first.wait_for_end() == 0


def test_a_coordinator_that_was_killed_is_no_obstacle_to_another_folder(rig: MakeRig) -> None:
    first = rig(settings=SETTINGS)
    first.start()
    first.wait_for_round(2)
    first.coordinator.kill()
    second = second_coordinator(first, first.folder / "other")
    second.start()
    assert second.wait(240) == 0


def test_of_two_boards_with_one_name_one_says_so_and_ends(rig: MakeRig) -> None:
    fleet = rig(settings={**SETTINGS, "training": {"rounds": 1000, "local_steps": 4000}})
    fleet.start()
    fleet.wait_for_round(1)
    original = fleet.agents[1]
    clone = fleet.agent(3, device="device-1", data=str(fleet.data[0]))
    clone.start()
    assert original.wait() == 2
    assert "another program" in original.words
    assert "device-1" in original.words.splitlines()[-1]
    fleet.wait_for_round(fleet.committed + 5)
    assert clone.running
    assert "taken" not in clone.words


def test_names_that_share_their_parts_do_not_meet(rig: MakeRig) -> None:
    """Federation a with device b-c, beside a-b with c, and a device called coordinator."""
    one = rig(name="a", settings=SETTINGS)
    other = rig(name="a-b", settings=SETTINGS)
    other.broker.close()
    other.agent_port = other.coordinator_port = one.broker.port
    one.agent(1, device="b-c"), one.agent(2, device="coordinator")
    other.agent(1, device="c"), other.agent(2, device="d")
    for each in (one, other):
        each.start()
    assert (one.wait_for_end(), other.wait_for_end()) == (0, 0)
    for each in (one, other):
        for program in (each.coordinator, *each.agents.values()):
            assert "dropped" not in program.words
