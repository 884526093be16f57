"""A link over websockets, and one through an HTTP proxy, carry what any other does."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial
from lamina.emulation.rig.mosquitto import Mosquitto, free_port
from lamina.models.errors import LinkError

pytestmark = pytest.mark.broker


@pytest.fixture
def websockets_port(mosquitto_program: str, tmp_path: Path) -> Iterator[int]:
    port = free_port()
    broker = Mosquitto(tmp_path, extra=f"listener {port} 127.0.0.1\nprotocol websockets\n")
    broker.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    yield port
    broker.close()


async def carries(dial: Dial) -> None:
    payloads = [bytes([n]) * size for n, size in enumerate((1, 100, 70_000, 300_000, 5))]
    async with asyncio.timeout(60), dial("a", None) as sender, dial("b", None) as receiver:
        await receiver.subscribe("t")
        await asyncio.gather(*(sender.publish("t", payload) for payload in payloads))
        received = []
        async for delivery in receiver.deliveries():
            delivery.acknowledge()
            received.append(delivery.payload)
            if len(received) == len(payloads):
                break
    assert received == payloads


async def test_messages_of_every_size_cross_websockets(websockets_port: int) -> None:
    await carries(mqtt_dial(BrokerAddress(host=f"ws://127.0.0.1:{websockets_port}/mqtt")))


@asynccontextmanager
async def proxying(asked: list[str], answer: str = "HTTP/1.1 200 Connection established") -> AsyncIterator[int]:
    """A proxy that grants tunnels, or refuses them; its port."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        host, _, port = asked[-1].split(" ")[1].rpartition(":")
        writer.write(f"{answer}\r\nVia: test\r\n\r\n".encode())
        if " 200 " in answer:
            back, forth = await asyncio.open_connection(host, int(port))
            await asyncio.gather(pump(reader, forth), pump(back, writer), return_exceptions=True)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_proxy_is_asked_for_a_tunnel_to_the_broker(websockets_port: int) -> None:
    asked: list[str] = []
    async with proxying(asked) as proxy:
        address = BrokerAddress(host=f"ws://127.0.0.1:{websockets_port}", proxy=f"http://me:secret@127.0.0.1:{proxy}")
        await carries(mqtt_dial(address))
    assert asked[0].startswith(f"CONNECT 127.0.0.1:{websockets_port} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in asked[0]


async def test_a_proxy_that_refuses_is_named() -> None:
    async with proxying([], "HTTP/1.1 403 Forbidden") as proxy:
        address = BrokerAddress(host="127.0.0.1:1", proxy=f"127.0.0.1:{proxy}")
        with pytest.raises(LinkError, match=r"the proxy 127\.0\.0\.1:\d+ refused a connection to .*403 Forbidden"):
            async with mqtt_dial(address)("a", None):
                pass
