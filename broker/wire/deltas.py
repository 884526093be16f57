"""Leads devices to the layers' new values: those in step get an advance, and every other one asks for the values.

When a round is over the coordinator publishes the next plan, and behind it the *advance* of the layers that moved: for
each its change since the version before (a delta, by a codec that may lose something), or its value, where no codec for
deltas is set. Advances are of all devices alike, so small layers share messages (`lamina.broker.wire.batches`):

    advance/{n}                 retained: the last round's advance, over the one before
    layer/{layer}/global/{n}    retained while it is the plan's: a layer's value, by a codec that loses nothing

A device of the cohort stays subscribed to ``advance/+``, so what a round needs is on its way to it with the plan.
Whoever lacks the versions before (a late joiner, one that has missed a round, one whose copy has strayed) subscribes to
the values of the layers that it lacks, and requests them. The coordinator publishes the values of all layers when it
comes, and later a value when it is requested and the broker does not have it yet: whole values cost the coordinator
four times the bytes of a whole advance, and while everyone is in step nobody reads them.

The value that devices come to is the truth: the coordinator decodes its own delta, and adds it to the value before,

    value[v] = value[v-1] + decode(delta[v])        in float32, element by element: the same bits on every machine

so nothing can build up between it and the devices. What the codec loses the coordinator keeps, and sends with the next
delta (error feedback, whatever the codec: the coordinator has the memory).

A delta added to another value than it was made for would be wrong from then on, and nobody would see it: a coordinator
that comes back after a crash may publish another version 8 than the one a device has, or than the one that the broker
still keeps. So the plan carries a check of every layer's value (CRC-32C of its float32 numbers, little-endian), and a
device trains from no other: what it comes to by something else than that value it does not take. A check tells
accidents. A signed plan (`lamina.broker.wire.orders`) carries a digest of every value besides, which tells forgeries.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

import google_crc32c
import numpy as np

from lamina.broker.wire.bounds import DIGEST_BYTES
from lamina.broker.wire.chunks import LayerValue, pack_all, unpack_all
from lamina.models.arrays import Vector
from lamina.models.errors import DecodeError
from lamina.models.spec import LayerSpec

_T = TypeVar("_T")


def check_of(vector: Vector) -> int:
    """What a plan says of a layer's value (n,): its CRC-32C."""
    return int(google_crc32c.value(np.asarray(vector, "<f4").tobytes()))


def digest_of(vector: Vector) -> bytes:
    """What a signed plan says of a layer's value (n,): its BLAKE2b, which nobody can meet with another value."""
    return blake2b(np.ascontiguousarray(vector, "<f4").data, digest_size=DIGEST_BYTES).digest()


def pack_deltas(
    *,
    epoch: int,
    round: int,  # noqa: A002 - the field's word for it
    layers: Sequence[int],
    versions: Sequence[int],
    layer_specs: Sequence[LayerSpec],
    bases: Sequence[Vector],
    targets: Sequence[Vector],
    codecs: Sequence[str],
) -> list[tuple[LayerValue, Vector]]:
    """Pack, for each layer, the delta from its base (n,), of the version before, to nearly its target, and what it
    leads to.

    Raises:
        ValueError: a vector is not its layer's, or holds NaN or infinity.
        ConfigError: unknown codec.
    """
    packed = pack_all(
        "delta",
        epoch=epoch,
        round=round,
        layers=layers,
        versions=versions,
        layer_specs=layer_specs,
        vectors=[target - base for target, base in zip(targets, bases, strict=True)],
        codecs=codecs,
    )
    deltas = [_good(delta) for delta in packed]
    return list(zip(deltas, map(_good, applied(deltas, layer_specs, bases)), strict=True))


def applied(
    values: Sequence[LayerValue], layer_specs: Sequence[LayerSpec], bases: Sequence[Vector | None]
) -> list[Vector | DecodeError]:
    """What each value leads to, or why it leads to nothing: all decoded together, to the bits of one by one.

    Args:
        values: deltas and whole values.
        layer_specs: of their layers.
        bases: what is held of a delta's layer; ``None`` for a whole value.
    """
    results: list[Vector | DecodeError] = []
    for vector, base in zip(unpack_all(values, layer_specs), bases, strict=True):
        if base is not None and not isinstance(vector, DecodeError):
            np.add(base, vector, out=vector)
        results.append(vector)
    return results


def _good(made: _T | ValueError | DecodeError) -> _T:
    if isinstance(made, ValueError | DecodeError):
        raise made
    return made
