"""The wire as a whole: real agents and a real coordinator that send few bytes both ways, over memory and a broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.wire.messages import RoundPlan, Task
from lamina.coordinator.records.records import RunResult
from lamina.coordinator.settings import Aggregation, Wire
from lamina.edge_agent.service.learning import Learning
from lamina.edge_agent.session.events import Outcome, Progress, Train
from lamina.edge_agent.settings import AgentSettings
from lamina.models.bundle import Bundle
from lamina.models.values import flatten, layer_vector
from tests.patience import PATIENCE_S
from tests.whole_federation import STRONG, Setup, samples, small_bundle

OUTCOME = Outcome(steps=2, loss=0.5, accuracy=0.5, step_s=0.01, forward_s=0.0)
THRIFTY = Wire(update_codec="sign", delta_codec="int8", small_elements=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


async def run(setup: Setup, wire: Wire) -> RunResult:
    async with setup.agents(), asyncio.timeout(PATIENCE_S):
        return await setup.coordinator(wire=wire).run()


async def test_lossy_codecs_both_ways_end_in_the_same_bits_over_memory_and_a_broker(
    tmp_path: Path, bundle: Bundle, mosquitto: RunningBroker
) -> None:
    models = []
    for name, dial in {"memory": MemoryBroker().dial, "mosquitto": mqtt_dial(mosquitto.address)}.items():
        setup = Setup(tmp_path / name, bundle, dial, federation="thrift", rounds=6)
        await run(setup, THRIFTY)
        models.append(setup.final_model())
    assert models[0] == models[1]


@pytest.mark.parametrize("update_codec", ["sign", "top10", "top3", "rank2"])
async def test_biased_codecs_learn_with_feedback(tmp_path: Path, bundle: Bundle, update_codec: str) -> None:
    wire = Wire(update_codec=update_codec, delta_codec="int8", small_elements=0)
    setup = Setup(tmp_path, bundle, MemoryBroker().dial, rounds=24)
    result = await run(setup, wire)
    assert result.accuracy is not None
    assert result.accuracy > 0.75  # three classes


@pytest.mark.parametrize(("update_codec", "warns"), [("top1", True), ("top3", False)])
async def test_one_in_a_hundred_comes_with_a_warning(
    tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture, update_codec: str, warns: bool
) -> None:
    await run(Setup(tmp_path, bundle, MemoryBroker().dial, rounds=2), Wire(update_codec=update_codec))
    assert ("give it many more rounds" in caplog.text) == warns


async def test_deltas_are_what_crosses_the_network_on_the_way_down(tmp_path: Path, bundle: Bundle) -> None:
    sent = {}
    for name, wire in {"values": Wire(delta_codec=""), "deltas": Wire(delta_codec="int8", small_elements=0)}.items():
        budgets, aggregation = (STRONG, STRONG), Aggregation(phi=1)
        setup = Setup(tmp_path / name, bundle, MemoryBroker().dial, budgets, rounds=20, aggregation=aggregation)
        sent[name] = (await run(setup, wire)).downlink_bytes
    # Layers of 56, 45 and 18 elements: headers of 82 bytes are most of what is left.
    assert sent["deltas"] < 0.75 * sent["values"]


async def test_a_device_that_can_not_encode_the_codec_takes_part_with_another(tmp_path: Path, bundle: Bundle) -> None:
    setup = Setup(tmp_path, bundle, MemoryBroker().dial, (STRONG, STRONG), rounds=4)
    modest = setup.agent(1)
    modest.profile = type(modest.profile)(
        **{name: getattr(modest.profile, name) for name in modest.profile.__struct_fields__} | {"codecs": ("float16",)}
    )
    tasks = [asyncio.create_task(agent.run()) for agent in (setup.agent(0), modest)]
    async with asyncio.timeout(PATIENCE_S):
        result = await setup.coordinator(wire=Wire(fallback_codec="float16")).run()
        await asyncio.gather(*tasks)
    assert [device.rounds_done for device in result.devices] == [4, 4]


# A device that restarts.


def plan_of(round_: int, bundle: Bundle, **fields: object) -> RoundPlan:
    given: dict[str, object] = {
        "epoch": 1,
        "round": round_,
        "cohort": ("d0",),
        "local_steps": 2,
        "batch_size": bundle.manifest.batch_size,
        "hyperparameters": {**bundle.manifest.hyperparameters, "lr": 0.1},
        "due": (0, 2),
        "versions": (round_, 0, round_),  # layer 1 is relaxed
        "codec": "sign",
    }
    return msgspec.convert({**given, **fields, "kind": "plan"}, RoundPlan)


async def trained(learning: Learning, plan: RoundPlan, reset: tuple[int, ...] = (0, 2)) -> list[bytes]:
    """The messages of the updates, after the plan's steps."""
    assert await learning.train(Train(plan, reset, afresh=False)) is not None
    return await encoded(learning, plan)


async def encoded(learning: Learning, plan: RoundPlan) -> list[bytes]:
    return [message async for _, messages in learning.encoded_updates(plan, plan.due) for message in messages]


@pytest.mark.parametrize("unfolded", [{}, {"d0": (2,)}, {"d0": (0, 2)}])
async def test_what_is_owed_survives_a_restart(
    tmp_path: Path, bundle: Bundle, unfolded: dict[str, tuple[int, ...]]
) -> None:
    settings = AgentSettings("lab", "d0", "in memory", budget_mib=30.0, threads=1, folder=str(tmp_path))
    task = Task(epoch=1, accepted=True, reason="fits", manifest=bundle.digest)
    first, again = Learning(settings, samples(0)), Learning(settings, samples(0))
    assert await first.build(task, bundle.manifest, bundle.path) is None
    tensors = bundle.initial_values()
    flat = flatten(first.spec, tensors)
    for layer in range(3):
        first.take(layer, layer_vector(first.spec, layer, *flat))
    plans = [plan_of(0, bundle), plan_of(1, bundle), plan_of(2, bundle, unfolded=unfolded)]
    await trained(first, plans[0], reset=(0, 1, 2))
    sent = await trained(first, plans[1])
    assert await encoded(first, plans[1]) == sent  # the link was lost: the same bytes
    progress = Progress(1, bundle.digest, 0, plans[1], plans[1].versions, OUTCOME)
    await first.save(progress)
    goes_on = await trained(first, plans[2])
    assert await again.build(task, bundle.manifest, bundle.path) == progress
    assert await trained(again, plans[2]) == goes_on
    await first.close()
    await again.close()
