"""An agent's life on a broker in memory, against a coordinator that follows the test's script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.broker.link.memory import MemoryBroker
from lamina.models.errors import BrokerUnreachable, ConfigError, DataError, TakenOver
from lamina.models.samples import LabelledSamples
from tests.agent_lab import LONG, MANY, PARAMETERS, STATISTICS, Lab, X, Y, lab_in, layers_of, trained, until
from tests.patience import PATIENCE_S
from tests.tiny_training import Twin


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with lab_in(tmp_path) as lab:
        yield lab


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
    rival = msgspec.structs.replace(lab.coordinator.profiles[-1], instance="z-later")
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
