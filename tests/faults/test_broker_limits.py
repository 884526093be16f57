"""A broker that refuses: the programs say what it refuses and what to change, and don't try for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lamina.emulation.rig.program import wait_until
from tests.faults.conftest import MakeRig, write_dense

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"rounds": 3, "local_steps": 10},
    "aggregation": {"phi": 1},
    "deadlines": {"broker_s": 3600},
}


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("limit", ["message_size_limit", "max_packet_size"])
def test_a_limit_below_a_chunk_is_named_with_the_setting(rig: MakeRig, limit: str, protocol: str) -> None:
    fleet = rig(settings={**SETTINGS, "broker": {"protocol": protocol}}, broker_extra=f"{limit} 2048")
    fleet.start_coordinator()
    assert fleet.wait_for_end() == 2
    last = fleet.coordinator.words.splitlines()[-1]
    assert "wire.chunk_kib" in last


def test_a_broker_that_keeps_no_messages_is_named(rig: MakeRig) -> None:
    fleet = rig(settings=SETTINGS, broker_extra="retain_available false")
    fleet.start_coordinator()
    assert fleet.wait_for_end() == 2
    assert "retain" in fleet.coordinator.words.splitlines()[-1]


@pytest.mark.parametrize("limit", ["message_size_limit", "max_packet_size"])
def test_chunks_below_the_limit_pass(rig: MakeRig, limit: str) -> None:
    fleet = rig(settings={**SETTINGS, "wire": {"chunk_kib": 1}}, broker_extra=f"{limit} 2048")
    fleet.start()
    assert fleet.wait_for_end() == 0


def test_a_short_queue_costs_a_bundle_time_and_is_named(rig: MakeRig) -> None:
    extra = "max_queued_messages 10\nmax_inflight_messages 1"
    fleet = rig(settings={**SETTINGS, "wire": {"chunk_kib": 1}}, broker_extra=extra)
    fleet.start()
    assert fleet.wait_for_end() == 0


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose updates take many messages of 1 KiB."""
    folder = tmp_path_factory.mktemp("wide")
    write_dense(folder, "wide", (200, 100), 10)
    return folder


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_queue_that_drops_what_it_acknowledged_costs_no_update(
    rig: MakeRig, wide_bundle: Path, protocol: str
) -> None:
    settings = {**SETTINGS, "wire": {"chunk_kib": 1}, "broker": {"protocol": protocol}}
    long = rig(devices=3, settings=settings, bundle=wide_bundle)
    long.start()
    assert long.wait_for_end() == 0
    extra = "max_queued_messages 10\nmax_inflight_messages 1\nlog_type all"
    short = rig(devices=3, settings=settings, bundle=wide_bundle, broker_extra=extra)
    short.start()
    assert short.wait_for_end() == 0
    assert "being dropped" in short.broker.words
    assert all(row["updates"] == row["expected"] for row in short.rows)
    assert short.model == long.model


def test_refused_credentials_stop_a_coordinator_and_an_agent_waits_for_the_operator(rig: MakeRig) -> None:
    fleet = rig(devices=1, settings=SETTINGS, broker_extra="allow_anonymous false", agent_settings={"broker_s": 3600})
    agent = fleet.agent(1)
    agent.start()
    fleet.start_coordinator()
    assert fleet.wait_for_end() == 2
    assert "refuses a client without username and password" in fleet.coordinator.words.splitlines()[-1]
    wait_until(lambda: agent.words.count("trying again") > 2, what="an agent that tries again")
    assert "refuses a client without username and password" in agent.words
    agent.terminate()
    assert agent.status == 0


def test_an_agent_gives_up_on_refused_credentials_after_its_time(rig: MakeRig) -> None:
    fleet = rig(devices=1, broker_extra="allow_anonymous false", agent_settings={"broker_s": 1})
    fleet.agent(1).start()
    assert fleet.agents[1].wait() == 2
