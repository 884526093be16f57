"""Leads from the event loop to the learner, which takes time: through one thread, one job after the other.

That order is what makes the copy of the model safe without locks: a round never trains while its predecessor's updates
are still being encoded or its state saved. Only `take` changes it from outside, and a session takes nothing meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from lamina.broker.wire.chunks import LayerValue, pack_all, split, unpack
from lamina.broker.wire.codecs import codec
from lamina.broker.wire.deltas import applied, check_of, digest_of
from lamina.broker.wire.messages import RoundPlan, Task
from lamina.broker.wire.runs import runs
from lamina.edge_agent.admission.bundles import check_graphs
from lamina.edge_agent.service.personal_file import FILE as PERSONAL_FILE
from lamina.edge_agent.service.personal_file import Owner, read_personal, write_personal
from lamina.edge_agent.service.profile import threads
from lamina.edge_agent.service.refresh import Refresh
from lamina.edge_agent.service.state import DamagedState, read_progress, restore_state, save_state
from lamina.edge_agent.session.error_feedback import ErrorFeedback
from lamina.edge_agent.session.events import Outcome, Progress, Train
from lamina.edge_agent.session.personal import PersonalValues
from lamina.edge_agent.settings import AgentSettings
from lamina.edge_agent.training.allocation import return_freed_memory
from lamina.edge_agent.training.assignment import Assignment
from lamina.edge_agent.training.engine import STANDARD, Engine
from lamina.edge_agent.training.learner import Learner
from lamina.edge_agent.training.memory import PeakMeter
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.edge_agent.training.tuning import Tuned
from lamina.models import fitting
from lamina.models.arrays import Vector
from lamina.models.errors import ConfigError, DecodeError
from lamina.models.further import with_further
from lamina.models.held_out import parted
from lamina.models.manifest import FileEntry, Manifest
from lamina.models.personal import at_places, personal_layers
from lamina.models.samples import LabelledSamples
from lamina.models.sources import load_samples
from lamina.models.spec import LayerSpec, ModelSpec
from lamina.models.storage.disk import DISK, Disk

log = logging.getLogger("lamina.agent")

_INLINE_ELEMENTS = 1 << 19
"""Up to so many are decoded on the event loop, in milliseconds: a device that waits for values does nothing else."""

_RUN_ELEMENTS = 1 << 19  # of layers encoded in one go

_T = TypeVar("_T")


def _nothing_to_check(*, batch: int) -> None:
    """No learner is built."""


class Decoded(NamedTuple):
    """A layer's value (vector_size,), its check, and its digest if one is asked for (`lamina.broker.wire.deltas`)."""

    vector: Vector
    check: int
    digest: bytes


