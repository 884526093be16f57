"""Runs devices as tasks in the emulation's own process, over a broker in memory: small, quick, repeatable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from lamina.broker.link.seam import Dial
from lamina.edge_agent.settings import AgentSettings
from lamina.emulation.host import host


class InlineFleet:
    """Devices that run as tasks.

    Attributes:
        failures: agents that came to a bad end so far, one line each.
    """

    def __init__(self, agents: Sequence[AgentSettings], dial: Dial, on_failure: Callable[[str], None]) -> None:
        self.failures: list[str] = []
        self._on_failure, self._size = on_failure, len(agents)
        shared = [msgspec.structs.replace(agent, shared_process=True) for agent in agents]
        self._hosting = asyncio.create_task(host(shared, lambda address: dial, self._fail), name="devices")

    @property
    def good_ends(self) -> int:
        """How many agents have ended well."""
        return self._size - len(self.failures) if self._hosting.done() else 0

    async def ended(self, within_s: float | None = None) -> None:
        """Wait until every agent has ended by itself, for so long at most."""
        await asyncio.wait({self._hosting}, timeout=within_s)

    async def stop(self) -> None:
        """End what still lives."""
        self._hosting.cancel()
        await asyncio.wait({self._hosting})

    def _fail(self, failure: str) -> None:
        self.failures.append(failure)
        self._on_failure(failure)


@asynccontextmanager
async def inline_fleet(
    agents: Sequence[AgentSettings], dial: Dial, *, on_failure: Callable[[str], None], finish_s: float = 10.0
) -> AsyncIterator[InlineFleet]:
    """Run agents for as long as the context is open; on a normal end they have ``finish_s`` to end by themselves."""
    fleet = InlineFleet(agents, dial, on_failure)
    try:
        yield fleet
        await fleet.ended(finish_s)
    finally:
        await fleet.stop()
