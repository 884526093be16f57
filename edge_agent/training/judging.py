"""Judges a model by samples that the device keeps, which it never trains on: sums and counts of the bundle's metrics.

A sum and a count of each metric leave the board, and nothing else of its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lamina.edge_agent.training.engine import Engine, PathOf
from lamina.edge_agent.training.input_side import MICRO_BATCH
from lamina.models.arrays import Indices, Vector
from lamina.models.judging import sums_of
from lamina.models.manifest import Manifest
from lamina.models.metrics import Sums, added
from lamina.models.samples import LabelledSamples


class Judgement(NamedTuple):
    """What a device says of a model: for each element of the metrics' vectors, its sum and its count."""

    sums: tuple[float, ...]
    counts: tuple[float, ...]


def judged(
    manifest: Manifest,
    path: PathOf,
    engine: Engine,
    values: Mapping[str, Vector],
    sets: Sequence[tuple[LabelledSamples, Indices]],
    *,
    threads: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> Judgement | None:
    """What the model with these values comes to; ``None`` where ``stop`` said so, or there are no samples.

    Args:
        manifest: of the bundle.
        path: where a file of the bundle lies.
        engine: that runs its graphs.
        values: all tensors of the model, by name.
        sets: samples, and which of them it is judged by.
        threads: processor cores that it may use.
        stop: asked before each batch.

    Raises:
        ModelError: a graph can't be loaded.
    """
    if not sets:
        return None
    model = engine.graph(path(manifest.inference), values, threads=threads)
    metrics = engine.graph(path(manifest.metrics.graph), {}, threads=threads) if manifest.metrics else None
    sums: Sums | None = None
    counts: Sums | None = None
    for data, chosen in sets:
        found = sums_of(model, metrics, data, chosen, manifest.spec, MICRO_BATCH, stop=stop)
        if found is None:
            return None
        sums, counts = added(sums, found[0]), added(counts, found[1])
    return None if sums is None or counts is None else Judgement(tuple(map(float, sums)), tuple(map(float, counts)))
