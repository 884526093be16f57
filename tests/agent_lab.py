"""A broker in memory, a scripted coordinator and an agent, for the tests of the agent's life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lamina.broker.link.memory import MemoryBroker
from lamina.edge_agent.data import sample_order
from lamina.edge_agent.service.agent import Agent
from lamina.edge_agent.settings import AgentSettings
from lamina.models.arrays import Vector
from lamina.models.samples import LabelledSamples
from tests.patience import PATIENCE_S
from tests.scripted_coordinator import Coordinator, coordinator_on
from tests.tiny_training import Twin, write_trainable_bundle

X = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
Y = np.array([0, 2, 1, 1, 0])
MANY = LabelledSamples(np.zeros((50_000, 2), np.float32), np.zeros(50_000, int))
LONG = 300_000  # steps: seconds
START = Twin.start()
PARAMETERS, STATISTICS = START.parameters.astype(np.float32), START.shift.astype(np.float32)


@dataclass
class Lab:
    """A broker, a coordinator and an agent.

    Attributes:
        folder: `agent` below it is the agent's.
    """

    folder: Path
    broker: MemoryBroker
    coordinator: Coordinator
    running: list[asyncio.Task[None]] = field(default_factory=list)

    def agent(self, data: LabelledSamples | None = None, **settings: object) -> Agent:
        """A new agent, running."""
        agent = self.agent_at_rest(data, **settings)
        self.running.append(asyncio.create_task(agent.run()))
        return agent

    def agent_at_rest(self, data: LabelledSamples | None = None, **settings: object) -> Agent:
        given: dict[str, object] = {"budget_mib": 8.0, "threads": 1, "folder": str(self.folder / "agent"), "once": True}
        source = settings.pop("source", "in memory")
        return Agent(
            AgentSettings("lab", "pi", source, **{**given, **settings}),  # type: ignore[arg-type]
            data or LabelledSamples(X, Y),
            self.broker.dial,
        )

    async def ready(self, cut: int = 0, data: LabelledSamples | None = None, **settings: object) -> Agent:
        """An agent that has been accepted, with the initial values published as version 0."""
        agent = self.agent(data, **settings)
        await self.coordinator.until_profile()
        await self.coordinator.publish_values(PARAMETERS, STATISTICS, (0, 0))
        await self.coordinator.accept(cut)
        return agent

    async def stop(self) -> None:
        """Ask the agent to end, as SIGTERM does."""
        task = self.running.pop()
        task.cancel()
        await asyncio.wait({task})

    async def end(self) -> None:
        """How the agent ends by itself."""
        async with asyncio.timeout(PATIENCE_S):
            await self.running.pop()


@asynccontextmanager
async def lab_in(folder: Path, broker: MemoryBroker | None = None) -> AsyncIterator[Lab]:
    write_trainable_bundle(folder / "bundle")
    broker = broker or MemoryBroker()
    async with coordinator_on(broker, folder / "bundle") as coordinator:
        lab = Lab(folder, broker, coordinator)
        yield lab
        while lab.running:
            await lab.stop()


def trained(twin: Twin, round_: int, cut: int = 0) -> tuple[Twin, float, int]:
    """The twin after a round's three steps of two samples; its mean loss, and how many were right."""
    losses, correct = 0.0, 0
    for batch in sample_order(0, "pi", round_, len(Y), 6).reshape(3, 2):
        loss, hits = twin.step(X[batch], Y[batch], {"lr": 0.5, "momentum": 0.9}, cut)
        losses, correct = losses + loss / 3, correct + hits
    return twin, losses, correct


def layers_of(twin: Twin) -> tuple[Vector, Vector]:
    """The two layers' vectors on the wire: four weights, two biases and the shift; six weights and three biases."""
    return (
        np.concatenate([twin.parameters[:6], twin.shift]).astype(np.float32),
        twin.parameters[6:].astype(np.float32),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
