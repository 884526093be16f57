"""Finds the fastest form of a training graph on this board: it takes some steps in each, once.

A bundle has its graphs in several forms, which differ in the operators that do the same: see `models.manifest`. Threads
may wait for work actively or asleep. What is best depends on processor, engine and network, so it is measured, one mode
after the other, on random samples, with as much memory as training itself takes. The choice is kept in a file of the
agent's folder, for the same engine, processor, number of threads and graphs.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from lamina.edge_agent.training.engine import (
    Engine,
    ExecutionMode,
    FrozenPiece,
    InParts,
    PathOf,
    Resident,
    SubModelTrainer,
)
from lamina.models.arrays import Vector
from lamina.models.decoding import from_json
from lamina.models.manifest import Manifest, SubModel
from lamina.models.spec import ModelSpec
from lamina.models.storage.replace import replace_file
from lamina.models.targets import as_taken, drawn

FILE = "tuning.json"
STEPS, ENOUGH_S = 5, 2.0  # a mode is measured over so many steps, or fewer once they have taken so long
PART = 2  # samples of a micro-batch that is measured
MUCH_FASTER = 0.97  # of the standard mode's time: below that, another one is taken

log = logging.getLogger("lamina.agent")

_Made = TypeVar("_Made", bound=Resident)
_Measure = Callable[[ExecutionMode], float]


class TuningResult(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        form: of the graph.
        spinning: whether threads wait actively.
        step_ms: of every mode that was measured, by its name.
    """

    form: str
    spinning: bool
    step_ms: dict[str, float]

    @property
    def mode(self) -> ExecutionMode:
        """The chosen mode."""
        return ExecutionMode(self.form, self.spinning)


class FormsEngine(Engine, Protocol):
    """An engine that has more than one mode of execution."""

    def forms(self, sub_model: SubModel, threads: int) -> list[str]:
        """The forms of a sub-model's graphs that it can run here, the standard one first."""

    def trainer(
        self, manifest: Manifest, cut: int, path: PathOf, *, threads: int = 1, mode: ExecutionMode = ...
    ) -> SubModelTrainer:
        """See `Engine.trainer`; the graph is run in this mode."""

    def parts_trainer(
        self,
        manifest: Manifest,
        cut: int,
        path: PathOf,
        *,
        threads: int = 1,
        checkpoints: bool = False,
        mode: ExecutionMode = ...,
    ) -> InParts:
        """See `Engine.parts_trainer`; the graphs are run in this mode."""


class Tuned:
    """An engine that runs each graph in the mode that was fastest; otherwise as the one that it is made of.

    Args:
        engine: that has the modes.
        folder: where the choices are kept.
    """

    def __init__(self, engine: FormsEngine, folder: Path) -> None:
        self._engine = engine
        self._file = folder / FILE

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
            return self._engine.trainer(manifest, cut, path, threads=threads, mode=mode)

        def measure(mode: ExecutionMode) -> float:
            trainer = _begun(make(mode))
            return fastest_ms(lambda: trainer.step(x, y, {}))

        return make(self._chosen(manifest.sub_model(cut), threads, "a step", measure))

    def parts_trainer(
        self, manifest: Manifest, cut: int, path: PathOf, *, threads: int = 1, checkpoints: bool = False
    ) -> InParts:
        """See `Engine.parts_trainer`; a graph with activation checkpointing has the standard form alone."""
        if checkpoints:
            return self._engine.parts_trainer(manifest, cut, path, threads=threads, checkpoints=True)
        x, y = random_batch(manifest.spec, cut, PART)

        def make(mode: ExecutionMode) -> InParts:
            return self._engine.parts_trainer(manifest, cut, path, threads=threads, mode=mode)

        def measure(mode: ExecutionMode) -> float:
            trainer = _begun(make(mode))
            return fastest_ms(lambda: trainer.gather(x, y, 0.5))

        return make(self._chosen(manifest.sub_model(cut), threads, "a micro-batch", measure))

    def forward(self, graph: Path, values: Mapping[str, Vector], *, threads: int = 1) -> FrozenPiece:
        """See `Engine`."""
        return self._engine.forward(graph, values, threads=threads)

    def _chosen(self, sub_model: SubModel, threads: int, of_what: str, measure: _Measure) -> ExecutionMode:
        forms = self._engine.forms(sub_model, threads)
        if len(forms) == 1 and threads == 1:
            return ExecutionMode(forms[0])
        key = f"{of_what} of {_digest(sub_model)}, {self.name}, {processor()}, {threads} threads"
        choices = read_choices(self._file)
        if key not in choices:
            began = time.perf_counter()
            choices[key] = choose(forms, threads, measure)
            _write_choices(self._file, choices)
            log.info(
                "cut %d: of the ways to run it the fastest is %s, found in %.1f s: ms for %s: %s",
                sub_model.cut,
                name_of(choices[key].mode),
                time.perf_counter() - began,
                of_what,
                ", ".join(f"{mode} {ms:.1f}" for mode, ms in choices[key].step_ms.items()),
            )
        return choices[key].mode


def choose(forms: list[str], threads: int, measure: _Measure) -> TuningResult:
    """The fastest form, and whether spinning makes it faster; the standard mode unless another is clearly faster."""
    taken = {ExecutionMode(form): measure(ExecutionMode(form)) for form in forms}
    best = min(taken, key=taken.__getitem__)
    if threads > 1:
        taken[ExecutionMode(best.form, spinning=True)] = measure(ExecutionMode(best.form, spinning=True))
        best = min(taken, key=taken.__getitem__)
    if taken[best] > MUCH_FASTER * taken[ExecutionMode(forms[0])]:
        best = ExecutionMode(forms[0])
    return TuningResult(best.form, best.spinning, {name_of(mode): round(ms, 2) for mode, ms in taken.items()})


def fastest_ms(step: Callable[[], object]) -> float:
    """Milliseconds of the fastest of some steps; the first one does not count."""
    step()
    fastest, began = float("inf"), time.perf_counter()
    for _ in range(STEPS):
        at = time.perf_counter()
        step()
        now = time.perf_counter()
        fastest = min(fastest, now - at)
        if now - began > ENOUGH_S:
            break
    return 1e3 * fastest


def random_batch(spec: ModelSpec, cut: int, size: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """What may enter the layers from a cut on: (B, ...), and targets (B, ...)."""
    rng = np.random.default_rng(0)
    block = spec.blocks[spec.block_at(cut)]
    shape = (size, *block.input_shape)
    # Token ids stay below any vocabulary's size.
    x = rng.integers(0, 2, shape) if block.input_dtype == "int64" else rng.standard_normal(shape, np.float32)
    return x, as_taken(spec.wanted, drawn(spec.wanted, size, rng))


def name_of(mode: ExecutionMode) -> str:
    """Return the form's name for people."""
    return f"{mode.form}, spinning" if mode.spinning else mode.form


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


def read_choices(path: Path) -> dict[str, TuningResult]:
    """What was found before, by what it was found for; nothing where the file is not there, or damaged."""
    try:
        return from_json(path.read_bytes(), dict[str, TuningResult])
    except (OSError, msgspec.DecodeError):
        return {}


def _write_choices(path: Path, choices: dict[str, TuningResult]) -> None:
    """The file appears whole or not at all; without it, the next start measures again."""
    try:
        replace_file(path, msgspec.json.format(msgspec.json.encode(choices)))
    except OSError as error:
        log.warning("can't keep in %s what runs fastest: %s", path, error.strerror)


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
