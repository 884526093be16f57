"""What a rule knows of the tensors it is given: their names in the ONNX graph, their shapes and element types."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lamina.models.errors import ModelError
from lamina.models.graph.advice import ON_VALUES
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter


@dataclass(frozen=True)
class Batched:
    """An extent that is a multiple of the batch's, which only a run knows: ``times`` * N."""

    times: int


Extent: TypeAlias = int | Batched


class Value(str):
    """A tensor: its name in the ONNX graph, which knows its shape and element type.

    Attributes:
        shape: its extents.
        dtype: ``float32``, ``int64``, ``bool``, ...
    """

    shape: tuple[Extent, ...]
    dtype: str

    def __new__(cls, name: str, shape: Sequence[Extent], dtype: str) -> Value:  # noqa: D102 - as the class says
        value = super().__new__(cls, name)
        value.shape, value.dtype = tuple(shape), dtype
        return value


@dataclass(frozen=True)
class TensorType:
    """Shape and element type of a tensor that has no name yet."""

    shape: tuple[Extent, ...]
    dtype: str


def tensor_type_of(example: Any, batch: Any) -> TensorType:
    """The form of a tensor without values, or of a symbolic number, where ``batch`` stands for N.

    Raises:
        ModelError: an extent depends on the batch, and is no multiple of it.
    """
    if isinstance(example, Tensor):
        dtype = element_type(example.dtype)
        return TensorType(tuple(extent_of(extent, batch) for extent in example.shape), dtype)
    dtype = "float32" if isinstance(example, float | torch.SymFloat) else "int64"
    return TensorType((), "bool" if isinstance(example, bool | torch.SymBool) else dtype)


def element_type(dtype: torch.dtype) -> str:
    """The element type that a tensor has in a graph: fractions of 64 bits are computed in 32, as all of training."""
    name = str(dtype).removeprefix("torch.")
    return "float32" if name == "float64" else name


def extent_of(extent: Any, batch: Any) -> Extent:
    """``extent`` as a number or as a multiple of the batch's."""
    if isinstance(extent, int):
        return extent
    times = extent // batch
    if str(times * batch) != str(extent):
        if re.search(r"\bu\d+\b", str(extent)):  # torch's name for what only a run knows
            raise ModelError(ON_VALUES)
        shown = str(extent).replace(str(batch), "N")
        raise ModelError(
            f"an extent of a tensor is {shown}, with N samples in the batch; it may only be a multiple of N: "
            f"keep the samples apart, in dimension 0"
        )
    return Batched(int(times))


@dataclass(frozen=True)
class Call:
    """One use of an aten operator.

    Attributes:
        name: of the operator, ``sum.dim_IntList``.
        results: forms of its results.
    """

    name: str
    results: tuple[TensorType, ...]

    @property
    def packet(self) -> str:
        """The operator's name without its overload."""
        return self.name.rpartition(".")[0]

    @property
    def shape(self) -> tuple[Extent, ...]:
        """Shape of the first result."""
        return self.results[0].shape

    @property
    def dtype(self) -> str:
        """Element type of the first result."""
        return self.results[0].dtype


def static(extents: Sequence[Extent]) -> list[int]:
    """``extents``, where none may depend on the batch."""
    if any(isinstance(extent, Batched) for extent in extents):
        raise ModelError(f"the extents {list(extents)} may not depend on the batch here")
    return [extent for extent in extents if isinstance(extent, int)]


def count(g: GraphWriter, extents: Sequence[Extent]) -> str | float:
    """The product of ``extents`` as float32: a number, or the name of a scalar where it depends on the batch."""
    known = float(math.prod(extent.times if isinstance(extent, Batched) else extent for extent in extents))
    batched = sum(isinstance(extent, Batched) for extent in extents)
    if not batched:
        return known
    if batched > 1:
        raise ModelError(f"only one of the extents {list(extents)} may depend on the batch")
    return g.Mul(g.Cast(g.batch(), to=ELEMENT_TYPES["float32"]), known)


def reshaped(g: GraphWriter, x: str, shape: Sequence[Extent]) -> str:
    """``x`` with another shape."""
    if sum(isinstance(extent, Batched) for extent in shape) > 1:
        return g.Reshape(x, extents(g, shape))
    return g.Reshape(x, [-1 if isinstance(extent, Batched) else extent for extent in shape])


def extents(g: GraphWriter, shape: Sequence[Extent]) -> str:
    """``shape`` as an int64 vector."""
    if not any(isinstance(extent, Batched) for extent in shape):
        return g.constant(list(shape), "int64")
    batch = g.Reshape(g.batch(), [1])
    parts = [g.Mul(batch, [extent.times]) if isinstance(extent, Batched) else [extent] for extent in shape]
    return g.Concat(*parts, axis=0)
