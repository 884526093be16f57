"""A coordinator that says what a test tells it to, and notes what the agent says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.seam import Link
from lamina.broker.wire import batches
from lamina.broker.wire.chunks import Joiner, LayerValue, pack, split, split_file, unpack
from lamina.broker.wire.deltas import check_of, pack_deltas
from lamina.broker.wire.messages import (
    DeviceProfile,
    DeviceStatus,
    Message,
    Report,
    Request,
    RoundPlan,
    Task,
    decode,
    encode,
)
from lamina.broker.wire.topics import Topics
from lamina.models.arrays import Vector
from lamina.models.bundle import MANIFEST_NAME, Bundle, entries, read_bundle
from lamina.models.values import layer_vector
from tests.patience import PATIENCE_S


class Coordinator:
    """One federation with one device, ``pi``.

    Attributes:
        statuses, profiles, requests, reports, updates: what came, in order.
        values: every layer's global value, to be published.
    """

    def __init__(self, link: Link, bundle: Bundle) -> None:
        self.link, self.bundle = link, bundle
        self.spec = bundle.manifest.spec
        self.topics = Topics("lab")
        self.epoch = 1
        self.statuses: list[str] = []
        self.profiles: list[DeviceProfile] = []
        self.requests: list[tuple[int, ...]] = []
        self.reports: list[Report] = []
        self.updates: list[LayerValue] = []
        self.values: dict[int, Vector] = {}
        self._news = asyncio.Event()
        self._joiner = Joiner(self.spec)

    async def say(self, topic: str, message: Message | bytes) -> None:
        await self.link.publish(topic, message if isinstance(message, bytes) else encode(message), retain=True)

    async def publish_bundle(self, chunk_bytes: int = 200) -> None:
        folder = self.bundle.folder
        files = {entry.sha256: folder / entry.file_name for entry in entries(self.bundle.manifest)}
        for sha256, path in {**files, self.bundle.digest: folder / MANIFEST_NAME}.items():
            for index, chunk in enumerate(split_file(path.read_bytes(), chunk_bytes)):
                await self.say(self.topics.bundle(sha256, index), chunk)

    async def publish_values(self, parameters: Vector, statistics: Vector, versions: tuple[int, ...]) -> None:
        for layer, version in enumerate(versions):
            await self.publish_value(layer, version, layer_vector(self.spec, layer, parameters, statistics))

    async def publish_value(self, layer: int, version: int, vector: Vector) -> None:
        self.values[layer] = vector
        value = pack(
            "global",
            epoch=self.epoch,
            round=0,
            layer=layer,
            version=version,
            layer_spec=self.spec.layers[layer],
            vector=vector,
            codec="float32",
        )
        for index, chunk in enumerate(split(value, 100)):
            await self.say(self.topics.layer_global(self.spec.layers[layer].name, index), chunk)

    def delta(self, layer: int, version: int, target: Vector) -> bytes:
        """The message of a delta of the last published value."""
        [(value, self.values[layer])] = pack_deltas(
            epoch=self.epoch,
            round=version - 1,
            layers=[layer],
            versions=[version],
            layer_specs=[self.spec.layers[layer]],
            bases=[self.values[layer]],
            targets=[target],
            codecs=["float32"],
        )
        [message] = split(value, 1000)
        return message

    async def advance(self, *messages: bytes) -> None:
        await self.say(self.topics.advance(0), batches.pack(messages))

    async def accept(self, cut: int = 0) -> None:
        task = Task(epoch=self.epoch, accepted=True, reason="fits", cut=cut, manifest=self.bundle.digest)
        await self.say(self.topics.device("pi", "task"), task)

    async def refuse(self, reason: str) -> None:
        await self.say(self.topics.device("pi", "task"), Task(epoch=self.epoch, accepted=False, reason=reason))

    async def plan(self, round_: int, versions: tuple[int, ...], **fields: object) -> RoundPlan:
        given: dict[str, object] = {
            "epoch": self.epoch,
            "round": round_,
            "cohort": ("pi",),
            "local_steps": 3,
            "batch_size": 2,
            "hyperparameters": {"lr": 0.5, "momentum": 0.9},
            "due": tuple(range(len(versions))),
            "versions": versions,
            "checks": tuple(check_of(self.values[layer]) for layer in range(len(versions))),
        }
        plan = msgspec.convert({**given, **fields, "kind": "plan"}, RoundPlan)
        await self.say(self.topics.round, plan)
        return plan

    async def finish(self) -> None:
        await self.say(self.topics.round, RoundPlan(state="finished", epoch=self.epoch, round=9))

    def vector(self, update: LayerValue) -> Vector:
        return unpack(update, self.spec.layers[update.layer])

    async def until_profile(self, count: int = 1) -> DeviceProfile:
        await self._until(lambda: len(self.profiles) >= count)
        return self.profiles[-1]

    async def until_report(self, count: int = 1) -> Report:
        await self._until(lambda: len(self.reports) >= count)
        return self.reports[-1]

    async def until_status(self, status: str) -> None:
        await self._until(lambda: self.statuses[-1:] == [status])

    async def _until(self, condition) -> None:  # type: ignore[no-untyped-def]  # a lambda of the lines above
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def listen(self) -> None:
        topics = self.topics
        await self.link.subscribe(*map(topics.devices, ("status", "profile", "request", "report")), topics.updates)
        async for delivery in self.link.deliveries():
            match topics.parse(delivery.topic).kind:
                case "status":
                    self.statuses.append(decode(delivery.payload, DeviceStatus).state)
                case "profile":
                    self.profiles.append(decode(delivery.payload, DeviceProfile))
                case "request":
                    self.requests.append(decode(delivery.payload, Request).layers)
                case "report":
                    self.reports.append(decode(delivery.payload, Report))
                case "layer_update":
                    if (value := self._joiner.add(delivery.payload, "pi")) is not None:
                        self.updates.append(value)
            delivery.acknowledge()
            self._news.set()


@asynccontextmanager
async def coordinator_on(broker: MemoryBroker, folder: Path) -> AsyncIterator[Coordinator]:
    """A coordinator that listens, and has published its bundle."""
    async with broker.dial("coordinator", None) as link:
        coordinator = Coordinator(link, read_bundle(folder))
        listening = asyncio.create_task(coordinator.listen())
        await coordinator.publish_bundle()
        try:
            yield coordinator
        finally:
            listening.cancel()
            await asyncio.wait({listening})
