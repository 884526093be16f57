"""Draws the inputs that a bundle is checked with: samples, labels, and values of the parameters.

Initial values hide faults: where an adapter or the last scale of a residual branch starts at zero, no gradient reaches
what lies before it. So the values are the initial ones with a little noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from lamina.models.definition import Definition
from lamina.models.graph.objectives import objective_of
from lamina.models.graph.tracing import TracedForward, example
from lamina.models.spec import ModelSpec, columns_of
from lamina.models.targets import drawn

Samples = NDArray[Any]
Values = Mapping[str, NDArray[np.float32]]

_EMBEDDINGS = (torch.ops.aten.embedding.default,)
_TAKING_APART = (
    torch.ops.aten.slice.Tensor,
    torch.ops.aten.reshape.default,
    torch.ops.aten.view.default,
    torch.ops.aten.to.dtype,
    torch.ops.aten._to_copy.default,
)
_FEWEST_IDS = 2
_IGNORED = 0.25


def samples(definition: Definition, forward: TracedForward, count: int, rng: np.random.Generator) -> Iterator[Samples]:
    """Batches (count, *input_shape), one distribution after the other: not every network takes negative numbers."""
    if definition.inputs:
        drawings = [
            _distributions(one.dtype, (count, one.size), _ids(forward, columns.start), rng)
            for one, columns in columns_of(definition.inputs)
        ]
        for parts in zip(*drawings, strict=True):
            yield np.concatenate(parts, axis=1, dtype=np.float32)
        return
    shape = (count, *definition.input_shape)
    yield from _distributions(definition.input_dtype, shape, _ids(forward), rng)


def _distributions(dtype: str, shape: tuple[int, ...], ids: int, rng: np.random.Generator) -> Iterator[Samples]:
    """What one input may be, drawn from one distribution after the other."""
    if dtype == "int64":
        yield rng.integers(0, ids, shape)
        yield rng.integers(0, _FEWEST_IDS, shape)
    else:
        yield rng.standard_normal(shape, np.float32)
        yield rng.random(shape, np.float32)


def targets(definition: Definition, x: Samples, rng: np.random.Generator) -> Samples:
    """Targets (count, ...) for samples, some of them such as the task ignores."""
    wanted = objective_of(definition).target
    if wanted.is_input:
        return x
    y = drawn(wanted, len(x), rng)
    if wanted.ignored is not None and wanted.shape:
        y[rng.random(y.shape) < _IGNORED] = wanted.ignored
    if wanted.missing:
        y[rng.random(y.shape) < _IGNORED] = np.nan
    return y


def noisy(spec: ModelSpec, values: Values, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """The values with noise on parameters; statistics grow a little, since variances must not become negative."""
    drawn: dict[str, NDArray[np.float32]] = {}
    for layer in spec.layers:
        for tensor in layer.parameters:
            noise = rng.standard_normal(tensor.shape, np.float32)
            value = values[tensor.name]
            drawn[tensor.name] = np.asarray(value + noise * (0.05 * np.abs(value) + 0.02), np.float32)
        for tensor in layer.statistics:
            noise = np.abs(rng.standard_normal(tensor.shape, np.float32))
            drawn[tensor.name] = np.asarray(values[tensor.name] + 0.1 * noise, np.float32)
    return drawn


def _ids(forward: TracedForward, first: int = 0) -> int:
    """How many token ids the network knows: as many as the smallest table that the samples are looked up in.

    Args:
        forward: its pass.
        first: of several inputs, the column where the one in question begins.
    """
    tables = [
        int(example(operator.args[0]).shape[0])  # type: ignore[arg-type]  # the table is an operator
        for operator in forward.operators
        if operator.target in _EMBEDDINGS and _column(operator.args[1], forward) == first
    ]
    return min(tables, default=_FEWEST_IDS)


def _column(indices: Any, forward: TracedForward) -> int | None:
    """The column of a row where what a table is looked up with begins; 0 where it is the sample itself, and ``None``
    where it is computed otherwise.
    """
    first = 0
    while indices is not forward.sample:
        if not isinstance(indices, fx.Node) or indices.target not in _TAKING_APART:
            return None
        if indices.target is torch.ops.aten.slice.Tensor and indices.args[1:2] == (1,):
            first = int(indices.args[2])  # type: ignore[arg-type]  # a number
        indices = indices.args[0]
    return first
