"""An agent's life on a broker in memory, against a coordinator that follows the test's script."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.broker.link.memory import MemoryBroker
from lamina.edge_agent.data import sample_order
from lamina.edge_agent.service.agent import Agent
from lamina.edge_agent.settings import AgentSettings
from lamina.models.errors import BrokerUnreachable, ConfigError, DataError, TakenOver
from lamina.models.samples import LabelledSamples
from tests.patience import PATIENCE_S
from tests.scripted_coordinator import Coordinator, Vector, coordinator_on
from tests.tiny_training import Twin, write_trainable_bundle

X = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
Y = np.array([0, 2, 1, 1, 0])
MANY = LabelledSamples(np.zeros((50_000, 2), np.float32), np.zeros(50_000, int))
LONG = 300_000  # steps: seconds
START = Twin.start()
PARAMETERS, STATISTICS = START.parameters.astype(np.float32), START.shift.astype(np.float32)


@dataclass
class Lab:
    """A broker, a coordinator and an agent.

    Attributes:
        folder: `agent` below it is the agent's.
    """

    folder: Path
    broker: MemoryBroker
    coordinator: Coordinator
    running: list[asyncio.Task[None]] = field(default_factory=list)

    def agent(self, data: LabelledSamples | None = None, **settings: object) -> Agent:
        """A new agent, running."""
        agent = self.agent_at_rest(data, **settings)
        self.running.append(asyncio.create_task(agent.run()))
        return agent

    def agent_at_rest(self, data: LabelledSamples | None = None, **settings: object) -> Agent:
        given: dict[str, object] = {"budget_mib": 8.0, "threads": 1, "folder": str(self.folder / "agent"), "once": True}
        return Agent(
            AgentSettings("lab", "pi", "in memory", **{**given, **settings}),  # type: ignore[arg-type]
            data or LabelledSamples(X, Y),
            self.broker.dial,
        )

    async def ready(self, cut: int = 0, data: LabelledSamples | None = None, **settings: object) -> Agent:
        """An agent that has been accepted, with the initial values published as version 0."""
        agent = self.agent(data, **settings)
        await self.coordinator.until_profile()
        await self.coordinator.publish_values(PARAMETERS, STATISTICS, (0, 0))
        await self.coordinator.accept(cut)
        return agent

    async def stop(self) -> None:
        """Ask the agent to end, as SIGTERM does."""
        task = self.running.pop()
        task.cancel()
        await asyncio.wait({task})

    async def end(self) -> None:
        """How the agent ends by itself."""
        async with asyncio.timeout(PATIENCE_S):
            await self.running.pop()


@asynccontextmanager
async def lab_in(folder: Path, broker: MemoryBroker | None = None) -> AsyncIterator[Lab]:
    write_trainable_bundle(folder / "bundle")
    broker = broker or MemoryBroker()
    async with coordinator_on(broker, folder / "bundle") as coordinator:
        lab = Lab(folder, broker, coordinator)
        yield lab
        while lab.running:
            await lab.stop()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with lab_in(tmp_path) as lab:
        yield lab


def trained(twin: Twin, round_: int, cut: int = 0) -> tuple[Twin, float, int]:
    """The twin after a round's three steps of two samples; its mean loss, and how many were right."""
    losses, correct = 0.0, 0
    for batch in sample_order(0, "pi", round_, len(Y), 6).reshape(3, 2):
        loss, hits = twin.step(X[batch], Y[batch], {"lr": 0.5, "momentum": 0.9}, cut)
        losses, correct = losses + loss / 3, correct + hits
    return twin, losses, correct


