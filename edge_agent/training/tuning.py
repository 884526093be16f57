"""Finds the fastest way to run a training graph on this board, and goes on looking for it while the board trains.

A bundle has its graphs in several forms, which differ in the operators that do the same: see `models.manifest`. Fewer
threads may be faster than many, and threads may wait for work actively or asleep. What is best depends on processor,
engine and network, so it is measured in turns (`choosing`), on random samples, with as much memory as training itself
takes. The choice is kept in a file (`choices`). What the agent then sees of its own steps may change it (`comparison`).
"""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lamina.edge_agent.training.choices import FILE, TuningResult, keep_choice, read_choices
from lamina.edge_agent.training.choosing import Measure, Measured, candidates, choose
from lamina.edge_agent.training.comparison import Comparison
from lamina.edge_agent.training.engine import (
    Engine,
    ExecutionMode,
    FrozenPiece,
    InParts,
    PathOf,
    Resident,
    RunnableGraph,
    SubModelTrainer,
)
from lamina.edge_agent.training.random_inputs import random_array, random_inputs
from lamina.edge_agent.training.switching import Clock, SwitchingInParts, SwitchingTrainer
from lamina.models.arrays import Vector
from lamina.models.manifest import Manifest, SubModel
from lamina.models.spec import ModelSpec
from lamina.models.targets import as_taken, drawn

STEPS, ENOUGH_S = 5, 1.0  # a mode is measured over so many steps in a turn, or fewer once they have taken so long
PART = 2  # samples of a micro-batch that is measured

log = logging.getLogger("lamina.agent")

_Made = TypeVar("_Made", bound=Resident)


class FormsEngine(Engine, Protocol):
    """An engine that has more than one mode of execution."""

    def forms(self, sub_model: SubModel, threads: int) -> list[str]:
        """The forms of a sub-model's graphs that it can run here, the standard one first."""

    def trainer(
        self,
        manifest: Manifest,
        cut: int,
        path: PathOf,
        *,
        threads: int = 1,
        mode: ExecutionMode | None = None,
    ) -> SubModelTrainer:
        """See `Engine.trainer`; in a mode, the graph is run as it says."""

    def parts_trainer(
        self,
        manifest: Manifest,
        cut: int,
        path: PathOf,
        *,
        threads: int = 1,
        checkpoints: bool = False,
        mode: ExecutionMode | None = None,
    ) -> InParts:
        """See `Engine.parts_trainer`; in a mode, the graphs are run as it says."""


@dataclass(frozen=True)
class _TunedGraph:
    """A training graph on this board.

    Attributes:
        cut: its first layer.
        modes: in which it can be run, the plain one first.
        key: under which the choice is kept.
    """

    cut: int
    modes: tuple[ExecutionMode, ...]
    key: str


