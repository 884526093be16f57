"""Builds a bundle from a definition: layers and cuts are derived, graphs written and checked, peaks measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx
import torch
from numpy.typing import NDArray

from lamina.models.capacity import capacity
from lamina.models.constants import Constants, constants_of
from lamina.models.definition import Definition, initial_values
from lamina.models.draft import Draft, drafted
from lamina.models.errors import ModelError
from lamina.models.graph import (
    Recipe,
    TrainingGraph,
    accumulating_graph,
    forward_graph,
    inference_graph,
    training_graph,
    updating_graph,
)
from lamina.models.graph.activation_checkpointing import checkpointed
from lamina.models.graph.places import place
from lamina.models.graph.tracing import TracedForward, example, trace
from lamina.models.layout import derive_spec
from lamina.models.manifest import BLOCKS, PARALLEL, Cost, FileEntry, GraphsOfEngine, Manifest, Piece, SubModel
from lamina.models.peaks import cost
from lamina.models.proof import prove
from lamina.models.spec import ModelSpec
from lamina.models.state import module_state
from lamina.models.values import encode_values

Measure = Callable[[Path, int], float]
ReportProgress = Callable[[str], None]

_WORTH_IT = 0.9  # of the peak without it: recomputation that saves less has no place in a bundle


def build_bundle(
    definition: Definition,
    folder: Path,
    *,
    batch_size: int,
    optimiser: str = "sgd",
    proximal: bool = False,
    clipped: bool = False,
    seed: int = 0,
    engines: Collection[str] = (),
    measure: Measure | None = None,
    check: bool = True,
    progress: ReportProgress = lambda _: None,
) -> Manifest:
    """Write the bundle of ``definition`` to ``folder``; a bundle that is there already is replaced.

    The same definition, arguments and versions of torch and onnx give the same bytes in every file, and so the same
    digest; measured peaks are the exception, since no two measurements agree in the last digit.

    Args:
        definition: the network, with the values that the federation starts from.
        folder: of the bundle.
        batch_size: samples a step, for capacities and peaks; the graphs take any.
        optimiser: name of the optimiser in the training graphs.
        proximal: whether they have FedProx's pull, by the hyperparameter ``mu``.
        clipped: whether they clip gradients, by the hyperparameter ``clip_norm``.
        seed: for torch's generator while the network is traced, for networks that draw constants in their forward.
        engines: that are to have training graphs of their own, besides those that run on every engine.
        measure: ``measure(bundle_folder, cut)`` gives the peak of a sub-model's training in MiB, seen in a fresh
            process; the folder is a whole bundle, with peaks of zero. ``None`` leaves them at zero.
        check: whether every graph is compared with torch first (see `lamina.models.proof`).
        progress: is told what is done next.

    Raises:
        ModelError: the network can't be traced, or has an operator without a rule, or a cut that isn't there; or a
            graph differs from torch by more than float32 explains.
        BundleError: ``folder`` holds something that isn't a bundle.
    """
    if batch_size < 1:
        raise ModelError(f"model {definition.name}: batch_size must be at least 1, and is {batch_size}")
    with drafted(folder) as draft:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            manifest = _written(definition, draft, batch_size, Recipe(optimiser, proximal, clipped), engines, progress)
        draft.close(manifest)
        if check:
            prove(definition, manifest, draft.folder, progress)
        if measure is not None:
            progress("measuring peaks of memory")
            manifest = _measured(manifest, draft.folder, measure)
            draft.close(manifest)
    return manifest


@dataclass(frozen=True)
class _Writing:
    """A bundle that is being written.

    Attributes:
        definition: the network.
        spec: its layers and cuts.
        draft: where the files go.
        batch_size: samples a step.
        recipe: what the training graphs do with gradients.
        engines: those that have graphs of their own.
        pieces: the frozen pieces between the cuts.
        constants: the file of the frozen tensors; ``None`` where there are no large ones.
    """

    definition: Definition
    spec: ModelSpec
    draft: Draft
    batch_size: int
    recipe: Recipe
    engines: Collection[str]
    pieces: Sequence[onnx.ModelProto]
    constants: Constants | None

    def sub_model(self, cut: int, step: TrainingGraph) -> SubModel:
        """The sub-model from ``cut`` on, whose whole step is given."""
        kept = capacity(self.spec, cut, self.batch_size)
        accumulating = accumulating_graph(self.definition, self.spec, cut)
        updating = updating_graph(self.spec, cut, self.recipe)
        again = checkpointed(accumulating, self.batch_size)
        in_parts = self._cost(cut, [accumulating, updating], step, gradients=1)
        recomputed = self._cost(cut, [again, updating], step, gradients=1) if again is not accumulating else None
        most = _WORTH_IT * in_parts.peak_mib(self.batch_size)
        saves = recomputed is not None and recomputed.peak_mib(self.batch_size) <= most
        return SubModel(
            cut=cut,
            graph=self.add(step.model),
            parameters=kept.parameters,
            activations=kept.activations,
            capacity=kept.ratio,
            peak_mib=0.0,
            accumulating=self.add(accumulating),
            updating=self.add(updating),
            of_engines={engine: self._of(engine, cut) for engine in self.engines},
            forms=self._forms(cut, self.add(step.model), updating),
            recomputing=self.add(again) if saves else None,
            cost_recomputing=recomputed if saves else None,
            cost=self._cost(cut, [step.model], step),
            cost_in_parts=in_parts,
        )

    def _forms(self, cut: int, standard: FileEntry, updating: onnx.ModelProto) -> dict[str, GraphsOfEngine]:
        """The graphs written otherwise, where that makes a difference."""
        forms = {form: self._in_form(BLOCKS.get(form, 0), cut, standard, updating) for form in (PARALLEL, *BLOCKS)}
        return {form: graphs for form, graphs in forms.items() if graphs is not None}

    def _in_form(self, block: int, cut: int, standard: FileEntry, updating: onnx.ModelProto) -> GraphsOfEngine | None:
        step = training_graph(self.definition, self.spec, cut, self.recipe, serial=False, block=block)
        graph = self.add(step.model)
        if graph == standard:
            return None
        accumulating = accumulating_graph(self.definition, self.spec, cut, serial=False, block=block)
        few = max(1, self.batch_size // 4)  # the arena grows almost on a straight line, and each point takes time
        parts = [accumulating, updating]
        return GraphsOfEngine(
            graph=graph,
            accumulating=self.add(accumulating),
            cost=self._cost(cut, [step.model], step, sizes=[self.batch_size]),
            cost_in_parts=self._cost(cut, parts, step, gradients=1, sizes=sorted({few, self.batch_size})),
        )

    def _of(self, engine: str, cut: int) -> GraphsOfEngine:
        return GraphsOfEngine(
            graph=self.add(training_graph(self.definition, self.spec, cut, self.recipe, engine=engine).model),
            accumulating=self.add(accumulating_graph(self.definition, self.spec, cut, engine=engine)),
        )

    def _cost(
        self,
        cut: int,
        graphs: Sequence[onnx.ModelProto],
        step: TrainingGraph,
        *,
        gradients: int = 0,
        sizes: Sequence[int] = (),
    ) -> Cost:
        return cost(
            self.spec,
            cut,
            graphs,
            self.pieces[: sum(stop <= self.spec.block_at(cut) for _, stop in self.spec.spans)],
            self.batch_size,
            vectors=1 + len(step.optimiser_state),
            single=gradients + step.anchored,
            sizes=sizes,
        )

    def add(self, model: onnx.ModelProto) -> FileEntry:
        """A graph's file; its frozen tensors lie in that of the constants."""
        if self.constants is not None:
            self.constants.refer(model)
        return self.draft.add(model.SerializeToString(deterministic=True), ".onnx")


