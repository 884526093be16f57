"""Writes a vector in few bits an element: in blocks with a scale each, whose codes are packed and then entropy coded.

| bytes   | field                                                                                          |
| ------- | ---------------------------------------------------------------------------------------------- |
| 4       | u32, little-endian: elements                                                                   |
| 4 each  | f32: the scale of each block, finite and not negative                                          |
| rest    | the codes, 8/bits to a byte, the first one lowest; as `codecs.entropy_coding` leaves them    |

The work is done in pieces that stay in a core's cache: a NumPy pass over 256 KiB costs a third of one over memory, and
is long enough that the call itself does not count.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Iterator, Sequence

import google_crc32c
import numpy as np

from lamina.broker.wire.codecs.base import Codec, check_vector, not_finite
from lamina.broker.wire.codecs.batched_encoding import BatchedEncoding, Run, batched_encoding
from lamina.broker.wire.codecs.entropy_coding import entropy_decoded, entropy_encoded_parts, most_entropy_encoded
from lamina.broker.wire.codecs.grids import LARGEST_SCALE, Codes, Grid
from lamina.broker.wire.codecs.kernels import kernels
from lamina.broker.wire.foldable import INT8_BLOCK, Delta, Int8Blocks
from lamina.models.arrays import Shapes, Vector
from lamina.models.errors import DecodeError

_COUNT = struct.Struct("<I")
_PIECE = 1 << 16  # elements; blocks divide it
_RUN = 1 << 17  # elements of small layers that are taken together
_MAGNITUDE = np.int32(0x7FFFFFFF)  # all but the sign
_NOT_FINITE = np.int32(0x7F800000)  # and above, as bits of a magnitude


class Blocks:
    """A vector on a grid, block by block.

    Args:
        name: of the codec.
        wire_id: its id.
        grid: on which values are put.
        block: elements with one scale, a power of two.
        biased: see `Codec`.
        stochastic: whether to round up or down by chance, in proportion to the distance, in place of to the nearest:
            the expected value of what is decoded is what was encoded. The chance is seeded by the vector itself.
    """

    def __init__(
        self, name: str, wire_id: int, grid: Grid, *, block: int, biased: bool = False, stochastic: bool = False
    ) -> None:
        self.name = name
        self.wire_id = wire_id
        self.biased = biased
        self._grid = grid
        self._block = block
        self._stochastic = stochastic
        self._per_byte = 8 // grid.bits
        self._decoded_bytes = _decoded_bytes(grid)

    def for_tensors(self, shapes: Shapes) -> Codec:
        """See `Codec.for_tensors`: kernels only, since a block shares its scale."""
        return kernels(self, shapes)

    def encode(self, vector: Vector) -> bytes:
        """See `Codec.encode`."""
        check_vector(vector)
        vector = np.ascontiguousarray(vector)
        scales = np.empty(self._blocks_of(vector.size), np.float32)
        packed = np.empty(self._packed_bytes(vector.size), np.uint8)
        longest = min(_PIECE, vector.size)
        scratch, unpacked = np.empty(longest, np.float32), np.empty(longest, np.uint8)
        random = np.random.default_rng(google_crc32c.value(vector.tobytes())) if self._stochastic else None
        for start, stop, rows in self._pieces(vector.size):
            piece = vector[start:stop].reshape(rows, -1)  # (B, block)
            codes = unpacked[: stop - start] if self._per_byte > 1 else packed[start:stop]
            within = scratch[: stop - start].reshape(piece.shape)
            peaks = _peaks(piece)
            if peaks is None:
                raise not_finite(vector)
            noise = random.random(piece.shape, dtype=np.float32) - np.float32(0.5) if random else None
            first = start // self._block
            scales[first : first + rows] = self._grid.quantise(piece, peaks, within, codes.reshape(piece.shape), noise)
            if self._per_byte > 1:
                _pack(codes, self._grid.bits, packed[start // self._per_byte :])
        head = (_COUNT.pack(vector.size), scales.astype("<f4", copy=False).data)
        return b"".join((*head, *entropy_encoded_parts(packed.data)))

    def decode(self, data: bytes, size: int) -> Vector:
        """See `Codec.decode`."""
        scales, packed = self._parse(data, size)
        vector = np.empty(size, np.float32)
        for start, stop, rows in self._pieces(size):
            piece, first = vector[start:stop].reshape(rows, -1), start // self._block
            self._unpack(packed[start // self._per_byte : -(-stop // self._per_byte)], vector[start:stop])
            np.multiply(piece, scales[first : first + rows, None], out=piece)
        return vector

    def encode_all(self, vectors: Sequence[Vector], shapes: Sequence[Shapes]) -> list[bytes]:
        """See `ServesMany.encode_all`."""
        if self._stochastic or not self._grid.pads:  # zeros would move a scale; chance is a vector's own
            return [self.for_tensors(tensors).encode(it) for it, tensors in zip(vectors, shapes, strict=True)]
        layers = self._side_by_side(shapes)
        rest = layers.written_rest(vectors)
        encoded: list[bytes] = []
        for part, run in layers.runs:
            if run is None:
                encoded.append(self.for_tensors(shapes[part.start]).encode(vectors[part.start]))
            else:
                encoded += self._encode_run(run, vectors[part], [rest[place] for place in layers.rests[part]])
        return encoded

    def decode_all(self, datas: Sequence[bytes], shapes: Sequence[Shapes]) -> list[Vector]:
        """See `ServesMany.decode_all`."""
        layers = self._side_by_side(shapes)
        floats, kernels = layers.read(datas)
        decoded: list[Vector] = []
        for part, run in layers.runs:
            if run is None:
                tensors = shapes[part.start]
                decoded.append(self.for_tensors(tensors).decode(datas[part.start], sum(map(math.prod, tensors))))
            else:
                decoded += self._decode_run(run, kernels[part], floats)
        return decoded

    def open(self, data: bytes, size: int) -> Delta:
        """See `OpensToFold.open`. What isn't whole numbers in blocks of 256 is decoded."""
        if self._grid.bits != 8 or self._block != INT8_BLOCK:
            return self.decode(data, size)
        scales, packed = self._parse(data, size)
        return Int8Blocks(packed.view(np.int8), scales)

    def most_bytes(self, size: int) -> int:
        """See `Codec.most_bytes`."""
        return _COUNT.size + 4 * self._blocks_of(size) + most_entropy_encoded(self._packed_bytes(size))

    def _side_by_side(self, shapes: Sequence[Shapes]) -> BatchedEncoding:
        return batched_encoding(tuple(shapes), self._block, self._per_byte, _RUN)

    def _encode_run(self, run: Run, vectors: Sequence[Vector], rests: Sequence[bytes]) -> list[bytes]:
        """Layers side by side, all codes in one go; entropy coding goes layer by layer."""
        kernels, codes = _SCRATCH.of(run.blocks * self._block)
        run.gather(vectors, kernels)
        scales, packed = self._quantised(kernels, codes) if run.blocks else (b"", codes)
        written = packed.data
        return [
            b"".join((rest, place.count, scales[place.scales], *entropy_encoded_parts(written[place.codes])))
            for rest, place in zip(rests, run.places, strict=True)
        ]

    def _quantised(self, kernels: Vector, codes: Codes) -> tuple[bytes, Codes]:
        """The scales of whole blocks (n,), written, and their codes, packed; the kernels are overwritten."""
        blocks = kernels.reshape(-1, self._block)
        peaks = _peaks(blocks)
        if peaks is None:
            raise ValueError("NaN or infinity in the kernels of a layer")
        scales = self._grid.quantise(blocks, peaks, blocks, codes.reshape(blocks.shape), None)
        packed = codes
        if self._per_byte > 1:
            packed = kernels.view(np.uint8)[: codes.size // self._per_byte]
            _pack(codes, self._grid.bits, packed)
        return scales.astype("<f4", copy=False).tobytes(), packed

    def _decode_run(self, run: Run, kernels: Sequence[memoryview], floats: Vector) -> list[Vector]:
        """Layers side by side; only what was entropy coded takes a call for each."""
        values, codes = _SCRATCH.of(run.blocks * self._block)
        packed, scales = codes.data, []
        for data, place in zip(kernels, run.places, strict=True):
            steps, packed[place.codes] = self._read(data, place.kernels_size)  # what lies between layers is not read
            scales.append(steps)
        self._unpack(codes[: codes.size // self._per_byte], values)
        blocks = values.reshape(-1, self._block)
        np.multiply(blocks, self._scales(b"".join(scales))[:, None], out=blocks)
        return run.scatter(values, floats)

    def _parse(self, data: bytes, size: int) -> tuple[Vector, Codes]:
        """The scales of the blocks, and the packed codes."""
        scales, packed = self._read(memoryview(data), size)
        return self._scales(scales), np.frombuffer(packed, np.uint8)

    def _read(self, data: memoryview, size: int) -> tuple[memoryview, bytes | memoryview]:
        """The bytes of the scales, which are to be checked yet, and those of the packed codes; of the right lengths."""
        start = _COUNT.size + 4 * self._blocks_of(size)
        if len(data) <= start:
            raise DecodeError(f"{self.name}: {len(data)} bytes, and {size} values take {start + 1} or more")
        if (held := _COUNT.unpack_from(data)[0]) != size:
            raise DecodeError(f"{self.name}: written for {held} values, and {size} values take other bytes")
        expected = self._packed_bytes(size)
        packed = entropy_decoded(data[start:], expected, self.name)
        if len(packed) != expected:
            raise DecodeError(f"{self.name}: {len(packed)} bytes of codes, and {size} values take {expected}")
        return data[_COUNT.size : start], packed

    def _scales(self, written: bytes | memoryview) -> Vector:
        """Scales that every code times them is finite."""
        scales = np.frombuffer(written, "<f4").astype(np.float32)
        if not (scales.min(initial=0) >= 0 and scales.max(initial=0) <= LARGEST_SCALE):  # NaN is neither
            raise DecodeError(f"{self.name}: a scale is negative, too large, or not a number")
        return scales

    def _unpack(self, packed: Codes, out: Vector) -> None:
        """The values that the codes stand for, before their scales."""
        if self._grid.bits == 8:
            np.copyto(out, packed.view(np.int8))
        elif out.size % self._per_byte == 0:
            np.take(self._decoded_bytes, packed, axis=0, out=out.reshape(-1, self._per_byte), mode="clip")
        else:
            out[:] = self._decoded_bytes[packed].reshape(-1)[: out.size]

    def _pieces(self, size: int) -> Iterator[tuple[int, int, int]]:
        """Start, stop and number of blocks of each piece; a shorter last block is a piece of its own."""
        whole = size - size % self._block
        for start in range(0, whole, _PIECE):
            stop = min(start + _PIECE, whole)
            yield start, stop, (stop - start) // self._block
        if whole < size:
            yield whole, size, 1

    def _blocks_of(self, size: int) -> int:
        return -(-size // self._block)

    def _packed_bytes(self, size: int) -> int:
        return -(-size // self._per_byte)


class _RunScratch(threading.local):
    """Memory for a run of layers, a set for each thread: fresh memory takes longer to get than a pass over it."""

    def __init__(self) -> None:
        self._floats = np.empty(_RUN, np.float32)
        self._codes = np.empty(_RUN, np.uint8)

    def of(self, elements: int) -> tuple[Vector, Codes]:
        """Room for so many floats, and for as many codes."""
        return self._floats[:elements], self._codes[:elements]


_SCRATCH = _RunScratch()


def _peaks(blocks: Vector) -> Vector | None:
    """Largest magnitude of each block (B, n): (B,); ``None`` where one is not finite.

    Without their sign bit, floats are ordered as their bits are. So are negative ones among themselves, and as unsigned
    numbers they are above all others: of the largest signed and the largest unsigned number, one is the peak.
    """
    bits, starts = blocks.reshape(-1), np.arange(0, blocks.size, blocks.shape[1])
    signed = np.maximum.reduceat(bits.view(np.int32), starts) & _MAGNITUDE  # over rows, in half the time of `reduce`
    unsigned = np.maximum.reduceat(bits.view(np.uint32), starts).view(np.int32) & _MAGNITUDE
    largest = np.maximum(signed, unsigned)
    if largest.max() >= _NOT_FINITE:
        return None
    peaks: Vector = largest.view(np.float32)
    return peaks


def _pack(codes: Codes, bits: int, out: Codes) -> None:
    """Write codes (n,) side by side into the first bytes of ``out``."""
    per_byte = 8 // bits
    if spare := -codes.size % per_byte:
        codes = np.concatenate([codes, np.zeros(spare, np.uint8)])
    count = codes.size // per_byte
    if bits == 1:
        out[:count] = np.packbits(codes, bitorder="little")
        return
    out[:count] = codes[::per_byte]
    for place in range(1, per_byte):
        out[:count] |= codes[place::per_byte] << np.uint8(place * bits)


def _decoded_bytes(grid: Grid) -> Vector:
    """What every byte of packed codes stands for: (256, codes a byte)."""
    places = np.arange(8 // grid.bits) * grid.bits
    codes = (np.arange(256)[:, None] >> places) & (2**grid.bits - 1)
    table: Vector = grid.values[codes]
    return table
