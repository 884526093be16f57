"""How a device learns in a round: its copy of the model, its samples, and the trainer between them.

The copy has two sides. The *global* value of every layer is the one that the device took last, and what its update is
measured against. The *local* values, of the layers from the cut on, live in the trainer and drift as it trains; of the
layers before the cut there is the global value only. Of a personal layer (`session.personal`) the global value is the
initial one, and counts until the device has trained the layer.

Everything here takes time or memory and blocks: the service runs it in a thread, one call after the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lamina.broker.wire.local_work import Control
from lamina.broker.wire.messages import RoundPlan
from lamina.edge_agent.data import sample_order
from lamina.edge_agent.session.events import Outcome
from lamina.edge_agent.session.local_memory import LocalMemory
from lamina.edge_agent.training.assignment import Assignment
from lamina.edge_agent.training.engine import Resident
from lamina.edge_agent.training.input_side import InputSide, Stop
from lamina.edge_agent.training.judging import Judgement, judged
from lamina.edge_agent.training.stepping import Weigh, at_once, in_parts
from lamina.models.arrays import Indices, Vector
from lamina.models.further import with_further
from lamina.models.held_out import divided
from lamina.models.samples import LabelledSamples
from lamina.models.targets import weight_of
from lamina.models.values import layer_tensors


class Learner:
    """One device's model and samples.

    Args:
        assignment: what it is made of.

    Raises:
        DataError: the samples don't suit the model.
        ModelError: a graph can't be loaded.
        ConfigError: the folder can't be written to.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._begin(assignment)
        self._open(assignment)

    def _begin(self, assignment: Assignment) -> None:
        """Hold what any learner holds, whatever it trains with."""
        spec = assignment.manifest.spec
        self._assignment = assignment
        self._spec, self._cut = spec, assignment.cut
        self._hold(assignment.data, assignment.kept)
        self._wire = with_further(spec, assignment.further)
        self.memory = LocalMemory()
        self._global: list[Vector | None] = [None] * len(spec.layers)  # layer vectors
        self._input_side: InputSide | None = None
        self._personal, self._own = assignment.personal, assignment.own

    def _hold(self, data: LabelledSamples, kept: LabelledSamples | None) -> None:
        """Have these samples, some of which are never trained on, and others that none of is."""
        self._data, self._parts = data, divided(data, self._assignment.held_out)
        self._kept = None if kept is None else kept.numbered_for(self._spec)

    @property
    def num_examples(self) -> int:
        """Samples that are trained on."""
        return len(self._parts.trained)

    def _open(self, assignment: Assignment) -> None:
        """Load the graphs."""
        manifest, cut, path, engine = assignment.manifest, assignment.cut, assignment.path, assignment.engine
        assignment.data.check(manifest.spec)
        self._trainer: Resident
        if assignment.micro_batch:
            parts = engine.parts_trainer(
                manifest, cut, path, threads=assignment.threads, checkpoints=assignment.checkpoints
            )
            self._trainer, self._step = parts, in_parts(parts, self._read, assignment.micro_batch, self._weigh())
        else:
            whole = engine.trainer(manifest, cut, path, threads=assignment.threads)
            self._trainer, self._step = whole, at_once(whole, self._read)
        if pieces := [(piece, path(piece.graph)) for piece in manifest.pieces_before(cut)]:
            self._input_side = InputSide(
                manifest.spec,
                pieces,
                assignment.data,
                assignment.cache_folder,
                engine,
                threads=assignment.threads,
                element=assignment.cache_element,
            )

    def take(self, layer: int, vector: Vector) -> None:
        """Hold a layer's new global value (vector_size,)."""
        self._global[layer] = vector
        if layer < self._cut and self._input_side is not None:
            self._input_side.forget()

    def use(self, data: LabelledSamples, kept: LabelledSamples | None = None) -> None:
        """Train on other samples from the next round on, and judge models by others.

        Raises:
            DataError: they don't suit the model.
        """
        data = data.numbered_for(self._spec)
        data.check(self._spec)
        self._hold(data, kept)
        if self._input_side is not None:
            self._input_side.use(data)

    def held(self, layer: int) -> Vector:
        """A layer's global value (vector_size,), as it was taken last."""
        vector = self._global[layer]
        if vector is None:
            raise ValueError(f"the global value of layer {layer} was never taken")
        return vector

    def train(
        self, plan: RoundPlan, device: str, *, reset: tuple[int, ...], afresh: bool, stop: Stop = lambda: False
    ) -> Outcome | None:
        """Do the plan's local steps; every layer's global value has been taken.

        Args:
            plan: of the round.
            device: this one's name, for its sample order.
            reset: layers that start from their global value.
            afresh: forget the optimiser's state first.
            stop: asked before each step.

        Returns:
            How it went; ``None`` where ``stop`` said so. Training ends early when the loss is not finite any more.
        """
        judgement = self._judge(plan, stop) if plan.judges is True else None
        if not plan.local_steps:
            return None if stop() else _judged_alone(judgement)
        self._start_from_global(reset)
        self._start_from_own(plan.round)
        self._set_anchor()
        if afresh:
            for vector in self._trainer.optimiser_state.values():
                vector[...] = 0
        self.memory.begin(reset, afresh)
        steps = plan.steps_of(device)
        visited = steps * plan.batch_size
        order = self._parts.trained[sample_order(plan.seed, device, plan.round, self.num_examples, visited)]
        forward_s = 0.0
        if self._input_side is not None:
            began = time.perf_counter()
            if not self._input_side.compute(order, self._frozen_values(plan.round), stop):
                return None
            forward_s = time.perf_counter() - began
        outcome = self._steps(order.reshape(steps, plan.batch_size), plan, forward_s, stop)
        if outcome is not None and self._personal and math.isfinite(outcome.loss):
            self._own.after(plan.round, self._trained_personal())
        if outcome is not None and judgement is not None:
            return msgspec.structs.replace(outcome, sums=judgement.sums, counts=judgement.counts)
        return outcome

    def _judge(self, plan: RoundPlan, stop: Stop) -> Judgement | None:
        """What the global values, with this device's personal layers, come to on the samples that it keeps."""
        given = self._assignment
        sets = [(self._data, self._parts.kept)] if len(self._parts.kept) else []
        sets += [] if self._kept is None else [(self._kept, np.arange(len(self._kept)))]
        values = self._values_of(range(len(self._spec.layers)), plan.round)
        return judged(given.manifest, given.path, given.engine, values, sets, threads=given.threads, stop=stop)

    def update(self, layer: int) -> Vector:
        """What training did to a layer from the cut on: local minus global value, (vector_size,)."""
        parameters, statistics = self._local(layer)
        update = np.concatenate([parameters, statistics])
        update -= self._model_value(layer)
        return update

    def further(self, layer: int, plan: RoundPlan, delta: Vector) -> Vector:
        """The algorithm's vectors behind a layer's update ``delta`` (vector_size,); nothing where it has none."""
        control, size = plan.work.correction, self._spec.layers[layer].size
        if control is None:
            return delta[:0]
        return self.memory.change(layer, plan.versions[layer], delta[:size], self._shared(layer), control)

    def vectors(self) -> dict[str, Vector]:
        """All that the device knows, by name, in place: written into, it is restored."""
        for layer, spec in enumerate(self._wire.layers):
            if self._global[layer] is None:
                self._global[layer] = np.zeros(spec.vector_size, np.float32)
        held = {f"global.{layer}": self.held(layer) for layer in range(len(self._spec.layers))}
        return held | self._trainer.vectors

    def close(self) -> None:
        """Give the disk's room back."""
        if self._input_side is not None:
            self._input_side.close()

    def _steps(self, batches: Indices, plan: RoundPlan, forward_s: float, stop: Stop) -> Outcome | None:
        """One step for each row of ``batches`` (steps, B)."""
        hyperparameters, work = plan.hyperparameters, plan.work
        lr, momentum = hyperparameters.get("lr", 0.0), hyperparameters.get("momentum", 0.0)
        shift = None if work.correction is None else self._shift(work.correction)
        losses, correct, steps = 0.0, 0, 0
        began = time.perf_counter()
        for batch in batches:
            if stop():
                return None
            result = self._step(batch, hyperparameters)
            losses, correct, steps = losses + result.loss, correct + result.correct, steps + 1
            if work.asks:
                self.memory.stepped(lr, momentum)
            if shift is not None:
                self._correct(shift, lr, momentum)
            if not math.isfinite(result.loss):
                break
        step_s = (time.perf_counter() - began) / steps
        finite = np.isfinite(self._trainer.parameters).all() and np.isfinite(self._trainer.statistics).all()
        return Outcome(
            steps=steps,
            loss=losses / steps if finite else math.nan,
            accuracy=correct / (steps * batches.shape[1]),
            step_s=step_s,
            forward_s=forward_s,
        )

    def _read(self, batch: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        """What enters the trained layers for the samples (B,), and their targets."""
        return self._entering(batch), self._data.targets(batch, self._spec)

    def _weigh(self) -> Weigh:
        """How much samples weigh in a mean over a batch."""
        target = self._spec.wanted
        if target.ignored is None and not target.weights and not target.missing:
            return len
        return lambda batch: weight_of(target, self._data.targets(batch, self._spec))

    def _entering(self, batch: Indices) -> NDArray[Any]:
        """What enters the trained layers for the samples (B,): (B, ...)."""
        if self._input_side is not None:
            return self._input_side.activations(batch)
        return self._data.inputs(batch, self._spec)

    def _start_from_global(self, layers: tuple[int, ...]) -> None:
        for layer in layers:
            if layer >= self._cut:
                parameters, statistics = self._local(layer)
                held = self._model_value(layer)
                parameters[...] = held[: len(parameters)]
                statistics[...] = held[len(parameters) :]

    def _start_from_own(self, round_: int) -> None:
        """A personal layer begins from what this device made of it, if it ever has."""
        own = self._own.before(round_)
        for layer in self._personal:
            value = own.get(self._spec.layers[layer].name)
            if layer >= self._cut and value is not None:
                parameters, statistics = self._local(layer)
                parameters[...], statistics[...] = value[: len(parameters)], value[len(parameters) :]

    def _trained_personal(self) -> dict[str, Vector]:
        return {
            self._spec.layers[layer].name: np.concatenate(self._local(layer))
            for layer in self._personal
            if layer >= self._cut
        }

    def _model_value(self, layer: int) -> Vector:
        """A layer's global value without the algorithm's vectors, (vector_size,)."""
        return self.held(layer)[: self._spec.layers[layer].vector_size]

    def _shared(self, layer: int) -> Vector:
        """The algorithm's vector that came with a layer's global value, (size,); zeros where none did."""
        spec = self._spec.layers[layer]
        shared = self.held(layer)[spec.vector_size : spec.vector_size + spec.size]
        return shared if shared.size else np.zeros(spec.size, np.float32)

    def _shift(self, control: Control) -> Vector:
        """What is added to the gradient of all trained parameters, (P,)."""
        layers = range(self._cut, len(self._spec.layers))
        return np.concatenate([self.memory.shift(layer, self._shared(layer), control) for layer in layers])

    def _correct(self, shift: Vector, lr: float, momentum: float) -> None:
        """Add ``shift`` to the gradient of the step that was just made.

        SGD is linear in its gradients, and the momentum of a sum is the sum of the momenta: so what the shift adds is
        kept apart, and training graphs know nothing of it.
        """
        pushed = self.memory.pushed(shift, momentum)
        self._trainer.parameters[...] -= np.float32(lr) * pushed

    def _set_anchor(self) -> None:
        """FedProx pulls towards a layer's global value, and a personal layer towards its own, as the round begins."""
        anchor, offsets = self._trainer.anchor, self._spec.parameter_offsets
        if anchor is not None:
            for layer in range(self._cut, len(self._spec.layers)):
                part = _part(anchor, offsets, self._cut, layer)
                part[...] = self._local(layer)[0] if layer in self._personal else self.held(layer)[: len(part)]

    def _local(self, layer: int) -> tuple[Vector, Vector]:
        """A trained layer's parameters and statistics in the trainer, in place."""
        return (
            _part(self._trainer.parameters, self._spec.parameter_offsets, self._cut, layer),
            _part(self._trainer.statistics, self._spec.statistics_offsets, self._cut, layer),
        )

    def _frozen_values(self, round_: int) -> dict[str, Vector]:
        """The tensors before the cut, by name. Personal layers stay as this device trained them under a lower cut."""
        return self._values_of(range(self._cut), round_)

    def _values_of(self, layers: Iterable[int], round_: int) -> dict[str, Vector]:
        """The global tensors of layers by name; those of personal layers are the device's own, where it has any."""
        values: dict[str, Vector] = {}
        own = self._own.before(round_) if self._personal else {}
        for layer in layers:
            mine = own.get(self._spec.layers[layer].name) if layer in self._personal else None
            values |= layer_tensors(self._spec, layer, self._model_value(layer) if mine is None else mine)
        return values


def _judged_alone(judgement: Judgement | None) -> Outcome:
    """How a round without steps went."""
    sums, counts = judgement or ((), ())
    return Outcome(steps=0, loss=0.0, accuracy=0.0, step_s=0.0, forward_s=0.0, sums=sums, counts=counts)


def _part(vector: Vector, offsets: tuple[int, ...], cut: int, layer: int) -> Vector:
    """A layer's slice of a vector that begins with layer ``cut``."""
    return vector[offsets[layer] - offsets[cut] : offsets[layer + 1] - offsets[cut]]
