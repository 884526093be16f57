"""What a service may count on, over the broker in memory and over real ones; then what only a real one can do."""

from __future__ import annotations

import asyncio

import pytest

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import PUBLISH_WINDOW_BYTES, RECEIVE_WINDOW, mqtt_dial
from lamina.broker.link.seam import Dial, Will
from lamina.models.errors import ConfigError, LinkError
from tests.link_traffic import PATIENCE_S, real_broker, retain, settle, take
from tests.scripted_broker import ScriptedBroker, scripted

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


# On every broker.


async def test_messages_arrive_in_the_order_of_concurrent_publishes(any_dial: Dial, root: str) -> None:
    async with any_dial(f"{root}-a", None) as sender, any_dial(f"{root}-b", None) as receiver:
        await receiver.subscribe(f"{root}/#")
        await asyncio.gather(*(sender.publish(f"{root}/{n % 3}", bytes([n])) for n in range(100)))
        received = await take(receiver.deliveries(), 100)
    assert received == [(f"{root}/{n % 3}", bytes([n])) for n in range(100)]


async def test_small_messages_do_not_overtake_large_ones(any_dial: Dial, root: str) -> None:
    payloads = [bytes(1 + (PUBLISH_WINDOW_BYTES // 2) * (n % 2)) + bytes([n]) for n in range(12)]
    async with any_dial(f"{root}-a", None) as sender, any_dial(f"{root}-b", None) as receiver:
        await receiver.subscribe(root)
        await asyncio.gather(*(sender.publish(root, payload) for payload in payloads))
        received = [payload[-1] for _, payload in await take(receiver.deliveries(), 12)]
    assert received == list(range(12))


async def test_a_client_receives_its_own_messages(any_dial: Dial, root: str) -> None:
    async with any_dial(root, None) as link:
        await link.subscribe(root)
        await link.publish(root, b"echo")
        assert await take(link.deliveries(), 1) == [(root, b"echo")]


async def test_retained_message_comes_on_subscribing_and_again_on_subscribing_again(any_dial: Dial, root: str) -> None:
    await retain(any_dial, root, {f"{root}/plan": b"old"})
    await retain(any_dial, root, {f"{root}/plan": b"new"})
    async with any_dial(root, None) as link:
        deliveries = link.deliveries()
        for _ in range(2):
            await link.subscribe(f"{root}/plan")
            delivery = await anext(deliveries)
            delivery.acknowledge()
            assert (delivery.topic, delivery.payload, delivery.retained) == (f"{root}/plan", b"new", True)


async def test_live_message_is_not_marked_retained(any_dial: Dial, root: str) -> None:
    async with any_dial(root, None) as link:
        await link.subscribe(root)
        await link.publish(root, b"live", retain=True)
        assert not (await anext(link.deliveries())).retained


async def test_empty_payload_clears_what_is_retained(any_dial: Dial, root: str) -> None:
    await retain(any_dial, root, {f"{root}/kept": b"kept", f"{root}/gone": b"gone"})
    await retain(any_dial, root, {f"{root}/gone": b""})
    async with any_dial(root, None) as link:
        await link.subscribe(f"{root}/gone", f"{root}/kept")
        assert await take(link.deliveries(), 1) == [(f"{root}/kept", b"kept")]


async def test_wildcards_match_levels(any_dial: Dial, root: str) -> None:
    topics = [f"{root}/a/x/c", f"{root}/a/c", f"{root}/a/x/y/c", f"{root}/b", f"{root}/b/x/y", f"{root}/c"]
    async with any_dial(root, None) as link:
        await link.subscribe(f"{root}/a/+/c", f"{root}/b/#")
        for topic in topics:
            await link.publish(topic, b"x")
        received = [topic for topic, _ in await take(link.deliveries(), 3)]
    assert received == [f"{root}/a/x/c", f"{root}/b", f"{root}/b/x/y"]


async def test_nothing_comes_after_unsubscribing(any_dial: Dial, root: str) -> None:
    async with any_dial(root, None) as link:
        await link.subscribe(f"{root}/+", f"{root}/+/b")
        await link.unsubscribe(f"{root}/+")
        await link.publish(f"{root}/a", b"x")
        await link.publish(f"{root}/a/b", b"y")
        assert await take(link.deliveries(), 1) == [(f"{root}/a/b", b"y")]


async def test_nothing_comes_that_only_another_client_subscribed_to(any_dial: Dial, root: str) -> None:
    await retain(any_dial, root, {f"{root}/other": b"x", f"{root}/own": b"y"})
    async with any_dial(f"{root}-a", None) as other:
        await other.subscribe(f"{root}/other")
        async with any_dial(f"{root}-b", None) as link:
            await link.subscribe(f"{root}/own")
            assert await take(link.deliveries(), 1) == [(f"{root}/own", b"y")]


async def test_will_is_published_and_retained_when_a_client_breaks_off(any_dial: Dial, root: str) -> None:
    async with any_dial(f"{root}-watcher", None) as watcher:
        await watcher.subscribe(f"{root}/status")
        with pytest.raises(ZeroDivisionError):
            async with any_dial(root, Will(f"{root}/status", b"lost")):
                raise ZeroDivisionError
        deliveries = watcher.deliveries()
        assert await take(deliveries, 1) == [(f"{root}/status", b"lost")]
        await settle(watcher, root)
        await watcher.subscribe(f"{root}/status")
        assert (await anext(deliveries)).retained


@pytest.mark.parametrize("cancelled", [False, True])
async def test_no_will_after_a_goodbye(any_dial: Dial, root: str, cancelled: bool) -> None:
    async def live(opened: asyncio.Event) -> None:
        async with any_dial(f"{root}-a", Will(f"{root}/status", b"lost")) as link:
            await link.publish(f"{root}/status", b"sleeping", retain=True)
            opened.set()
            await (asyncio.Event().wait() if cancelled else settle(link, root))

    async with any_dial(f"{root}-watcher", None) as watcher:
        await watcher.subscribe(f"{root}/#")
        opened = asyncio.Event()
        life = asyncio.create_task(live(opened))
        await opened.wait()
        if cancelled:
            life.cancel()
        await asyncio.wait({life})
        assert life.cancelled() == cancelled
        async with any_dial(f"{root}-a", None) as successor:  # a late will would come before this one's message
            await successor.publish(f"{root}/status", b"successor")
        deliveries, statuses = watcher.deliveries(), []
        while statuses[-1:] != [b"successor"]:
            [(topic, payload)] = await take(deliveries, 1)
            if topic == f"{root}/status":
                statuses.append(payload)
    assert statuses == [b"sleeping", b"successor"]


async def test_second_client_of_the_same_id_takes_the_first_ones_place(any_dial: Dial, root: str) -> None:
    async with asyncio.timeout(PATIENCE_S), any_dial(root, None) as first:
        await first.subscribe(f"{root}/x")
        async with any_dial(root, None) as second, any_dial(f"{root}-sender", None) as sender:
            await second.subscribe(f"{root}/x")
            await sender.publish(f"{root}/x", b"for the second")
            assert await take(second.deliveries(), 1) == [(f"{root}/x", b"for the second")]
            with pytest.raises(LinkError):
                await anext(first.deliveries())


async def test_large_payloads_arrive_whole(any_dial: Dial, root: str) -> None:
    payloads = [bytes([n]) * (256 * 1024) for n in range(8)]
    async with any_dial(f"{root}-a", None) as sender, any_dial(f"{root}-b", None) as receiver:
        await receiver.subscribe(root)
        await asyncio.gather(*(sender.publish(root, payload) for payload in payloads))
        received = [payload for _, payload in await take(receiver.deliveries(), 8)]
    assert received == payloads


async def test_more_retained_messages_than_a_default_queue_holds_all_come(any_dial: Dial, root: str) -> None:
    topics = {f"{root}/chunk/{n}" for n in range(1200)}
    async with any_dial(f"{root}-a", None) as sender:
        await asyncio.gather(*(sender.publish(topic, b"chunk", retain=True) for topic in topics))
        await settle(sender, root)
    async with any_dial(f"{root}-b", None) as receiver:
        await receiver.subscribe(f"{root}/chunk/+")
        received = [topic for topic, _ in await take(receiver.deliveries(), 1200)]
        for topic in topics:
            await receiver.publish(topic, b"", retain=True)  # leave the shared broker as it was
    assert set(received) == topics


async def test_acknowledging_twice_or_after_the_end_does_nothing(any_dial: Dial, root: str) -> None:
    async with any_dial(root, None) as link:
        await link.subscribe(root)
        for _ in range(2):
            await link.publish(root, b"x")
        deliveries = link.deliveries()
        first, second = await anext(deliveries), await anext(deliveries)
        first.acknowledge()
        first.acknowledge()
        await link.publish(root, b"y")
        assert (await anext(deliveries)).payload == b"y"
    second.acknowledge()


async def test_everything_raises_after_the_end(any_dial: Dial, root: str) -> None:
    async with any_dial(root, None) as link:
        pass
    with pytest.raises(LinkError):
        await link.publish(root, b"x")
    with pytest.raises(LinkError):
        await link.subscribe(root)
    with pytest.raises(LinkError):
        await link.unsubscribe(root)
    with pytest.raises(LinkError):
        await anext(link.deliveries())


async def test_no_filters_are_nothing_to_do(any_dial: Dial, root: str) -> None:
    async with any_dial(root, None) as link:
        await link.subscribe()
        await link.unsubscribe()
        await link.publish(root, b"x")


async def test_malformed_filter_is_refused(any_dial: Dial, root: str) -> None:
    async with any_dial(root, None) as link:
        with pytest.raises(ConfigError, match="no MQTT topic filter"):
            await link.subscribe("a/#/b")


# The receive window. amqtt has none.


@pytest.mark.parametrize(
    "kind", ["memory", pytest.param("5", marks=real_broker), pytest.param("3.1.1", marks=real_broker)]
)
@pytest.mark.parametrize("retained", [False, True])
async def test_slow_consumer_is_sent_no_more_than_its_window(
    kind: str, retained: bool, root: str, request: pytest.FixtureRequest
) -> None:
    dial = MemoryBroker().dial
    if kind != "memory":
        dial = mqtt_dial(BrokerAddress(port=request.getfixturevalue("mosquitto").address.port, protocol=kind))
    async with dial(f"{root}-a", None) as sender, dial(f"{root}-b", None) as receiver:
        if not retained:
            await receiver.subscribe(f"{root}/+")
        await asyncio.gather(*(sender.publish(f"{root}/{n}", b"x", retain=retained) for n in range(100)))
        if retained:
            await receiver.subscribe(f"{root}/+")
        deliveries = receiver.deliveries()
        held = [await anext(deliveries) for _ in range(RECEIVE_WINDOW)]
        waiting = asyncio.ensure_future(anext(deliveries))
        await sender.publish(f"{root}/99", b"x", retain=retained)  # time for one more to come
        await asyncio.wait({waiting}, timeout=0.2)
        assert not waiting.done()
        for delivery in held:
            delivery.acknowledge()
        (await waiting).acknowledge()
        assert len(await take(deliveries, 100 - RECEIVE_WINDOW)) == 100 - RECEIVE_WINDOW
        for n in range(100 if retained else 0):
            await sender.publish(f"{root}/{n}", b"", retain=True)


async def test_receive_window_is_told_to_the_broker() -> None:
    async with scripted(ScriptedBroker()) as broker, mqtt_dial(broker.address)("a", None):
        assert b"\x21" + RECEIVE_WINDOW.to_bytes(2) in broker.connected[0]  # property 0x21, Receive Maximum


# Sessions and wills' delays, of MQTT 5.


@real_broker
async def test_client_that_comes_back_in_time_has_no_will_and_misses_nothing(
    mosquitto: RunningBroker, root: str
) -> None:
    dial = mqtt_dial(mosquitto.address)
    will = Will(f"{root}/status", b"lost", delay_s=30)
    async with dial(f"{root}-watcher", None) as watcher:
        await watcher.subscribe(f"{root}/status")

        async def break_off() -> None:
            async with dial(root, will) as link:
                await link.subscribe(f"{root}/updates", f"{root}/not-again")
                await watcher.publish(f"{root}/updates", b"unacknowledged")
                await anext(link.deliveries())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await break_off()
        await watcher.publish(f"{root}/not-again", b"missed")
        await watcher.publish(f"{root}/updates", b"missed")
        async with dial(root, will) as link:
            await link.subscribe(f"{root}/updates")
            assert await take(link.deliveries(), 2) == [
                (f"{root}/updates", b"unacknowledged"),  # at least once
                (f"{root}/updates", b"missed"),
            ]
            await link.publish(f"{root}/status", b"online")
            assert await take(watcher.deliveries(), 1) == [(f"{root}/status", b"online")]


@real_broker
async def test_session_ends_with_a_goodbye(mosquitto: RunningBroker, root: str) -> None:
    dial = mqtt_dial(mosquitto.address)
    will = Will(f"{root}/status", b"lost", delay_s=30)
    async with dial(root, will) as link:
        await link.subscribe(f"{root}/x")
    async with dial(f"{root}-other", None) as other:
        await other.publish(f"{root}/x", b"while away")
    async with dial(root, will) as link:
        await link.subscribe(f"{root}/x")
        await link.publish(f"{root}/x", b"now")
        assert await take(link.deliveries(), 1) == [(f"{root}/x", b"now")]


@real_broker
async def test_delayed_will_comes_when_the_client_does_not(mosquitto: RunningBroker, root: str) -> None:
    dial = mqtt_dial(mosquitto.address)
    async with dial(f"{root}-watcher", None) as watcher:
        await watcher.subscribe(f"{root}/status")
        with pytest.raises(ZeroDivisionError):
            async with dial(root, Will(f"{root}/status", b"lost", delay_s=1)):
                raise ZeroDivisionError
        assert await take(watcher.deliveries(), 1) == [(f"{root}/status", b"lost")]


# The embedded broker's own mends. That of retained messages is told by what a client receives that asked for nothing.


@real_broker
async def test_embedded_broker_sends_nothing_that_was_not_asked_for(amqtt: RunningBroker, root: str) -> None:
    dial = mqtt_dial(amqtt.address)
    await retain(dial, root, {f"{root}/kept": b"x"})
    async with dial(root, None) as other:
        await other.subscribe(f"{root}/kept")
        await take(other.deliveries(), 1)
        reader, writer = await asyncio.open_connection(amqtt.address.host, amqtt.address.port)
        connect, ping, disconnect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a", b"\xc0\x00", b"\xe0\x00"
        writer.write(connect)
        assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
        await asyncio.sleep(0.1)
        writer.write(ping + disconnect)
        assert await reader.read() == b"\xd0\x00"
        writer.close()


@real_broker
async def test_embedded_broker_hears_a_client_that_has_not_acknowledged_its_retained_messages(
    amqtt: RunningBroker, root: str
) -> None:
    dial = mqtt_dial(amqtt.address)
    await retain(dial, root, {f"{root}/kept": b"x"})
    async with dial(f"{root}-a", None) as link, dial(f"{root}-b", None) as other, asyncio.timeout(4):
        await other.subscribe(f"{root}/said")
        await link.subscribe(f"{root}/kept")
        await anext(link.deliveries())
        await link.publish(f"{root}/said", b"y")  # amqtt alone would pass it on after 5 s
        assert await take(other.deliveries(), 1) == [(f"{root}/said", b"y")]