def layers_of(twin: Twin) -> tuple[Vector, Vector]:
    """The two layers' vectors on the wire: four weights, two biases and the shift; six weights and three biases."""
    return (
        np.concatenate([twin.parameters[:6], twin.shift]).astype(np.float32),
        twin.parameters[6:].astype(np.float32),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_agent_introduces_itself(lab: Lab) -> None:
    lab.agent()
    profile = await lab.coordinator.until_profile()
    assert lab.coordinator.statuses == ["online"]
    assert (profile.device, profile.budget_mib, profile.num_examples, profile.classes) == ("pi", 8.0, 5, 3)
    assert profile.sample_shape == (2,)


async def test_a_round_of_a_strong_device_is_the_arithmetic_of_its_steps(lab: Lab) -> None:
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0))
    report = await lab.coordinator.until_report()
    twin, loss, correct = trained(Twin.start(), 0)
    assert (report.epoch, report.round, report.steps, report.forward_s) == (1, 0, 3, 0.0)
    assert report.loss == pytest.approx(loss, rel=1e-5)
    assert report.accuracy == pytest.approx(correct / 6)
    first, second = lab.coordinator.updates
    assert [(value.layer, value.round, value.version, value.weight) for value in (first, second)] == [
        (0, 0, 0, 1.0),
        (1, 0, 0, 1.0),
    ]
    for update, local, start in zip((first, second), layers_of(twin), layers_of(Twin.start()), strict=True):
        np.testing.assert_allclose(lab.coordinator.vector(update), local - start, rtol=1e-4, atol=1e-6)


async def test_a_weak_device_runs_the_first_layer_and_sends_the_second(lab: Lab) -> None:
    await lab.ready(cut=1)
    await lab.coordinator.plan(0, (0, 0), weighting="num_examples")
    report = await lab.coordinator.until_report()
    twin, loss, _ = trained(Twin.start(), 0, cut=1)
    assert report.loss == pytest.approx(loss, rel=1e-5)
    assert report.forward_s > 0
    [update] = lab.coordinator.updates
    assert (update.layer, update.weight) == (1, 5.0)
    expected = layers_of(twin)[1] - layers_of(Twin.start())[1]
    np.testing.assert_allclose(lab.coordinator.vector(update), expected, rtol=1e-4, atol=1e-6)


async def test_a_weak_device_trains_on_the_new_value_of_a_layer_that_it_does_not_train(lab: Lab) -> None:
    await lab.ready(cut=1)
    await lab.coordinator.plan(0, (0, 0))
    await lab.coordinator.until_report()
    twin, *_ = trained(Twin.start(), 0, cut=1)
    twin.parameters[:6] = [0.5, -0.5, 1, 0, 0.25, 0]
    twin.shift = np.array([0.5, 0.5])
    first, second = layers_of(twin)
    await lab.coordinator.publish_value(0, 1, first)
    await lab.coordinator.publish_value(1, 1, second)
    await lab.coordinator.plan(1, (1, 1))
    report = await lab.coordinator.until_report(2)
    _, loss, _ = trained(twin, 1, cut=1)
    assert report.loss == pytest.approx(loss, rel=1e-4)


async def test_in_a_cycle_a_layer_that_is_not_due_keeps_its_drift(lab: Lab) -> None:
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0), due=(1,))
    await lab.coordinator.until_report()
    assert [update.layer for update in lab.coordinator.updates] == [1]
    twin, *_ = trained(Twin.start(), 0)
    twin.parameters[6:] = 0.5  # what became of the second layer elsewhere
    await lab.coordinator.publish_value(1, 1, layers_of(twin)[1])
    await lab.coordinator.plan(1, (0, 1))
    report = await lab.coordinator.until_report(2)
    twin, loss, _ = trained(twin, 1)
    assert report.loss == pytest.approx(loss, rel=1e-4)
    update = lab.coordinator.updates[1]  # over both rounds
    assert (update.layer, update.version) == (0, 0)
    expected = layers_of(twin)[0] - layers_of(Twin.start())[0]
    np.testing.assert_allclose(lab.coordinator.vector(update), expected, rtol=1e-3, atol=1e-6)


async def test_outside_the_cohort_an_agent_is_silent(lab: Lab) -> None:
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0), cohort=("other",))
    await lab.coordinator.plan(1, (0, 0))
    assert (await lab.coordinator.until_report()).round == 1
    assert {update.round for update in lab.coordinator.updates} == {1}


async def test_messages_that_come_twice_count_once(tmp_path: Path) -> None:
    async with lab_in(tmp_path, MemoryBroker(copies=2)) as lab:
        await lab.ready()
        await lab.coordinator.plan(0, (0, 0))
        await lab.coordinator.until_report()
        await lab.coordinator.plan(1, (0, 0))
        report = await lab.coordinator.until_report(3)  # each comes twice
        _, loss, _ = trained(trained(Twin.start(), 0)[0], 1)
        assert report.loss == pytest.approx(loss, rel=1e-4)


