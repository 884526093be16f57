"""The broker in memory, beyond what tests/test_link.py shows of every broker: faults on demand, and order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.seam import Delivery, Will
from lamina.models.errors import LinkError


async def take(deliveries: AsyncIterator[Delivery], number: int) -> list[bytes]:
    taken = []
    for _ in range(number):
        delivery = await anext(deliveries)
        delivery.acknowledge()
        taken.append(delivery.payload)
    return taken


async def test_dropped_client_gets_an_error_and_its_will_is_retained() -> None:
    broker = MemoryBroker()
    async with broker.dial("watcher") as watcher, broker.dial("pi", Will("status", b"lost", delay_s=60)) as link:
        await watcher.subscribe("status")
        waiting = asyncio.ensure_future(anext(link.deliveries()))
        await asyncio.sleep(0)
        broker.drop("pi")
        with pytest.raises(LinkError, match="broker in memory: the connection dropped"):
            await waiting
        assert await take(watcher.deliveries(), 1) == [b"lost"]
        assert broker.retained == {"status": b"lost"}
        assert broker.clients == ("watcher",)


async def test_dropping_a_client_that_is_not_linked_is_an_error() -> None:
    with pytest.raises(KeyError):
        MemoryBroker().drop("pi")


async def test_client_in_anothers_place_is_not_ended_by_the_first_ones_end() -> None:
    broker = MemoryBroker()
    async with broker.dial("pi", Will("status", b"lost")):
        second = broker.dial("pi")
        link = await second.__aenter__()
        assert broker.retained == {"status": b"lost"}
    await link.publish("x", b"y")
    assert broker.clients == ("pi",)
    await second.__aexit__(None, None, None)
    assert broker.clients == ()


async def test_stopped_broker_drops_links_without_wills_and_keeps_what_is_retained() -> None:
    broker = MemoryBroker()
    async with broker.dial("pi", Will("status", b"lost")) as link:
        await link.publish("plan", b"x", retain=True)
        broker.stop()
        with pytest.raises(LinkError, match="the broker stopped"):
            await link.publish("plan", b"y", retain=True)
    with pytest.raises(LinkError, match="connection refused"):
        await broker.dial("pi").__aenter__()
    broker.start()
    async with broker.dial("pi") as link:
        await link.subscribe("plan")
        assert await take(link.deliveries(), 1) == [b"x"]
    assert broker.retained == {"plan": b"x"}


async def test_overlapping_filters_deliver_once() -> None:
    broker = MemoryBroker()
    async with broker.dial("pi") as link:
        await link.subscribe("a/#", "a/+", "a/b")
        await link.publish("a/b", b"1")
        await link.publish("a/b", b"2")
        assert await take(link.deliveries(), 2) == [b"1", b"2"]


async def test_copies_deliver_each_message_that_often() -> None:
    broker = MemoryBroker(copies=2)
    async with broker.dial("pi") as link:
        await link.subscribe("a")
        await link.publish("a", b"1")
        await link.publish("a", b"2")
        assert await take(link.deliveries(), 4) == [b"1", b"1", b"2", b"2"]


async def test_window_counts_each_link_for_itself() -> None:
    broker = MemoryBroker(window=1)
    async with broker.dial("slow") as slow, broker.dial("quick") as quick:
        for link in (slow, quick):
            await link.subscribe("a")
        for payload in (b"1", b"2"):
            await quick.publish("a", payload)
        deliveries = slow.deliveries()
        first = await anext(deliveries)
        second = asyncio.ensure_future(anext(deliveries))
        assert await take(quick.deliveries(), 2) == [b"1", b"2"]
        assert not second.done()
        first.acknowledge()
        assert (await second).payload == b"2"


async def test_two_runs_see_the_same_order() -> None:
    async def run() -> list[bytes]:
        broker = MemoryBroker()
        async with broker.dial("all") as everything, asyncio.TaskGroup() as tasks:
            await everything.subscribe("#")

            async def device(name: str) -> None:
                async with broker.dial(name, Will(f"{name}/status", b"lost " + name.encode())) as link:
                    await link.subscribe("go")
                    await take(link.deliveries(), 1)
                    for n in range(3):
                        await link.publish(f"{name}/{n}", f"{name}{n}".encode())

            for name in "abc":
                tasks.create_task(device(name))
            await asyncio.sleep(0.01)
            await everything.publish("go", b"go")
            return await take(everything.deliveries(), 10)

    assert await run() == await run()


@pytest.mark.parametrize("topic", ["", "a/+", "#"])
async def test_filter_is_no_topic_to_publish_on(topic: str) -> None:
    async with MemoryBroker().dial("pi") as link:
        with pytest.raises(ValueError, match="is no topic to publish on"):
            await link.publish(topic, b"x")
