"""Where do the tensors of many small layers stand when their kernels lie side by side, each layer's in whole blocks?

    | kernels of layer 0, zeros up to a block | kernels of layer 1, zeros | ...      the blocks of a run
    | the rest of layer 0 | the rest of layer 1 | ...                                its floats

A call of NumPy's takes a microsecond before it does anything, as long as a pass over a thousand elements. So a codec of
blocks works on a run of layers at once. What it writes of each are the bytes that it would write of that layer alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np

from broker.codecs.base import Shapes, Vector
from broker.codecs.kernels import FINE, FINE_BYTES
from models.errors import DecodeError

_FLOAT32 = np.dtype(np.float32)
_NOTHING = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer stands: in its own vector, in the run, and in what is written of the run.

    Attributes:
        size: elements of its vector.
        kernels: where its kernels are in its vector, and in the run's blocks; neighbours as one.
        others: where everything else is in its vector, and in the run's floats.
        kernels_size: elements of its kernels.
        count: how the codec writes that.
        rest: bytes of everything else.
        scales: bytes of its scales.
        codes: bytes of its codes.
    """

    size: int
    kernels: tuple[tuple[slice, slice], ...]
    others: tuple[tuple[slice, slice], ...]
    kernels_size: int
    count: bytes
    rest: slice
    scales: slice
    codes: slice


class Run:
    """Layers side by side.

    Args:
        shapes: of each layer's tensors.
        block: elements of a block.
        per_byte: codes in a byte; they divide a block.

    Attributes:
        places: of the layers.
        blocks: of all layers.
    """

    def __init__(self, shapes: Sequence[Shapes], block: int, per_byte: int) -> None:
        self.places: list[Place] = []
        self._pieces: list[Vector] = []  # of the blocks: zeros where they are needed, and room for the kernels
        self._kernels: list[tuple[int, int, slice]] = []  # which piece is which part of which vector
        blocks, floats = 0, 0
        for index, tensors in enumerate(shapes):
            kernels, others = _slices(tensors)
            size, rest, start = _total(kernels), _total(others), blocks * block
            last, code_bytes = blocks + -(-size // block), -(-size // per_byte)
            self.places.append(
                Place(
                    size=size + rest,
                    kernels=tuple(zip(kernels, _side_by_side(kernels, start), strict=True)),
                    others=tuple(zip(others, _side_by_side(others, floats), strict=True)),
                    kernels_size=size,
                    count=size.to_bytes(4, "little"),
                    rest=slice(FINE_BYTES * floats, FINE_BYTES * (floats + rest)),
                    scales=slice(4 * blocks, 4 * last),
                    codes=slice(start // per_byte, start // per_byte + code_bytes),
                )
            )
            self._kernels += [(len(self._pieces) + nth, index, part) for nth, part in enumerate(kernels)]
            self._pieces += [_NOTHING] * len(kernels) + [np.zeros(last * block - start - size, np.float32)]
            blocks, floats = last, floats + rest
        self.blocks = blocks
        self._floats = floats
        self._vectors = [(place.size,) for place in self.places]
        self._others = [(index, part) for index, place in enumerate(self.places) for part, _ in place.others]

    def gather(self, vectors: Sequence[Vector], out: Vector) -> bytes:
        """The layers' kernels (blocks * block,) in ``out``; returned is the rest of all, written.

        Raises:
            ValueError: a vector is not its layer's or not float32, or NaN or infinity is in the rest of one.
        """
        if [vector.shape for vector in vectors] != self._vectors or any(vector.dtype != _FLOAT32 for vector in vectors):
            raise ValueError("a vector is not float32, or not its layer's")
        pieces = self._pieces.copy()
        for slot, index, part in self._kernels:
            pieces[slot] = vectors[index][part]
        np.concatenate(pieces, out=out)
        return FINE.encode(np.concatenate([_NOTHING, *[vectors[index][part] for index, part in self._others]]))

    def parted(self, datas: Sequence[bytes]) -> tuple[Vector, list[memoryview]]:
        """The rest of all, finite, and what each layer's kernels were written as.

        Raises:
            DecodeError: a layer has too few bytes, or NaN or infinity is in the rest of one.
        """
        written, kernels = [], []
        for data, place in zip(datas, self.places, strict=True):
            cut = place.rest.stop - place.rest.start
            if len(data) < cut:
                raise DecodeError(f"{len(data)} bytes, where the rest of a layer alone has {cut}")
            view = memoryview(data)
            written.append(view[:cut])
            kernels.append(view[cut:])
        rest = FINE.decode(b"".join(written), self._floats)
        if not np.isfinite(rest).all():
            raise DecodeError("NaN or infinity in the rest of a layer")
        return rest, kernels

    def scatter(self, kernels: Vector, rest: Vector) -> list[Vector]:
        """The layers' vectors, each in memory of its own."""
        vectors = []
        for place in self.places:
            vector = np.empty(place.size, np.float32)
            for part, there in place.kernels:
                vector[part] = kernels[there]
            for part, there in place.others:
                vector[part] = rest[there]
            vectors.append(vector)
        return vectors


@lru_cache(maxsize=256)
def runs(shapes: tuple[Shapes, ...], block: int, per_byte: int, most: int) -> tuple[tuple[slice, Run | None], ...]:
    """The layers in order, cut into runs of at most ``most`` elements of whole blocks.

    Args:
        shapes: of each layer's tensors.
        block: elements of a block.
        per_byte: codes in a byte.
        most: elements of a run; a larger layer stands alone, with ``None``.
    """
    sizes = [-(-_total(_slices(tensors)[0]) // block) * block for tensors in shapes]
    return tuple(
        (part, Run(shapes[part], block, per_byte) if sizes[part.start] <= most else None)
        for part in _parts(sizes, most)
    )


def _parts(sizes: Sequence[int], most: int) -> Iterator[slice]:
    start, elements = 0, 0
    for index, size in enumerate(sizes):
        if index > start and elements + size > most:
            yield slice(start, index)
            start, elements = index, 0
        elements += size
    if sizes:
        yield slice(start, len(sizes))


def _slices(shapes: Shapes) -> tuple[list[slice], list[slice]]:
    """Where kernels are in a layer's vector, and where the rest is; neighbours of a kind as one."""
    kernels: list[slice] = []
    others: list[slice] = []
    start = 0
    for shape in shapes:
        stop = start + math.prod(shape)
        parts = kernels if len(shape) > 1 else others
        if parts and parts[-1].stop == start:
            parts[-1] = slice(parts[-1].start, stop)
        elif stop > start:
            parts.append(slice(start, stop))
        start = stop
    return kernels, others


def _total(parts: Sequence[slice]) -> int:
    return sum(int(part.stop - part.start) for part in parts)


def _side_by_side(parts: Sequence[slice], start: int) -> list[slice]:
    """Where such parts are when they follow one another from ``start`` on."""
    edges = pairwise(accumulate((part.stop - part.start for part in parts), initial=start))
    return [slice(*edge) for edge in edges]
