"""What a batch of updates becomes: the updates that its messages alone would, and an error for each that is none."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace

import google_crc32c
import numpy as np
import pytest

from lamina.broker.wire import batches
from lamina.broker.wire.chunks import Joiner, LayerValue, pack, split
from lamina.broker.wire.topics import Address
from lamina.coordinator.rounds.round import Update
from lamina.coordinator.service.arrivals import joined_update, joined_updates
from lamina.models.errors import DecodeError, RemoteError
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec

LAYERS = tuple(
    LayerSpec(f"conv{number}", (TensorSpec("w", (number + 1, 40), "kernel"), TensorSpec("b", (number + 1,), "bias")))
    for number in range(4)
)
SPEC = ModelSpec("small", LAYERS, (BlockSpec("all", 0, 4, (3, 8, 8)),), (0,), classes=2)
PI = Address("updates", device="pi")


def value_of(layer: int, **fields: object) -> LayerValue:
    spec = SPEC.layers[layer]
    vector = np.random.default_rng(layer).standard_normal(spec.vector_size).astype(np.float32)
    packed = pack(
        "update", epoch=9, round=5, layer=layer, version=3, layer_spec=spec, vector=vector, codec="int8", weight=2.0
    )
    return replace(packed, **fields)  # type: ignore[arg-type]


def message_of(layer: int, **fields: object) -> bytes:
    [message] = split(value_of(layer, **fields), 10_000)
    return message


def sealed_again(message: bytes, offset: int, new: bytes) -> bytes:
    rest = message[8:offset] + new + message[offset + len(new) :]
    return message[:4] + struct.pack("<I", google_crc32c.value(rest)) + rest


def heard(messages: list[bytes], joiner: Joiner | None = None) -> tuple[list[Update], list[RemoteError]]:
    return asyncio.run(joined_updates(joiner or Joiner(SPEC), batches.pack(messages), PI, SPEC))


def alone(message: bytes) -> Update:
    update = asyncio.run(joined_update(Joiner(SPEC), message, PI, SPEC))
    assert update is not None
    return update


def bits(update: Update) -> tuple[object, ...]:
    delta = update.delta
    return update.device, update.layer, update.epoch, update.round, update.version, update.weight, delta[:].tobytes()


def test_a_batch_is_the_updates_of_its_messages_in_their_order() -> None:
    messages = [message_of(layer) for layer in (2, 0, 3, 1)]
    updates, errors = heard(messages)
    assert [bits(update) for update in updates] == [bits(alone(message)) for message in messages]
    assert errors == []


def test_a_duplicate_counts_once() -> None:
    joiner = Joiner(SPEC)
    assert len(heard([message_of(0), message_of(1), message_of(0)], joiner)[0]) == 2
    assert [update.layer for update in heard([message_of(1), message_of(2)], joiner)[0]] == [2]


@pytest.mark.parametrize(
    ("bad", "kind", "says"),
    [
        (b"LAML", DecodeError, "not a LAML message|damaged"),
        (message_of(1)[:-1] + b"?", DecodeError, "damaged"),
        (message_of(1, purpose="delta"), DecodeError, "a delta of layer 1, where update is awaited"),
        (message_of(1, data=value_of(1).data[:-1]), DecodeError, "int8: "),
        (message_of(1, data=np.float16(np.nan).tobytes() + value_of(1).data[2:]), DecodeError, "holds NaN or infinity"),
        (sealed_again(message_of(1), 12, b"\x09"), DecodeError, "layer 9, and the model has 4"),
    ],
)
def test_one_bad_message_costs_the_others_nothing(bad: bytes, kind: type[RemoteError], says: str) -> None:
    updates, [error] = heard([message_of(0), bad, message_of(2)])
    assert [bits(update) for update in updates] == [bits(alone(message_of(layer))) for layer in (0, 2)]
    assert isinstance(error, kind)
    with pytest.raises(kind, match=says):
        raise error


def test_what_is_no_batch_is_refused_as_a_whole() -> None:
    with pytest.raises(DecodeError, match="not a batch"):
        asyncio.run(joined_updates(Joiner(SPEC), message_of(0), PI, SPEC))
