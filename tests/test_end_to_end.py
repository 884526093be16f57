"""A federation as a whole: the same bits over every link, and what restarts, losses and refusals do to it."""

import asyncio
import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.numpy import load_file

from lamina.broker.brokers.starter import RunningBroker, running_broker
from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.wire.chunks import Joiner
from lamina.broker.wire.messages import DeviceStatus, encode
from lamina.broker.wire.topics import Topics
from lamina.coordinator.records.records import RoundRecord
from lamina.coordinator.settings import Aggregation, Cohorts, Deadlines, Wire
from lamina.models.bundle import Bundle
from lamina.models.errors import BrokerUnreachable, ConfigError
from tests.whole_federation import MODERATE, PATIENCE_S, STRONG, TOO_SMALL, WEAK, Setup, small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


async def test_memory_and_real_brokers_end_in_the_same_bits(
    tmp_path: Path, bundle: Bundle, mosquitto: RunningBroker, amqtt: RunningBroker
) -> None:
    dials = {
        "memory": MemoryBroker().dial,
        "memory twice": MemoryBroker(copies=2).dial,
        "mosquitto": mqtt_dial(mosquitto.address),
        "amqtt": mqtt_dial(amqtt.address),
    }
    models, results = {}, {}
    for name, dial in dials.items():
        setup = Setup(tmp_path / name, bundle, dial, federation="parity", rounds=6)
        results[name] = await setup.run()
        models[name] = setup.final_model()
    assert {name: model == models["memory"] for name, model in models.items()} == dict.fromkeys(dials, True)
    assert {result.c_ratio for result in results.values()} == {results["memory"].c_ratio}


async def test_a_run_leaves_records_and_a_model_that_plain_onnxruntime_runs(tmp_path: Path, bundle: Bundle) -> None:
    setup = Setup(tmp_path, bundle, MemoryBroker().dial, rounds=24)
    result = await setup.run()
    assert result.rounds == 24
    assert [(device.id, device.tier) for device in result.devices] == [
        ("d0", "strong"),
        ("d1", "moderate"),
        ("d2", "weak"),
    ]
    assert all(device.rounds_done == 24 for device in result.devices)
    with (tmp_path / "coordinator" / "rounds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == [str(index) for index in range(24)]
    assert all(row["updates"] == row["expected"] for row in rows)
    held_out = np.load(tmp_path / "test.npz")
    session = ort.InferenceSession(tmp_path / "coordinator" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"x": held_out["x"]})
    assert np.mean(logits.argmax(axis=1) == held_out["y"]) == result.accuracy
    assert result.accuracy is not None
    assert result.accuracy > 0.8  # chance is 1/3


async def test_phi_1_over_the_wire_sends_everything_every_round(tmp_path: Path, bundle: Bundle) -> None:
    setup = Setup(tmp_path, bundle, MemoryBroker().dial, budgets=(STRONG, STRONG), aggregation=Aggregation(phi=1))
    result = await setup.run()
    assert result.c_ratio == 1.0
    assert result.aggregations == (4, 4, 4)


async def test_updates_of_several_layers_share_a_message_and_end_in_the_same_bits(
    tmp_path: Path, bundle: Bundle
) -> None:
    heard: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    models = {}
    for batched in heard:
        broker, topics = MemoryBroker(), Topics("whole")
        setup = Setup(
            tmp_path / str(batched), bundle, broker.dial, budgets=(STRONG, WEAK), aggregation=Aggregation(phi=1)
        )

        async def count(into: Counter[str], broker: MemoryBroker = broker, topics: Topics = topics) -> None:
            async with broker.dial("count", None) as link:
                await link.subscribe(topics.updates, topics.devices("updates"))
                async for delivery in link.deliveries():
                    into[topics.parse(delivery.topic).kind] += 1
                    delivery.acknowledge()

        counting = asyncio.create_task(count(heard[batched]))
        async with setup.agents(), asyncio.timeout(PATIENCE_S):
            await setup.coordinator(wire=Wire(batched=batched)).run()
        counting.cancel()
        await asyncio.wait({counting})
        models[batched] = setup.final_model()
    # Four rounds: of three layers by one device, and of one layer, which needs no batch, by the other.
    assert heard == {True: {"updates": 4, "layer_update": 4}, False: {"layer_update": 16}}
    assert models[True] == models[False]


