"""Judges a model by the figures of its task on labelled samples, whatever engine runs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.arrays import Indices
from lamina.models.manifest import Metrics
from lamina.models.metrics import ACCURACY, Sums, added, finished
from lamina.models.samples import LabelledSamples, inputs_of_rows
from lamina.models.spec import ModelSpec

Outputs = dict[str, NDArray[Any]]
"""A network's outputs by name, (B, ...) each."""

Run = Callable[[Mapping[str, NDArray[Any]]], Outputs]
"""Runs a graph on named inputs."""


def figures_of(
    model: Run,
    metrics: Metrics | None,
    metrics_graph: Run | None,
    samples: LabelledSamples,
    spec: ModelSpec,
    batch: int,
    *,
    exported: bool = False,
) -> dict[str, float]:
    """The figures by name; what nothing was counted for is left out.

    Args:
        model: takes ``x``, (B, ...), as `LabelledSamples.inputs` makes it.
        metrics: the bundle's; ``None``: the share of samples whose largest output is that of their class.
        metrics_graph: runs their graph.
        samples: numbered for the network, and checked.
        spec: of the network.
        batch: samples at once.
        exported: whether the model is a file that has left the federation: it takes several inputs by their names.
    """
    totals = sums_of(model, metrics_graph, samples, np.arange(len(samples)), spec, batch, exported=exported)
    assert totals is not None
    sums, counts = totals
    if metrics is None:
        return {ACCURACY: float(sums[0] / counts[0])}
    return {name: value for name, value in finished(metrics.figures, sums, counts).items() if math.isfinite(value)}


def sums_of(
    model: Run,
    metrics_graph: Run | None,
    samples: LabelledSamples,
    chosen: Indices,
    spec: ModelSpec,
    batch: int,
    *,
    exported: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Sums, Sums] | None:
    """Sums and counts over some of the samples; ``None`` where there are none, or ``stop`` said so between two batches.

    The other arguments are those of `figures_of`.
    """
    sums: Sums | None = None
    counts: Sums | None = None
    for start in range(0, len(chosen), batch):
        if stop():
            return None
        indices = chosen[start : start + batch]
        outputs = model(feeds_of(samples, indices, spec, exported=exported))
        found = _judged(outputs, samples.targets(indices, spec), metrics_graph)
        sums, counts = added(sums, found[0]), added(counts, found[1])
    return None if sums is None or counts is None else (sums, counts)


def feeds_of(samples: LabelledSamples, indices: Indices, spec: ModelSpec, *, exported: bool) -> Outputs:
    """What a network is run on; an exported one takes several inputs by their names."""
    x = samples.inputs(indices, spec)
    parts = inputs_of_rows(x, spec) if exported else x
    return {name: np.asarray(part) for name, part in parts.items()} if isinstance(parts, Mapping) else {"x": x}


def _judged(outputs: Outputs, y: NDArray[Any], metrics_graph: Run | None) -> Sequence[Any]:
    """Sums and counts of a batch."""
    if metrics_graph is None:
        [logits] = outputs.values()  # (B, classes)
        return [(logits.argmax(axis=1) == y).sum()], [len(y)]
    found = metrics_graph(outputs | {"y": y})
    return found["sums"], found["counts"]
