"""Connections that fail, and what aiomqtt and paho would let pass."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket

import pytest

from lamina.broker.brokers.starter import RunningBroker, running_broker
from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import PUBLISH_WINDOW, PUBLISH_WINDOW_BYTES, mqtt_dial
from lamina.broker.link.seam import Dial, Will
from lamina.models.errors import ConfigError, LinkError
from tests.link_traffic import PATIENCE_S, publish_for_ever, real_broker, take
from tests.scripted_broker import CONNECT, ScriptedBroker, scripted

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


# Connections that fail.


@real_broker
async def test_what_pends_fails_at_once_when_the_broker_dies(mosquitto_program: str, root: str) -> None:
    assert mosquitto_program
    with running_broker("mosquitto") as broker:
        async with asyncio.timeout(PATIENCE_S), mqtt_dial(broker.address)(root, None) as link:  # an answer has 60 s
            os.kill(broker.pid, signal.SIGSTOP)
            pending: list[asyncio.Future[object]] = [
                asyncio.ensure_future(link.publish(root, b"x")) for _ in range(2 * PUBLISH_WINDOW)
            ]
            pending.append(asyncio.ensure_future(link.subscribe(root)))
            pending.append(asyncio.ensure_future(anext(link.deliveries())))
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in pending)
            os.kill(broker.pid, signal.SIGKILL)
            for outcome in await asyncio.gather(*pending, return_exceptions=True):
                assert isinstance(outcome, LinkError)
                assert str(outcome) == f"broker {broker.address}: the connection dropped"


@real_broker
async def test_what_was_received_is_delivered_after_the_broker_died(mosquitto_program: str, root: str) -> None:
    assert mosquitto_program
    with running_broker("mosquitto") as broker:
        async with asyncio.timeout(PATIENCE_S), mqtt_dial(broker.address)(root, None) as link:
            await link.subscribe(root)
            for n in range(3):
                await link.publish(root, bytes([n]))
            await asyncio.sleep(0.05)
            os.kill(broker.pid, signal.SIGKILL)
            with pytest.raises(LinkError):
                await publish_for_ever(link, root)
            assert await take(link.deliveries(), 3) == [(root, b"\0"), (root, b"\1"), (root, b"\2")]


@real_broker
async def test_new_link_opens_when_the_broker_is_back(any_broker: RunningBroker, root: str) -> None:
    with running_broker(any_broker.kind) as broker:
        dial = mqtt_dial(broker.address)
        async with dial(root, None) as link:
            pass
    with pytest.raises(LinkError, match=f"broker 127.0.0.1:{broker.address.port}: "):
        await dial(root, None).__aenter__()
    with running_broker(any_broker.kind, port=broker.address.port):
        async with dial(root, None) as link:
            await link.publish(root, b"x")


async def test_no_broker_is_said_with_its_address(any_closed_port: int) -> None:
    with pytest.raises(LinkError, match=f"broker 127.0.0.1:{any_closed_port}: .*refused"):
        async with mqtt_dial(BrokerAddress(port=any_closed_port))("a", None):
            pass


async def test_broker_that_takes_connections_but_never_answers() -> None:
    async with scripted(ScriptedBroker(connack=b"")) as broker:
        with pytest.raises(LinkError, match=r"no answer within 0\.1 s"):
            async with mqtt_dial(broker.address, connect_s=0.1)("a", None):
                pass


async def test_connecting_that_is_cancelled_before_the_answer_closes_its_socket() -> None:
    async with scripted(ScriptedBroker(connack=b"")) as broker, asyncio.timeout(PATIENCE_S):
        connecting = asyncio.ensure_future(mqtt_dial(broker.address)("a", None).__aenter__())
        while not broker.connected:
            await asyncio.sleep(0.01)
        connecting.cancel()
        await asyncio.wait({connecting})
        assert connecting.cancelled()
        while broker.connections:
            await asyncio.sleep(0.01)


async def test_connecting_that_is_cancelled_in_its_thread_closes_its_socket() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        server.setblocking(False)
        with socket.create_connection(server.getsockname()):  # fills the backlog: the next one has to wait
            address = BrokerAddress(port=server.getsockname()[1])
            connecting = asyncio.ensure_future(mqtt_dial(address)("a", None).__aenter__())
            await asyncio.sleep(0.1)
            connecting.cancel()
            await asyncio.wait({connecting})
            assert connecting.cancelled()
            (await loop.sock_accept(server))[0].close()
            connection, _ = await loop.sock_accept(server)  # the system tries again after 1 s
            with connection:
                async with asyncio.timeout(PATIENCE_S):
                    while await loop.sock_recv(connection, 1024):
                        pass


async def test_refused_client_is_said_with_the_reason() -> None:
    async with scripted(ScriptedBroker(connack=b"\x00\x87\x00")) as broker:
        with pytest.raises(LinkError, match="Not authorized"):
            async with mqtt_dial(broker.address)("a", None):
                pass


async def test_broker_that_closes_before_it_answers_is_noticed_at_once() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(10)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE_S):
        address = BrokerAddress(port=server.sockets[0].getsockname()[1])
        with pytest.raises(LinkError, match="closed the connection without an answer"):
            async with mqtt_dial(address, connect_s=60)("a", None):
                pass


async def test_connection_that_drops_behind_the_brokers_answer_counts_as_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """aiomqtt forgets such a drop, and a link that only listens would listen for ever."""

    class Fickle(ScriptedBroker):
        def answer(self, kind: int, body: bytes) -> bytes:
            answer = super().answer(kind, body)
            if kind == CONNECT and self.writer is not None:
                self.writer.write(answer)
                self.writer.close()
            return answer

    async with scripted(Fickle()) as broker:
        for _ in range(5):  # both may come in one turn of the loop, or in two
            with pytest.raises(LinkError):
                async with mqtt_dial(broker.address)("a", None) as link:
                    await anext(link.deliveries())
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_broker_that_falls_silent_is_given_up_after_the_keepalive() -> None:
    async with scripted(ScriptedBroker(answers_pings=False), keepalive_s=1) as broker:
        with pytest.raises(LinkError, match="the connection dropped"):
            async with mqtt_dial(broker.address)("a", None) as link, asyncio.timeout(PATIENCE_S):
                await anext(link.deliveries())


@pytest.mark.parametrize("last_words", ["acknowledge", "publish", "both"])
async def test_breaking_off_with_words_on_the_way_is_quiet(last_words: str, any_dial: Dial, root: str) -> None:
    async def live() -> None:
        async with any_dial(root, None) as link:
            await link.subscribe(root)
            await link.publish(root, b"x")
            delivery = await anext(link.deliveries())
            if last_words != "acknowledge":
                sending.append(asyncio.ensure_future(link.publish(root, b"y")))
                await asyncio.sleep(0)
            if last_words != "publish":
                delivery.acknowledge()
            raise ZeroDivisionError

    sending: list[asyncio.Future[None]] = []
    with pytest.raises(ZeroDivisionError):
        await live()
    await asyncio.gather(*sending, return_exceptions=True)


# What aiomqtt and paho would let pass.


async def test_message_that_the_broker_refuses_raises() -> None:
    async with scripted(ScriptedBroker(puback=0x87)) as broker, mqtt_dial(broker.address)("a", None) as link:
        with pytest.raises(LinkError, match="refused a message for t/x: Not authorized"):
            await link.publish("t/x", b"x")


async def test_message_without_subscribers_does_not_raise() -> None:
    async with scripted(ScriptedBroker(puback=0x10)) as broker, mqtt_dial(broker.address)("a", None) as link:
        await link.publish("t/x", b"x")


async def test_subscription_that_the_broker_refuses_raises() -> None:
    async with scripted(ScriptedBroker(suback=0x87)) as broker, mqtt_dial(broker.address)("a", None) as link:
        with pytest.raises(LinkError, match="refused a subscription to t/#: Not authorized"):
            await link.subscribe("t/#")


@pytest.mark.parametrize(
    ("connack", "payload_bytes", "in_flight"),
    [
        (b"\x00\x00\x00", 1, PUBLISH_WINDOW),
        (b"\x00\x00\x03\x21\x00\x03", 1, 3),  # property 0x21, Receive Maximum: 3
        (b"\x00\x00\x00", PUBLISH_WINDOW_BYTES // 3, 3),
        (b"\x00\x00\x00", PUBLISH_WINDOW_BYTES * 2, 1),  # one is always let through
    ],
)
async def test_publishes_in_flight_are_bounded(connack: bytes, payload_bytes: int, in_flight: int) -> None:
    unanswering = ScriptedBroker(connack=connack, puback=None)
    async with scripted(unanswering) as broker, mqtt_dial(broker.address)("a", None) as link:
        pending = [asyncio.ensure_future(link.publish("t", bytes(payload_bytes))) for _ in range(50)]
        async with asyncio.timeout(PATIENCE_S):
            while len(broker.published) < in_flight:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert len(broker.published) == in_flight
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)


async def test_message_over_the_brokers_limit_is_not_sent() -> None:
    limit = b"\x00\x00\x05\x27\x00\x00\x04\x00"  # property 0x27, Maximum Packet Size: 1024
    async with scripted(ScriptedBroker(connack=limit)) as broker, mqtt_dial(broker.address)("a", None) as link:
        with pytest.raises(ConfigError, match="takes messages of 1024 bytes, and one for t has 2000"):
            await link.publish("t", bytes(2000))
        await link.publish("t", b"small")
        assert len(broker.published) == 1


@real_broker
async def test_mosquitto_states_its_limit(mosquitto: RunningBroker, root: str) -> None:
    async with mqtt_dial(mosquitto.address)(root, None) as link:
        with pytest.raises(ConfigError, match="takes messages of 4194304 bytes"):
            await link.publish(root, bytes(5 << 20))


@real_broker
async def test_broker_of_3_1_1_is_met_halfway(amqtt: RunningBroker, root: str) -> None:
    address = BrokerAddress(port=amqtt.address.port, protocol="5")
    async with mqtt_dial(address)(root, Will(f"{root}/status", b"lost", delay_s=5)) as link:
        await link.subscribe(root)
        await link.publish(root, b"x")
        assert await take(link.deliveries(), 1) == [(root, b"x")]


def test_missing_certificate_is_the_operators_error() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.crt"):
        mqtt_dial(BrokerAddress(ca_file="nowhere.crt"))
