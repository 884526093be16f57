"""Makes the test vectors of docs/protocol.md; its test reads them out of the page and knows no others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import google_crc32c
import msgspec
import numpy as np
from nacl.signing import SigningKey

from lamina.broker.wire import batches
from lamina.broker.wire.chunks import split, split_file
from lamina.broker.wire.codecs import CODECS, codec
from lamina.broker.wire.deltas import check_of, digest_of
from lamina.broker.wire.deployments import Deployed, Deployment, Offer
from lamina.broker.wire.messages import (
    CoordinatorStatus,
    DeviceProfile,
    DeviceStatus,
    Kept,
    Lease,
    Message,
    Question,
    Report,
    Request,
    RoundPlan,
    Task,
    encode,
)
from lamina.broker.wire.orders import Mandate, Signed
from lamina.broker.wire.packing import LayerValue
from lamina.broker.wire.partials import Partial
from lamina.broker.wire.partials import encode as encoded_partial
from lamina.broker.wire.signatures import endorsed, sealed
from lamina.broker.wire.topics import Topics
from scripts.documents.protocol_tables import kind_of

EPOCH = 1_700_000_000_000
MANIFEST = hashlib.sha256(b"manifest").hexdigest()
FLOATS = [1.0, -2.0, 0.5, 0.0, 3.0, -0.25]
SHAPES = [[2, 2], [2]]
OPERATOR, COORDINATOR = bytes(range(32)), bytes(range(32, 64))

MESSAGES: tuple[Message, ...] = (
    CoordinatorStatus(state="training", epoch=EPOCH, manifest=MANIFEST, round=3, rounds=40, devices=2, accuracy=0.5),
    Lease(holder="a1b2", process=4711, host="broker.local", since="2026-01-02 03:04:05"),
    Question(asker="c3d4"),
    Kept(chunk_bytes=262144, files=(MANIFEST,)),
    RoundPlan(
        epoch=EPOCH,
        round=3,
        cycle=1,
        cohort=("pi-1", "pi-2"),
        local_steps=5,
        batch_size=32,
        hyperparameters={"lr": 0.05},
        due=(1,),
        versions=(2, 3),
        checks=(305419896, 2596069104),
        codec="int8",
        small_codec="float32",
        small_elements=128,
        batched=True,
        seed=7,
        deadline_s=600.0,
    ),
    RoundPlan(state="finished", epoch=EPOCH, round=40),
    DeviceStatus(state="online"),
    DeviceProfile(
        device="pi-1",
        budget_mib=64.0,
        cores=4,
        architecture="aarch64",
        engine="onnxruntime 1.32.0",
        codecs=("float32", "int8"),
        num_examples=180,
        classes=10,
        sample_shape=(1, 8, 8),
        agent_version="0.1.0",
        sample_dtype="float32",
        instance="0",
    ),
    Task(epoch=EPOCH, accepted=True, reason="its memory holds the whole network", cut=0, manifest=MANIFEST, round=3),
    Task(epoch=EPOCH, accepted=False, reason="no sub-model fits 4 MiB"),
    Request(layers=(0, 1)),
    Report(epoch=EPOCH, round=3, steps=5, loss=0.25, accuracy=0.875, step_s=0.01, uplink_bytes=1000),
    Deployment(
        offer=Offer(
            number=1, model=MANIFEST, model_bytes=1000, card=MANIFEST, card_bytes=100, bundle=MANIFEST, round=40
        ),
        canaries=("pi-1",),
        margin=0.02,
    ),
    Deployed(number=1, verdict="taken", active=1, metric="accuracy", score=0.9, samples=18),
)


def vectors() -> Iterator[dict[str, Any]]:
    """All of them, in the order of the page."""
    yield from _topics()
    for message in MESSAGES:
        fields = {name: value for name, value in msgspec.to_builtins(message).items() if name not in ("kind", "v")}
        yield {"vector": "message", "kind": kind_of(type(message)), "fields": fields, "hex": encode(message).hex()}
    yield {"vector": "crc32c", "hex": b"123456789".hex(), "value": google_crc32c.value(b"123456789")}
    vector = np.array(FLOATS, np.float32)
    yield {"vector": "value", "floats": FLOATS, "check": check_of(vector), "digest": digest_of(vector).hex()}
    yield from _codecs(vector)
    yield from _chunks()
    yield from _files()
    yield from _partials()
    yield _signed()


def as_lines() -> str:
    """The vectors, one a line."""
    return "\n".join(json.dumps(vector, ensure_ascii=True, separators=(", ", ": ")) for vector in vectors())


def _topics() -> Iterator[dict[str, Any]]:
    there = Topics("greenhouse")
    for topic, address in (
        (there.round, {"kind": "round"}),
        (there.device("pi-1", "task"), {"kind": "task", "device": "pi-1"}),
        (there.layer_global("conv1", 2), {"kind": "layer_global", "layer": "conv1", "chunk": 2}),
        (there.layer_update("conv1", "pi-1"), {"kind": "layer_update", "layer": "conv1", "device": "pi-1"}),
        (there.advance(0), {"kind": "advance", "chunk": 0}),
        (there.bundle(MANIFEST, 0), {"kind": "bundle", "sha256": MANIFEST, "chunk": 0}),
        (there.batch("pi-1"), {"kind": "updates", "device": "pi-1"}),
    ):
        yield {"vector": "topic", "federation": "greenhouse", "topic": topic, "is": address}


def _codecs(vector: np.ndarray[Any, np.dtype[np.float32]]) -> Iterator[dict[str, Any]]:
    shapes = tuple(map(tuple, SHAPES))
    for name in CODECS:
        subject = codec(name).for_tensors(shapes)
        data = subject.encode(vector)
        decoded = subject.decode(data, vector.size)
        yield {
            "vector": "codec",
            "name": name,
            "id": subject.wire_id,
            "shapes": SHAPES,
            "floats": FLOATS,
            "hex": data.hex(),
            "decoded": decoded.astype("<f4").tobytes().hex(),
        }


def _value(purpose: str, data: bytes, weight: float = 1.0, codec: str = "float32", **more: Any) -> dict[str, Any]:
    return {
        "purpose": purpose,
        "epoch": EPOCH,
        "round": 3,
        "layer": 1,
        "version": 2,
        "weight": weight,
        "codec": codec,
        "shapes": SHAPES,
        "data": data.hex(),
        **more,
    }


def _chunks() -> Iterator[dict[str, Any]]:
    data = np.array(FLOATS, "<f4").tobytes()
    update = _value("update", data, 180.0)
    scored = _value("update", data, scalars=[["gradient_weight", 0.5]])
    for value, chunk_bytes in ((_value("global", data), 4096), (update, 4096), (update, 100), (scored, 4096)):
        chunks = split(layer_value(value), chunk_bytes)
        yield {"vector": "chunks", **value, "chunk_bytes": chunk_bytes, "hex": [chunk.hex() for chunk in chunks]}
    messages = [chunk for value in (_value("delta", data), update) for chunk in split(layer_value(value), 4096)]
    yield {"vector": "batch", "messages": [each.hex() for each in messages], "hex": batches.pack(messages).hex()}


def layer_value(fields: dict[str, Any]) -> LayerValue:
    """The value that a vector's fields say."""
    return LayerValue(
        purpose=fields["purpose"],
        epoch=fields["epoch"],
        round=fields["round"],
        layer=fields["layer"],
        version=fields["version"],
        weight=fields["weight"],
        codec=fields["codec"],
        shapes=tuple(map(tuple, fields["shapes"])),
        data=bytes.fromhex(fields["data"]),
        scalars=tuple((name, number) for name, number in fields.get("scalars", ())),
    )


