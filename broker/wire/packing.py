"""Turns a layer's vector into a value that can cross the wire, and back, by a codec.

`pack` and `unpack` take one layer. `pack_all` and `unpack_all` take as many as are at hand, and give the same bytes and
the same bits in less time: most layers of most networks are small, and over a small layer NumPy spends more time on its
calls than on its numbers. Who has several layers at once (an update, a batch, an advance) calls these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from lamina.broker.wire import partials
from lamina.broker.wire.codecs import codec as codec_named
from lamina.broker.wire.codecs.base import OpensToFold, ServesMany
from lamina.broker.wire.foldable import Delta
from lamina.models.arrays import Shapes, Vector
from lamina.models.errors import DecodeError
from lamina.models.spec import LayerSpec, ModelSpec

Purpose = Literal["global", "update", "delta", "partial"]
Scalars = tuple[tuple[str, float], ...]
"""Names and numbers."""

_ROOM_BYTES = 68 + 8 + 32  # the header of a chunk, that of a batch, and something to send
_WORTH_OPENING = 1 << 17
"""Elements of a layer from which on a fold is quicker by blocks; below, by one vector."""


@dataclass(frozen=True, slots=True)
class LayerValue:
    """One layer's value, encoded.

    Attributes:
        purpose: ``global`` or ``delta``, what the coordinator publishes, or ``update``, what a device does.
        epoch: of the federation.
        round: in which it was made.
        layer: its index in the spec.
        version: of this global value, or the one that a delta leads to, or that an update is based on.
        weight: of the update in the average, finite and positive; of a partial, the sum; else 1.
        codec: name of the codec; empty for a partial.
        shapes: of the layer's tensors: its parameters, then its statistics.
        data: the codec's bytes.
        scalars: what an update says of itself, where the algorithm asks for it.
    """

    purpose: Purpose
    epoch: int
    round: int
    layer: int
    version: int
    weight: float
    codec: str
    shapes: Shapes
    data: bytes
    scalars: Scalars = ()


def pack(
    purpose: Purpose,
    *,
    epoch: int,
    round: int,  # noqa: A002 - the field's word for it
    layer: int,
    version: int,
    layer_spec: LayerSpec,
    vector: npt.NDArray[np.float32],
    codec: str,
    weight: float = 1.0,
) -> LayerValue:
    """Encode a layer's vector (n,): its parameters, then its statistics.

    Raises:
        ValueError: the vector is not the layer's, or holds NaN or infinity.
        ConfigError: unknown codec.
    """
    data = _encode(codec, layer_spec, vector)
    return LayerValue(purpose, epoch, round, layer, version, weight, codec, layer_spec.shapes, data)


def unpack(value: LayerValue, layer_spec: LayerSpec) -> npt.NDArray[np.float32]:
    """The vector (n,) in memory of its own.

    Raises:
        DecodeError: it is another layer's, its data are not what they claim to be, or it holds NaN or infinity.
    """
    if value.shapes != layer_spec.shapes:
        raise DecodeError(f"layer {layer_spec.name}: tensors {value.shapes}, and the model has {layer_spec.shapes}")
    vector = codec_named(value.codec).for_tensors(value.shapes).decode(value.data, layer_spec.vector_size)
    if not np.isfinite(vector).all():
        raise DecodeError(f"layer {layer_spec.name}: holds NaN or infinity")
    return vector


def pack_all(
    purpose: Purpose,
    *,
    epoch: int,
    round: int,  # noqa: A002 - the field's word for it
    layers: Sequence[int],
    versions: Sequence[int],
    layer_specs: Sequence[LayerSpec],
    vectors: Sequence[Vector],
    codecs: Sequence[str],
    weight: float = 1.0,
) -> list[LayerValue | ValueError]:
    """What `pack` gives or raises for each of some layers, in order; ``layers``, ``versions`` and so on are by layer.

    Raises:
        ConfigError: unknown codec.
    """
    encoded: list[bytes | ValueError] = [b""] * len(layers)
    for name, places in _by_codec(codecs).items():
        there = [(layer_specs[place], vectors[place]) for place in places]
        for place, data in zip(places, _encoded(name, there), strict=True):
            encoded[place] = data
    return [
        data
        if isinstance(data, ValueError)
        else LayerValue(purpose, epoch, round, layer, version, weight, name, spec.shapes, data)
        for layer, version, name, spec, data in zip(layers, versions, codecs, layer_specs, encoded, strict=True)
    ]


def unpack_all(values: Sequence[LayerValue], layer_specs: Sequence[LayerSpec]) -> list[Vector | DecodeError]:
    """What `unpack` gives or raises for each value, in order: one that is damaged costs the others nothing."""
    decoded: list[Vector | DecodeError] = [DecodeError("not decoded")] * len(values)
    for name, places in _by_codec([value.codec for value in values]).items():
        there = [(values[place], layer_specs[place]) for place in places]
        for place, vector in zip(places, _decoded(name, there), strict=True):
            decoded[place] = vector
    return decoded


def unpack_to_fold(value: LayerValue, layer_spec: LayerSpec) -> Delta:
    """What `unpack` gives, and with the same errors; a large one, where its codec can do so, without decoding it first.

    Whether that is finite is left to the fold.
    """
    if layer_spec.vector_size < _WORTH_OPENING or value.shapes != layer_spec.shapes:
        return unpack(value, layer_spec)
    codec = codec_named(value.codec).for_tensors(value.shapes)
    if not isinstance(codec, OpensToFold):
        return unpack(value, layer_spec)
    return codec.open(value.data, layer_spec.vector_size)


def pack_partial(
    partial: partials.Partial,
    *,
    epoch: int,
    round: int,  # noqa: A002 - the field's word for it
    layer: int,
    version: int,
    layer_spec: LayerSpec,
) -> LayerValue:
    """A layer's partial, encoded."""
    data = partials.encode(partial)
    return LayerValue("partial", epoch, round, layer, version, partial.weight, "", layer_spec.shapes, data)


