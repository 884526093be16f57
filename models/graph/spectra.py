"""Fourier transforms of pairs of real tensors: products with a matrix of cosines and one of sines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lamina.models.graph.pairs import Pair

Matrix = NDArray[np.float64]

# How torch numbers its normalisations: none, by the root of the number of elements, by that number.
_EXPONENTS = {0: 0.0, 1: -0.5, 2: -1.0}


def real_to_complex(x: Tensor, dims: Sequence[int], normalisation: int, onesided: bool) -> Pair:
    """The transform of real numbers, of which the half says all."""
    last, count = dims[-1], x.shape[dims[-1]]
    cosines, sines = _waves(count, count, count // 2 + 1 if onesided else count, _scale(x, dims, normalisation))
    found = Pair(_along(x, last, cosines), -_along(x, last, sines))
    return complex_to_complex(found, dims[:-1], 0, True)


def complex_to_complex(x: Pair, dims: Sequence[int], normalisation: int, forward: bool) -> Pair:
    """The transform, or its inverse."""
    scale = _scale(x.real, dims, normalisation)
    for dim in dims:
        cosines, sines = _waves(x.real.shape[dim], x.real.shape[dim], x.real.shape[dim], scale)
        scale, turn = 1.0, 1 if forward else -1
        real = _along(x.real, dim, cosines) + turn * _along(x.imaginary, dim, sines)
        x = Pair(real, _along(x.imaginary, dim, cosines) - turn * _along(x.real, dim, sines))
    return x


def complex_to_real(x: Pair, dims: Sequence[int], normalisation: int, count: int) -> Tensor:
    """The inverse of the transform of real numbers, from its half."""
    x = complex_to_complex(x, dims[:-1], 0, False)
    last, given = dims[-1], x.real.shape[dims[-1]]
    elements = count * math.prod(x.real.shape[dim] for dim in dims[:-1])
    cosines, sines = _waves(count, given, count, float(elements) ** _EXPONENTS[normalisation])
    twice = np.where((np.arange(given) == 0) | (2 * np.arange(given) == count), 1.0, 2.0)[:, None]
    return _along(x.real, last, cosines * twice) - _along(x.imaginary, last, sines * twice)


def _waves(period: int, rows: int, columns: int, scale: float) -> tuple[Matrix, Matrix]:
    """The cosines and the sines of all products of a row's and a column's number, in turns of the period."""
    turns = np.outer(np.arange(rows), np.arange(columns)) % period
    angles = 2 * np.pi * turns / period
    sines = np.where(
        2 * turns % period == 0, 0.0, np.sin(angles)
    )  # exactly: the sign of what is left would be an angle
    return np.cos(angles) * scale, sines * scale


def _along(x: Tensor, dim: int, matrix: Matrix) -> Tensor:
    """X times a matrix, along a dimension."""
    return (x.movedim(dim, -1) @ torch.tensor(matrix.tolist(), dtype=x.dtype)).movedim(-1, dim)


def _scale(x: Tensor, dims: Sequence[int], normalisation: int) -> float:
    return float(float(math.prod(x.shape[dim] for dim in dims)) ** _EXPONENTS[normalisation])