async def test_a_device_whose_budget_fits_nothing_is_refused_and_the_others_go_on(
    tmp_path: Path, bundle: Bundle
) -> None:
    setup = Setup(tmp_path, bundle, MemoryBroker().dial, budgets=(STRONG, WEAK, TOO_SMALL))
    result = await setup.run()
    assert {device.id: device.accepted for device in result.devices} == {"d0": True, "d1": True, "d2": False}
    assert setup.ends[:2] == [None, None]  # finished, as the plan said
    assert isinstance(setup.ends[2], ConfigError)
    assert "9.0 MiB is too small" in str(setup.ends[2])


async def test_an_agent_that_restarts_goes_on_with_the_others(tmp_path: Path, bundle: Bundle) -> None:
    third_round = asyncio.Event()
    setup = Setup(
        tmp_path,
        bundle,
        MemoryBroker().dial,
        rounds=10,
        observe=lambda record: third_round.set() if record.round == 2 else None,
    )
    async with setup.agents() as agents, asyncio.timeout(PATIENCE_S):
        running = asyncio.create_task(setup.coordinator().run())
        await third_round.wait()
        agents[1].cancel()
        await asyncio.wait({agents[1]})
        agents[1] = asyncio.create_task(setup.agent(1).run())
        result = await running
    assert result.rounds == 10
    done = {device.id: device.rounds_done for device in result.devices}
    assert done["d0"] == done["d2"] == 10
    assert 7 <= done["d1"] <= 10  # it may have missed a round or two of a cycle while it was away


async def test_values_are_published_at_the_start_at_the_end_and_on_request(tmp_path: Path, bundle: Bundle) -> None:
    broker, third_round = MemoryBroker(), asyncio.Event()
    setup = Setup(
        tmp_path,
        bundle,
        broker.dial,
        rounds=60,
        aggregation=Aggregation(phi=1),
        observe=lambda record: third_round.set() if record.round == 2 else None,
    )
    heard: list[tuple[str, int]] = []  # layers and versions, as a bystander hears them

    async def bystander() -> None:
        joiner = Joiner(bundle.manifest.spec)
        async with broker.dial("bystander", None) as link:
            await link.subscribe("lamina/v1/whole/layer/+/global/#")
            async for delivery in link.deliveries():
                value = joiner.add(delivery.payload, "coordinator") if delivery.payload else None  # empty: cleared
                if value is not None:
                    heard.append((bundle.manifest.spec.layers[value.layer].name, value.version))
                delivery.acknowledge()

    listening = asyncio.create_task(bystander())
    async with setup.agents() as agents, asyncio.timeout(PATIENCE_S):
        running = asyncio.create_task(setup.coordinator().run())
        await third_round.wait()
        agents[1].cancel()
        await asyncio.wait({agents[1]})
        before_restart = list(heard)
        shutil.rmtree(tmp_path / "d1")
        agents[1] = asyncio.create_task(setup.agent(1).run())
        result = await running
    listening.cancel()
    names = [layer.name for layer in bundle.manifest.spec.layers]
    assert before_restart == [(name, 0) for name in names]
    assert [name for name, version in heard if version == 60] == names
    done = {device.id: device.rounds_done for device in result.devices}
    assert done["d0"] == done["d2"] == 60
    assert 3 < done["d1"] <= 60  # all, if it is back before the round in which it left has ended
    assert {version for _, version in heard} - {0, 60}  # for the one that came back without anything that it had


async def test_a_coordinator_that_restarts_ends_in_the_same_bits(tmp_path: Path, bundle: Bundle) -> None:
    undisturbed = Setup(tmp_path / "undisturbed", bundle, MemoryBroker().dial, rounds=8)
    await undisturbed.run()
    third_round = asyncio.Event()
    setup = Setup(
        tmp_path / "restarted",
        bundle,
        MemoryBroker().dial,
        rounds=8,
        observe=lambda record: third_round.set() if record.round == 2 else None,
    )
    async with setup.agents(), asyncio.timeout(PATIENCE_S):
        first = asyncio.create_task(setup.coordinator().run())
        await third_round.wait()
        first.cancel()
        await asyncio.wait({first})
        result = await setup.coordinator().run()
    assert result.rounds == 8
    with (tmp_path / "restarted" / "coordinator" / "rounds.csv").open(newline="") as file:
        assert [int(row["round"]) for row in csv.DictReader(file)] == list(range(8))
    assert setup.final_model() == undisturbed.final_model()


