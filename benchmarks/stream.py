"""The rate at which updates go through the link, decoding and the fold, beside bare paho.

The same messages, ResNet20's int8 updates of many devices as agents send them, in batches, once from our link to our
link, where each is joined, decoded and folded; once from a bare paho client to another, which counts them. The sender
is a process of its own:

    python -m benchmarks.stream HOST PORT ours|bare DEVICES NAME,ELEMENTS NAME,ELEMENTS ...
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.bare import Client
from benchmarks.untrained import noise
from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.wire import batches
from lamina.broker.wire.chunks import Joiner, pack, split
from lamina.broker.wire.messages import RoundPlan
from lamina.broker.wire.topics import Topics
from lamina.coordinator.folds.aggregate import Fold, LayerFold
from lamina.coordinator.rounds.round import Round
from lamina.coordinator.service.arrivals import joined_updates
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec

_TOPICS = Topics("stream")
_WINDOW = 20  # messages of a sender in flight
_CHUNK_BYTES = 256 * 1024
_PATIENCE_S = 60.0


def megabytes_a_second(address: BrokerAddress, spec: ModelSpec, way: str, devices: int) -> float:
    """Payload of the updates of so many devices, in MB over the seconds from the first one's arrival to the last's."""
    receive = _receive_ours if way == "ours" else _receive_bare
    return receive(address, _flattened(spec), devices)


def _receive_ours(address: BrokerAddress, spec: ModelSpec, devices: int) -> float:
    return asyncio.run(_fold_all(address, spec, devices))


async def _fold_all(address: BrokerAddress, spec: ModelSpec, devices: int) -> float:
    names, layers = _names(devices), range(len(spec.layers))
    plan = RoundPlan(
        epoch=1, round=0, cohort=tuple(names), due=tuple(layers), versions=(0,) * len(layers), deadline_s=1e9
    )

    def new_fold(layer: int) -> Fold:
        return LayerFold(spec.layers[layer].vector_size, spec.layers[layer].size)

    round_, joiner = Round(plan, dict.fromkeys(names, 0), new_fold, 0.0), Joiner(spec, epoch=1)
    async with mqtt_dial(address)("stream-receiver", None) as link, asyncio.timeout(_PATIENCE_S):
        await link.subscribe(_TOPICS.devices("updates"))
        sender = _start(address, spec, "ours", devices)
        began, received = 0.0, 0
        async for delivery in link.deliveries():
            began = began or time.perf_counter()
            received += len(delivery.payload)
            updates, _ = await joined_updates(joiner, delivery.payload, _TOPICS.parse(delivery.topic), spec)
            for update in updates:
                round_.receive(update)
            delivery.acknowledge()
            if round_.updates == devices * len(layers):
                break
        seconds = time.perf_counter() - began
    sender.wait(_PATIENCE_S)
    return received / seconds / 1e6


def _receive_bare(address: BrokerAddress, spec: ModelSpec, devices: int) -> float:
    client = Client(address.host, address.port, "stream-receiver", _TOPICS.devices("updates"))
    sender = _start(address, spec, "bare", devices)
    began, received = 0.0, 0
    for _ in range(sum(1 for _ in _messages(spec, devices))):
        message = client.inbox.get(timeout=_PATIENCE_S)
        began = began or time.perf_counter()
        received += len(message.payload)
    seconds = time.perf_counter() - began
    client.close()
    sender.wait(_PATIENCE_S)
    return received / seconds / 1e6


def _start(address: BrokerAddress, spec: ModelSpec, way: str, devices: int) -> subprocess.Popen[bytes]:
    layers = [f"{layer.name},{layer.vector_size}" for layer in spec.layers]
    command = [sys.executable, "-m", "benchmarks.stream", address.host, str(address.port), way, str(devices), *layers]
    return subprocess.Popen(command)


def _messages(spec: ModelSpec, devices: int) -> Iterator[tuple[str, bytes]]:
    """Topics and payloads, one device after the other. Devices differ by name only."""
    random, layers = np.random.default_rng(0), range(len(spec.layers))
    messages = [
        message
        for layer in layers
        for message in split(
            pack(
                "update",
                epoch=1,
                round=0,
                layer=layer,
                version=0,
                layer_spec=spec.layers[layer],
                vector=noise(random, spec.layers[layer].vector_size),
                codec="int8",
            ),
            _CHUNK_BYTES,
        )
    ]
    payloads = list(batches.packed(messages, _CHUNK_BYTES))
    for name in _names(devices):
        for payload in payloads:
            yield _TOPICS.batch(name), payload


async def _send_ours(address: BrokerAddress, messages: Sequence[tuple[str, bytes]]) -> None:
    async with mqtt_dial(address)("stream-sender", None) as link:
        window = asyncio.Semaphore(_WINDOW)

        async def send(topic: str, payload: bytes) -> None:
            try:
                await link.publish(topic, payload)
            finally:
                window.release()

        async with asyncio.TaskGroup() as group:
            for topic, payload in messages:
                await window.acquire()
                group.create_task(send(topic, payload))


def _send_bare(address: BrokerAddress, messages: Sequence[tuple[str, bytes]]) -> None:
    client = Client(address.host, address.port, "stream-sender")
    sent = [client.publish(topic, payload) for topic, payload in messages]
    for one in sent:
        one.wait_for_publish(_PATIENCE_S)
    client.close()


def _names(devices: int) -> list[str]:
    return [f"device-{index:03}" for index in range(devices)]


def _flattened(spec: ModelSpec) -> ModelSpec:
    """The layers as one tensor each: they can be named on a command line."""
    return _spec_of([(layer.name, layer.vector_size) for layer in spec.layers])


def _spec_of(layers: Sequence[tuple[str, int]]) -> ModelSpec:
    specs = tuple(LayerSpec(name, (TensorSpec("weight", (size,), "kernel"),), ()) for name, size in layers)
    blocks = tuple(BlockSpec(layer.name, index, index + 1, (1,)) for index, layer in enumerate(specs))
    return ModelSpec("stream", specs, blocks, (0,), classes=2)


if __name__ == "__main__":
    host, port, way, devices, *named = sys.argv[1:]
    pairs = [name.split(",") for name in named]
    prepared = list(_messages(_spec_of([(name, int(size)) for name, size in pairs]), int(devices)))
    broker = BrokerAddress(host=host, port=int(port))
    if way == "ours":
        asyncio.run(_send_ours(broker, prepared))
    else:
        _send_bare(broker, prepared)
