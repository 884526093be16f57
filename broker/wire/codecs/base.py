"""The interface of a codec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from lamina.broker.wire.foldable import Delta
from lamina.models.arrays import Shapes, Vector


class Codec(Protocol):
    """A way to write float32 vectors (n,) as bytes.

    Attributes:
        name: as it stands in settings and messages.
        wire_id: as it stands in the header of a chunk, 1 to 255.
        biased: the same vector always loses the same part, so over many rounds that part is never sent: who uses it
            must keep what was lost and send it later (error feedback).
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see Attributes
    @property
    def wire_id(self) -> int: ...  # noqa: D102
    @property
    def biased(self) -> bool: ...  # noqa: D102

    def for_tensors(self, shapes: Shapes) -> Codec:
        """The codec as it serves vectors that hold tensors of these shapes: itself, where they make no difference."""

    def encode(self, vector: Vector) -> bytes:
        """The vector (n,) as bytes. The same vector gives the same bytes.

        Raises:
            ValueError: it isn't float32 (n,), or holds NaN or infinity.
        """

    def decode(self, data: bytes, size: int) -> Vector:
        """The vector (``size``,) that ``data`` holds, in memory of its own; the same bits on every machine.

        Raises:
            DecodeError: ``data`` does not hold just that. Nothing of a claimed size is allocated before it is checked.
        """

    def most_bytes(self, size: int) -> int:
        """No vector (``size``,) takes more bytes than this."""


@runtime_checkable
class OpensToFold(Protocol):
    """A codec whose bytes may be folded as they are, block by block, instead of being decoded first."""

    def open(self, data: bytes, size: int) -> Delta:
        """What ``decode`` gives, to the bit and with the same errors, as something that decodes when it is read."""


@runtime_checkable
class ServesMany(Protocol):
    """A codec that takes many small layers together in less time than one by one; to the same bytes and the same bits.

    Whether all is well it says of all together: after an error, one by one shows which it was.
    """

    def encode_all(self, vectors: Sequence[Vector], shapes: Sequence[Shapes]) -> list[bytes]:
        """What ``for_tensors(shapes[k]).encode(vectors[k])`` gives, for every k.

        Raises:
            ValueError: a vector isn't float32 (n,), not of its shapes, or holds NaN or infinity.
        """

    def decode_all(self, datas: Sequence[bytes], shapes: Sequence[Shapes]) -> list[Vector]:
        """What ``for_tensors(shapes[k]).decode(datas[k], n)`` gives, for every k; finite.

        Raises:
            DecodeError: one of them does not hold just that. Nothing claimed is allocated before it is checked.
        """


def check_vector(vector: Vector) -> None:
    """Refuse what isn't a vector of float32.

    Raises:
        ValueError: the vector isn't float32 (n,).
    """
    if vector.dtype != np.float32 or vector.ndim != 1:
        raise ValueError(f"a codec takes float32 (n,), not {vector.dtype} {vector.shape}")


def check_finite(vector: Vector) -> None:
    """Refuse what must not be sent.

    Raises:
        ValueError: the vector isn't float32 (n,), or holds NaN or infinity.
    """
    check_vector(vector)
    if not np.isfinite(vector).all():
        raise not_finite(vector)


def not_finite(vector: Vector) -> ValueError:
    """What to raise for a vector that holds NaN or infinity."""
    return ValueError(f"{int((~np.isfinite(vector)).sum())} of {vector.size} values are NaN or infinite")