def _written(
    definition: Definition,
    draft: Draft,
    batch_size: int,
    recipe: Recipe,
    engines: Collection[str],
    progress: ReportProgress,
) -> Manifest:
    spec = derive_spec(definition)
    _check_batch(trace(definition, training=True), batch_size)
    spans = spec.spans
    pieces = [forward_graph(definition, spec, first, stop) for first, stop in spans]
    state = module_state(definition, spec)
    constants = _constants(draft, state.frozen)
    writing = _Writing(definition, spec, draft, batch_size, recipe, engines, pieces, constants)
    sub_models: list[SubModel] = []
    for cut in spec.cuts:  # one after the other: all graphs of a cut are written from one trace of its step
        progress(f"writing the graphs from layer {spec.layers[cut].name}")
        step = training_graph(definition, spec, cut, recipe)
        sub_models.append(writing.sub_model(cut, step))
    return Manifest(
        spec=spec,
        batch_size=batch_size,
        sub_models=tuple(sub_models),
        pieces=tuple(
            Piece(first, stop, writing.add(piece)) for (first, stop), piece in zip(spans, pieces, strict=True)
        ),
        inference=writing.add(inference_graph(definition, spec)),
        values=draft.add(encode_values(initial_values(definition, spec)), ".safetensors"),
        optimiser=recipe.optimiser,
        optimiser_state=step.optimiser_state,
        hyperparameters=step.hyperparameters,
        optimiser_scalars=step.optimiser_scalars,
        anchored=recipe.proximal,
        constants=constants.entry if constants else None,
        unread=draft.add(encode_values(state.unread), ".safetensors") if state.unread else None,
        aliases=state.aliases,
        transient=state.transient,
    )


def _check_batch(forward: TracedForward, batch_size: int) -> None:
    """Refuse what torch refuses: a batch norm in training that has one value a channel.

    Raises:
        ModelError: there is one.
    """
    for operator in forward.operators if batch_size == 1 else ():
        values = example(operator)
        if "aten.batch_norm" in str(operator.target) and math.prod(values.shape[2:]) == 1 and operator.args[5] is True:
            raise ModelError(
                f"model {forward.name}: a batch norm{place(operator)} has one value a channel in batches of one "
                f"sample; build the bundle with a batch size of 2 or more"
            )


def _constants(draft: Draft, tensors: Mapping[str, NDArray[Any]]) -> Constants | None:
    if not tensors:
        return None
    content = encode_values(tensors)
    return constants_of(tensors, content, draft.add(content, ".safetensors"))


def _measured(manifest: Manifest, folder: Path, measure: Measure) -> Manifest:
    """The manifest with the peak of each sub-model, rounded up to a tenth: a device sized by it must not run over."""
    sub_models = tuple(
        msgspec.structs.replace(sub_model, peak_mib=math.ceil(measure(folder, sub_model.cut) * 10) / 10)
        for sub_model in manifest.sub_models
    )
    return msgspec.structs.replace(manifest, sub_models=sub_models)
