"""Divides a resident vector into segments, which a training-step graph takes and gives one by one.

A graph whose parameters are one flat input has to split it, and to join what becomes of it: each is a copy, and for a
dense layer of millions of weights the copies take longer than the arithmetic. So each large tensor is a segment of its
own, and the tensors between two such are one together. A vector of a single segment goes by its own name; of several,
they are ``parameters.0``, ``parameters.1`` and so on, in order. In memory they lie one behind the other.

A large segment has the shape (rows, elements of a row): the optimiser takes row after row, and what it reads of one is
still in the processor's cache when it is read again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGE = 1 << 17  # elements
_LONGEST_ROW, _SHORTEST_ROW = 1 << 17, 1 << 14

VectorShapes = Mapping[str, Sequence[Any]]
"""Of a graph's inputs or outputs, by name."""


@dataclass(frozen=True)
class Segment:
    """Part of a vector.

    Attributes:
        first: index of its first tensor.
        stop: index behind its last one.
        shape: (elements,), or (rows, elements of a row).
    """

    first: int
    stop: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


def segments_of(sizes: Sequence[int]) -> list[Segment]:
    """The segments of a vector that consists of tensors of these sizes."""
    found: list[Segment] = []
    for large, run in groupby(range(len(sizes)), key=lambda index: sizes[index] if _row(sizes[index]) else 0):
        indices = list(run)
        if large:
            found += [Segment(index, index + 1, (large // _row(large), _row(large))) for index in indices]
        else:
            found.append(Segment(indices[0], indices[-1] + 1, (sum(sizes[index] for index in indices),)))
    return found


def names_of(name: str, segments: Sequence[object]) -> list[str]:
    """Their names as a graph's inputs; its outputs end in ``_next``."""
    return [f"{name}.{index}" for index in range(len(segments))] if len(segments) > 1 else [name]


def vector_of(name: str) -> str:
    """The vector that an input belongs to, by the name of that."""
    return name.partition(".")[0]


def sizes_of(shapes: VectorShapes) -> dict[str, int]:
    """Elements of each vector that has segments among these."""
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        sizes[vector_of(name)] = sizes.get(vector_of(name), 0) + math.prod(shape)
    return sizes


def spread(vectors: Mapping[str, NDArray[Any]], shapes: VectorShapes) -> dict[str, NDArray[Any]]:
    """The segments of some vectors, as views, for those of a graph's inputs that are such; others stay as they are."""
    places: dict[str, NDArray[Any]] = {}
    at = dict.fromkeys(vectors, 0)
    for name in sorted(shapes, key=_order):
        vector = vector_of(name)
        if name in vectors:
            is_one_segment = all(isinstance(extent, int) for extent in shapes[name])
            places[name] = vectors[name].reshape(tuple(shapes[name])) if is_one_segment else vectors[name]
        elif vector in vectors:
            stop = at[vector] + math.prod(shapes[name])
            places[name] = vectors[vector][at[vector] : stop].reshape(tuple(shapes[name]))
            at[vector] = stop
    return places


def joined(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """A vector whole, of what a graph gave: ``parameters_next``, or ``parameters.0_next`` and so on."""
    if f"{name}_next" in arrays:
        return arrays[f"{name}_next"].reshape(-1)
    count = sum(key.startswith(f"{name}.") for key in arrays)
    return np.concatenate([arrays[f"{name}.{index}_next"].reshape(-1) for index in range(count)])


def _order(name: str) -> tuple[str, int]:
    vector, _, index = name.partition(".")
    return vector, int(index or 0)


def _row(size: int) -> int:
    """Elements of a row of a large tensor of that size; 0 where it is not large, or can't be divided well."""
    if size < LARGE:
        return 0
    rows = range(-(-size // _LONGEST_ROW), size // _SHORTEST_ROW + 1)
    return next((size // count for count in rows if size % count == 0), 0)