class Learning:
    """The learner and its thread.

    Args:
        settings: the operator's.
        data: the device's samples.
        learner: makes the learner; the ordinary one, unless something else is to be measured than learning.
        disk: the saved state lies on.

    Attributes:
        engine: that trains.
        samples: that the device trains on.
        budget_mib: memory by which the memory plan is chosen; ``None``: a batch at once.
        fixed_plan: the memory plan, whatever the budget.

    Raises:
        ConfigError: the engine of the settings is not installed.
    """

    def __init__(
        self, settings: AgentSettings, data: LabelledSamples, learner: type[Learner] = Learner, disk: Disk = DISK
    ) -> None:
        self._settings, self._disk = settings, disk
        self.samples, self._held_out = parted(data, settings.share_held_out)
        self._new_learner = learner
        self.budget_mib = settings.budget_mib
        self.fixed_plan: fitting.MemoryPlan | None = None
        self._memory_plan: fitting.MemoryPlan | None = None
        self._folder = Path(settings.folder)
        self.engine: Engine = OnnxRuntime(settings.engine)
        if settings.tuning and not settings.shared_process:
            self.engine = Tuned(OnnxRuntime(settings.engine), self._folder)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"learn {settings.device}")
        self._leave_off = threading.Event()
        self._wire_spec: ModelSpec | None = None
        self._learner: Learner | None = None
        self._feedback = ErrorFeedback()
        self._check_graphs: Callable[..., None] = _nothing_to_check
        self._largest_batch = 0
        self._meter: PeakMeter | None = None
        self._refresh = Refresh(settings.data)
        self._cycle: tuple[int, int] | None = None  # epoch and cycle that the samples were looked at for
        self._owner: Owner | None = None  # of the personal layers; None: there are none
        self._own = PersonalValues()
        self._saved: Progress | None = None  # what the file says, as far as it was written by this agent

    async def build(self, task: Task, manifest: Manifest, path: Callable[[FileEntry], Path]) -> Progress | None:
        """Make the learner for a task, and give it its saved state; returns how far that goes, if there is any.

        Args:
            task: with the cut.
            manifest: of the bundle.
            path: where a file of the bundle lies.

        Raises:
            ConfigError: the samples don't suit the model, a graph can't be loaded, or the folder can't be written to.
        """
        return await self._run(partial(self._build, task, manifest, path))

    def judging_samples(self) -> LabelledSamples:
        """The samples by which deployed models are judged: held out, or, where none are, those that it trains on.

        Raises:
            ConfigError: the samples of their own can't be read.
        """
        held_out = self._settings.held_out
        if not isinstance(held_out, float | int):
            return load_samples(held_out)
        return self._held_out or self.samples

    async def between(self, job: Callable[[], _T]) -> _T:
        """Have something else done in the learner's thread, so that no training takes memory meanwhile."""
        return await self._run(job)

    def graphs(self, manifest: Manifest, cut: int, *, judges: bool = False) -> list[FileEntry]:
        """The files that training from ``cut`` on runs, and those by which models are judged where the device does.

        Raises:
            ModelError: none of the bundle's graphs is for this device's engine.
        """
        memory_plan = self._choice(manifest, cut).plan
        sub_model = self.engine.suited(self._affordable(manifest, memory_plan).sub_model(cut))
        forms = self.engine.forms(sub_model, threads(self._settings)) if isinstance(self.engine, Tuned) else [STANDARD]
        written = [sub_model.written(form) for form in forms]
        step: list[FileEntry | None]
        if memory_plan is None or not memory_plan.micro_batch:
            step = [form.graph for form in written]
        elif memory_plan.checkpoints:
            step = [sub_model.recomputing, sub_model.updating]
        else:
            step = [*(form.accumulating for form in written), sub_model.updating]
        constants = filter(None, [manifest.constants])  # first: the graphs read it
        judging = [manifest.inference, *([manifest.metrics.graph] if manifest.metrics else [])] if judges else []
        return [*constants, *filter(None, step), *(piece.graph for piece in manifest.pieces_before(cut)), *judging]

    @property
    def memory_plan(self) -> str:
        """How the device trains within its memory, for a person; empty before it is known."""
        return self._memory_plan.text if self._memory_plan else ""

    @property
    def spec(self) -> ModelSpec:
        """The model that the learner learns, as its values cross the wire."""
        if self._wire_spec is None:
            raise RuntimeError("the session asked for the model before its bundle was there")
        return self._wire_spec

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The model's layers."""
        return self.spec.layers

    @property
    def num_examples(self) -> int:
        """Samples that the device trains on."""
        return len(self.samples) if self._learner is None else self._learner.num_examples

    def peak_mib(self) -> float | None:
        """Peak memory above the idle agent since the learner was built; ``None`` where that can't be told."""
        return None if self._meter is None else self._meter.peak_mib()

    async def train(self, command: Train) -> Outcome | None:
        """Do a round's local steps; ``None`` where `leave_off` was called.

        Raises:
            ActivationCacheFull: the disk has no room for activations.
        """
        return await self._run(partial(self._train, command))

    def will_train(self) -> None:
        """Forget that `leave_off` was called: what follows is another round."""
        self._leave_off.clear()

    def leave_off(self) -> None:
        """Let the training that runs end soon."""
        self._leave_off.set()

    async def encoded_updates(self, plan: RoundPlan, layers: Sequence[int]) -> AsyncIterator[tuple[int, list[bytes]]]:
        """The layers, in order, each with the messages of its update: none, where its numbers are none to any codec.

        Small layers that follow one another are encoded in one go: handing a job over takes as long as encoding one.
        """
        for run in runs([self.layers[layer].vector_size for layer in layers], _RUN_ELEMENTS):
            for layer, messages in await self._run(partial(self._encoded_updates, plan, layers[run])):
                yield layer, messages

    async def decoded(self, values: Sequence[LayerValue], *, digested: bool = False) -> list[Decoded | DecodeError]:
        """Return for each value, in order, what it, or a delta to the value that is held, leads to; or why it is not
        its layer's.
        """
        decode = partial(self._decoded, values, digested)
        elements = sum(self.layers[value.layer].vector_size for value in values)
        return decode() if elements <= _INLINE_ELEMENTS else await self._run(decode)

    def take(self, layer: int, vector: Vector) -> None:
        """Hold a layer's new global value; no training runs."""
        self._ready().take(layer, vector)

    async def save(self, progress: Progress) -> None:
        """Write the state of a round whose updates are encoded, unless it is there already."""
        if self._settings.keep_state and progress != self._saved:
            await self._run(partial(self._save, progress))
            self._saved = progress

    async def close(self) -> None:
        """End the thread and give everything back."""
        self.leave_off()
        await self._run(self._drop)
        self._thread.shutdown()

    async def _run(self, job: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    def _decoded(self, values: Sequence[LayerValue], digested: bool) -> list[Decoded | DecodeError]:
        """Wherever it runs, it changes nothing of the learner."""
        specs = [self.layers[value.layer] for value in values]
        bases = [self._ready().held(value.layer) if value.purpose == "delta" else None for value in values]
        return [
            vector
            if isinstance(vector, DecodeError)
            else Decoded(vector, check_of(vector), digest_of(vector) if digested else b"")
            for vector in applied(values, specs, bases)
        ]

    # In the thread.

    def _build(self, task: Task, manifest: Manifest, path: Callable[[FileEntry], Path]) -> Progress | None:
        self._drop()  # first: there may not be room for two
        if not self._settings.shared_process:
            return_freed_memory()
            self.engine.warm_up()
            self._meter = PeakMeter()  # what the agent has by now, linked and with its bundle, is what it has when idle
        choice = self._choice(manifest, task.cut)
        self._memory_plan = memory_plan = choice.plan or fitting.MemoryPlan(task.cut)
        personal = self._take_personal(task, manifest)
        log.info("%s: %s", self._settings.device, choice.reason)
        self._check_graphs = partial(
            check_graphs,
            manifest,
            self.graphs(manifest, task.cut, judges=bool(task.held_out)),
            path,
            budget_mib=None if self.fixed_plan else self.budget_mib,
        )
        self._largest_batch = manifest.batch_size
        self._check_graphs(batch=memory_plan.micro_batch or manifest.batch_size)
        assignment = Assignment(
            self._affordable(manifest, choice.plan),
            task.cut,
            path,
            self.samples.numbered_for(manifest.spec),
            self._folder / "spill",
            self.engine,
            threads=threads(self._settings),
            micro_batch=memory_plan.micro_batch,
            checkpoints=memory_plan.checkpoints,
            cache_element=self._settings.spill,
            further=task.further or (),
            personal=personal,
            own=self._own,
            held_out=task.held_out or 0.0,
            kept=self._held_out,
        )
        self._learner = self._new_learner(assignment)
        self._wire_spec = with_further(manifest.spec, task.further or ())
        return self._restored(task, self._learner)

    def _choice(self, manifest: Manifest, cut: int) -> fitting.Choice:
        if self.fixed_plan is not None or self.budget_mib is None:
            return fitting.Choice(self.fixed_plan or fitting.MemoryPlan(cut), "no budget to fit")
        return fitting.choose_plan(manifest, cut, self.budget_mib, self._settings.savings)

    def _affordable(self, manifest: Manifest, memory_plan: fitting.MemoryPlan | None) -> Manifest:
        """The manifest with those forms of its graphs that the budget has room for."""
        if self.fixed_plan is not None or self.budget_mib is None or memory_plan is None:
            return manifest
        return fitting.with_forms_that_fit(manifest, memory_plan, self.budget_mib)

    def _restored(self, task: Task, learner: Learner) -> Progress | None:
        if not self._settings.keep_state:
            return None
        try:
            progress = read_progress(self._state_path, self._disk)
            if progress is None or not progress.serves(task):
                return None
            owing = self._owing(progress)
            remembered = self._remembered(progress)
            restore_state(self._state_path, learner.vectors() | owing | remembered, self._disk)
            self._feedback.restore(owing, progress.plan.round, progress.plan.versions)
            if remembered:
                learner.memory.restore(remembered, progress.plan.versions)
        except DamagedState as error:
            log.warning("%s: %s; beginning without it", self._settings.device, error)
            return None
        return progress

    def _train(self, command: Train) -> Outcome | None:
        plan, device = command.plan, self._settings.device
        if (plan.epoch, plan.cycle) != self._cycle:
            self._cycle = plan.epoch, plan.cycle
            self._take_new_samples()
        if plan.batch_size > self._largest_batch and not (self._memory_plan and self._memory_plan.micro_batch):
            self._check_graphs(batch=plan.batch_size)  # the bundle was made for smaller ones
            self._largest_batch = plan.batch_size
        self._ready().memory.settle(plan.versions, plan.unfolded.get(device, ()))
        self._feedback.settle(plan.round, plan.versions, plan.unfolded.get(device, ()))
        outcome = self._ready().train(
            plan, device, reset=command.reset, afresh=command.afresh, stop=self._leave_off.is_set
        )
        if outcome is not None:
            self._keep_personal()  # before anything of the round is sent
        return outcome

    def _take_new_samples(self) -> None:
        if (changed := self._refresh.changed()) is None:
            return
        data, held_out = parted(changed, self._settings.share_held_out)
        try:
            self._ready().use(data, held_out)
        except ConfigError as error:
            log.warning("%s: new samples are left alone: %s", self._settings.device, error)
            return
        log.info("%s: %d samples, and before it were %d", self._settings.device, len(data), len(self.samples))
        self.samples, self._held_out = data, held_out

    def _encoded_updates(self, plan: RoundPlan, layers: Sequence[int]) -> list[tuple[int, list[bytes]]]:
        specs = [self.layers[layer] for layer in layers]
        wanted = [self._feedback.wanted(layer, self._update(layer, plan)) for layer in layers]
        values = pack_all(
            "update",
            epoch=plan.epoch,
            round=plan.round,
            layers=layers,
            versions=[plan.versions[layer] for layer in layers],
            layer_specs=specs,
            vectors=wanted,
            codecs=[plan.codec_of(self._settings.device, spec.vector_size) for spec in specs],
            weight=float(self.num_examples) if plan.weighting == "num_examples" else 1.0,
        )
        encoded: list[tuple[int, list[bytes]]] = []
        for layer, spec, vector, value in zip(layers, specs, wanted, values, strict=True):
            if isinstance(value, ValueError):  # the others go out, this one is not waited for
                log.warning("%s: no update of layer %d: %s", self._settings.device, layer, value)
                encoded.append((layer, []))
                continue
            if plan.work.scalars:
                value = replace(value, scalars=self._ready().memory.scalars(layer, plan.work.scalars))
            lost = vector - unpack(value, spec) if codec(value.codec).biased else None
            self._feedback.sent(layer, plan.round, plan.versions[layer], lost)
            encoded.append((layer, split(value, plan.chunk_bytes)))
        return encoded

    def _update(self, layer: int, plan: RoundPlan) -> Vector:
        """A layer's update, with the algorithm's vectors behind it."""
        learner = self._ready()
        delta = learner.update(layer)
        return np.concatenate([delta, learner.further(layer, plan, delta)]) if plan.work.control else delta

    def _take_personal(self, task: Task, manifest: Manifest) -> tuple[int, ...]:
        """Have the device's personal layers at hand, as it trained them; returns their indices."""
        places = task.personal or ()
        owner = Owner(task.run or task.epoch, task.manifest, places) if places else None
        if owner != self._owner:  # else they are here, whatever the disk says
            kept = owner is not None and self._settings.keep_state
            self._own = PersonalValues()
            if owner is not None and kept:
                self._own = read_personal(self._personal_path, owner, manifest.spec, self._disk)
            self._owner = owner
        return personal_layers(manifest.spec, at_places(manifest.spec, places))

    def _keep_personal(self) -> None:
        if self._owner is None or not self._settings.keep_state:
            return
        try:
            write_personal(self._personal_path, self._owner, self._own, self._disk)
        except OSError as error:  # training goes on; a restart would begin from an older round's
            log.warning(
                "%s: can't keep the personal layers in %s: %s", self._settings.device, self._folder, error.strerror
            )

    def _save(self, progress: Progress) -> None:
        try:
            vectors = self._ready().vectors() | self._owing(progress) | self._remembered(progress)
            save_state(self._state_path, progress, vectors, self._disk)
        except OSError as error:  # training goes on; a restart would begin from an older round
            log.warning("%s: can't keep the state in %s: %s", self._settings.device, self._folder, error.strerror)

    def _owing(self, progress: Progress) -> dict[str, Vector]:
        """What error feedback keeps after a round, in place; which layers have any follows from the round's plan."""
        plan, sizes = progress.plan, [layer.vector_size for layer in self.layers]
        biased = [
            layer
            for layer in range(progress.cut, len(sizes))
            if codec(plan.codec_of(self._settings.device, sizes[layer])).biased
        ]
        return self._feedback.vectors(biased, plan.due, sizes)

    def _remembered(self, progress: Progress) -> dict[str, Vector]:
        """What the learner remembers for the plan's algorithm, in place; nothing where the plan asks for none."""
        plan, learner = progress.plan, self._ready()
        if not plan.work.asks:
            return {}
        sizes, trained = [layer.size for layer in self.layers], range(progress.cut, len(self.layers))
        return learner.memory.vectors(trained, plan.due, sizes, corrects=bool(plan.work.control))

    def _drop(self) -> None:
        self._saved = None
        self._feedback = ErrorFeedback()
        if self._learner is not None:
            self._learner.close()
            self._learner = None

    @property
    def _personal_path(self) -> Path:
        return self._folder / PERSONAL_FILE

    @property
    def _state_path(self) -> Path:
        return self._folder / "state"

    def _ready(self) -> Learner:
        if self._learner is None:
            raise RuntimeError("the session asked for a learner that was not built")
        return self._learner
