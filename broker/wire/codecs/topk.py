"""Sends the largest elements only: their places as gaps, their values coarsely; the others count as zero.

| bytes   | field                                                                                                     |
| ------- | --------------------------------------------------------------------------------------------------------- |
| 4       | u32, little-endian: elements                                                                              |
| 4       | u32: bytes of the gaps                                                                                    |
| varying | the gaps, as `codecs.entropy_coding` leaves them: for each element sent, ascending, how many lie between |
|         | it and the one before, in bytes: 255 says "255, and more follows"                                         |
| rest    | the values, as the codec int8 or int4 writes them                                                         |

How many are sent follows from the number of elements, so nothing needs to be said, or believed, about it. Gaps are
nearly geometric, and Zstandard's Huffman stage comes near their entropy: 4.7 bits each at one in ten.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt

from lamina.broker.wire.codecs.base import Codec, check_finite
from lamina.broker.wire.codecs.blocks import Blocks
from lamina.broker.wire.codecs.entropy_coding import entropy_decoded, entropy_encoded, most_entropy_encoded
from lamina.broker.wire.codecs.kernels import kernels
from lamina.models.arrays import Indices, Shapes, Vector
from lamina.models.errors import DecodeError

_HEAD = struct.Struct("<II")
_MORE = 255


class TopK:
    """The elements of largest magnitude; of equal ones the first.

    Args:
        name: of the codec.
        wire_id: its id.
        share: of the elements that is sent, rounded up.
        values: writes what is sent.
    """

    biased = True

    def __init__(self, name: str, wire_id: int, share: float, values: Blocks) -> None:
        self.name = name
        self.wire_id = wire_id
        self._share = share
        self._values = values

    def for_tensors(self, shapes: Shapes) -> Codec:
        """See `Codec.for_tensors`."""
        return kernels(self, shapes)

    def encode(self, vector: Vector) -> bytes:
        """See `Codec.encode`."""
        check_finite(vector)
        places = _largest(vector, self._kept(vector.size))
        gaps = entropy_encoded(_written(places))
        return _HEAD.pack(vector.size, len(gaps)) + gaps + self._values.encode(vector[places])

    def decode(self, data: bytes, size: int) -> Vector:
        """See `Codec.decode`."""
        if len(data) < _HEAD.size:
            raise DecodeError(f"{self.name}: {len(data)} bytes, and {size} values take {_HEAD.size} or more")
        held, gaps_bytes = _HEAD.unpack_from(data)
        if held != size:
            raise DecodeError(f"{self.name}: written for {held} values, and {size} values take other bytes")
        if gaps_bytes > len(data) - _HEAD.size:
            raise DecodeError(f"{self.name}: {gaps_bytes} bytes of gaps in {len(data)}")
        kept, stop = self._kept(size), _HEAD.size + gaps_bytes
        gaps = entropy_decoded(memoryview(data)[_HEAD.size : stop], self._most_gaps(size), self.name)
        places = self._read(np.frombuffer(gaps, np.uint8), kept, size)
        values = self._values.decode(data[stop:], kept)
        vector = np.zeros(size, np.float32)
        vector[places] = values
        return vector

    def most_bytes(self, size: int) -> int:
        """See `Codec.most_bytes`."""
        return _HEAD.size + most_entropy_encoded(self._most_gaps(size)) + self._values.most_bytes(self._kept(size))

    def _kept(self, size: int) -> int:
        return math.ceil(size * self._share)

    def _most_gaps(self, size: int) -> int:
        """Bytes of gaps: one for each element sent, and one for every 255 that are not."""
        return self._kept(size) + size // _MORE

    def _read(self, gaps: npt.NDArray[np.uint8], kept: int, size: int) -> Indices:
        """The places (kept,) that the gaps lead to, ascending."""
        ends = gaps != _MORE
        if np.count_nonzero(ends) != kept or (len(gaps) and not ends[-1]):
            raise DecodeError(f"{self.name}: gaps to {np.count_nonzero(ends)} elements, where {kept} are sent")
        places: Indices = np.cumsum(gaps + ends.astype(np.int64))[ends] - 1
        if kept and places[-1] >= size:
            raise DecodeError(f"{self.name}: an element at {places[-1]}, and there are {size} values")
        return places


def _largest(vector: Vector, kept: int) -> Indices:
    """Places of the ``kept`` elements of largest magnitude, ascending."""
    if not kept:
        return np.empty(0, np.int64)
    magnitudes = np.ascontiguousarray(vector).view(np.int32) & np.int32(0x7FFFFFFF)  # ordered as the floats are
    least = np.partition(magnitudes, vector.size - kept)[vector.size - kept]
    chosen = magnitudes > least
    ties = np.flatnonzero(magnitudes == least)[: kept - np.count_nonzero(chosen)]
    chosen[ties] = True
    return np.flatnonzero(chosen)


def _written(places: Indices) -> bytes:
    """The gaps before each of the places."""
    gaps = np.diff(places, prepend=-1) - 1
    counts = gaps // _MORE + 1  # bytes of each
    written = np.full(int(counts.sum()), _MORE, np.uint8)
    written[np.cumsum(counts) - 1] = gaps % _MORE
    return written.tobytes()
