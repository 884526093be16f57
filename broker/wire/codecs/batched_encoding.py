"""The layout of the tensors of many small layers that are encoded at once: kernels side by side, each layer's in whole
blocks.

    | kernels of layer 0, zeros up to a block | kernels of layer 1, zeros | ...      the blocks of a run
    | the rest of layer 0 | the rest of layer 1 | ...                                its floats

A call of NumPy's takes a microsecond before it does anything, as long as a pass over a thousand elements. So a codec of
blocks works on a run of layers at once. What it writes of each are the bytes that it would write of that layer alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np

from lamina.broker.wire.codecs.kernels import FINE, FINE_BYTES
from lamina.broker.wire.runs import runs
from lamina.models.arrays import Shapes, Vector
from lamina.models.errors import DecodeError

_FLOAT32 = np.dtype(np.float32)
_NOTHING = np.empty(0, np.float32)
_Parts = tuple[list[slice], list[slice]]  # of a vector: where its kernels are, and where the rest is


class BatchedEncoding:
    """Layers, and the runs that their kernels are taken in.

    Args:
        shapes: of each layer's tensors.
        block: elements of a block.
        per_byte: codes in a byte; they divide a block.
        most: elements of whole blocks in a run.

    Attributes:
        runs: which layers, in their order, and where their kernels are; ``None`` of a layer larger than a run.
        rests: bytes of each layer's rest, in what is written of all of them.
    """

    def __init__(self, shapes: Sequence[Shapes], block: int, per_byte: int, most: int) -> None:
        parts = [_slices(tensors) for tensors in shapes]
        sizes = [-(-_total(kernels) // block) * block for kernels, _ in parts]
        edges = [0, *accumulate(_total(others) for _, others in parts)]
        self.rests = [slice(FINE_BYTES * start, FINE_BYTES * stop) for start, stop in pairwise(edges)]
        self.runs = [
            (part, Run(parts[part], edges[part], block, per_byte) if sizes[part.start] <= most else None)
            for part in runs(sizes, most)
        ]
        self._floats = edges[-1]
        self._vectors = [(sum(map(math.prod, tensors)),) for tensors in shapes]
        self._others = [(index, part) for index, (_, others) in enumerate(parts) for part in others]

    def written_rest(self, vectors: Sequence[Vector]) -> bytes:
        """All that is not kernels.

        Raises:
            ValueError: a vector is not its layer's or not float32, or NaN or infinity is in the rest of one.
        """
        if [vector.shape for vector in vectors] != self._vectors or any(vector.dtype != _FLOAT32 for vector in vectors):
            raise ValueError("a vector is not float32, or not its layer's")
        return FINE.encode(np.concatenate([_NOTHING, *[vectors[index][part] for index, part in self._others]]))

    def read(self, datas: Sequence[bytes]) -> tuple[Vector, list[memoryview]]:
        """All that is not kernels, finite, and what each layer's kernels were written as.

        Raises:
            DecodeError: a layer has too few bytes, or NaN or infinity is in the rest of one.
        """
        written, kernels = [], []
        for data, rest in zip(datas, self.rests, strict=True):
            cut = rest.stop - rest.start
            if len(data) < cut:
                raise DecodeError(f"{len(data)} bytes, where the rest of a layer alone has {cut}")
            view = memoryview(data)
            written.append(view[:cut])
            kernels.append(view[cut:])
        floats = FINE.decode(b"".join(written), self._floats)
        if not np.isfinite(floats).all():
            raise DecodeError("NaN or infinity in the rest of a layer")
        return floats, kernels


@lru_cache(maxsize=256)
def batched_encoding(shapes: tuple[Shapes, ...], block: int, per_byte: int, most: int) -> BatchedEncoding:
    """`BatchedEncoding`; the same one for the same layers, since where they stand takes a while to find out."""
    return BatchedEncoding(shapes, block, per_byte, most)


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """The place of a layer in a run.

    Attributes:
        size: elements of its vector.
        kernels: where its kernels are in its vector, and in the run's blocks; neighbours as one.
        others: where everything else is in its vector, and in the floats of all layers.
        kernels_size: elements of its kernels.
        count: how the codec writes that.
        scales: bytes of its scales, in what is written of the run.
        codes: bytes of its codes.
    """

    size: int
    kernels: tuple[tuple[slice, slice], ...]
    others: tuple[tuple[slice, slice], ...]
    kernels_size: int
    count: bytes
    scales: slice
    codes: slice


class Run:
    """Layers whose kernels lie side by side.

    Args:
        layers: where a layer's kernels are in its vector, and where the rest is.
        floats: where the rest of each begins, in the floats of all layers.
        block: elements of a block.
        per_byte: codes in a byte.

    Attributes:
        places: of the layers.
        blocks: of all layers.
    """

    def __init__(self, layers: Sequence[_Parts], floats: Sequence[int], block: int, per_byte: int) -> None:
        self.places: list[LayerPlace] = []
        self._pieces: list[Vector] = []  # of the blocks: zeros where they are needed, and room for the kernels
        self._kernels: list[tuple[int, int, slice]] = []  # which piece is which part of which vector
        self.blocks = 0
        for index, ((kernels, others), rest) in enumerate(zip(layers, floats, strict=True)):
            size, start, first = _total(kernels), self.blocks * block, self.blocks
            self.blocks += -(-size // block)
            self.places.append(
                LayerPlace(
                    size=size + _total(others),
                    kernels=tuple(zip(kernels, _one_by_one(kernels, start), strict=True)),
                    others=tuple(zip(others, _one_by_one(others, rest), strict=True)),
                    kernels_size=size,
                    count=size.to_bytes(4, "little"),
                    scales=slice(4 * first, 4 * self.blocks),
                    codes=slice(start // per_byte, start // per_byte + -(-size // per_byte)),
                )
            )
            self._kernels += [(len(self._pieces) + nth, index, part) for nth, part in enumerate(kernels)]
            self._pieces += [_NOTHING] * len(kernels) + [np.zeros(self.blocks * block - start - size, np.float32)]

    def gather(self, vectors: Sequence[Vector], out: Vector) -> None:
        """Write the layers' kernels (blocks * block,) to ``out``, with zeros where a block is not full."""
        pieces = self._pieces.copy()
        for slot, index, part in self._kernels:
            pieces[slot] = vectors[index][part]
        np.concatenate(pieces, out=out)

    def scatter(self, kernels: Vector, floats: Vector) -> list[Vector]:
        """The layers' vectors, each in memory of its own, from the run's kernels and the floats of all layers."""
        vectors = []
        for place in self.places:
            vector = np.empty(place.size, np.float32)
            for part, there in place.kernels:
                vector[part] = kernels[there]
            for part, there in place.others:
                vector[part] = floats[there]
            vectors.append(vector)
        return vectors


def _slices(shapes: Shapes) -> _Parts:
    """Return where kernels are in a layer's vector, and where the rest is; neighbours of a kind count as one."""
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


def _one_by_one(parts: Sequence[slice], start: int) -> list[slice]:
    """Return where such parts are when they follow one another from ``start`` on."""
    edges = pairwise(accumulate((part.stop - part.start for part in parts), initial=start))
    return [slice(*edge) for edge in edges]
