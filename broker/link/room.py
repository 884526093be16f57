"""Bounds the bytes that a link has in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """Bytes in flight, first come, first served; one message is always let in, however large."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._taken_bytes = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def of(self, wanted_bytes: int) -> AsyncIterator[None]:
        """Hold so many bytes of it, once they are free."""
        async with self._turn:
            while self._taken_bytes and self._taken_bytes + wanted_bytes > self._most_bytes:
                self._freed.clear()
                await self._freed.wait()
            self._taken_bytes += wanted_bytes
        try:
            yield
        finally:
            self._taken_bytes -= wanted_bytes
            self._freed.set()
