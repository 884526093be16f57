"""How do the layers' new values reach the devices? Those in step get an advance; every other one asks for the values.

When a round is over the coordinator publishes the next plan, and behind it the *advance* of the layers that moved: for
each its change since the version before (a delta, by a codec that may lose something), or its value, where no codec for
deltas is set. Advances are of all devices alike, so small layers share messages (`broker.batches`):

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
device trains from no other: what it comes to by something else than that value it does not take.
"""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numpy as np

from broker.chunks import LayerValue, pack, pack_all, unpack, unpack_all
from broker.codecs.base import Vector
from models.errors import DecodeError
from models.spec import LayerSpec


def check_of(vector: Vector) -> int:
    """What a plan says of a layer's value (n,): its CRC-32C."""
    return int(google_crc32c.value(np.asarray(vector, "<f4").tobytes()))


def pack_delta(
    *,
    epoch: int,
    round: int,  # noqa: A002 - the field's word for it
    layer: int,
    version: int,
    layer_spec: LayerSpec,
    base: Vector,
    target: Vector,
    codec: str,
) -> tuple[LayerValue, Vector]:
    """The delta from ``base`` (n,), the version before ``version``, to nearly ``target``, and what devices come to.

    Raises:
        ValueError: a vector is not the layer's, or holds NaN or infinity.
        ConfigError: unknown codec.
    """
    delta = pack(
        "delta",
        epoch=epoch,
        round=round,
        layer=layer,
        version=version,
        layer_spec=layer_spec,
        vector=target - base,
        codec=codec,
    )
    return delta, apply_delta(delta, layer_spec, base)


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
    """What `pack_delta` gives for each of some layers, in order and to the bit; for layers that are closed together.

    Raises:
        ValueError: a vector is not its layer's, or holds NaN or infinity.
        ConfigError: unknown codec.
    """
    deltas = pack_all(
        "delta",
        epoch=epoch,
        round=round,
        layers=layers,
        versions=versions,
        layer_specs=layer_specs,
        vectors=[target - base for target, base in zip(targets, bases, strict=True)],
        codecs=codecs,
    )
    packed: list[LayerValue] = []
    for delta in deltas:
        if isinstance(delta, ValueError):
            raise delta
        packed.append(delta)
    results: list[Vector] = []
    for result in applied(packed, layer_specs, bases):
        if isinstance(result, DecodeError):
            raise result
        results.append(result)
    return list(zip(packed, results, strict=True))


def apply_delta(delta: LayerValue, layer_spec: LayerSpec, base: Vector) -> Vector:
    """What a delta leads to from the value (n,) that is held.

    Raises:
        DecodeError: it is no delta of this layer.
    """
    if delta.purpose != "delta":
        raise DecodeError(f"layer {layer_spec.name}: a {delta.purpose} is no delta")
    return base + unpack(delta, layer_spec)


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
