"""A federation of nothing but paho, msgspec and NumPy: the baseline that ours is measured against.

No session, no checks, no versions, no late joiners, nothing kept: a server says what to do and what the model is, each
client answers, the server adds up. int8 in blocks with a scale each, without zstd. Two such federations:

    minimal   one message of the whole network a client and round, and one back
    layers    a message a layer: 23 and a report from each client; a plan, a status and 23 deltas, retained, back

Clients live in processes of their own, as our agents do:

    python -m benchmarks.bare HOST PORT NAME CLIENT SIZE,SIZE,... REPORTS
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import paho.mqtt.client as mqtt
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion

from lamina.broker.link.address import BrokerAddress

Vector = NDArray[np.float32]
BLOCK = 256


class Layer(msgspec.Struct, array_like=True):
    """What crosses: one layer, or the whole network as one."""

    round: int
    index: int
    quanta: bytes
    scales: bytes


@dataclass(frozen=True)
class Shape:
    """The shape of a bare federation.

    Attributes:
        name: of its topics.
        clients: how many.
        sizes: elements of each message of an update.
        talks: whether a plan and a status are published, too, and each client reports.
    """

    name: str
    clients: int
    sizes: tuple[int, ...]
    talks: bool


def pack(round_: int, index: int, vector: Vector) -> bytes:
    """A layer as int8 in blocks."""
    padded = np.zeros(-(-vector.size // BLOCK) * BLOCK, np.float32)
    padded[: vector.size] = vector
    table = padded.reshape(-1, BLOCK)
    scales = np.abs(table).max(axis=1) / np.float32(127) + np.float32(1e-30)
    quanta = np.rint(table / scales[:, None]).astype(np.int8)
    return msgspec.msgpack.encode(Layer(round_, index, quanta.reshape(-1)[: vector.size].tobytes(), scales.tobytes()))


def unpack(payload: bytes | bytearray) -> tuple[Layer, Vector]:
    """The layer, and its vector."""
    layer = msgspec.msgpack.decode(payload, type=Layer)
    quanta, scales = np.frombuffer(layer.quanta, np.int8), np.frombuffer(layer.scales, np.float32)
    table = np.zeros((scales.size, BLOCK), np.float32)
    table.reshape(-1)[: quanta.size] = quanta
    table *= scales[:, None]
    return layer, table.reshape(-1)[: quanta.size]


class Client:
    """paho with its own thread: what arrives is put into a queue."""

    def __init__(self, host: str, port: int, name: str, *filters: str) -> None:
        self.inbox: queue.SimpleQueue[mqtt.MQTTMessage] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self._client.max_inflight_messages_set(20)
        self._client.on_message = lambda client, userdata, message: self.inbox.put(message)
        self._client.on_subscribe = lambda *arguments: self._ready.set()
        self._client.on_socket_open = _at_once
        self._client.connect(host, port)
        self._client.loop_start()
        if filters:
            self._client.subscribe([(name, 1) for name in filters])
            self._ready.wait()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> mqtt.MQTTMessageInfo:
        """Publish a message at QoS 1."""
        return self._client.publish(topic, payload, qos=1, retain=retain)

    def close(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self._client.loop_stop()


def _at_once(client: mqtt.Client, userdata: object, opened: Any) -> None:
    """Small messages do not wait for the last one's acknowledgement: our link does the same."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Server:
    """The bare coordinator."""

    def __init__(self, address: BrokerAddress, shape: Shape) -> None:
        self._shape = shape
        self._root = f"bare/{shape.name}"
        self._client = Client(
            address.host, address.port, f"{shape.name}-server", f"{self._root}/update/+", f"{self._root}/report/+"
        )
        random = np.random.default_rng(0)
        self._values = [random.normal(size=size).astype(np.float32) for size in shape.sizes]
        self._deltas = [np.zeros(size, np.float32) for size in shape.sizes]
        self._round = 0

    def wait_for_clients(self) -> None:
        """Until each has reported once."""
        for _ in range(self._shape.clients):
            self._client.inbox.get(timeout=60)

    def round(self) -> float:
        """One round; returns its wall time."""
        began, shape = time.perf_counter(), self._shape
        self._round += 1
        self._publish()
        sums = [np.zeros(size, np.float32) for size in shape.sizes]
        for _ in range(shape.clients * (len(shape.sizes) + shape.talks)):
            message = self._client.inbox.get(timeout=60)
            if message.topic.startswith(f"{self._root}/report"):
                continue
            layer, vector = unpack(message.payload)
            sums[layer.index] += vector
        for value, delta, total in zip(self._values, self._deltas, sums, strict=True):
            np.divide(total, shape.clients, out=delta)
            value += delta
        return time.perf_counter() - began

    def close(self) -> None:
        """Tell the clients that it is over."""
        self._client.publish(f"{self._root}/end", b"").wait_for_publish(10)
        self._client.close()

    def _publish(self) -> None:
        shape, root, publish = self._shape, self._root, self._client.publish
        if shape.talks:
            publish(f"{root}/plan", msgspec.msgpack.encode(self._round), retain=True)
            publish(f"{root}/status", msgspec.msgpack.encode(self._round), retain=True)
        for index, delta in enumerate(self._deltas):
            publish(f"{root}/delta/{index}", pack(self._round, index, delta), retain=shape.talks)


def serve_client(host: str, port: int, federation: str, name: str, sizes: Sequence[int], reports: bool) -> None:
    """A client's whole life: each round it takes all layers, and sends noise for each."""
    random = np.random.default_rng(len(name))
    values = [np.zeros(size, np.float32) for size in sizes]
    updates = [random.normal(scale=1e-3, size=size).astype(np.float32) for size in sizes]
    root = f"bare/{federation}"
    client = Client(host, port, f"{federation}-{name}", f"{root}/delta/+", f"{root}/plan", f"{root}/end")
    client.publish(f"{root}/report/{name}", b"here")
    taken = 0
    while (message := client.inbox.get()).topic != f"{root}/end":
        if message.topic == f"{root}/plan":
            continue
        layer, delta = unpack(message.payload)
        values[layer.index] += delta
        taken += 1
        if taken == len(sizes):
            taken = 0
            for index, update in enumerate(updates):
                client.publish(f"{root}/update/{name}", pack(layer.round, index, update))
            if reports:
                report = msgspec.msgpack.encode({"round": layer.round, "loss": 1.0})
                client.publish(f"{root}/report/{name}", report)
    client.close()


@contextmanager
def bare_federation(address: BrokerAddress, shape: Shape) -> Iterator[Server]:
    """A server whose clients are there."""
    server = Server(address, shape)
    command = [sys.executable, "-m", "benchmarks.bare", address.host, str(address.port), shape.name]
    what = [",".join(map(str, shape.sizes)), str(int(shape.talks))]
    clients = [subprocess.Popen([*command, str(index), *what]) for index in range(shape.clients)]
    try:
        server.wait_for_clients()
        yield server
    finally:
        server.close()
        for client in clients:
            try:
                client.wait(10)
            except subprocess.TimeoutExpired:
                client.kill()


if __name__ == "__main__":
    host, port, federation, name, sizes, reports = sys.argv[1:]
    serve_client(host, int(port), federation, name, [int(size) for size in sizes.split(",")], reports == "1")
