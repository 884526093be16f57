"""The aggregators of an emulation that shares out its layers: processes of their own, or tasks in memory.

Each is what ``lamina aggregator --share K/N`` runs, for ``aggregation.aggregators`` = N.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.seam import Dial
from lamina.coordinator.service.aggregator import Aggregator
from lamina.emulation.fleet import last_words
from lamina.models.machine import module_command

PROGRAM = (*module_command("lamina.coordinator.cli"), "aggregator")
FINISH_S = 5.0  # to see that the federation is finished
BROKER_S = 10.0  # without a broker, which ends with the emulation, they end as well


@asynccontextmanager
async def aggregating_here(federation: str, count: int, dial: Dial) -> AsyncIterator[None]:
    """Run ``count`` aggregators as tasks for as long as the context is open."""
    aggregators = [
        Aggregator(federation, f"share-{index + 1}-of-{count}", dial, index=index, count=count)
        for index in range(count)
    ]
    tasks = [asyncio.create_task(each.run(), name="aggregator") for each in aggregators]
    try:
        yield
        if tasks:
            await asyncio.wait(tasks, timeout=FINISH_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def aggregating(
    federation: str, count: int, address: BrokerAddress, folder: Path, on_failure: Callable[[str], None]
) -> AsyncIterator[None]:
    """Run ``count`` aggregators as processes for as long as the context is open.

    Args:
        federation: its name.
        count: of shares; 0 runs none.
        address: of the broker.
        folder: for their logs.
        on_failure: told, in one line, of each that ends badly.
    """
    processes: list[asyncio.subprocess.Process] = []
    watching: list[asyncio.Task[None]] = []
    try:
        for index in range(count):
            share, log = f"{index + 1}/{count}", folder / f"aggregator-{index + 1}.log"
            processes.append(await _started(federation, share, address, log))
            watching.append(asyncio.create_task(_watch(processes[-1], share, log, on_failure), name=f"watch {share}"))
        yield
        if watching:
            await asyncio.wait(watching, timeout=FINISH_S)
    finally:
        for task in watching:
            task.cancel()
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await asyncio.gather(*(process.wait() for process in processes), *watching, return_exceptions=True)


async def _started(federation: str, share: str, address: BrokerAddress, log: Path) -> asyncio.subprocess.Process:
    log.parent.mkdir(parents=True, exist_ok=True)
    where = ("--broker", str(address), "--broker-s", str(BROKER_S))
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *PROGRAM, federation, "--share", share, *where,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,  # a Ctrl-C is ours to pass on, in order
        )  # fmt: skip


async def _watch(process: asyncio.subprocess.Process, share: str, log: Path, on_failure: Callable[[str], None]) -> None:
    if status := await process.wait():
        on_failure(f"aggregator {share} ended with status {status}; its last words: {last_words(log)} ({log})")
