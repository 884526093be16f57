"""Sends a matrix as the product of two thin ones, found by subspace iteration; both factors are bfloat16.

After PowerSGD (Vogels et al., arXiv 1905.13727). A kernel (out, ...) is taken as a matrix M (m, n), m = out:

    repeat: P = orthonormal(M Q), Q = M' P          sent: P (m, rank), Q (n, rank), one matrix after the other
    decoded: P Q' as a sum of rank outer products

PowerSGD keeps Q for the next step and iterates once; a codec keeps nothing, so it begins from a fixed Q and iterates
three times. Q is in least squares for the P that was rounded, so that what is lost is orthogonal to what is sent.

The sum is taken element by element in a fixed order, which gives the same bits on every machine; a matrix product of
a linear-algebra library would not. A matrix that the factors would not make smaller is sent as bfloat16 itself.
"""

from __future__ import annotations

import math

import numpy as np

from lamina.broker.wire.codecs.base import Codec, check_finite
from lamina.broker.wire.codecs.grids import LARGEST_SCALE
from lamina.broker.wire.codecs.kernels import Kernels
from lamina.broker.wire.codecs.plain import BFloat16
from lamina.models.arrays import Shapes, Vector
from lamina.models.errors import DecodeError

_ITERATIONS = 3
_SEED = 20191905  # of the first Q; any number would do, and the bytes follow from it
_FACTOR = BFloat16()
_LARGEST_ORTHONORMAL = 1.01  # an element of P, rounded


class LowRank:
    """Matrices by two factors each. A vector whose shapes aren't known is one of no matrices, and goes as bfloat16.

    Args:
        name: of the codec.
        wire_id: its id.
        rank: columns of a factor.
        kernels: shapes of the kernels that a vector consists of.
    """

    biased = True

    def __init__(self, name: str, wire_id: int, rank: int, kernels: Shapes | None = None) -> None:
        self.name = name
        self.wire_id = wire_id
        self._rank = rank
        self._matrices = None if kernels is None else [(shape[0], math.prod(shape[1:])) for shape in kernels]

    def for_tensors(self, shapes: Shapes) -> Codec:
        """See `Codec.for_tensors`."""
        kernels = tuple(shape for shape in shapes if len(shape) > 1)
        return Kernels(LowRank(self.name, self.wire_id, self._rank, kernels), shapes)

    def encode(self, vector: Vector) -> bytes:
        """See `Codec.encode`."""
        check_finite(vector)
        parts, start = [], 0
        for rows, columns in self._matrices_of(vector.size):
            matrix = vector[start : start + rows * columns].reshape(rows, columns)
            parts.append(self._encode_matrix(matrix))
            start += rows * columns
        return b"".join(parts)

    def decode(self, data: bytes, size: int) -> Vector:
        """See `Codec.decode`."""
        if len(data) != self.most_bytes(size):
            raise DecodeError(f"{self.name}: {len(data)} bytes, and {size} values take {self.most_bytes(size)}")
        vector, start, read = np.empty(size, np.float32), 0, 0
        for rows, columns in self._matrices_of(size):
            stop, end = start + rows * columns, read + self._matrix_bytes(rows, columns)
            self._decode_matrix(data[read:end], vector[start:stop].reshape(rows, columns))
            start, read = stop, end
        return vector

    def most_bytes(self, size: int) -> int:
        """See `Codec.most_bytes`. Every vector takes just that many."""
        return sum(self._matrix_bytes(rows, columns) for rows, columns in self._matrices_of(size))

    def _encode_matrix(self, matrix: Vector) -> bytes:
        """One matrix (m, n)."""
        rows, columns = matrix.shape
        if not self._pays(rows, columns):
            return _FACTOR.encode(matrix.reshape(-1))
        p, q = _factors(matrix, self._rank)
        return _FACTOR.encode(p.reshape(-1)) + _FACTOR.encode(q.reshape(-1))

    def _decode_matrix(self, data: bytes, out: Vector) -> None:
        """Write one matrix (m, n)."""
        rows, columns = out.shape
        if not self._pays(rows, columns):
            out[...] = _FACTOR.decode(data, rows * columns).reshape(rows, columns)
            return
        factors = _FACTOR.decode(data, self._rank * (rows + columns))
        p, q = np.split(factors, [rows * self._rank])
        if not (np.abs(p) <= _LARGEST_ORTHONORMAL).all() or not (np.abs(q) <= LARGEST_SCALE).all():  # NaN is neither
            raise DecodeError(f"{self.name}: a factor is too large, or holds NaN")
        columns_p, columns_q = p.reshape(rows, -1).T, q.reshape(columns, -1).T
        np.multiply(columns_p[0][:, None], columns_q[0], out=out)
        for left, right in zip(columns_p[1:], columns_q[1:], strict=True):
            out += left[:, None] * right

    def _pays(self, rows: int, columns: int) -> bool:
        return self._rank * (rows + columns) < rows * columns

    def _matrix_bytes(self, rows: int, columns: int) -> int:
        return 2 * (self._rank * (rows + columns) if self._pays(rows, columns) else rows * columns)

    def _matrices_of(self, size: int) -> list[tuple[int, int]]:
        if self._matrices is None:
            return [(1, size)]
        if (known := sum(rows * columns for rows, columns in self._matrices)) != size:
            raise DecodeError(f"{self.name}: the kernels have {known} elements, where {size} values are awaited")
        return self._matrices


def _factors(matrix: Vector, rank: int) -> tuple[Vector, Vector]:
    """P (m, rank), as bfloat16 holds it, and the Q (n, rank) that suits it best."""
    peak = np.abs(matrix).max()
    scaled = matrix / peak if peak > 0 else matrix  # squares must not overflow
    q = np.random.default_rng(_SEED).standard_normal((matrix.shape[1], rank), dtype=np.float32)
    for _ in range(_ITERATIONS):
        p = np.linalg.qr(scaled @ q)[0]  # (m, rank)
        q = scaled.T @ p  # (n, rank)
    p = _FACTOR.decode(_FACTOR.encode(p.reshape(-1)), p.size).reshape(p.shape)
    best = np.linalg.solve((p.T @ p).astype(np.float64), (scaled.T @ p).T).T * float(peak)  # (n, rank)
    return p, np.clip(best, -LARGEST_SCALE, LARGEST_SCALE).astype(np.float32)
