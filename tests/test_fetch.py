"""A bundle's file comes whole, or is named and asked for again until it does."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.seam import Link
from lamina.broker.wire.files import FileJoiner, split_file
from lamina.broker.wire.messages import Request, decode
from lamina.broker.wire.topics import Topics
from lamina.edge_agent.service.fetch import Fetcher

TOPICS = Topics("lab")
CONTENT = bytes(range(256)) * 20
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CHUNKS = split_file(CONTENT, 200)


async def listen(fetcher: Fetcher, link: Link, most: int) -> None:
    """Have so many chunks of each wildcard heard, and everything that came by a topic of its own."""
    heard = 0
    async for delivery in link.deliveries():
        delivery.acknowledge()
        heard += 1
        if heard <= most or heard > len(CHUNKS):
            fetcher.add(SHA256, delivery.payload)


async def test_chunks_that_a_short_queue_dropped_come_by_topics_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = MemoryBroker()
    fetcher = Fetcher(TOPICS, "pi", tmp_path, patience_s=0.05)
    async with broker.dial("coordinator") as coordinator, broker.dial("pi") as link, asyncio.timeout(20):
        for index, chunk in enumerate(CHUNKS):
            await coordinator.publish(TOPICS.bundle(SHA256, index), chunk, retain=True)
        await coordinator.subscribe(TOPICS.devices("request"))
        listening = asyncio.create_task(listen(fetcher, link, most=10))
        assert await fetcher.manifest(link, SHA256) == CONTENT
        request = await anext(coordinator.deliveries())
        listening.cancel()
    assert decode(request.payload, Request).files == (SHA256,)
    assert f"pi: file {SHA256[:12]} of the bundle does not arrive: 10 of {len(CHUNKS)} chunks are here" in caplog.text


async def test_a_file_that_was_never_there_is_asked_for_until_it_is(tmp_path: Path) -> None:
    broker = MemoryBroker()
    fetcher = Fetcher(TOPICS, "pi", tmp_path, patience_s=0.05)
    async with broker.dial("coordinator") as coordinator, broker.dial("pi") as link, asyncio.timeout(20):
        await coordinator.subscribe(TOPICS.devices("request"))
        listening = asyncio.create_task(listen(fetcher, link, most=10**6))
        fetching = asyncio.create_task(fetcher.manifest(link, SHA256))
        await anext(coordinator.deliveries())
        for index, chunk in enumerate(CHUNKS):
            await coordinator.publish(TOPICS.bundle(SHA256, index), chunk, retain=True)
        assert await fetching == CONTENT
        listening.cancel()


def test_what_is_missing_is_told() -> None:
    joiner = FileJoiner(SHA256)
    assert (joiner.chunks, joiner.missing(8)) == ((0, 0), [0])
    for index in (0, 2, 3):
        joiner.add(CHUNKS[index])
    assert (joiner.chunks, joiner.missing(3)) == ((3, len(CHUNKS)), [1, 4, 5])