def unpack_partial(value: LayerValue, layer_spec: LayerSpec) -> partials.Partial:
    """The partial in memory of its own.

    Raises:
        DecodeError: it is another layer's, or its data are not what they claim to be.
    """
    if value.purpose != "partial" or value.shapes != layer_spec.shapes:
        raise DecodeError(f"layer {layer_spec.name}: not a partial of it, but a {value.purpose} of {value.shapes}")
    return partials.decode(value.data, layer_spec.vector_size)


def _by_codec(names: Sequence[str]) -> dict[str, list[int]]:
    """The places of each name."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return places


@cache
def _serving_many(name: str) -> ServesMany | None:
    """The codec, if it takes layers together; to ask a protocol takes as long as to encode a small layer."""
    subject = codec_named(name)
    return subject if isinstance(subject, ServesMany) else None


def _encoded(name: str, layers: Sequence[tuple[LayerSpec, Vector]]) -> list[bytes | ValueError]:
    """Together if the codec can and nothing is wrong; else one by one, to find out what."""
    subject = _serving_many(name)
    if subject is not None and len(layers) > 1:
        try:
            return list(subject.encode_all([vector for _, vector in layers], [spec.shapes for spec, _ in layers]))
        except ValueError:
            pass
    return [_encoded_alone(name, spec, vector) for spec, vector in layers]


def _encoded_alone(name: str, layer_spec: LayerSpec, vector: Vector) -> bytes | ValueError:
    try:
        return _encode(name, layer_spec, vector)
    except ValueError as error:
        return error


def _decoded(name: str, layers: Sequence[tuple[LayerValue, LayerSpec]]) -> list[Vector | DecodeError]:
    """Decode as `_encoded` encodes."""
    subject = _serving_many(name)
    theirs = all(value.shapes == spec.shapes for value, spec in layers)
    if subject is not None and len(layers) > 1 and theirs:
        try:
            return list(subject.decode_all([value.data for value, _ in layers], [spec.shapes for _, spec in layers]))
        except DecodeError:
            pass
    return [_decoded_alone(value, spec) for value, spec in layers]


def _decoded_alone(value: LayerValue, layer_spec: LayerSpec) -> Vector | DecodeError:
    try:
        return unpack(value, layer_spec)
    except DecodeError as error:
        return error


def _encode(codec: str, layer_spec: LayerSpec, vector: Vector) -> bytes:
    if vector.shape != (layer_spec.vector_size,):
        raise ValueError(f"layer {layer_spec.name} takes ({layer_spec.vector_size},), not {vector.shape}")
    return codec_named(codec).for_tensors(layer_spec.shapes).encode(vector)


def least_chunk_bytes(spec: ModelSpec) -> int:
    """Bytes of a message in which every layer's value has room for something beside its header."""
    return _ROOM_BYTES + max(sum(1 + 4 * len(shape) for shape in layer.shapes) for layer in spec.layers)