class Tuned:
    """An engine that runs each graph in the mode that is fastest; otherwise as the one that it is made of.

    Args:
        engine: that has the modes.
        folder: where the choices are kept.
        comparing: whether steps of training may change the choice.
        clock: in seconds.
    """

    def __init__(
        self, engine: FormsEngine, folder: Path, *, comparing: bool = True, clock: Clock = time.perf_counter
    ) -> None:
        self._engine = engine
        self._file = folder / FILE
        self._comparing = comparing
        self._clock = clock

    @property
    def name(self) -> str:
        """The engine's."""
        return self._engine.name

    def suited(self, sub_model: SubModel) -> SubModel:
        """See `Engine`."""
        return self._engine.suited(sub_model)

    def forms(self, sub_model: SubModel, threads: int) -> list[str]:
        """See `Engine`."""
        return self._engine.forms(sub_model, threads)

    def warm_up(self) -> None:
        """See `Engine`."""
        self._engine.warm_up()

    def trainer(self, manifest: Manifest, cut: int, path: PathOf, *, threads: int = 1) -> SubModelTrainer:
        """See `Engine.trainer`."""
        x, y = random_batch(manifest.spec, cut, manifest.batch_size)

        def make(mode: ExecutionMode) -> SubModelTrainer:
            return self._engine.trainer(manifest, cut, path, mode=mode)

        def measure(mode: ExecutionMode) -> float:
            trainer = _begun(make(mode))
            return step_s(lambda: trainer.step(x, y, {}), self._clock)

        graph = self._graph(manifest, cut, threads, "a step")
        return SwitchingTrainer(make, self._compared(graph, measure), partial(self._improved, graph), self._clock)

    def parts_trainer(
        self, manifest: Manifest, cut: int, path: PathOf, *, threads: int = 1, checkpoints: bool = False
    ) -> InParts:
        """See `Engine.parts_trainer`; a graph with activation checkpointing has the standard form alone."""
        if checkpoints:
            return self._engine.parts_trainer(manifest, cut, path, threads=threads, checkpoints=True)
        x, y = random_batch(manifest.spec, cut, PART)

        def make(mode: ExecutionMode) -> InParts:
            return self._engine.parts_trainer(manifest, cut, path, mode=mode)

        def measure(mode: ExecutionMode) -> float:
            trainer = _begun(make(mode))
            return step_s(lambda: trainer.gather(x, y, 0.5), self._clock)

        graph = self._graph(manifest, cut, threads, "a micro-batch")
        return SwitchingInParts(make, self._compared(graph, measure), partial(self._improved, graph), self._clock)

    def forward(self, graph: Path, values: Mapping[str, Vector], *, threads: int = 1) -> FrozenPiece:
        """See `Engine`."""
        return self._engine.forward(graph, values, threads=threads)

    def graph(self, graph: Path, values: Mapping[str, Vector], *, threads: int = 1) -> RunnableGraph:
        """See `Engine`."""
        return self._engine.graph(graph, values, threads=threads)

    def _graph(self, manifest: Manifest, cut: int, threads: int, of_what: str) -> _TunedGraph:
        sub_model = manifest.sub_model(cut)
        modes = candidates(self._engine.forms(sub_model, threads), threads)
        key = f"{of_what} of {_digest(sub_model)}, {self.name}, {processor()}, {threads} threads"
        return _TunedGraph(cut, tuple(modes), key)

    def _compared(self, graph: _TunedGraph, measure: Measure) -> Comparison[ExecutionMode]:
        """The graph's modes, beginning with the one that was found before to be the best, or is found now."""
        if len(graph.modes) == 1:
            return Comparison(dict.fromkeys(graph.modes, 1.0), graph.modes[0])
        choice = self._kept(graph) or self._chosen(graph, measure)
        ways = graph.modes if self._comparing else (choice.mode,)
        return Comparison(expected_s(ways, choice.seconds), choice.mode)

    def _kept(self, graph: _TunedGraph) -> Measured | None:
        kept = read_choices(self._file).get(graph.key)
        return Measured(kept.mode, kept.seconds(graph.modes)) if kept and kept.mode in graph.modes else None

    def _chosen(self, graph: _TunedGraph, measure: Measure) -> Measured:
        began = self._clock()
        choice = choose(graph.modes, measure)
        self._keep(graph, choice.mode, choice.seconds)
        log.info(
            "cut %d: the fastest way to run it is %s, found in %.1f s; ms each: %s",
            graph.cut,
            choice.mode,
            self._clock() - began,
            "; ".join(f"{mode} {1e3 * seconds:.1f}" for mode, seconds in choice.seconds.items()),
        )
        return choice

    def _improved(self, graph: _TunedGraph, comparison: Comparison[ExecutionMode]) -> None:
        """Another mode has turned out to be the best while training."""
        log.info("cut %d: while training, %s turned out to be the fastest way", graph.cut, comparison.best)
        self._keep(graph, comparison.best, comparison.expected)

    def _keep(self, graph: _TunedGraph, best: ExecutionMode, seconds: Mapping[ExecutionMode, float]) -> None:
        step_ms = {str(mode): round(1e3 * each, 3) for mode, each in seconds.items()}
        keep_choice(self._file, graph.key, TuningResult(best.form, best.threads, best.spinning, step_ms))


def step_s(step: Callable[[], object], clock: Clock) -> float:
    """Seconds of a step: the median of some; the first one does not count."""
    step()
    taken: list[float] = []
    while len(taken) < STEPS and sum(taken) < ENOUGH_S:
        began = clock()
        step()
        taken.append(clock() - began)
    return median(taken)


def expected_s(modes: Sequence[ExecutionMode], seconds: Mapping[ExecutionMode, float]) -> dict[ExecutionMode, float]:
    """Each mode's seconds; one that was not measured is expected to be as slow as the slowest."""
    most = max(seconds.values(), default=1.0)
    return {mode: seconds.get(mode, most) for mode in modes}


def random_batch(spec: ModelSpec, cut: int, size: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """What may enter the layers from a cut on: (B, ...), and targets (B, ...)."""
    rng = np.random.default_rng(0)
    block = spec.blocks[spec.block_at(cut)]
    x = random_inputs(spec, size, rng) if block is spec.blocks[0] else random_array(size, block, rng)
    return x, as_taken(spec.wanted, drawn(spec.wanted, size, rng))


def processor() -> str:
    """What kind of processor this is, as far as the platform tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    told = {name.strip(): value.strip() for name, value in fields.items()}
    named = [told[name] for name in ("model name", "CPU implementer", "CPU part") if name in told]
    return " ".join(named) or platform.processor() or platform.machine()


def _digest(sub_model: SubModel) -> str:
    files = [sub_model.graph, *(graphs.graph for graphs in sub_model.forms.values())]
    return hashlib.sha256(" ".join(file.sha256 for file in files).encode()).hexdigest()[:16]


def _begun(trainer: _Made) -> _Made:
    """The trainer with some values, as zeros might be faster than others."""
    rng = np.random.default_rng(0)
    trainer.parameters[...] = 0.05 * rng.standard_normal(trainer.parameters.shape, np.float32)
    for name, vector in trainer.vectors.items():
        if name == "statistics":
            vector[...] = 1.0
    return trainer
