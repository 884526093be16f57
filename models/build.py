"""How does a definition become a bundle? Its layers and cuts are derived, its graphs written, its peaks measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path

import msgspec
import onnx
import torch

from models.capacity import capacity
from models.definition import Definition
from models.draft import Draft, drafted
from models.errors import ModelError
from models.graph import (
    Recipe,
    TrainingGraph,
    accumulating_graph,
    forward_graph,
    inference_graph,
    training_graph,
    updating_graph,
)
from models.layout import derive_spec
from models.manifest import BLOCKS, PARALLEL, FileEntry, GraphsOfEngine, Manifest, Piece, SubModel
from models.spec import ModelSpec
from models.values import Tensors, Vector, encode_values, flatten, unflatten

Measure = Callable[[Path, int], float]


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

    Raises:
        ModelError: the network can't be traced, or has an operator without a rule, or a cut that isn't there.
        BundleError: ``folder`` holds something that isn't a bundle.
    """
    if batch_size < 1:
        raise ModelError(f"model {definition.name}: batch_size must be at least 1, and is {batch_size}")
    with drafted(folder) as draft:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            manifest = _written(definition, draft, batch_size, Recipe(optimiser, proximal, clipped), engines)
        draft.close(manifest)
        if measure is not None:
            manifest = _measured(manifest, draft.folder, measure)
            draft.close(manifest)
    return manifest


def initial_values(definition: Definition, spec: ModelSpec) -> dict[str, Vector]:
    """The module's own values of every tensor of the spec, by name."""
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in definition.module.state_dict().items()}
    return unflatten(spec, *flatten(spec, tensors))


def _written(
    definition: Definition, draft: Draft, batch_size: int, recipe: Recipe, engines: Collection[str]
) -> Manifest:
    spec = derive_spec(definition)
    training = {cut: training_graph(definition, spec, cut, recipe) for cut in spec.cuts}
    blocks = [spec.block_at(cut) for cut in spec.cuts]
    return Manifest(
        spec=spec,
        batch_size=batch_size,
        sub_models=tuple(
            _sub_model(definition, spec, cut, graph, recipe, draft, batch_size, engines)
            for cut, graph in training.items()
        ),
        pieces=tuple(
            Piece(first, stop, _add_graph(draft, forward_graph(definition, spec, first, stop)))
            for first, stop in pairwise(blocks)
        ),
        inference=_add_graph(draft, inference_graph(definition, spec)),
        values=_add_values(draft, initial_values(definition, spec)),
        optimiser=recipe.optimiser,
        optimiser_state=tuple(training[0].optimiser_state),
        hyperparameters=dict(training[0].hyperparameters),
        optimiser_scalars=training[0].optimiser_scalars,
        anchored=recipe.proximal,
    )


def _sub_model(
    definition: Definition,
    spec: ModelSpec,
    cut: int,
    graph: TrainingGraph,
    recipe: Recipe,
    draft: Draft,
    batch_size: int,
    engines: Collection[str],
) -> SubModel:
    kept = capacity(spec, cut, batch_size)
    step = _add_graph(draft, graph.model)
    return SubModel(
        cut=cut,
        graph=step,
        parameters=kept.parameters,
        activations=kept.activations,
        capacity=kept.ratio,
        peak_mib=0.0,
        accumulating=_add_graph(draft, accumulating_graph(definition, spec, cut)),
        updating=_add_graph(draft, updating_graph(spec, cut, recipe)),
        of_engines={
            engine: GraphsOfEngine(
                graph=_add_graph(draft, training_graph(definition, spec, cut, recipe, engine=engine).model),
                accumulating=_add_graph(draft, accumulating_graph(definition, spec, cut, engine=engine)),
            )
            for engine in engines
        },
        forms={
            form: graphs
            for form in (PARALLEL, *BLOCKS)
            if (graphs := _in_form(form, definition, spec, cut, recipe, draft)).graph != step
        },
    )


def _in_form(
    form: str, definition: Definition, spec: ModelSpec, cut: int, recipe: Recipe, draft: Draft
) -> GraphsOfEngine:
    block = BLOCKS.get(form, 0)
    step = training_graph(definition, spec, cut, recipe, serial=False, block=block).model
    return GraphsOfEngine(
        graph=_add_graph(draft, step),
        accumulating=_add_graph(draft, accumulating_graph(definition, spec, cut, serial=False, block=block)),
    )


def _measured(manifest: Manifest, folder: Path, measure: Measure) -> Manifest:
    """The manifest with the peak of each sub-model, rounded up to a tenth: a device sized by it must not run over."""
    sub_models = tuple(
        msgspec.structs.replace(sub_model, peak_mib=math.ceil(measure(folder, sub_model.cut) * 10) / 10)
        for sub_model in manifest.sub_models
    )
    return msgspec.structs.replace(manifest, sub_models=sub_models)


def _add_graph(draft: Draft, model: onnx.ModelProto) -> FileEntry:
    return draft.add(model.SerializeToString(deterministic=True), ".onnx")


def _add_values(draft: Draft, tensors: Tensors) -> FileEntry:
    return draft.add(encode_values(tensors), ".safetensors")
