"""A whole federation in one process: the real coordinator and the real agents, on a small dense network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from torch import nn

from lamina.broker.link.seam import Dial
from lamina.coordinator.records.records import RoundRecord, RunResult
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.settings import Aggregation, Cohorts, Deadlines, Evaluation, FederationSettings, Training
from lamina.edge_agent.service.agent import Agent
from lamina.edge_agent.settings import AgentSettings
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition
from lamina.models.samples import LabelledSamples
from tests.patience import PATIENCE_S

FEATURES, CLASSES = 6, 3

PEAKS = {0: 30.0, 1: 20.0, 2: 10.0}  # MiB, by rank of the cut
STRONG, MODERATE, WEAK, TOO_SMALL = 30.0, 20.0, 10.0, 9.0


def small_bundle(folder: Path) -> Bundle:
    """Three dense layers, 6 -> 8 -> 5 -> 3, that can be cut before each."""
    module = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    for index, parameter in enumerate(module.parameters()):
        rng = np.random.default_rng(index)
        parameter.data = parameter.data.new_tensor(rng.normal(size=tuple(parameter.shape)) / 2)
    definition = Definition("small", module, (FEATURES,), CLASSES)
    peaks = iter(PEAKS.values())
    build_bundle(definition, folder, batch_size=8, measure=lambda bundle, cut: next(peaks))
    return read_bundle(folder)


def samples(seed: int, count: int = 24) -> LabelledSamples:
    """Three clouds that a small network can tell apart; the device with seed s has mostly class s % 3."""
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(count) < 0.6, seed % CLASSES, rng.integers(0, CLASSES, count))
    x = rng.normal(size=(count, FEATURES)) + 3.0 * np.eye(CLASSES, FEATURES)[y]
    return LabelledSamples(x.astype(np.float32), y.astype(np.int64))


@dataclass
class Setup:
    """What a federation is made of; `run` runs it."""

    folder: Path
    bundle: Bundle
    dial: Dial
    budgets: Sequence[float] = (STRONG, MODERATE, WEAK)
    federation: str = "whole"
    rounds: int = 4
    local_steps: int = 2
    aggregation: Aggregation = field(default_factory=lambda: Aggregation(phi=2))
    round_s: float = 60.0
    evaluate: bool = True
    observe: Callable[[RoundRecord], None] = lambda record: None
    ends: list[BaseException | None] = field(default_factory=list)  # how each agent ended

    def settings(self, **changes: object) -> FederationSettings:
        test = self.folder / "test.npz"
        self.folder.mkdir(parents=True, exist_ok=True)
        held_out = samples(99, 60)
        np.savez(test, x=held_out.x, y=held_out.y)
        settings = FederationSettings(
            federation=self.federation,
            bundle=str(self.bundle.folder),
            folder=str(self.folder / "coordinator"),
            training=Training(
                rounds=self.rounds, local_steps=self.local_steps, lr=0.1, hyperparameters={"momentum": 0.9}
            ),
            cohorts=Cohorts(min_devices=sum(budget >= WEAK for budget in self.budgets), wait_s=30.0),
            aggregation=self.aggregation,
            deadlines=Deadlines(round_s=self.round_s, broker_s=20.0),
            evaluation=Evaluation(data=str(test) if self.evaluate else ""),
        )
        return msgspec.structs.replace(settings, **changes)

    def coordinator(self, **changes: object) -> Coordinator:
        return Coordinator(self.settings(**changes), self.bundle, self.dial, observe=self.observe)

    def agent(self, index: int) -> Agent:
        settings = AgentSettings(
            federation=self.federation,
            device=f"d{index}",
            data="in memory",
            budget_mib=self.budgets[index],
            threads=1,
            folder=str(self.folder / f"d{index}"),
            broker_s=20.0,
            once=True,
            shared_process=True,
        )
        return Agent(settings, samples(index), self.dial)

    async def run(self) -> RunResult:
        """Coordinator and agents, to the end."""
        async with self.agents(), asyncio.timeout(PATIENCE_S):
            return await self.coordinator().run()

    @asynccontextmanager
    async def agents(self) -> AsyncIterator[list[asyncio.Task[None]]]:
        """The running agents; on leaving they have a second to end by themselves."""
        tasks = [asyncio.create_task(self.agent(index).run()) for index in range(len(self.budgets))]
        try:
            yield tasks
            await asyncio.wait(tasks, timeout=1.0)
        finally:
            for task in tasks:
                task.cancel()
            self.ends = await asyncio.gather(*tasks, return_exceptions=True)

    def final_model(self) -> bytes:
        return (self.folder / "coordinator" / "model.safetensors").read_bytes()