def _files() -> Iterator[dict[str, Any]]:
    content = b"the file of a bundle"
    for chunk_bytes in (4096, 40):
        yield {
            "vector": "file",
            "content": content.hex(),
            "sha256": hashlib.sha256(content).hexdigest(),
            "chunk_bytes": chunk_bytes,
            "hex": [chunk.hex() for chunk in split_file(content, chunk_bytes)],
        }


def _partials() -> Iterator[dict[str, Any]]:
    near = [2**36, -(2**35)]
    partial = Partial(("pi-1", "pi-2"), (1.0, 2.0), (0.5, 0.25), np.array(near, np.int64), None, {})
    yield {
        "vector": "partial",
        "devices": list(partial.devices),
        "weights": list(partial.weights),
        "moments": list(partial.moments),
        "near": near,
        "hex": encoded_partial(partial).hex(),
    }


def _signed() -> dict[str, Any]:
    operator, coordinator = SigningKey(OPERATOR), SigningKey(COORDINATOR)
    mandate = Mandate(
        federation="greenhouse",
        key=bytes(coordinator.verify_key),
        manifests=(MANIFEST,),
        issued=1_700_000_000_000_000,
        until=1_800_000_000,
    )
    content, endorsement = endorsed(operator, mandate)
    topic = Topics("greenhouse").round
    order = MESSAGES[4]
    payload = sealed(coordinator, content, endorsement, topic=topic, sequence=9, order=order)
    return {
        "vector": "signed",
        "federation": "greenhouse",
        "operator_secret": OPERATOR.hex(),
        "operator_public": bytes(operator.verify_key).hex(),
        "coordinator_secret": COORDINATOR.hex(),
        "coordinator_public": bytes(coordinator.verify_key).hex(),
        "topic": topic,
        "sequence": 9,
        "order": encode(order).hex(),
        "mandate": content.hex(),
        "endorsement": endorsement.hex(),
        "hex": payload.hex(),
    }


__all__ = ["MESSAGES", "Signed", "as_lines", "layer_value", "vectors"]
