"""A link over a real broker runs on aiomqtt 2.5, whose pitfalls end in this file.

| aiomqtt 2.5 on paho 2, left alone                        | here                                                   |
| -------------------------------------------------------- | ------------------------------------------------------ |
| `publish` returns normally when the broker refuses       | the PUBACK's reason is read, and raises `LinkError`    |
| what pends when the connection drops waits out its time  | every wait ends with the connection                    |
| messages are acknowledged as they arrive, and queue up   | the service acknowledges; a receive window holds the   |
|                                                          | broker back                                            |
| an oversize message makes a reused client fail for ever  | a fresh client for each connection; oversize messages  |
|                                                          | are refused before they are sent (MQTT 5)              |
| the broker's Receive Maximum is not read                 | it bounds the publishes in flight (MQTT 5)             |
| a connection closed before the CONNACK (for want of a    | seen at once                                           |
| client certificate) shows as a timeout                   |                                                        |
| a packet read a turn of the loop, three or four system  | read from a buffer until it is empty; acknowledgements |
| calls each; every acknowledgement sent by itself        | and small messages of a turn are sent together         |
| a cancelled or failed connect leaves its socket open     | closed                                                 |
| topic aliases break paho against mosquitto 2.1           | not used                                               |
| warnings and errors in the log                           | raised, not logged                                     |
| a proxy needs another package                            | it is asked for a tunnel (`broker.link.proxy`)         |
| a refused client, a certificate that is not trusted and  | each is an error of its own                            |
| a dropped connection all look alike                      |                                                        |
| a broker that ends the connection over a large message   | recognised when it does so again and again             |
| (before MQTT 5) is dialled for ever                      | (`broker.link.oversize`)                               |

The mending leans on private parts, so the version is pinned in pyproject.toml, and tests/test_link.py holds each line.

Sessions: a client's session on the broker lives as long as its will is delayed (MQTT 5). Who comes back within that
time has no will published, and receives what was published meanwhile on the topics to which it subscribes again.
Otherwise each link begins with a clean one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, MQTT_ERR_SUCCESS
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from lamina.broker.link.address import BrokerAddress, credentials, plain_text_warning
from lamina.broker.link.buffers import Incoming, join_small
from lamina.broker.link.delivery import MqttDelivery
from lamina.broker.link.oversize import Deaths
from lamina.broker.link.proxy import tunnel_or_direct
from lamina.broker.link.room import Room
from lamina.broker.link.seam import Delivery, Dial, Link, Will
from lamina.broker.link.thinning import Thinning
from lamina.broker.link.tls import tls_context, untrusted
from lamina.broker.wire.filters import matches, split_filter
from lamina.models.errors import AccessDenied, ConfigError, LinkError, TakenOver

log = logging.getLogger("lamina.link")

RECEIVE_WINDOW = 20  # deliveries not yet acknowledged; a broker before MQTT 5 uses its own number
PUBLISH_WINDOW = 20  # publishes not yet acknowledged
PUBLISH_WINDOW_BYTES = 1 << 20  # and their payloads: pings queue behind them, and must come through within a keepalive
GOODBYE_S = 2.0

_UNSUPPORTED_VERSION = 0x84
_DENIED = (0x86, 0x87, 0x8A, 0x8C)  # bad username or password, not authorised, banned, bad authentication method
_TAKEN_OVER = 0x8E
_TOO_LARGE = 0x95
_PACKET_OVERHEAD = 64  # of a PUBLISH besides its topic and payload, generously
_NO_ANSWER = "the broker closed the connection without an answer"
_KEEPS_NOTHING = "keeps no messages (mosquitto: retain_available false), and late devices need those"
_quiet = logging.getLogger("lamina.broker.link.mqtt.paho")
_quiet.setLevel(logging.CRITICAL)

_T = TypeVar("_T")


def mqtt_dial(address: BrokerAddress, *, connect_s: float = 5.0) -> Dial:
    """A `Dial` to a real broker; asked for MQTT 5, it falls back to 3.1.1 where the broker knows no better.

    Leaving a link by an exception other than cancellation is no goodbye: the will is published.

    Args:
        address: the broker's.
        connect_s: seconds for the network connection, and again for the broker's answer.

    Raises:
        ConfigError: a certificate, key or password file is missing or no such thing.
    """
    tls, (username, password) = tls_context(address), credentials(address, os.environ)
    options = _Options(address, tls, username, password, connect_s)
    deaths: defaultdict[str, Deaths] = defaultdict(Deaths)  # by client id
    thinning: defaultdict[str, Thinning] = defaultdict(Thinning)
    if warning := plain_text_warning(address, password):
        log.warning("%s", warning)

    @asynccontextmanager
    async def dial(client_id: str, will: Will | None = None) -> AsyncIterator[Link]:
        client = await _connect(options, client_id, will)
        try:
            yield MqttLink(client, address, deaths[client_id], thinning[client_id])
        except asyncio.CancelledError:
            await client.say_goodbye()
            raise
        else:
            await client.say_goodbye()
        finally:
            await client.abandon()

    return dial


class MqttLink:
    """One live connection to a real broker; see `lamina.broker.link.seam.Link`."""

    def __init__(self, client: _Client, address: BrokerAddress, deaths: Deaths, thinning: Thinning) -> None:
        self._client, self._deaths, self._thinning = client, deaths, thinning
        deaths.begin()
        thinning.begin()
        self._broker = f"broker {address}"
        self._answer_s = max(10.0, 2.0 * address.keepalive_s)
        self._filters: dict[str, tuple[str, ...]] = {}
        self._in_flight = asyncio.Semaphore(min(PUBLISH_WINDOW, client.receive_maximum))
        self._room = Room(PUBLISH_WINDOW_BYTES)

    @property
    def most_bytes(self) -> int:
        """See `lamina.broker.link.seam.Link`."""
        return self._thinning.most_bytes

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Deliver at least once; concurrent calls keep their order.

        Raises:
            LinkError: the connection dropped, the broker refused the message, or did not answer in time.
            ConfigError: the message is larger than the broker takes, or seems to be: it ends every connection.
            TakenOver: another client has taken this one's place.
        """
        if len(payload) + len(topic.encode()) + _PACKET_OVERHEAD > self._client.maximum_packet_bytes:
            raise ConfigError(
                f"{self._broker} takes messages of {self._client.maximum_packet_bytes} bytes, and one for {topic} has "
                f"{len(payload)}: send smaller chunks (wire.chunk_kib of federation.toml), or raise the broker's limit"
            )
        async with self._in_flight, self._room.of(len(payload)):
            self._deaths.sending(topic, len(payload), retain=retain)
            self._thinning.sending(len(payload))
            try:
                reason = await self._client.publish_acknowledged(topic, payload, retain, self._answer_s)
            except aiomqtt.MqttError as error:
                raise self._error(error) from error
            except asyncio.CancelledError:
                self._deaths.withdrawn(topic, len(payload))
                self._thinning.withdrawn(len(payload))
                raise
            self._deaths.passed(topic, len(payload))
            self._thinning.passed(len(payload))
        if reason.value == _TOO_LARGE:
            raise ConfigError(
                f"{self._broker} refuses a message of {len(payload)} bytes for {topic} as too large: "
                "lower wire.chunk_kib of federation.toml, or raise the broker's limit"
            )
        if reason.is_failure:
            raise LinkError(f"{self._broker} refused a message for {topic}: {reason}")

    async def subscribe(self, *filters: str) -> None:
        """Receive what matches, and the retained messages that match now.

        Raises:
            LinkError: the connection dropped, or the broker refused a filter or did not answer in time.
        """
        for topic_filter in filters:
            self._filters[topic_filter] = split_filter(topic_filter)
        if not filters:
            return
        try:
            reasons = await self._client.subscribe([(name, 1) for name in filters], timeout=self._answer_s)
        except aiomqtt.MqttError as error:
            raise self._error(error) from error
        for name, reason in zip(filters, reasons, strict=False):
            if isinstance(reason, ReasonCode) and reason.is_failure:
                raise LinkError(f"{self._broker} refused a subscription to {name}: {reason}")

    async def unsubscribe(self, *filters: str) -> None:
        """Stop receiving what matches.

        Raises:
            LinkError: the connection dropped, or the broker did not answer in time.
        """
        for topic_filter in filters:
            self._filters.pop(topic_filter, None)
        if not filters:
            return
        try:
            await self._client.unsubscribe(list(filters), timeout=self._answer_s)
        except aiomqtt.MqttError as error:
            raise self._error(error) from error

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """What arrives, in order; what came before the connection dropped is still delivered."""
        while True:
            try:
                message = await self._client.next_message()
            except aiomqtt.MqttError as error:
                raise self._error(error) from error
            acknowledge = partial(self._client.acknowledge, message.mid) if message.qos else None
            delivery = MqttDelivery(message.topic.value, message.payload, message.retain, acknowledge)
            if self._wants(delivery.topic):
                yield delivery
            else:  # of an earlier link's subscription, in a session that outlived it
                delivery.acknowledge()

    def _error(self, error: aiomqtt.MqttError) -> LinkError:
        """What a failure of aiomqtt's means."""
        if self._client.taken_over:
            return TakenOver(
                f"{self._broker}: another program has connected as {self._client.identifier!r}, and taken this one's "
                "place: no two may have one name"
            )
        if self._client.has_dropped:
            self._thinning.died()
        if self._client.has_dropped and (verdict := self._deaths.verdict()) is not None:
            return verdict.error(f"{self._broker}: {error}")
        return LinkError(f"{self._broker}: {error}")

    def _wants(self, topic: str) -> bool:
        parts = tuple(topic.split("/"))
        return topic in self._filters or any(matches(parts, levels) for levels in self._filters.values())


