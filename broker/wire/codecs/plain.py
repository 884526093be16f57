"""Writes floats as they are, in 4 bytes or in 2, little-endian on every machine."""

from __future__ import annotations

import numpy as np

from lamina.broker.wire.codecs.base import Codec, check_finite, check_vector, not_finite
from lamina.models.arrays import Shapes, Vector
from lamina.models.errors import DecodeError

LARGEST_FLOAT16 = np.float32(65504.0)
_LEAST_NORMAL_FLOAT16 = 0x38800000  # 2**-14, as bits of a float32
_FEW = 256  # elements, over which NumPy's own conversion is quicker whatever they are
_PIECE = 1 << 14  # elements; what is made of them on the way stays in a core's cache
_LARGEST_BFLOAT16_BITS = 0x7F7F  # 3.39e38; the next one up is infinity


class Float32:
    """Four bytes an element, exactly."""

    name = "float32"
    wire_id = 1
    biased = False

    def for_tensors(self, shapes: Shapes) -> Codec:
        """See `Codec.for_tensors`."""
        return self

    def encode(self, vector: Vector) -> bytes:
        """See `Codec.encode`."""
        check_finite(vector)
        return vector.astype("<f4", copy=False).tobytes()

    def decode(self, data: bytes, size: int) -> Vector:
        """See `Codec.decode`."""
        _check_length(data, 4, size, self.name)
        return np.frombuffer(data, dtype="<f4").astype(np.float32)

    def most_bytes(self, size: int) -> int:
        """See `Codec.most_bytes`."""
        return 4 * size


class Float16:
    """Two bytes an element, rounded to the nearest; what is too large for a float16 becomes its largest, 65504.

    A delta of that size is an error of training, not of the wire: the round machine bounds updates, the codec only
    sees to it that no infinity arises.
    """

    name = "float16"
    wire_id = 2
    biased = False

    def for_tensors(self, shapes: Shapes) -> Codec:
        """See `Codec.for_tensors`."""
        return self

    def encode(self, vector: Vector) -> bytes:
        """See `Codec.encode`."""
        check_vector(vector)
        peak = max(vector.max(initial=0), -vector.min(initial=0))
        if not peak < np.inf:  # NaN is not
            raise not_finite(vector)
        if peak > LARGEST_FLOAT16:
            vector = np.minimum(np.maximum(vector, -LARGEST_FLOAT16), LARGEST_FLOAT16)  # half the time of np.clip
        if vector.size <= _FEW:
            few: bytes = vector.astype("<f2").tobytes()
            return few
        pieces = [_halves(vector[start : start + _PIECE]) for start in range(0, vector.size, _PIECE)]
        return b"".join(pieces)

    def decode(self, data: bytes, size: int) -> Vector:
        """See `Codec.decode`."""
        _check_length(data, 2, size, self.name)
        return np.frombuffer(data, dtype="<f2").astype(np.float32)

    def most_bytes(self, size: int) -> int:
        """See `Codec.most_bytes`."""
        return 2 * size


class BFloat16:
    """The upper two bytes of each float32, rounded to the nearest: all of its range, and 8 bits of its fraction."""

    name = "bfloat16"
    wire_id = 5
    biased = False

    def for_tensors(self, shapes: Shapes) -> Codec:
        """See `Codec.for_tensors`."""
        return self

    def encode(self, vector: Vector) -> bytes:
        """See `Codec.encode`."""
        check_finite(vector)
        bits = np.ascontiguousarray(vector).view(np.uint32)
        upper = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16  # to nearest, ties to even; it may carry into infinity
        sign, magnitude = upper & 0x8000, upper & 0x7FFF
        data: bytes = (sign | np.minimum(magnitude, _LARGEST_BFLOAT16_BITS)).astype("<u2").tobytes()
        return data

    def decode(self, data: bytes, size: int) -> Vector:
        """See `Codec.decode`."""
        _check_length(data, 2, size, self.name)
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)

    def most_bytes(self, size: int) -> int:
        """See `Codec.most_bytes`."""
        return 2 * size


def _halves(vector: Vector) -> bytes:
    """What ``vector.astype("<f2")`` is, of numbers up to the largest float16.

    NumPy's conversion takes twenty times as long over an element below the least normal float16 (6e-5), as most of an
    update are. Here the processor's own rounding does it: a number is added whose last bit counts as much as the last
    bit of the float16, at least 2**-24. What stands in its fraction then is the float16's fraction, and carries into
    the exponent where it should.
    """
    bits = np.ascontiguousarray(vector).view(np.int32)
    magnitudes = bits & 0x7FFFFFFF
    rounding = np.maximum(magnitudes & 0x7F800000, _LEAST_NORMAL_FLOAT16)  # the power of two below each
    rounding += 15 << 23  # times 2**15; with the magnitudes times four, float32 has the 11 bits of a float16 left
    sums = magnitudes.view(np.float32)
    sums *= 4
    sums += rounding.view(np.float32)
    written = sums.view(np.int32)
    halves = (written >> 13) & 0x7C00
    halves += written & 0x0FFF
    halves |= (bits >> 16) & 0x8000
    return halves.astype("<u2").tobytes()


def _check_length(data: bytes, element_bytes: int, size: int, name: str) -> None:
    if len(data) != size * element_bytes:
        raise DecodeError(f"{name}: {len(data)} bytes, and {size} values take {size * element_bytes}")
