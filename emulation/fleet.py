"""Runs the devices of an emulation in processes of their own: they are started together, watched, and ended by their
ids.

A process that ends badly is reported with the last words of its log, and the run goes on: its devices' wills tell the
coordinator. All that still lives is ended with the fleet, asked first (SIGTERM), then not (SIGKILL).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lamina.edge_agent.settings import AgentSettings
from lamina.models.machine import module_command

PROGRAM = module_command("lamina.emulation.host")
FINISH_S = 10.0  # for agents to see that the federation is finished, and say goodbye
STOP_S = 5.0  # between asking a process to end and ending it

_TAIL_LINES = 3
_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Plan:
    """One process to be.

    Attributes:
        name: of its files in the fleet's folder.
        agents: the devices that it hosts.
    """

    name: str
    agents: tuple[AgentSettings, ...]


def share_out(agents: Sequence[AgentSettings], a_process: int) -> list[Plan]:
    """Plans of processes with ``a_process`` devices each, the last one perhaps fewer, in the order of the devices."""
    shared = a_process > 1
    settings = [msgspec.structs.replace(agent, shared_process=shared) for agent in agents]
    starts = range(0, len(settings), a_process)
    return [
        Plan(f"process-{number:03}" if shared else settings[start].device, tuple(settings[start : start + a_process]))
        for number, start in enumerate(starts)
    ]


class Fleet:
    """Running processes.

    Attributes:
        failures: what ended badly so far, one line each.
    """

    def __init__(self, folder: Path, on_failure: Callable[[str], None]) -> None:
        self.failures: list[str] = []
        self._folder, self._on_failure = folder, on_failure
        self._processes: dict[asyncio.Task[None], asyncio.subprocess.Process] = {}  # by the task that watches it
        self._stopping = False

    async def start(self, plans: Sequence[Plan], program: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start all processes; they get ready side by side."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for plan in plans:
            await self._start_one(plan, program, environment)

    @property
    def good_ends(self) -> int:
        """How many processes have ended well."""
        return sum(process.returncode == 0 for process in self._processes.values())

    async def ended(self, within_s: float | None = None) -> None:
        """Wait until every process has ended by itself, for so long at most."""
        if self._processes:
            await asyncio.wait(self._processes, timeout=within_s)

    async def stop(self, within_s: float = STOP_S) -> None:
        """End what still lives: asked first, and after ``within_s`` no longer asked."""
        self._stopping = True
        for process in self._living():
            process.terminate()
        await self.ended(within_s)
        for process in self._living():
            process.kill()
        await asyncio.gather(*self._processes)

    async def _start_one(self, plan: Plan, program: Sequence[str], environment: Mapping[str, str]) -> None:
        file, log = self._folder / f"{plan.name}.json", self._folder / f"{plan.name}.log"
        file.write_bytes(msgspec.json.encode(plan.agents))
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *program,
                str(file),
                stdin=asyncio.subprocess.PIPE,  # its closing tells the process that we are gone
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                start_new_session=True,  # a Ctrl-C is ours to pass on, in order
            )
        watching = asyncio.create_task(self._watch(plan, process, log), name=f"watch {plan.name}")
        self._processes[watching] = process

    async def _watch(self, plan: Plan, process: asyncio.subprocess.Process, log: Path) -> None:
        status = await process.wait()
        if status and not self._stopping:
            devices = ", ".join(agent.device for agent in plan.agents)
            failure = f"{devices}: the process ended with status {status}; its last words: {last_words(log)} ({log})"
            self.failures.append(failure)
            self._on_failure(failure)

    def _living(self) -> list[asyncio.subprocess.Process]:
        return [process for process in self._processes.values() if process.returncode is None]


@asynccontextmanager
async def running_fleet(
    plans: Sequence[Plan],
    folder: Path,
    *,
    threads: int = 1,
    on_failure: Callable[[str], None] = lambda failure: None,
    program: Sequence[str] = PROGRAM,
    finish_s: float = FINISH_S,
    stop_s: float = STOP_S,
) -> AsyncIterator[Fleet]:
    """Run the processes of ``plans`` for as long as the context is open.

    Leaving it normally gives them time to end by themselves; leaving it by an error, a Ctrl-C included, does not.

    Args:
        plans: the processes.
        folder: for their settings and logs.
        threads: for the numeric libraries in each.
        on_failure: told of each process that ends badly.
        program: what to run, with the settings' file as its last argument.
        finish_s: for the processes to end by themselves.
        stop_s: between asking a process to end and ending it.
    """
    fleet = Fleet(folder, on_failure)
    try:
        await fleet.start(plans, program, dict.fromkeys(_THREAD_LIMITS, str(threads)))
        yield fleet
        await fleet.ended(finish_s)
    finally:
        await fleet.stop(stop_s)


def last_words(log: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log that hold anything, on one line."""
    text = log.read_text(errors="replace")
    return " / ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:]) or "none"