class _Client(aiomqtt.Client):
    """aiomqtt's client for one connection, mended as the table above says."""

    receive_maximum = PUBLISH_WINDOW  # of the broker; before MQTT 5 it doesn't say
    maximum_packet_bytes = 1 << 28  # MQTT's own limit

    def __init__(
        self, address: BrokerAddress, *, connect_s: float, protocol: aiomqtt.ProtocolVersion, **options: Any
    ) -> None:
        super().__init__(
            hostname=address.host,
            port=address.port,
            transport=address.transport,
            websocket_path=address.path if address.transport == "websockets" else None,
            protocol=protocol,
            logger=_quiet,
            timeout=connect_s,
            socket_options=[_NO_DELAY],
            **options,
        )
        self.taken_over = False
        self.untrusted: ssl.SSLCertVerificationError | None = None  # why the broker's certificate did not verify
        setattr(self._client, "_create_socket_connection", partial(tunnel_or_direct, address, connect_s))  # noqa: B010
        self._is_5 = protocol == aiomqtt.ProtocolVersion.V5
        self.dropped = "the connection dropped"
        self._client.manual_ack_set(True)
        self._client.connect_timeout = connect_s
        self._incoming = Incoming(self._client)
        self._thread = threading.get_ident()  # of the loop
        self._awaits_room = False  # in the socket, for more to be sent
        self._acknowledgements: dict[int, asyncio.Future[ReasonCode]] = {}
        self._disconnected.add_done_callback(self._fail_publishes)
        self._abandoned = False

    # Toward the link.

    async def publish_acknowledged(self, topic: str, payload: bytes, retain: bool, timeout_s: float) -> ReasonCode:
        """Publish at QoS 1; returns the PUBACK's reason."""
        if self._disconnected.done():
            raise aiomqtt.MqttError(self.dropped)
        sent = self._client.publish(topic, payload, qos=1, retain=retain)
        if sent.rc != MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(sent.rc)
        # A future and a timer of its own: `_wait_for` makes a task, and waits for two things.
        acknowledgement: asyncio.Future[ReasonCode] = self._loop.create_future()
        self._acknowledgements[sent.mid] = acknowledgement
        timer = self._loop.call_later(timeout_s, _fail, acknowledgement, f"no answer within {timeout_s:g} s")
        try:
            return await acknowledgement
        finally:
            timer.cancel()
            del self._acknowledgements[sent.mid]
            if acknowledgement.done() and not acknowledgement.cancelled():
                acknowledgement.exception()  # seen, where whoever waited was cancelled meanwhile

    async def next_message(self) -> aiomqtt.Message:
        """The next message; one that is there already needs no task."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            return await anext(self.messages)
        except aiomqtt.MqttError:
            raise aiomqtt.MqttError(self.dropped) from None

    def acknowledge(self, mid: int) -> None:
        """Send a PUBACK."""
        if not self._disconnected.done():
            self._client.ack(mid, 1)

    async def say_goodbye(self) -> None:
        """Disconnect so that the broker forgets the will and the session."""
        if self._disconnected.done():
            return
        properties = None
        if self._is_5:
            properties = _properties(PacketTypes.DISCONNECT, SessionExpiryInterval=0)
        if self._client.disconnect(properties=properties) == MQTT_ERR_SUCCESS:
            with suppress(aiomqtt.MqttError):
                await self._wait_for(self._disconnected, GOODBYE_S)

    async def abandon(self) -> None:
        """Close what is open, without a word to the broker beyond what is on its way."""
        self._abandoned = True
        self._client._sock_close()
        if not self._disconnected.done():
            self._disconnected.set_result(None)  # what still waits ends
        if self._misc_task is not None:
            self._misc_task.cancel()
            await asyncio.wait({self._misc_task})
        for outcome in (self._connected, self._disconnected):
            if outcome.done() and not outcome.cancelled():
                outcome.exception()  # or asyncio reports that nobody looked at it

    # Toward paho.

    @property
    def has_dropped(self) -> bool:
        """Whether the connection is no more."""
        return self._disconnected.done()

    def _client_connect(self) -> None:  # in a thread
        try:
            super()._client_connect()
        except ssl.SSLCertVerificationError as error:
            self.untrusted = error
            raise
        if self._abandoned:
            self._loop.call_soon_threadsafe(self._client._sock_close)

    def _on_socket_open(self, client: Any, userdata: Any, sock: socket.socket) -> None:
        super()._on_socket_open(client, userdata, sock)
        self._loop.call_soon_threadsafe(self._read_when_ready, sock)

    def _read_when_ready(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:  # else it was closed since
            self._loop.add_reader(sock, self._read)  # in place of aiomqtt's, which takes a packet a turn of the loop

    def _read(self) -> None:
        try:
            self._client.loop_read()
            while self._incoming.pending():
                self._client.loop_read()
        except Exception as error:  # whatever it is, the connection is broken
            self._break(error)

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: socket.socket) -> None:
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._write)  # with whatever else is said in this turn of the loop
        else:
            self._loop.call_soon_threadsafe(self._write)

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: socket.socket) -> None:
        if self._awaits_room:
            self._awaits_room = False
            self._loop.remove_writer(sock.fileno())

    def _write(self) -> None:
        try:
            join_small(self._client._out_packet)
            self._client.loop_write()
        except Exception as error:  # whatever it is, the connection is broken
            self._break(error)
        sock = self._client._sock
        if sock is not None and not self._awaits_room and self._client.want_write():
            self._awaits_room = True
            self._loop.add_writer(sock, self._write)

    def _break(self, error: Exception) -> None:
        if not self._disconnected.done():
            self._disconnected.set_exception(error)

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        self.maximum_packet_bytes = getattr(properties, "MaximumPacketSize", self.maximum_packet_bytes)
        if getattr(properties, "RetainAvailable", 1) == 0 and not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError(_KEEPS_NOTHING))
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        if flags.is_disconnect_packet_from_server:  # only MQTT 5 brokers say why
            self.dropped = f"the connection dropped: {reason_code}"
            self.taken_over = reason_code.value == _TAKEN_OVER
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError(_NO_ANSWER))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Any) -> None:
        acknowledgement = self._acknowledgements.get(mid)
        if acknowledgement is not None and not acknowledgement.done():
            acknowledgement.set_result(reason_code)

    def _fail_publishes(self, disconnected: asyncio.Future[None]) -> None:
        for acknowledgement in self._acknowledgements.values():
            _fail(acknowledgement, self.dropped)

    async def _wait_for(self, fut: Awaitable[_T], timeout: float | None) -> _T:
        limit_s = self.timeout if timeout is None else timeout
        awaited: asyncio.Future[_T] = asyncio.ensure_future(fut)
        dropped = self._disconnected
        try:
            both: set[asyncio.Future[Any]] = {awaited, dropped}
            await asyncio.wait(both, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if awaited.done():
                return awaited.result()
            raise aiomqtt.MqttError(self.dropped if dropped.done() else f"no answer within {limit_s:g} s")
        finally:
            if awaited is not dropped:
                awaited.cancel()


def _fail(waited_for: asyncio.Future[ReasonCode], why: str) -> None:
    if not waited_for.done():
        waited_for.set_exception(aiomqtt.MqttError(why))


_NO_DELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small messages wait for the last one's acknowledgement


@dataclass(frozen=True, slots=True)
class _Options:
    """What all connections of a dial have in common."""

    address: BrokerAddress
    tls: ssl.SSLContext | None
    username: str
    password: str
    connect_s: float


async def _connect(options: _Options, client_id: str, will: Will | None) -> _Client:
    """A connected client of the best protocol that the broker speaks."""
    address = options.address
    client = _client(options, client_id, will, address.protocol)
    try:
        try:
            return await _enter(client)
        except aiomqtt.MqttCodeError as error:
            if address.protocol != "5" or getattr(error.rc, "value", None) != _UNSUPPORTED_VERSION:
                raise
            return await _enter(_client(options, client_id, will, "3.1.1"))
    except aiomqtt.MqttError as error:
        if str(error) == _KEEPS_NOTHING:
            raise AccessDenied(f"broker {address} {error}") from error
        if client.untrusted is not None:
            raise AccessDenied(untrusted(address, client.untrusted)) from error
        if isinstance(error, aiomqtt.MqttCodeError) and getattr(error.rc, "value", None) in _DENIED:
            whom = f"the user {options.username!r}" if options.username else "a client without username and password"
            raise AccessDenied(f"broker {address} refuses {whom}: {error.rc}") from error
        hint = "" if options.tls or str(error) != _NO_ANSWER else "; if it speaks TLS, set broker.tls = true"
        raise LinkError(f"broker {address}: {error}{hint}") from error


async def _enter(client: _Client) -> _Client:
    disconnected = client._disconnected
    try:
        await client.__aenter__()
        if disconnected.done():  # already: aiomqtt forgets it as it connects, and the link would seem to live
            raise aiomqtt.MqttError(client.dropped)
    except BaseException:
        await client.abandon()
        if disconnected.done() and not disconnected.cancelled():
            disconnected.exception()  # or asyncio reports that nobody looked at it
        raise
    return client


def _client(options: _Options, client_id: str, will: Will | None, protocol: str) -> _Client:
    is_5 = protocol == "5"
    session_s = will.delay_s if is_5 and will is not None else 0
    last_will = None
    if will is not None:
        last_will = aiomqtt.Will(will.topic, will.payload, qos=1, retain=True)
        if session_s:
            delay = _properties(PacketTypes.WILLMESSAGE, WillDelayInterval=session_s)
            last_will = aiomqtt.Will(will.topic, will.payload, qos=1, retain=True, properties=delay)
    properties = None
    if is_5:
        properties = _properties(PacketTypes.CONNECT, ReceiveMaximum=RECEIVE_WINDOW, SessionExpiryInterval=session_s)
    return _Client(
        options.address,
        connect_s=options.connect_s,
        username=options.username or None,
        password=options.password or None,
        identifier=client_id,
        protocol=aiomqtt.ProtocolVersion.V5 if is_5 else aiomqtt.ProtocolVersion.V311,
        will=last_will,
        clean_session=None if is_5 else True,
        clean_start=session_s == 0 if is_5 else MQTT_CLEAN_START_FIRST_ONLY,
        keepalive=options.address.keepalive_s,
        properties=properties,
        tls_context=options.tls,
        max_inflight_messages=PUBLISH_WINDOW,
    )


def _properties(packet: int, **values: int) -> Properties:
    properties = Properties(packet)  # type: ignore[no-untyped-call] # paho's own
    for name, value in values.items():
        setattr(properties, name, value)
    return properties
