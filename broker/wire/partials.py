"""What an aggregator sends upstream: the exact sum of its devices' updates of one layer, and who is in it.

It travels as the data of a layer value whose purpose is ``partial``, little-endian:

| bytes  | type | field                                                                                      |
| ------ | ---- | ------------------------------------------------------------------------------------------ |
| 4      | u32  | bytes of the roster, R                                                                     |
| 1      | u8   | words an element, W: 1, or 2 where sums are huge                                           |
| 3      |      | zero                                                                                       |
| R      |      | the roster, MessagePack: ``[devices, weights, moments]``, the devices in ascending order   |
| rest   |      | 8 W planes of n bytes each, one for each byte of the words, as one Zstandard frame         |

The first word counts steps of 2^-36, the second one, where there is one, whole numbers: `folds.exact`. Sums are
integers, so adding partials up in any order, and in any tree, ends in the bits of one flat sum.

A partial takes 4 to 5 bytes an element (a sum of float32 has more bits than one of them), however many devices are in
it, and about 40 bytes a device.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lamina.broker.wire.bounds import DeviceName, unpacked
from lamina.broker.wire.codecs.frames import Deflater, claimed_bytes, inflate
from lamina.models.errors import DecodeError

Steps = NDArray[np.int64]

MOST_DEVICES = 1 << 14
"""In one partial; an aggregator of more sends two."""

_HEAD = struct.Struct("<IB3x")
MOST_SCALARS = 8
"""Of one update."""

_MOST_ROSTER_BYTES = 8 + MOST_DEVICES * (2 + 64 + 9 + 9 + 9 * MOST_SCALARS) + MOST_SCALARS * 64


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """What some devices' updates of a layer come to.

    Attributes:
        devices: whose updates are in it, ascending, each once.
        weights: w_i of each.
        moments: w_i ||delta_i||^2 of each, over the layer's parameters.
        near: sum_i w_i delta_i in steps of 2^-36, int64 (vector_size,).
        far: what is to be added in whole numbers, int64 (vector_size,), or ``None``.
        scalars: by name, what the update of each device said of itself.
    """

    devices: tuple[str, ...]
    weights: tuple[float, ...]
    moments: tuple[float, ...]
    near: Steps
    far: Steps | None = None
    scalars: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return math.fsum(self.weights)


class _Roster(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    devices: Annotated[tuple[DeviceName, ...], Meta(max_length=MOST_DEVICES)]
    weights: Annotated[tuple[float, ...], Meta(max_length=MOST_DEVICES)]
    moments: Annotated[tuple[float, ...], Meta(max_length=MOST_DEVICES)]


class _LongRoster(_Roster, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A roster with named scalars: its fourth element is left out where an algorithm asks for none."""

    scalars: Annotated[
        dict[str, Annotated[tuple[float, ...], Meta(max_length=MOST_DEVICES)]], Meta(max_length=MOST_SCALARS)
    ] = {}


def encode(partial: Partial) -> bytes:
    """The partial as bytes. The same updates give the same bytes, in whatever order they were added up."""
    who = partial.devices, partial.weights, partial.moments
    roster = msgspec.msgpack.encode(_LongRoster(*who, partial.scalars) if partial.scalars else _Roster(*who))
    words = [partial.near] if partial.far is None else [partial.near, partial.far]
    elements = np.stack(words).astype("<i8", copy=False)  # (W, n)
    planes = elements.view(np.uint8).reshape(len(words), -1, 8).transpose(0, 2, 1)  # (W, 8, n)
    compressed = Deflater().frame(planes.tobytes())
    return _HEAD.pack(len(roster), len(words)) + roster + compressed


def decode(data: bytes, vector_size: int) -> Partial:
    """The partial of a layer of so many elements, in memory of its own.

    Raises:
        DecodeError: ``data`` does not hold just that. Nothing of a claimed size is allocated before it is checked.
    """
    if len(data) < _HEAD.size:
        raise DecodeError(f"partial of {len(data)} bytes")
    roster_bytes, words = _HEAD.unpack_from(data)
    if words not in (1, 2):
        raise DecodeError(f"partial of {words} words an element")
    if roster_bytes > min(len(data) - _HEAD.size, _MOST_ROSTER_BYTES):
        raise DecodeError(f"partial with a roster of {roster_bytes} bytes")
    start = _HEAD.size + roster_bytes
    roster = _read_roster(data[_HEAD.size : start])
    planes = np.frombuffer(_decompressed(data[start:], 8 * words * vector_size), np.uint8)
    elements = np.ascontiguousarray(planes.reshape(words, 8, vector_size).transpose(0, 2, 1))  # (W, n, 8)
    table = elements.view("<i8").reshape(words, vector_size).astype(np.int64, copy=False)
    far = table[1] if words == 2 else None
    return Partial(roster.devices, roster.weights, roster.moments, table[0], far, roster.scalars)


def most_bytes(vector_size: int) -> int:
    """No partial of a layer of so many elements takes more bytes."""
    raw = 16 * vector_size
    return _HEAD.size + _MOST_ROSTER_BYTES + raw + raw // 256 + 128


def _read_roster(content: bytes) -> _LongRoster:
    try:
        roster = unpacked(content, _LongRoster)
    except DecodeError as error:
        raise DecodeError(f"partial with a damaged roster: {error}") from error
    devices, numbers = roster.devices, (*roster.weights, *roster.moments)
    if not 1 <= len(devices) <= MOST_DEVICES or not len(devices) == len(roster.weights) == len(roster.moments):
        raise DecodeError(f"partial of {len(devices)} devices, {len(roster.weights)} weights")
    if any(len(numbers) != len(devices) for numbers in roster.scalars.values()):
        raise DecodeError(f"partial of {len(devices)} devices with other numbers of scalars")
    if not all(math.isfinite(number) for of_all in roster.scalars.values() for number in of_all):
        raise DecodeError("partial with a scalar that is not a number")
    if any(this >= following for this, following in pairwise(devices)):
        raise DecodeError("partial whose devices repeat, or do not ascend")
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise DecodeError("partial with a weight or moment that is negative, or not a number")
    return roster


def _decompressed(data: bytes, size: int) -> bytes:
    claimed = claimed_bytes(data, "partial")
    if claimed != size:
        raise DecodeError(f"partial that claims {claimed} bytes of sums, where {size} are awaited")
    return inflate(data, size, "partial")
