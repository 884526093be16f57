"""The broker of an emulation where none is installed: amqtt, in a process of its own, with its faults mended.

    python -m lamina.broker.brokers.embedded --port 1883

It speaks MQTT 3.1.1 only, keeps nothing, and does not hold back a sender whose receiver is slow: good for emulations
and tests, nothing more. Its process ends with the one that started it (when its standard input closes).

Mended, by overriding private methods of amqtt 0.12 (pinned in pyproject.toml; tests/test_link.py holds them):

- a client that connects is sent all retained messages that match *anyone's* subscription;
- after a subscription nothing else of the client is heard until it has acknowledged all retained messages;
- a second client with the same id leaves the first one's connection open and silent;
- a client of MQTT 5 waits for an answer for ever, in place of being told to speak 3.1.1;
- a goodbye is forgotten when the connection's end is seen right behind it (Python 3.12), and the will is published.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.session import Session

_MQTT_3_1_1 = 4
GOODBYE_S = 0.2  # for a connection to end by itself before its client's next one takes its place
_WRONG_VERSION = b"\x20\x02\x00\x01"  # the CONNACK of 3.1.1 for it


class _Rewound(StreamReaderAdapter):  # type: ignore[misc] # amqtt ships no types
    """A stream of which the beginning was read already, and is read again. Its end is not seen too soon."""

    def __init__(self, beginning: bytes, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._beginning = beginning

    async def read(self, n: int = -1) -> bytes:
        first = self._beginning if n < 0 else self._beginning[:n]
        self._beginning = self._beginning[len(first) :]
        if self._reader.at_eof():
            await asyncio.sleep(0)  # amqtt handles each packet in a task, and cancels them at the end: let them begin
        rest = b"" if len(first) == n else await super().read(n if n < 0 else n - len(first))
        return first + bytes(rest)


class EmbeddedBroker(Broker):  # type: ignore[misc] # amqtt ships no types
    """amqtt's broker on one address."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            BrokerConfig(
                listeners={"default": ListenerConfig(bind=f"{host}:{port}")},  # no brackets, for IPv6 either
                plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            )
        )

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Take a client of 3.1.1; tell any other so."""
        try:
            beginning = await reader.readexactly(2)
            while beginning[-1] & 0x80 and len(beginning) < 5:  # the packet's length, 7 bits a byte
                beginning += await reader.readexactly(1)
            beginning += await reader.readexactly(7)  # length and name of the protocol, and its level
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        if beginning[-1] != _MQTT_3_1_1:
            writer.write(_WRONG_VERSION)
            writer.close()
            return
        await self._client_connected(listener_name, _Rewound(beginning, reader), StreamWriterAdapter(writer))

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        topic_filter, qos = subscription
        members = self._subscriptions.get(topic_filter, [])
        publisher = self._get_handler(session)
        if publisher is None or all(member.client_id != session.client_id for member, _ in members):
            return
        for topic, retained in self._retained_messages.items():
            if self._matches(topic, topic_filter):
                message = publisher.mqtt_publish(topic, retained.data, min(qos, retained.qos or 0), retain=True)
                self._tasks_queue.append(asyncio.ensure_future(message))

    async def _delete_session(self, client_id: str) -> None:
        session, connection = self._sessions.get(client_id, (None, None))
        if session is not None and connection is not None and session.transitions.state == "connected":
            if connection._reader_task is not None:
                await asyncio.wait({connection._reader_task}, timeout=GOODBYE_S)
            await connection.handle_connection_closed()
            await connection.stop()
        await super()._delete_session(client_id)


async def serve(host: str, port: int) -> None:
    """Run until standard input closes."""
    broker = EmbeddedBroker(host, port)
    await broker.start()
    try:
        await asyncio.to_thread(sys.stdin.buffer.read)
    finally:
        await broker.shutdown()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m lamina.broker.brokers.embedded", description=serve.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.run(serve(options.host, options.port))


if __name__ == "__main__":
    main()
