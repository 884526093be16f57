"""How do the layers' new values reach the devices? Those in step get an advance; every other one asks for the values.

When a round is over the coordinator publishes the next plan, and behind it the *advance* of the layers that moved: for
each its change since the version before (a delta, by a codec that may lose something), or its value, where no codec for
deltas is set. Advances are of all devices alike, so small layers share messages (`broker.batches`):

    advance/{n}                        retained: the last round's advance, over the one before
    layer/{layer}/global/{slot}/{n}    retained: a layer's value, by a codec that loses nothing

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
that comes back after a crash may publish another version 8 than the one a device has. So a delta carries a check of
its *result*, and a device whose result differs requests the value instead:

| bytes | field                                                                       |
| ----- | --------------------------------------------------------------------------- |
| 4     | u32, little-endian: CRC-32C of the new value, as float32, little-endian     |
| rest  | the codec's bytes of the change                                             |
"""

from __future__ import annotations

import struct
from dataclasses import replace

import google_crc32c
import numpy as np

from broker.chunks import CHECK_BYTES, LayerValue, pack, unpack
from broker.codecs.base import Vector
from models.errors import DecodeError
from models.spec import LayerSpec

_CHECK = struct.Struct("<I")
assert _CHECK.size == CHECK_BYTES


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
    change = pack(
        "delta",
        epoch=epoch,
        round=round,
        layer=layer,
        version=version,
        layer_spec=layer_spec,
        vector=target - base,
        codec=codec,
    )
    result = base + unpack(change, layer_spec)
    return replace(change, data=_check_of(result) + change.data), result


def apply_delta(value: LayerValue, layer_spec: LayerSpec, base: Vector) -> Vector | None:
    """The new value (n,), from the one that is held; ``None`` if the delta was made for another one.

    Raises:
        DecodeError: it is no delta of this layer.
    """
    if value.purpose != "delta" or len(value.data) < CHECK_BYTES:
        raise DecodeError(f"layer {layer_spec.name}: a {value.purpose} of {len(value.data)} bytes is no delta")
    result = base + unpack(replace(value, data=value.data[CHECK_BYTES:]), layer_spec)
    return result if _check_of(result) == value.data[:CHECK_BYTES] else None


def _check_of(vector: Vector) -> bytes:
    return _CHECK.pack(google_crc32c.value(np.asarray(vector, "<f4").tobytes()))
