"""How do the chunks of an update, or of a partial, become what the round machine takes?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from broker.chunks import Joiner, LayerValue, unpack_partial, unpack_to_fold
from broker.topics import Address
from coordinator.round import PartialUpdate, Update
from models.errors import RejectedUpdate
from models.spec import LayerSpec, ModelSpec

_INLINE_ELEMENTS = 1 << 16
"""Layers up to this size are decoded on the event loop: handing them to a thread costs more than the work."""

_T = TypeVar("_T")


async def joined_update(joiner: Joiner, payload: bytes, address: Address, spec: ModelSpec) -> Update | None:
    """The device's update that a chunk completes, if it does.

    Raises:
        DecodeError: the chunk, or what it completes, is damaged or not of this model.
        RejectedUpdate: ``stranger``: it is not what its topic says.
    """
    value = joiner.add(payload, address.device)
    if value is None:
        return None
    layer = _layer(value, address, spec, "update")
    delta = await _off_the_loop(layer, unpack_to_fold, value)
    return Update(address.device, value.layer, value.epoch, value.round, value.version, value.weight, delta)


async def joined_partial(joiner: Joiner, payload: bytes, address: Address, spec: ModelSpec) -> PartialUpdate | None:
    """The aggregator's partial that a chunk completes, if it does; raises as `joined_update`."""
    value = joiner.add(payload, f"/{address.site}")  # no device's name holds a slash
    if value is None:
        return None
    layer = _layer(value, address, spec, "partial")
    partial = await _off_the_loop(layer, unpack_partial, value)
    return PartialUpdate(address.site, value.layer, value.epoch, value.round, value.version, partial)


def _layer(value: LayerValue, address: Address, spec: ModelSpec, purpose: str) -> LayerSpec:
    layer = spec.layers[value.layer]
    if value.purpose != purpose or address.layer not in ("", layer.name):  # a batch's topic names no layer
        sender = address.device or address.site
        raise RejectedUpdate("stranger", f"{sender} sent a {value.purpose} of layer {value.layer} there")
    return layer


async def _off_the_loop(layer: LayerSpec, decode: Callable[[LayerValue, LayerSpec], _T], value: LayerValue) -> _T:
    if layer.vector_size > _INLINE_ELEMENTS:
        return await asyncio.to_thread(decode, value, layer)
    return decode(value, layer)
