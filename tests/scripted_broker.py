"""A broker of MQTT 5 that answers as a test tells it to, for what a real one can't be made to do on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lamina.broker.link.address import BrokerAddress

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ = 1, 3, 8, 12


@dataclass
class ScriptedBroker:
    """The broker, and what it has seen.

    Attributes:
        connack: bytes after the fixed header of the CONNACK; empty: none is sent.
        puback: the reason of every PUBACK; ``None``: none is sent.
        suback: the reason of every SUBACK.
        connected: the connect packets' bodies.
        connections: how many are open.
        published: the publish packets' bodies, in the order of arrival.
        answers_pings: whether it does.
    """

    connack: bytes = b"\x00\x00\x00"
    puback: int | None = 0
    suback: int = 1
    answers_pings: bool = True
    connected: list[bytes] = field(default_factory=list)
    connections: int = 0
    published: list[bytes] = field(default_factory=list)
    address: BrokerAddress = field(default_factory=BrokerAddress)
    writer: asyncio.StreamWriter | None = None

    async def speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.connections += 1
        try:
            while True:
                kind, body = await _packet(reader)
                writer.write(self.answer(kind, body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        finally:
            self.connections -= 1

    def answer(self, kind: int, body: bytes) -> bytes:
        if kind == CONNECT:
            self.connected.append(body)
        if kind == CONNECT and self.connack:
            return bytes([0x20, len(self.connack)]) + self.connack
        if kind == PUBLISH:
            self.published.append(body)
            topic_bytes = int.from_bytes(body[:2])
            packet_id = body[2 + topic_bytes : 4 + topic_bytes]
            return b"" if self.puback is None else b"\x40\x04" + packet_id + bytes([self.puback, 0])
        if kind == SUBSCRIBE:
            return b"\x90\x04" + body[:2] + b"\x00" + bytes([self.suback])
        if kind == PINGREQ and self.answers_pings:
            return b"\xd0\x00"
        return b""


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first = (await reader.readexactly(1))[0]
    size = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        size |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return first >> 4, await reader.readexactly(size)


@asynccontextmanager
async def scripted(broker: ScriptedBroker, keepalive_s: int = 30) -> AsyncIterator[ScriptedBroker]:
    server = await asyncio.start_server(broker.speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    broker.address = BrokerAddress(port=port, keepalive_s=keepalive_s)
    try:
        yield broker
    finally:
        server.close()
        if broker.writer is not None:
            broker.writer.close()
