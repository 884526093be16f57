"""What the tests of links send and receive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from lamina.broker.link.seam import Delivery, Dial, Link

PATIENCE_S = 20.0  # a test that waits so long has failed

real_broker = pytest.mark.broker


async def take(deliveries: AsyncIterator[Delivery], number: int) -> list[tuple[str, bytes]]:
    """The next few, acknowledged."""
    taken = []
    async with asyncio.timeout(PATIENCE_S):
        while len(taken) < number:
            delivery = await anext(deliveries)
            delivery.acknowledge()
            taken.append((delivery.topic, delivery.payload))
    return taken


async def settle(link: Link, root: str) -> None:
    """Return when the broker has processed all that was published over this link (amqtt acknowledges earlier)."""
    await link.subscribe(f"{root}/settled")
    await link.publish(f"{root}/settled", b"x")
    async with asyncio.timeout(PATIENCE_S):
        async for delivery in link.deliveries():
            delivery.acknowledge()
            if delivery.topic == f"{root}/settled":
                return


async def retain(dial: Dial, root: str, messages: dict[str, bytes]) -> None:
    async with dial(f"{root}-retainer", None) as link:
        for topic, payload in messages.items():
            await link.publish(topic, payload, retain=True)
        await settle(link, root)


async def publish_for_ever(link: Link, topic: str) -> None:
    while True:
        await link.publish(topic, b"x")
