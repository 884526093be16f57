"""Compresses a codec's bytes: they are sorted into planes, and then go through Zstandard at level 1.

Plane k holds byte k of every element. The plane of the exponents compresses; the low bits of the fractions are noise
wherever they stand, but apart they no longer interrupt the rest.
"""

from __future__ import annotations

import numpy as np

from lamina.broker.wire.codecs.base import Codec
from lamina.broker.wire.codecs.frames import Deflater, claimed_bytes, inflate
from lamina.models.arrays import Shapes, Vector
from lamina.models.errors import DecodeError


class Compressed:
    """Another codec's bytes, in planes, as one Zstandard frame that states its content's size.

    Args:
        inner: writes the elements.
        element_bytes: bytes an element of ``inner``.
        wire_id: the id of the combination.
    """

    def __init__(self, inner: Codec, *, element_bytes: int, wire_id: int) -> None:
        self.name = f"{inner.name}+zstd"
        self.wire_id = wire_id
        self.biased = inner.biased
        self._inner = inner
        self._element_bytes = element_bytes

    def for_tensors(self, shapes: Shapes) -> Codec:
        """See `Codec.for_tensors`."""
        return self

    def encode(self, vector: Vector) -> bytes:
        """See `Codec.encode`."""
        elements = np.frombuffer(self._inner.encode(vector), dtype=np.uint8)
        planes = elements.reshape(-1, self._element_bytes).T  # (element_bytes, n)
        return Deflater().frame(planes.tobytes())

    def decode(self, data: bytes, size: int) -> Vector:
        """See `Codec.decode`."""
        raw = self._element_bytes * size
        claimed = claimed_bytes(data, self.name)
        if claimed != raw:
            raise DecodeError(f"{self.name}: claims {claimed} bytes decompressed, and {size} values take {raw}")
        planes = inflate(data, raw, self.name)
        elements = np.frombuffer(planes, dtype=np.uint8).reshape(self._element_bytes, -1).T  # (n, element_bytes)
        return self._inner.decode(elements.tobytes(), size)

    def most_bytes(self, size: int) -> int:
        """See `Codec.most_bytes`. The bound is Zstandard's own, of ``ZSTD_compressBound``, rounded up."""
        raw = self._element_bytes * size
        return raw + raw // 256 + 128
