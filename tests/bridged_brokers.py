"""Two brokers in memory and a bridge between them, as a site's mosquitto is bridged to the federation's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.seam import Link
from lamina.broker.wire.topics import Topics


@asynccontextmanager
async def bridged(centre: MemoryBroker, site: MemoryBroker, topics: Topics, name: str) -> AsyncIterator[None]:
    """Pass on what `broker/mosquitto/site.conf` passes on, while the context lasts."""
    root = topics.root
    leaves = ("coordinator/#", "round", "layer/+/global/#", "advance/+", "bundle/#", "device/+/task")
    incoming = [f"{root}/{leaf}" for leaf in leaves]
    outgoing = [f"{root}/device/+/{leaf}" for leaf in ("status", "profile", "request", "report")] + [
        topics.partials,
        topics.aggregators,
    ]
    async with centre.dial(f"bridge-{name}") as there, site.dial(f"bridge-{name}") as here:
        pumps = [
            asyncio.create_task(_pump(there, here, incoming, name="in")),
            asyncio.create_task(_pump(here, there, outgoing, name="out")),
        ]
        try:
            yield
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: Link, target: Link, filters: list[str], name: str) -> None:
    await source.subscribe(*filters)
    async for delivery in source.deliveries():
        retain = delivery.retained or not any(f"/{leaf}" in delivery.topic for leaf in ("partial", "request", "report"))
        await target.publish(delivery.topic, delivery.payload, retain=retain)
        delivery.acknowledge()
