"""A model's state as one row: the layers' values, as they cross the wire, one after another.

A layer is one slice of the row, what a device trains from a cut onwards is a suffix of it, and a cohort is a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from lamina.models.spec import ModelSpec, TensorSpec
from lamina.models.values import Tensors

Row = NDArray[np.float32]  # (row_size,)
Rows = NDArray[np.float32]  # (devices, row_size)
Runs = tuple[tuple[int, int], ...]  # elements [start, stop) of a row, ascending, with gaps between them


def layer_offsets(spec: ModelSpec) -> tuple[int, ...]:
    """Start of each layer in a row; one more entry than layers, the last is the row's size."""
    return (0, *accumulate(layer.vector_size for layer in spec.layers))


def runs(offsets: Sequence[int], layers: Sequence[int]) -> Runs:
    """Return where these layers, ascending, stand in a row; neighbours are one run."""
    found: list[tuple[int, int]] = []
    for layer in layers:
        start, stop = offsets[layer], offsets[layer + 1]
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, stop))
    return tuple(found)


def chosen(row: Row, where: Runs) -> Row:
    """A copy of a row's elements there, (n,)."""
    return np.concatenate([row[start:stop] for start, stop in where]) if where else row[:0].copy()


def choose(row: Row, where: Runs, values: Row) -> None:
    """Write what `chosen` gave into a row."""
    at = 0
    for start, stop in where:
        row[start:stop] = values[at : at + stop - start]
        at += stop - start


def places(spec: ModelSpec) -> Iterator[tuple[TensorSpec, slice]]:
    """Every tensor of the model, and where it stands in a row."""
    start = 0
    for layer in spec.layers:
        for tensor in (*layer.parameters, *layer.statistics):
            yield tensor, slice(start, start + tensor.size)
            start += tensor.size


def to_row(spec: ModelSpec, tensors: Tensors) -> Row:
    """Named tensors as a row."""
    return np.concatenate([np.ravel(tensors[tensor.name]) for tensor, _ in places(spec)]).astype(np.float32, copy=False)


def to_tensors(spec: ModelSpec, row: Row) -> dict[str, Row]:
    """A row as named tensors, which are views of it."""
    return {tensor.name: row[place].reshape(tensor.shape) for tensor, place in places(spec)}


def marks(spec: ModelSpec, kinds: frozenset[str]) -> Row:
    """1 where a row's element is of one of these kinds of tensors, else 0."""
    row = np.zeros(layer_offsets(spec)[-1], np.float32)
    for tensor, place in places(spec):
        row[place] = tensor.kind in kinds
    return row


TRAINED = frozenset({"kernel", "bias", "norm"})
KERNELS = frozenset({"kernel"})
