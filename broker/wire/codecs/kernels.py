"""Quantises a layer's kernels coarsely; biases, norms and statistics go as float16.

The latter are few (1% of a convolutional network) and delicate: a shift of a running variance is a thousand times one
of a weight, so with a common scale, or in a common choice of the largest elements, one would drown the other.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np

from lamina.broker.wire.codecs.base import Codec, OpensToFold, check_finite
from lamina.broker.wire.codecs.plain import Float16
from lamina.broker.wire.foldable import Delta, Int8Blocks, Joined
from lamina.models.arrays import Shapes, Vector
from lamina.models.errors import DecodeError

FINE = Float16()
FINE_BYTES = 2


@lru_cache(maxsize=4096)
def kernels(coarse: Codec, shapes: Shapes) -> Kernels:
    """`Kernels`; the same one for the same codec and shapes, since where tensors stand takes a while to find out."""
    return Kernels(coarse, shapes)


class Kernels:
    """Tensors of two and more dimensions by another codec, one after the other as one vector; the rest as float16.

    The bytes are those of the rest, whose length the shapes tell, and then those of the kernels.

    Args:
        coarse: the codec of the kernels.
        shapes: of all tensors.
    """

    def __init__(self, coarse: Codec, shapes: Shapes) -> None:
        self.name = coarse.name
        self.wire_id = coarse.wire_id
        self.biased = coarse.biased
        self._coarse = coarse
        edges = pairwise(accumulate((math.prod(shape) for shape in shapes), initial=0))
        places = [(slice(*edge), len(shape) > 1) for edge, shape in zip(edges, shapes, strict=True)]
        self._places = places
        self._kernels = [place for place, is_kernel in places if is_kernel]
        self._rest = [place for place, is_kernel in places if not is_kernel]
        self._kernels_size = sum(place.stop - place.start for place in self._kernels)
        self._rest_size = sum(place.stop - place.start for place in self._rest)

    def for_tensors(self, shapes: Shapes) -> Codec:
        """See `Codec.for_tensors`."""
        return self._coarse.for_tensors(shapes)

    def encode(self, vector: Vector) -> bytes:
        """See `Codec.encode`."""
        if vector.ndim != 1 or vector.size != self._size:
            check_finite(vector)
            raise ValueError(f"{self.name}: the tensors have {self._size} elements, not {vector.shape}")
        rest = FINE.encode(_gathered(vector, self._rest))
        return rest + self._coarse.encode(_gathered(vector, self._kernels))

    def decode(self, data: bytes, size: int) -> Vector:
        """See `Codec.decode`."""
        kernels, rest = self._parts(data, size)
        vector = np.empty(size, np.float32)
        _scatter(self._coarse.decode(kernels, self._kernels_size), vector, self._kernels)
        _scatter(FINE.decode(rest, self._rest_size), vector, self._rest)
        return vector

    def open(self, data: bytes, size: int) -> Delta:
        """See `OpensToFold.open`: the kernels as their codec opens them, between the others' floats."""
        kernels, rest = self._parts(data, size)
        if not isinstance(self._coarse, OpensToFold):
            return self.decode(data, size)
        coarse, fine = self._coarse.open(kernels, self._kernels_size), FINE.decode(rest, self._rest_size)
        parts: list[Delta] = []
        taken = {True: 0, False: 0}
        for place, is_kernel in self._places:
            start, stop = taken[is_kernel], taken[is_kernel] + place.stop - place.start
            taken[is_kernel] = stop
            parts.append(_cut(coarse, start, stop) if is_kernel else fine[start:stop])
        return parts[0] if len(parts) == 1 else Joined(parts)

    def most_bytes(self, size: int) -> int:
        """See `Codec.most_bytes`."""
        return FINE_BYTES * self._rest_size + self._coarse.most_bytes(self._kernels_size)

    def _parts(self, data: bytes, size: int) -> tuple[bytes, bytes]:
        """The bytes of the kernels, and those of the rest."""
        if size != self._size or len(data) < FINE_BYTES * self._rest_size:
            raise DecodeError(f"{self.name}: {len(data)} bytes for {size} values; the tensors have {self._size}")
        cut = FINE_BYTES * self._rest_size
        return data[cut:], data[:cut]

    @property
    def _size(self) -> int:
        return self._kernels_size + self._rest_size


def _gathered(vector: Vector, places: list[slice]) -> Vector:
    """The elements there, one place after the other; a view where it is one place."""
    if len(places) == 1:
        return vector[places[0]]
    return np.concatenate([vector[place] for place in places]) if places else vector[:0]


def _scatter(parts: Vector, vector: Vector, places: list[slice]) -> None:
    """The inverse of `_gathered`."""
    start = 0
    for place in places:
        stop = start + place.stop - place.start
        vector[place] = parts[start:stop]
        start = stop


def _cut(delta: Delta, start: int, stop: int) -> Delta:
    """Elements of a delta, as whole numbers where it is one of these."""
    return delta.cut(start, stop) if isinstance(delta, Int8Blocks) else delta[start:stop]
