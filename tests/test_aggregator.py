"""Federations with aggregators: a tree of sites, and layers shared out, end in the bits of the flat one."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from lamina import broker as broker_package
from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial
from lamina.broker.wire.messages import DeviceStatus, RoundPlan, decode
from lamina.broker.wire.topics import Topics
from lamina.coordinator.commands.aggregator import share_of
from lamina.coordinator.records.records import RunResult
from lamina.coordinator.service.aggregator import Aggregator
from lamina.coordinator.settings import Aggregation
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError
from tests.bridged_brokers import bridged
from tests.patience import PATIENCE_S
from tests.whole_federation import MODERATE, STRONG, WEAK, Setup, small_bundle

BUDGETS = (STRONG, MODERATE, WEAK, STRONG)
WEIGHTED = Aggregation(phi=2, weighting="num_examples")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


def setup(folder: Path, bundle: Bundle, broker: MemoryBroker, aggregation: Aggregation = WEIGHTED) -> Setup:
    return Setup(folder, bundle, broker.dial, budgets=BUDGETS, rounds=6, aggregation=aggregation)


async def flat(folder: Path, bundle: Bundle, aggregation: Aggregation = WEIGHTED) -> tuple[RunResult, bytes]:
    whole = setup(folder, bundle, MemoryBroker(), aggregation)
    return await whole.run(), whole.final_model()


@asynccontextmanager
async def running(*aggregators: Aggregator) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(aggregator.run()) for aggregator in aggregators]
    try:
        yield tasks
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S)  # they end with the federation
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def agents_at(whole: Setup, places: Sequence[Dial]) -> AsyncIterator[None]:
    """Device i runs at places[i]."""
    tasks = [asyncio.create_task(replace(whole, dial=dial).agent(index).run()) for index, dial in enumerate(places)]
    try:
        yield
        await asyncio.wait(tasks, timeout=1.0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def same(result: RunResult, expected: RunResult) -> bool:
    """Whether both runs aggregated alike: what they sent differs, and how long they took."""
    facts = [(run.accuracy, run.c_ratio, run.rounds, run.aggregations) for run in (result, expected)]
    return facts[0] == facts[1]


@pytest.mark.broker
async def test_two_mosquittos_and_the_bridge_of_site_conf_end_in_the_same_bits(
    tmp_path: Path, bundle: Bundle, mosquitto: RunningBroker, mosquitto_program: str, any_closed_port: int
) -> None:
    expected, model = await flat(tmp_path / "flat", bundle)
    template = (Path(broker_package.__file__).parent / "mosquitto" / "site.conf").read_text()
    bridge = re.sub(r"(?m)^bridge_(ca|cert|key)file .*\n", "", template)  # this test's brokers have no TLS
    bridge = bridge.replace("broker.example:8883", str(mosquitto.address))
    settings = f"listener {any_closed_port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\n{bridge}"
    (tmp_path / "site.conf").write_text(settings)
    site, centre = mqtt_dial(BrokerAddress(port=any_closed_port)), mqtt_dial(mosquitto.address)
    whole = replace(setup(tmp_path / "tree", bundle, MemoryBroker()), federation="bridged", dial=centre)
    command = [mosquitto_program, "-c", str(tmp_path / "site.conf")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            async with running(Aggregator("bridged", "barn", site)), agents_at(whole, (site, site, centre, site)):
                async with asyncio.timeout(PATIENCE_S):
                    result = await whole.coordinator().run()
        finally:
            process.terminate()
    assert whole.final_model() == model
    assert same(result, expected)


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_layers_shared_out_end_in_the_bits_of_the_flat_federation(
    tmp_path: Path, bundle: Bundle, count: int
) -> None:
    expected, model = await flat(tmp_path / "flat", bundle)
    broker = MemoryBroker()
    shared = setup(tmp_path / "shared", bundle, broker, Aggregation(phi=2, weighting="num_examples", aggregators=count))
    aggregators = [Aggregator("whole", f"share-{k}", broker.dial, index=k, count=count) for k in range(count)]
    async with running(*aggregators):
        result = await shared.run()
    assert shared.final_model() == model
    assert same(result, expected)


@pytest.mark.parametrize("algorithm", ["fednova", "scaffold"])
async def test_what_updates_say_of_themselves_and_an_algorithms_vectors_go_through_an_aggregator(
    tmp_path: Path, bundle: Bundle, algorithm: str
) -> None:
    alone = Aggregation(phi=2, algorithm=algorithm, weighting="num_examples")
    expected, model = await flat(tmp_path / "flat", bundle, alone)
    broker = MemoryBroker()
    shared = setup(tmp_path / "shared", bundle, broker, msgspec.structs.replace(alone, aggregators=1))
    async with running(Aggregator("whole", "share", broker.dial)):
        result = await shared.run()
    assert shared.final_model() == model
    assert same(result, expected)


async def test_a_tree_of_sites_ends_in_the_bits_of_the_flat_federation(tmp_path: Path, bundle: Bundle) -> None:
    expected, model = await flat(tmp_path / "flat", bundle)
    centre, barn, field = MemoryBroker(), MemoryBroker(), MemoryBroker(copies=2)
    whole = setup(tmp_path / "tree", bundle, centre)
    topics = Topics("whole")
    async with AsyncExitStack() as stack:
        for name, site in (("barn", barn), ("field", field)):
            await stack.enter_async_context(bridged(centre, site, topics, name))
        await stack.enter_async_context(
            running(Aggregator("whole", "barn", barn.dial), Aggregator("whole", "field", field.dial))
        )
        # two devices in the barn, one in the field, and one that has no site
        await stack.enter_async_context(agents_at(whole, (barn.dial, field.dial, barn.dial, centre.dial)))
        async with asyncio.timeout(PATIENCE_S):
            result = await whole.coordinator().run()
    assert whole.final_model() == model
    assert same(result, expected)


async def until_round(broker: MemoryBroker, number: int) -> None:
    """Wait until the plan of that round is out."""
    async with broker.dial("onlooker") as link:
        await link.subscribe(Topics("whole").round)
        async for delivery in link.deliveries():
            delivery.acknowledge()
            if delivery.payload and decode(delivery.payload, RoundPlan).round >= number:  # empty: it was cleared
                return


async def test_an_aggregator_that_loses_its_link_costs_nothing(
    tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    _, model = await flat(tmp_path / "flat", bundle)
    broker = MemoryBroker()
    shared = setup(tmp_path / "shared", bundle, broker, Aggregation(phi=2, weighting="num_examples", aggregators=1))
    async with running(Aggregator("whole", "only", broker.dial)):
        federation = asyncio.create_task(shared.run())
        for number in (1, 3):
            await until_round(broker, number)
            broker.drop("whole/aggregator/only")
        await federation
    assert shared.final_model() == model
    assert caplog.text.count("aggregator only is lost") == 2


async def test_an_aggregator_that_is_started_anew_goes_on(tmp_path: Path, bundle: Bundle) -> None:
    _, model = await flat(tmp_path / "flat", bundle)
    broker = MemoryBroker()
    shared = setup(tmp_path / "shared", bundle, broker, Aggregation(phi=2, weighting="num_examples", aggregators=1))
    first = asyncio.create_task(Aggregator("whole", "only", broker.dial).run())
    federation = asyncio.create_task(shared.run())
    await until_round(broker, 2)
    first.cancel()
    await asyncio.wait({first})
    assert state_of("only", broker) == "sleeping"
    await asyncio.sleep(0.1)  # updates come meanwhile, and nobody is there
    async with running(Aggregator("whole", "only", broker.dial)):
        await federation
    assert shared.final_model() == model
    assert state_of("only", broker) == "sleeping"


def state_of(site: str, broker: MemoryBroker) -> str:
    return decode(broker.retained[Topics("whole").aggregator_status(site)], DeviceStatus).state


def test_a_share_is_given_as_one_of_so_many() -> None:
    assert share_of("2/4") == (1, 4)
    for wrong in ("0/4", "5/4", "2", "a/b"):
        with pytest.raises(ConfigError, match=f"--share {wrong}"):
            share_of(wrong)
    with pytest.raises(ConfigError, match="no share 3 of 2"):
        Aggregator("whole", "x", MemoryBroker().dial, index=2, count=2)
    with pytest.raises(ConfigError, match="site 'a b'"):
        Aggregator("whole", "a b", MemoryBroker().dial)