async def test_payload_is_counted_in_both_directions(lab: Lab) -> None:
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0), codec="float32")
    report = await lab.coordinator.until_report()
    # Each layer in one message up, in chunks of 100 bytes down: the elements, and a header of at least 68 bytes.
    elements = 4 * (8 + 9)
    assert elements + 2 * 68 < report.uplink_bytes < elements + 2 * 100
    assert report.downlink_bytes > report.uplink_bytes


# How it ends.


async def test_a_finished_federation_ends_the_agent(lab: Lab) -> None:
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0))
    await lab.coordinator.until_report()
    await lab.coordinator.finish()
    await lab.end()
    await lab.coordinator.until_status("sleeping")


async def test_a_service_waits_for_the_next_training(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await lab.ready(once=False)
    await lab.coordinator.plan(0, (0, 0))
    await lab.coordinator.until_report()
    await lab.coordinator.finish()
    await until(lambda: "federation lab is finished, after" in caplog.text)
    assert "waiting for the next training" in caplog.text
    await lab.coordinator.accept()  # the same federation is given more rounds
    await lab.coordinator.plan(1, (0, 0))
    await lab.coordinator.until_report(2)
    assert not lab.running[0].done()


@pytest.mark.parametrize("once", [True, False])
async def test_an_agent_that_comes_after_the_end_is_told(
    lab: Lab, caplog: pytest.LogCaptureFixture, once: bool
) -> None:
    caplog.set_level("INFO")
    await lab.coordinator.finish()
    lab.agent(once=once)
    await until(lambda: "waiting for the next training" in caplog.text)
    await lab.coordinator.until_profile()
    await lab.coordinator.publish_values(PARAMETERS, STATISTICS, (0, 0))
    await lab.coordinator.accept()
    await lab.coordinator.plan(0, (0, 0))
    await lab.coordinator.until_report()


async def test_a_rival_that_the_broker_says_nothing_of_is_found_by_its_profile(lab: Lab) -> None:
    await lab.ready()
    rival = msgspec.structs.replace(lab.coordinator.profiles[-1], instance="another")
    for _ in range(50):
        await asyncio.sleep(0)
    await lab.coordinator.say(lab.coordinator.topics.device("pi", "profile"), rival)
    with pytest.raises(TakenOver, match="another program takes part as device 'pi' of federation 'lab'"):
        await lab.end()


async def test_a_refused_agent_says_why(lab: Lab) -> None:
    lab.agent()
    await lab.coordinator.until_profile()
    await lab.coordinator.refuse("a budget of 8.0 MiB is too small")
    with pytest.raises(ConfigError, match=r"device pi was refused: a budget of 8\.0 MiB is too small"):
        await lab.end()


async def test_an_old_refusal_does_not_stop_a_new_attempt(lab: Lab) -> None:
    await lab.coordinator.refuse("too small")  # kept by the broker from the last attempt
    await lab.ready()
    await lab.coordinator.plan(0, (0, 0))
    await lab.coordinator.until_report()


async def test_samples_that_do_not_suit_the_model_end_the_agent(lab: Lab) -> None:
    lab.agent(LabelledSamples(X[:, :1], Y, "train.npz"))
    await lab.coordinator.until_profile()
    await lab.coordinator.accept()
    with pytest.raises(DataError, match=r"train\.npz: its samples have the shape \(1,\), and model tiny takes \(2,\)"):
        await lab.end()


async def test_an_agent_that_is_stopped_says_that_it_sleeps(lab: Lab) -> None:
    await lab.ready()
    await lab.stop()
    await lab.coordinator.until_status("sleeping")
    assert lab.coordinator.statuses == ["online", "sleeping"]


async def test_an_agent_that_is_stopped_while_training_leaves_off(lab: Lab) -> None:
    await lab.ready(data=MANY)
    await lab.coordinator.plan(0, (0, 0), local_steps=LONG)
    await asyncio.sleep(0.1)
    async with asyncio.timeout(PATIENCE_S):
        await lab.stop()
    await lab.coordinator.until_status("sleeping")


async def test_a_broker_that_stays_away_is_given_up(lab: Lab) -> None:
    lab.broker.stop()
    agent = lab.agent_at_rest(broker_s=0.3)
    with pytest.raises(BrokerUnreachable, match=r"gave up after 0\.3 s without a connection"):
        await agent.run()


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
