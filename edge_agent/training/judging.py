"""Judges a model by samples that the device keeps, which it never trains on: sums and counts of the bundle's metrics.

The graphs are those of the coordinator's own evaluation. A sum and a count of each metric leave the board, and nothing
else of its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamina.edge_agent.training.engine import Engine, PathOf
from lamina.edge_agent.training.input_side import MICRO_BATCH
from lamina.models.arrays import Indices, Vector
from lamina.models.errors import ModelError
from lamina.models.manifest import Manifest
from lamina.models.metrics import Sums, added
from lamina.models.samples import LabelledSamples

Stop = Callable[[], bool]


class Judgement(NamedTuple):
    """What a device says of a model: for each element of the metrics' vectors, its sum and its count."""

    sums: tuple[float, ...]
    counts: tuple[float, ...]


def judged(
    manifest: Manifest,
    path: PathOf,
    engine: Engine,
    values: Mapping[str, Vector],
    data: LabelledSamples,
    kept: Indices,
    *,
    threads: int = 1,
    stop: Stop = lambda: False,
) -> Judgement | None:
    """What the model with these values comes to; ``None`` where ``stop`` said so, or no sample is kept.

    Args:
        manifest: of the bundle.
        path: where a file of the bundle lies.
        engine: that runs its graphs.
        values: all tensors of the model, by name.
        data: the device's samples.
        kept: indices of those that it judges by.
        threads: processor cores that it may use.
        stop: asked before each batch.

    Raises:
        ModelError: a graph can't be loaded.
    """
    spec, metrics = manifest.spec, manifest.metrics
    outputs_of = engine.graph(path(manifest.inference), values, threads=threads)
    metrics_of = engine.graph(path(metrics.graph), {}, threads=threads) if metrics else _accuracy
    sums: Sums | None = None
    counts: Sums | None = None
    for start in range(0, len(kept), MICRO_BATCH):
        if stop():
            return None
        batch = kept[start : start + MICRO_BATCH]
        found = metrics_of({**outputs_of({"x": data.inputs(batch, spec)}), "y": data.targets(batch, spec)})
        sums, counts = added(sums, found["sums"]), added(counts, found["counts"])
    if sums is None or counts is None:
        return None
    return Judgement(tuple(map(float, sums)), tuple(map(float, counts)))


def _accuracy(given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """How many samples are classified right, and how many there are: what a bundle without a metrics graph is for."""
    outputs = [value for name, value in given.items() if name != "y"]
    if len(outputs) != 1:
        raise ModelError(f"the bundle has no metrics for its {len(outputs)} outputs: build it anew")
    [logits] = outputs
    right = (logits.argmax(axis=1) == given["y"]).sum()
    return {"sums": np.array([right]), "counts": np.array([len(logits)])}
