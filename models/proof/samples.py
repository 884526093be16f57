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

from lamina.models.definition import Definition
from lamina.models.graph.objectives import objective_of
from lamina.models.graph.tracing import TracedForward, example
from lamina.models.spec import ModelSpec
from lamina.models.targets import drawn

Samples = NDArray[Any]
Values = Mapping[str, NDArray[np.float32]]

_EMBEDDINGS = (torch.ops.aten.embedding.default,)
_FEWEST_IDS = 2
_IGNORED = 0.25


def samples(definition: Definition, forward: TracedForward, count: int, rng: np.random.Generator) -> Iterator[Samples]:
    """Batches (count, *input_shape), one distribution after the other: not every network takes negative numbers."""
    shape = (count, *definition.input_shape)
    if definition.input_dtype == "int64":
        yield rng.integers(0, _ids(forward), shape)
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


def _ids(forward: TracedForward) -> int:
    """How many token ids the network knows: as many as the smallest table that the samples are looked up in."""
    tables = [
        int(example(operator.args[0]).shape[0])  # type: ignore[arg-type]  # the table is an operator
        for operator in forward.operators
        if operator.target in _EMBEDDINGS and operator.args[1] is forward.sample
    ]
    return min(tables, default=_FEWEST_IDS)
