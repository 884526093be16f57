"""The simulated broker does what mosquitto does: the same script over both, and what each client saw is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial, Link, Will
from lamina.emulation.faults.broker import SimulatedBroker
from lamina.emulation.faults.network import SimulatedNetwork
from lamina.emulation.faults.virtual_time import VirtualLoop
from lamina.emulation.rig.mosquitto import Mosquitto
from lamina.models.errors import LinkError

Seen = list[object]


@dataclass
class Place:
    """A broker, real or simulated, and how to reach and to break it."""

    dial: Dial
    stop: Callable[[], None]
    kill: Callable[[], None]
    start: Callable[[], None]


class Vanish(Exception):
    """Leaves a link without a goodbye."""


async def heard(link: Link, quiet_s: float = 0.6, *, acknowledge: bool = True, most: int = 1000) -> Seen:
    """Topics, payloads and retain flags, until nothing more comes."""
    seen: Seen = []
    deliveries = link.deliveries()
    with suppress(TimeoutError):
        while len(seen) < most:
            async with asyncio.timeout(quiet_s):
                delivery = await anext(deliveries)
            seen.append((delivery.topic, delivery.payload, delivery.retained))
            if acknowledge:
                delivery.acknowledge()
    return seen


async def a_session_queues_and_repeats(place: Place) -> Seen:
    will = Will("w", b"gone", 20)
    with suppress(Vanish):
        async with place.dial("a", will) as link:
            await link.subscribe("t/#")
            async with place.dial("b", None) as other:
                await other.publish("t/1", b"before")
            first = await heard(link, acknowledge=False)
            raise Vanish
    async with place.dial("b", None) as other:
        await asyncio.sleep(0.3)
        for number in range(3):
            await other.publish("t/2", b"away %d" % number, retain=number == 2)
    async with place.dial("a", will) as link:
        await link.subscribe("t/#")
        return [*first, *await heard(link)]


async def without_a_session_nothing_is_queued(place: Place) -> Seen:
    with suppress(Vanish):
        async with place.dial("a", Will("w", b"gone")) as link:
            await link.subscribe("t")
            raise Vanish
    async with place.dial("b", None) as other:
        await asyncio.sleep(0.3)
        await other.publish("t", b"away")
    async with place.dial("a", Will("w", b"gone")) as link:
        await link.subscribe("t")
        return await heard(link)


async def retained_messages_come_at_every_subscription(place: Place) -> Seen:
    seen: Seen = []
    async with place.dial("a", None) as link, place.dial("b", None) as other:
        await other.publish("r/1", b"kept", retain=True)
        await other.publish("r/2", b"kept too", retain=True)
        await link.subscribe("r/+")
        seen += sorted(map(str, await heard(link)))
        await link.subscribe("r/1")
        seen += await heard(link)
        await link.unsubscribe("r/1")
        await other.publish("r/2", b"", retain=True)
        seen += await heard(link)
        async with place.dial("c", None) as late:
            await late.subscribe("r/#")
            seen += await heard(late)
    return seen


async def wills(place: Place) -> Seen:
    seen: Seen = []
    async with place.dial("watcher", None) as watcher:
        await watcher.subscribe("w/#")
        with suppress(Vanish):
            async with place.dial("at once", Will("w/0", b"gone")):
                raise Vanish
        seen += await heard(watcher)
        async with place.dial("goodbye", Will("w/1", b"gone", 1)):
            pass
        seen += await heard(watcher, 2.0)
        with suppress(Vanish):
            async with place.dial("late", Will("w/2", b"gone", 3)):
                raise Vanish
        seen += await heard(watcher, 1.0)
        seen += ["later", *await heard(watcher, 4.0)]
        with suppress(Vanish):
            async with place.dial("back", Will("w/3", b"gone", 3)):
                raise Vanish
        await asyncio.sleep(0.3)
        async with place.dial("back", Will("w/3", b"gone", 3)):
            seen += ["back", *await heard(watcher, 5.0)]
    return seen


async def a_takeover_ends_the_first_link(place: Place) -> Seen:
    seen: Seen = []
    async with place.dial("watcher", None) as watcher:
        await watcher.subscribe("w/#")
        for delay_s in (0, 20):
            will = Will(f"w/{delay_s}", b"gone", delay_s)
            with suppress(LinkError):
                async with place.dial("twin", will) as first:
                    await first.subscribe("t")
                    async with place.dial("twin", will) as second:
                        async with place.dial("b", None) as other:
                            await other.publish("t", b"to whom?")
                        seen += await heard(second)
                        try:
                            await first.publish("t", b"am I there?")
                            seen.append("the first is there")
                        except LinkError:
                            seen.append("the first is not there")
            seen += await heard(watcher)
    return seen


async def a_receive_window_holds_the_broker_back(place: Place) -> Seen:
    async with place.dial("a", None) as link, place.dial("b", None) as other:
        await link.subscribe("t")
        for number in range(30):
            await other.publish("t", b"%d" % number)
        unacknowledged = await heard(link, acknowledge=False)
        return [len(unacknowledged), unacknowledged == [("t", b"%d" % number, False) for number in range(20)]]


async def an_orderly_end_keeps_everything(place: Place) -> Seen:
    will = Will("w/session", b"gone", 20)
    with suppress(Vanish):
        async with place.dial("a", will) as link:
            await link.subscribe("t/#")
            raise Vanish
    await asyncio.sleep(0.3)
    with suppress(LinkError):
        async with place.dial("b", Will("w/b", b"gone")) as other:
            await other.publish("t/1", b"queued")
            await other.publish("r/1", b"kept", retain=True)
            place.stop()
            await heard(other)
    place.start()
    async with place.dial("c", None) as late:
        await late.subscribe("r/#", "w/b")
        seen = sorted(map(str, await heard(late)))
    async with place.dial("a", will) as link:
        await link.subscribe("t/#")
        return [*seen, *await heard(link)]


async def a_kill_forgets_what_was_not_saved(place: Place) -> Seen:
    async with place.dial("b", None) as other:
        await other.publish("r/1", b"kept", retain=True)
    place.stop()
    place.start()
    with suppress(LinkError):
        async with place.dial("b", Will("w/b", b"gone")) as other:
            await other.publish("r/1", b"newer", retain=True)
            await other.publish("r/2", b"new", retain=True)
            place.kill()
            await heard(other)
    place.start()
    async with place.dial("c", None) as late:
        await late.subscribe("r/#", "w/#")
        return await heard(late)


SCRIPTS: list[Callable[[Place], Awaitable[Seen]]] = [
    a_session_queues_and_repeats,
    without_a_session_nothing_is_queued,
    retained_messages_come_at_every_subscription,
    wills,
    a_takeover_ends_the_first_link,
    a_receive_window_holds_the_broker_back,
    an_orderly_end_keeps_everything,
    a_kill_forgets_what_was_not_saved,
]


def simulated(script: Callable[[Place], Awaitable[Seen]]) -> Seen:
    loop = VirtualLoop(0)
    broker = SimulatedBroker(lambda seconds, call: loop.at(loop.time() + seconds, call))
    network = SimulatedNetwork(loop, broker, 0)
    try:
        return loop.run_until_complete(script(Place(network.dial_from("a"), broker.stop, broker.kill, broker.start)))
    finally:
        loop.close()


@pytest.fixture
def real(mosquitto_program: str, tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path, keeps=True)
    broker.start()
    yield broker
    broker.close()


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_simulated_broker_does_what_mosquitto_does(
    script: Callable[[Place], Awaitable[Seen]], real: Mosquitto
) -> None:
    dial = mqtt_dial(BrokerAddress(port=real.port, keepalive_s=60))
    seen = asyncio.run(script(Place(dial, real.terminate, real.kill, real.start)))
    assert simulated(script) == seen
