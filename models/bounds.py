"""The bounds of a manifest, which may come from the network: what lies beyond them is no model that anybody trains."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from lamina.models.errors import ModelError, brief
from lamina.models.manifest import Cost, Manifest, Metrics, SubModel
from lamina.models.spec import InputSpec, LayerSpec, ModelSpec
from lamina.models.targets import TargetSpec

_LAYER_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_MOST_LAYERS = 1 << 16
_MOST_TENSORS = 1 << 10  # of a layer
_MOST_CUTS = 1 << 12
_MOST_NAMES = 64
_MOST_CLASS_NAMES = 1 << 16
_MOST_CHARACTERS = 256
_MOST_RANK = 16
_MOST_EXTENT = 2**31 - 1
_MOST_ELEMENTS = 1 << 40
_MOST_BATCH = 1 << 20


def check_bounds(manifest: Manifest) -> None:
    """See that every field of a manifest lies within its bounds.

    Raises:
        ModelError: one does not.
    """
    _check_spec(manifest.spec)
    _require(1 <= manifest.batch_size <= _MOST_BATCH, f"a batch of {manifest.batch_size} samples")
    _check_names("hyperparameters", manifest.hyperparameters)
    _check_numbers("a hyperparameter", manifest.hyperparameters.values(), least=-3.4e38)
    vectors = (*manifest.optimiser_state, *manifest.optimiser_scalars)
    _check_names("vectors of its optimiser", vectors)
    _require(
        not {"parameters", "statistics", "anchor"} & set(vectors), "a vector of its optimiser by a name that is taken"
    )
    _require(len(manifest.sub_models) <= _MOST_CUTS, f"{len(manifest.sub_models)} sub-models")
    for sub_model in manifest.sub_models:
        _check_sub_model(sub_model, manifest.batch_size)
    if manifest.metrics:
        _check_metrics(manifest.metrics)


def _check_spec(spec: ModelSpec) -> None:
    _require(0 < len(spec.layers) <= _MOST_LAYERS, f"{len(spec.layers)} layers")
    _require(len(spec.name) <= _MOST_CHARACTERS, f"a name of {len(spec.name)} characters")
    _require(1 <= spec.classes <= _MOST_EXTENT, f"{spec.classes} classes")
    _require(len(spec.names) in (0, spec.classes), f"{len(spec.names)} names for {spec.classes} classes")
    _require(len(spec.names) <= _MOST_CLASS_NAMES, f"{len(spec.names)} names of classes")
    _require(all(0 < len(name) <= _MOST_CHARACTERS for name in spec.names), "a class with no name, or a very long one")
    if spec.target:
        _check_target(spec.target)
    _check_inputs(spec.inputs or ())
    for layer in spec.layers:
        _check_layer(layer)
    for block in spec.blocks:
        _check_shape(block.input_shape)
    elements = sum(layer.vector_size for layer in spec.layers)
    _require(elements <= _MOST_ELEMENTS, f"{elements} parameters")


def _check_target(target: TargetSpec) -> None:
    _require(len(target.task) <= _MOST_CHARACTERS, f"a task whose name has {len(target.task)} characters")
    _check_shape(target.shape)
    _require(math.prod(target.shape) <= _MOST_EXTENT, f"targets of {math.prod(target.shape)} elements")
    _require(0 <= target.classes <= _MOST_EXTENT, f"targets of {target.classes} classes")
    _require(abs(target.ignored or 0) <= _MOST_EXTENT, "an ignored target that no target can be")
    _require(len(target.weights) in (0, target.classes), f"{len(target.weights)} weights of {target.classes} classes")
    _require(len(target.weights) <= _MOST_CLASS_NAMES, f"{len(target.weights)} weights of classes")
    _check_numbers("a class's weight", target.weights)
    _check_numbers("a largest target", [target.largest])


def _check_inputs(inputs: Sequence[InputSpec]) -> None:
    _check_names("inputs", [each.name for each in inputs])
    for each in inputs:
        _check_shape(each.shape)


def _check_metrics(metrics: Metrics) -> None:
    names = [figure.name for figure in metrics.figures]
    _check_names("metrics", names)
    _require(0 < len(set(names)) == len(names), "no metrics, or two of one name")
    _require(metrics.judge in names, f"no metric {brief(metrics.judge, 40)!r} to judge by")
    _require(all(0 < figure.size <= _MOST_CLASS_NAMES for figure in metrics.figures), "a metric of too many elements")


def _check_layer(layer: LayerSpec) -> None:
    _require(_LAYER_NAME.fullmatch(layer.name) is not None, f"a layer named {brief(layer.name, 40)!r}")
    tensors = (*layer.parameters, *layer.statistics)
    _require(len(tensors) <= _MOST_TENSORS, f"a layer of {len(tensors)} tensors")
    for tensor in tensors:
        _require(len(tensor.name) <= _MOST_CHARACTERS, f"a tensor whose name has {len(tensor.name)} characters")
        _check_shape(tensor.shape)


def _check_shape(shape: tuple[int, ...]) -> None:
    _require(len(shape) <= _MOST_RANK, f"a tensor of {len(shape)} dimensions")
    _require(all(0 <= extent <= _MOST_EXTENT for extent in shape), "a tensor with an extent that none has")


def _check_sub_model(sub_model: SubModel, batch_size: int) -> None:
    _check_numbers("a peak", [sub_model.peak_mib, sub_model.capacity])
    for cost in _costs(sub_model):
        _check_numbers("a cost", [cost.resident_mib, cost.transient_mib])
        _require(len(cost.arena) <= _MOST_NAMES, f"a cost at {len(cost.arena)} sizes")
        _check_numbers("a cost", [number for point in cost.arena for number in point])
        ascending = all(before < after for (before, _), (after, _) in pairwise(cost.arena))
        _require(ascending and cost.peak_mib(batch_size) > 0, "a cost that can't be")
    for graphs in (sub_model.of_engines, sub_model.forms):
        _check_names("forms", graphs)


def _costs(sub_model: SubModel) -> Iterator[Cost]:
    own = (sub_model.cost, sub_model.cost_in_parts, sub_model.cost_recomputing)
    others = (cost for graphs in sub_model.forms.values() for cost in (graphs.cost, graphs.cost_in_parts))
    yield from (cost for cost in (*own, *others) if cost is not None)


def _check_names(what: str, names: Iterable[str]) -> None:
    known = list(names)
    _require(len(known) <= _MOST_NAMES, f"{len(known)} {what}")
    _require(all(len(name) <= _MOST_NAMES for name in known), f"{what} with names that are too long")


def _check_numbers(what: str, numbers: Iterable[float], least: float = 0.0) -> None:
    _require(
        all(math.isfinite(number) and least <= number <= 3.4e38 for number in numbers), f"{what} that is no number"
    )


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ModelError(f"it has {what}")
