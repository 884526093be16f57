"""Joins the chunks of an update, or of a partial, into what the round machine takes.

A message on a layer's topic is one chunk (`joined_update`), one on a device's topic for batches is a chunk each of many
small layers (`joined_updates`), which are decoded together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from lamina.broker.wire import batches
from lamina.broker.wire.chunks import Joiner, LayerValue, unpack_all, unpack_partial, unpack_to_fold
from lamina.broker.wire.foldable import Delta
from lamina.broker.wire.topics import Address
from lamina.coordinator.rounds.round import PartialUpdate, Update
from lamina.models.arrays import Vector
from lamina.models.errors import DecodeError, RejectedUpdate, RemoteError
from lamina.models.spec import LayerSpec, ModelSpec

_INLINE_ELEMENTS = 1 << 16
"""Layers up to this size are decoded on the event loop: handing them to a thread costs more than the work."""

_INLINE_BATCH_ELEMENTS = 1 << 19
"""The same for layers that are decoded together: they take a third of the time."""

_T = TypeVar("_T")


async def joined_update(joiner: Joiner, payload: bytes, address: Address, spec: ModelSpec) -> Update | None:
    """The device's update that a chunk completes, if it does.

    Raises:
        DecodeError: the chunk, or what it completes, is damaged or not of this model.
        RejectedUpdate: ``stranger``: it is not what its topic says.
    """
    value = joiner.add(payload, address.device, ("update",))
    if value is None:
        return None
    layer = _layer(value, address, spec)
    delta = await _off_the_loop(layer, unpack_to_fold, value)
    return _update(address, value, delta)


async def joined_updates(
    joiner: Joiner, payload: bytes, address: Address, spec: ModelSpec
) -> tuple[list[Update], list[RemoteError]]:
    """The updates that a batch completes, in its order, and what is wrong with the others: each fails by itself.

    It is meant for what `joined_update` would be called for message by message; the updates are the same to the bit.

    Raises:
        DecodeError: it is no batch, or ends within a message.
    """
    values: list[LayerValue] = []
    errors: list[RemoteError] = []
    for message in batches.unpack(payload, len(spec.layers)):
        try:
            value = joiner.add(message, address.device, ("update",))
            if value is not None:
                _layer(value, address, spec)
                values.append(value)
        except RemoteError as error:
            errors.append(error)
    updates: list[Update] = []
    for value, delta in zip(values, await _unpacked(values, spec), strict=True):
        if isinstance(delta, DecodeError):
            errors.append(delta)
        else:
            updates.append(_update(address, value, delta))
    return updates, errors


async def joined_partial(joiner: Joiner, payload: bytes, address: Address, spec: ModelSpec) -> PartialUpdate | None:
    """The aggregator's partial that a chunk completes, if it does; raises as `joined_update`."""
    value = joiner.add(payload, f"/{address.site}", ("partial",))  # no device's name holds a slash
    if value is None:
        return None
    layer = _layer(value, address, spec)
    partial = await _off_the_loop(layer, unpack_partial, value)
    return PartialUpdate(address.site, value.layer, value.epoch, value.round, value.version, partial)


def _update(address: Address, value: LayerValue, delta: Delta) -> Update:
    what = value.layer, value.epoch, value.round, value.version, value.weight
    return Update(address.device, *what, delta, value.scalars)


def _layer(value: LayerValue, address: Address, spec: ModelSpec) -> LayerSpec:
    layer = spec.layers[value.layer]
    if address.layer not in ("", layer.name):  # a batch's topic names no layer
        sender = address.device or address.site
        raise RejectedUpdate("stranger", f"{sender} sent a {value.purpose} of layer {value.layer} there")
    return layer


async def _unpacked(values: Sequence[LayerValue], spec: ModelSpec) -> list[Vector | DecodeError]:
    layers = [spec.layers[value.layer] for value in values]
    if sum(layer.vector_size for layer in layers) > _INLINE_BATCH_ELEMENTS:
        return await asyncio.to_thread(unpack_all, values, layers)
    return unpack_all(values, layers)


async def _off_the_loop(layer: LayerSpec, decode: Callable[[LayerValue, LayerSpec], _T], value: LayerValue) -> _T:
    if layer.vector_size > _INLINE_ELEMENTS:
        return await asyncio.to_thread(decode, value, layer)
    return decode(value, layer)
