"""What an agent makes of damaged and missing messages, lost links and restarts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from lamina.models.errors import TakenOver
from tests.agent_lab import LONG, MANY, PARAMETERS, STATISTICS, Lab, lab_in, layers_of, trained
from tests.tiny_training import Twin


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with lab_in(tmp_path) as lab:
        yield lab


# The advance.


async def test_an_agent_in_step_goes_on_from_the_advance_behind_the_plan(lab: Lab) -> None:
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0))
    await lab.coordinator.until_report()
    assert lab.coordinator.requests == [(0, 1)]
    twin, *_ = trained(Twin.start(), 0)
    for round_ in (1, 2):
        twin.parameters[:6] = [0.5, -0.5, 1, 0, 0.25, round_]
        twin.parameters[6:] = round_
        twin.shift = np.array([0.5, 0.5])
        deltas = [lab.coordinator.delta(layer, round_, vector) for layer, vector in enumerate(layers_of(twin))]
        await lab.coordinator.plan(round_, (round_, round_), advanced=(0, 1))
        await lab.coordinator.advance(*deltas)
        report = await lab.coordinator.until_report(round_ + 1)
        twin, loss, _ = trained(twin, round_)
        assert report.loss == pytest.approx(loss, rel=1e-4)
    assert lab.coordinator.requests == [(0, 1)]


async def test_what_is_damaged_or_strayed_in_an_advance_costs_that_layer_alone(lab: Lab) -> None:
    agent = await lab.ready()
    await lab.coordinator.plan(0, (0, 0))
    await lab.coordinator.until_report()
    twin, *_ = trained(Twin.start(), 0)
    twin.parameters[6:] = 0.5
    first, second = layers_of(twin)
    lab.coordinator.values[0] = lab.coordinator.values[0] + 1  # not what the agent holds
    strayed, sound = lab.coordinator.delta(0, 1, first), lab.coordinator.delta(1, 1, second)
    await lab.coordinator.plan(1, (1, 1), advanced=(0, 1))
    await lab.coordinator.advance(sound[:-1] + b"?", strayed, sound)
    while len(lab.coordinator.requests) < 2:
        await asyncio.sleep(0)
    assert lab.coordinator.requests == [(0, 1), (0,)]
    await lab.coordinator.publish_value(0, 1, lab.coordinator.values[0])
    report = await lab.coordinator.until_report(2)
    assert report.loss == pytest.approx(trained(twin, 1)[1], rel=1e-4)
    assert agent.tally.refused == {"advance": 1}


async def test_a_value_that_the_broker_kept_from_before_a_crash_is_not_taken(lab: Lab) -> None:
    """A coordinator that lost its last rounds comes to another version 1, and the broker still has the one that was."""
    await lab.ready()
    await lab.coordinator.publish_value(0, 1, layers_of(Twin.start())[0] + 1)
    twin = Twin.start()
    twin.parameters[:6] = 0.25
    lab.coordinator.values[0] = layers_of(twin)[0]
    await lab.coordinator.plan(1, (1, 0))
    while not lab.coordinator.requests:
        await asyncio.sleep(0)
    await lab.coordinator.publish_value(0, 1, lab.coordinator.values[0])
    report = await lab.coordinator.until_report()
    assert report.loss == pytest.approx(trained(twin, 1)[1], rel=1e-4)


async def test_an_advance_that_passed_while_training_is_taken_from_the_broker(lab: Lab) -> None:
    await lab.ready(data=MANY)
    await lab.coordinator.plan(0, (0, 0), local_steps=1)
    await lab.coordinator.until_report()
    first, second = layers_of(Twin.start())
    delta = lab.coordinator.delta(0, 1, first)
    await lab.coordinator.plan(1, (1, 0), local_steps=LONG, advanced=(0,))
    await lab.coordinator.advance(delta)
    await asyncio.sleep(0.1)
    delta = lab.coordinator.delta(1, 1, second)
    await lab.coordinator.plan(2, (1, 1), local_steps=1, advanced=(1,))
    await lab.coordinator.advance(delta)
    report = await lab.coordinator.until_report(2)
    assert report.round == 2
    assert report.loss == pytest.approx(Twin.start().step(MANY.x[:2], MANY.y[:2], {})[0], rel=1e-4)
    assert lab.coordinator.requests == [(0, 1)]


# What goes wrong on the way.


async def test_nonsense_is_counted_and_never_fatal(lab: Lab) -> None:
    topics = lab.coordinator.topics
    agent = lab.agent()
    await lab.coordinator.until_profile()
    await lab.coordinator.say(topics.device("pi", "task"), b"\xff\x00")
    await lab.coordinator.say(topics.device("pi", "task"), b"")  # a retained message that was cleared
    await lab.coordinator.say(topics.round, b"{}")
    await lab.coordinator.publish_values(PARAMETERS, STATISTICS, (0, 0))
    await lab.coordinator.say(topics.layer_global("first", 7), b"LAML nonsense")
    await lab.coordinator.accept()
    await lab.coordinator.plan(0, (0, 0))
    await lab.coordinator.until_report()
    await lab.coordinator.plan(1, (0, 0), codec="morse")
    await lab.coordinator.plan(1, (0, 0))
    await lab.coordinator.until_report(2)
    assert agent.tally.refused == {"task": 1, "round": 2, "layer_global": 1}


async def test_a_damaged_chunk_of_the_bundle_is_fetched_again_when_it_is_mended(lab: Lab) -> None:
    first = lab.coordinator.topics.bundle(lab.coordinator.bundle.digest, 0)
    whole = lab.broker.retained[first]
    lab.broker.retained[first] = whole[:-1] + b"?"
    agent = await lab.ready()
    await lab.coordinator.plan(0, (0, 0))
    while not agent.tally.refused:
        await asyncio.sleep(0)
    await lab.coordinator.say(first, whole)
    await lab.coordinator.until_report()
    assert agent.tally.refused == {"bundle": 1}


async def test_a_dropped_link_shows_as_lost_and_the_round_goes_on(lab: Lab) -> None:
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0))
    await lab.coordinator.until_report()
    lab.broker.drop("lab/device/pi")
    await lab.coordinator.until_status("lost")
    await lab.coordinator.plan(1, (0, 0))
    assert (await lab.coordinator.until_report(2)).round == 1
    assert lab.coordinator.statuses == ["online", "lost", "online"]
    assert [update.round for update in lab.coordinator.updates] == [0, 0, 1, 1]


async def test_training_that_diverges_is_reported_without_updates(lab: Lab) -> None:
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0), hyperparameters={"lr": 1e38})
    report = await lab.coordinator.until_report()
    assert not math.isfinite(report.loss)
    assert lab.coordinator.updates == []
    await lab.coordinator.plan(1, (0, 0))
    report = await lab.coordinator.until_report(2)
    assert report.loss == pytest.approx(trained(Twin.start(), 1)[1], rel=1e-5)  # afresh


async def test_a_newer_plan_makes_a_slow_device_leave_off(lab: Lab) -> None:
    await lab.ready(data=MANY)
    await lab.coordinator.plan(0, (0, 0), local_steps=LONG)
    await asyncio.sleep(0.1)
    await lab.coordinator.plan(1, (0, 0), local_steps=1)
    report = await lab.coordinator.until_report()
    assert report.round == 1
    # Afresh: the loss of the initial values on samples that are all alike.
    assert report.loss == pytest.approx(Twin.start().step(MANY.x[:2], MANY.y[:2], {})[0], rel=1e-5)


# Restarts.


async def test_with_its_state_a_restarted_agent_is_where_it_was(lab: Lab) -> None:
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0), due=(1,))
    await lab.coordinator.until_report()
    await lab.stop()
    before = sorted(lab.broker.retained)
    for topic in before:  # what it has on its disk it need not fetch
        if "/bundle/" in topic:
            del lab.broker.retained[topic]
    lab.agent()
    await lab.coordinator.until_profile(2)
    await lab.coordinator.plan(1, (0, 0))
    report = await lab.coordinator.until_report(2)
    _, loss, _ = trained(trained(Twin.start(), 0)[0], 1)
    assert report.loss == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("damage", [b"", b"LAMSTAT1 and no more", None])
async def test_without_a_sound_state_a_restarted_agent_begins_afresh(lab: Lab, damage: bytes | None) -> None:
    """None: it was told to keep none."""
    await lab.ready(keep_state=damage is not None)
    await lab.coordinator.plan(0, (0, 0), due=(1,))
    await lab.coordinator.until_report()
    await lab.stop()
    state = lab.folder / "agent" / "state"
    assert state.exists() == (damage is not None)
    if damage is not None:
        state.write_bytes(damage)
    lab.agent()
    await lab.coordinator.until_profile(2)
    await lab.coordinator.plan(1, (0, 0))
    report = await lab.coordinator.until_report(2)
    assert report.loss == pytest.approx(trained(Twin.start(), 1)[1], rel=1e-5)


async def test_a_disk_that_takes_no_state_is_not_fatal(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    (lab.folder / "agent" / "state").mkdir(parents=True)
    await lab.ready()
    for round_ in (0, 1):
        await lab.coordinator.plan(round_, (0, 0))
        await lab.coordinator.until_report(round_ + 1)
    await lab.stop()
    assert "pi: can't keep the state in" in caplog.text


async def test_a_new_epoch_begins_everything_anew(lab: Lab) -> None:
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0))
    await lab.coordinator.until_report()
    lab.coordinator.epoch = 2
    await lab.coordinator.publish_values(PARAMETERS, STATISTICS, (0, 0))
    await lab.coordinator.accept(cut=1)
    await lab.coordinator.plan(0, (0, 0))
    report = await lab.coordinator.until_report(2)
    assert report.epoch == 2
    assert report.loss == pytest.approx(trained(Twin.start(), 0, cut=1)[1], rel=1e-5)


async def test_of_two_agents_of_one_name_the_one_that_is_taken_over_says_so_and_ends(lab: Lab) -> None:
    lab.agent()
    await lab.coordinator.until_profile()
    lab.agent(folder=str(lab.folder / "other"))
    await lab.coordinator.until_profile(2)
    with pytest.raises(TakenOver, match="lab/device/pi"):
        await lab.running.pop(0)
    assert not lab.running[0].done()
