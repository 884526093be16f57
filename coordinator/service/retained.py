"""Reads what a broker keeps of a federation: its retained messages, as they stand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from lamina.broker.link.seam import Delivery, Link

_QUIET_S = 0.5
"""Retained messages come at once; after so long a silence all of them are there."""


async def retained(link: Link, *filters: str) -> AsyncIterator[Delivery]:
    """Subscribe, and pass on what was kept, acknowledged, until nothing more comes."""
    await link.subscribe(*filters)
    deliveries = link.deliveries()
    while True:
        try:
            async with asyncio.timeout(_QUIET_S):
                delivery = await anext(deliveries)
        except TimeoutError:
            return
        delivery.acknowledge()
        if delivery.payload:
            yield delivery
