"""Leads a federation by one coordinator after the other: a rollback ends one, and the next goes on from there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lamina.coordinator.records.records import RunResult
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.service.operator import Operator


class Leading:
    """A run that may go back while it goes on.

    Args:
        make: makes a coordinator, which goes on from what the disk holds.
        check: refuses a round that isn't kept, by a `ConfigError`.
        roll_back: has the disk hold an earlier round.
    """

    def __init__(
        self, make: Callable[[], Coordinator], check: Callable[[int], None], roll_back: Callable[[int], None]
    ) -> None:
        self._make, self._check, self._to_disk = make, check, roll_back
        self._coordinator = make()
        self._running: asyncio.Task[RunResult] | None = None
        self._to: tuple[int, asyncio.Future[None]] | None = None

    @property
    def operator(self) -> Operator:
        """Of the present coordinator."""
        return self._coordinator.operator

    async def run(self) -> RunResult:
        """Train to the end; raises as `Coordinator.run`."""
        while True:
            self._running = asyncio.create_task(self._coordinator.run(), name="coordinator")
            try:
                return await self._running
            except asyncio.CancelledError:
                own = asyncio.current_task()
                if self._to is None or own is None or own.cancelling():
                    raise
            await self._go_back(*self._to)

    async def roll_back(self, round_: int) -> None:
        """Go on after an earlier round.

        Raises:
            ConfigError: it isn't kept; training goes on where it was.
        """
        await asyncio.to_thread(self._check, round_)
        done = asyncio.get_running_loop().create_future()
        self._to = round_, done
        if self._running is not None:
            self._running.cancel()
        await done

    async def _go_back(self, round_: int, done: asyncio.Future[None]) -> None:
        self._to = None
        try:
            await asyncio.to_thread(self._coordinator.close)  # a thread of it may still be writing
            await asyncio.to_thread(self._to_disk, round_)
        except Exception as error:
            done.set_exception(error)
        self._coordinator = self._make()
        if not done.done():
            done.set_result(None)