@pytest.mark.broker
@pytest.mark.slow
async def test_a_broker_that_restarts_costs_a_reconnection_and_no_more(
    tmp_path: Path, bundle: Bundle, mosquitto_program: str, any_closed_port: int
) -> None:
    undisturbed = Setup(tmp_path / "undisturbed", bundle, MemoryBroker().dial, rounds=30)
    await undisturbed.run()

    seen = asyncio.Event()

    def observe(record: RoundRecord) -> None:
        if record.round == 2:
            seen.set()

    with running_broker("mosquitto", port=any_closed_port) as broker:
        setup = Setup(tmp_path / "restarted", bundle, mqtt_dial(broker.address), rounds=30, observe=observe)
        running = asyncio.ensure_future(setup.run())
        await seen.wait()
    # The first broker is gone, with all that it retained.
    await asyncio.sleep(0.5)
    with running_broker("mosquitto", port=any_closed_port):
        result = await running
    assert result.rounds == 30
    assert setup.final_model() == undisturbed.final_model()


async def test_a_straggler_is_waited_for_until_the_deadline_only(tmp_path: Path, bundle: Bundle) -> None:
    records: list[RoundRecord] = []
    broker = MemoryBroker()
    setup = Setup(tmp_path, bundle, broker.dial, rounds=2, round_s=1.5, observe=records.append)
    topics = Topics("whole")

    async def mute() -> None:
        """Registers like a device, and never trains."""
        async with broker.dial("d2", None) as link:
            profile = setup.agent(2).profile
            await link.publish(topics.device("d2", "status"), encode(DeviceStatus(state="online")), retain=True)
            await link.publish(topics.device("d2", "profile"), encode(profile), retain=True)
            await asyncio.sleep(60)

    silent = asyncio.create_task(mute())
    active = replace(setup, budgets=(STRONG, MODERATE))
    async with active.agents(), asyncio.timeout(PATIENCE_S):
        result = await setup.coordinator().run()
    silent.cancel()
    await asyncio.wait({silent})
    assert result.rounds == 2
    assert records[0].updates < records[0].expected
    assert {device.id: device.rounds_done for device in result.devices}["d2"] == 0


async def test_a_broker_that_is_not_there_is_given_up_after_the_stated_time(
    tmp_path: Path, bundle: Bundle, any_closed_port: int
) -> None:
    setup = Setup(tmp_path, bundle, mqtt_dial(BrokerAddress(port=any_closed_port)))
    with pytest.raises(BrokerUnreachable, match=rf"{any_closed_port}.*gave up after 1 s"):
        await setup.coordinator(deadlines=Deadlines(broker_s=1.0)).run()


async def test_too_few_devices_is_said_with_names_and_reasons(tmp_path: Path, bundle: Bundle) -> None:
    setup = Setup(tmp_path, bundle, MemoryBroker().dial, budgets=(STRONG, TOO_SMALL))
    async with setup.agents():
        with pytest.raises(ConfigError, match=r"only 1 of 2 devices.*d1 \(a budget of 9\.0 MiB is too small"):
            await setup.coordinator(cohorts=Cohorts(min_devices=2, wait_s=1.0)).run()


async def test_nonsense_on_the_topics_is_counted_and_passed_over(tmp_path: Path, bundle: Bundle) -> None:
    broker = MemoryBroker()
    setup = Setup(tmp_path, bundle, broker.dial)

    async def vandal() -> None:
        async with broker.dial("vandal", None) as link:
            for index in range(40):
                layer = bundle.manifest.spec.layers[index % 3].name
                await link.publish(f"lamina/v1/whole/layer/{layer}/update/d0", bytes([index]) * 40)
                await link.publish("lamina/v1/whole/device/x/profile", b"\xff\x00")
                await link.publish("lamina/v1/whole/device/d1/report", b"{}")
                await asyncio.sleep(0.01)

    coordinator = setup.coordinator()
    raging = asyncio.create_task(vandal())
    async with setup.agents(), asyncio.timeout(PATIENCE_S):
        result = await coordinator.run()
    raging.cancel()
    await asyncio.wait({raging})
    assert coordinator.refused["undecodable"] > 0
    undisturbed = Setup(tmp_path / "undisturbed", bundle, MemoryBroker().dial)
    await undisturbed.run()
    assert setup.final_model() == undisturbed.final_model()
    assert result.rounds == 4


def test_the_model_file_has_every_tensor_by_torchs_names(tmp_path: Path, bundle: Bundle) -> None:
    setup = Setup(tmp_path, bundle, MemoryBroker().dial, rounds=2)
    asyncio.run(setup.run())
    tensors = load_file(tmp_path / "coordinator" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "0.weight": (8, 6),
        "0.bias": (8,),
        "2.weight": (5, 8),
        "2.bias": (5,),
        "4.weight": (3, 5),
        "4.bias": (3,),
    }
