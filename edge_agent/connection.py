"""What does an agent do on one link? It says who it is, and then, until the link drops, four things at once:

receive   takes what arrives and tells the session of it; a message is acknowledged once it is dealt with
act       does what the session wants of the link, in order; of it, what takes long in a task of its own:
prepare   fetches the bundle and has the trainer built
deliver   publishes a round's updates, then its report
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from broker import batches
from broker.chunks import Joiner, LayerValue
from broker.messages import DeviceProfile, DeviceStatus, Message, Report, Request, RoundPlan, Task
from broker.messages import decode as decoded
from broker.messages import encode as encoded
from broker.seam import Delivery, Link
from broker.topics import Address, Topics
from edge_agent.events import (
    REPORT,
    Deliver,
    Event,
    Linked,
    Outcome,
    Passed,
    PlanCame,
    Prepare,
    Prepared,
    Published,
    Strayed,
    Subscribe,
    Taken,
    TaskCame,
    Unlinked,
    Unsubscribe,
    Withdraw,
)
from edge_agent.fetch import Fetcher
from edge_agent.learning import Learning
from edge_agent.session import Session
from models.bundle import decode_manifest
from models.errors import DecodeError, LinkError, RemoteError

log = logging.getLogger("lamina.agent")

GOODBYE_S = 2.0
MESSAGES_AT_ONCE = 20  # of an update, besides those of the layer that was encoded last

_ADVANCE = "/advance"  # a sender to the joiner, as layers are; no layer's name holds a slash


LinkCommand = Prepare | Subscribe | Unsubscribe | Deliver | Withdraw


@dataclass(slots=True)
class Tally:
    """Counted since the agent started.

    Attributes:
        uplink_bytes: payload of updates.
        downlink_bytes: payload of layer values.
        refused: messages that could not be used, by their kind.
    """

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Agency:
    """What outlives a link.

    Attributes:
        profile: of the device.
        topics: of the federation.
        learning: the learner in its thread.
        fetcher: of the bundle's files.
        tally: is counted on.
        session: says which values are wanted.
        feed: tells it what happened, and does what it wants.
    """

    profile: DeviceProfile
    topics: Topics
    learning: Learning
    fetcher: Fetcher
    tally: Tally
    session: Session
    feed: Callable[[Event], None]


class Connection:
    """One link's life.

    Args:
        agency: what outlives it.
        link: it.
    """

    def __init__(self, agency: Agency, link: Link) -> None:
        self._agency = agency
        self._link = link
        self._device = agency.profile.device
        self._commands: asyncio.Queue[LinkCommand] = asyncio.Queue()
        self._joiner: Joiner | None = None

    def do(self, command: LinkCommand) -> None:
        """Have something done, after what was asked for before."""
        self._commands.put_nowait(command)

    async def serve(self) -> None:
        """Until the link drops; cancelled, it says goodbye.

        Raises:
            LinkError: the link dropped. It may come in an exception group.
            ConfigError: the device can't do what it was asked to. It comes in an exception group.
        """
        try:
            async with asyncio.TaskGroup() as group:
                await self._introduce()
                self._agency.feed(Linked())
                group.create_task(self._act(group), name=f"{self._device} act")
                await self._receive()
        except asyncio.CancelledError:
            await self._say_goodbye()
            raise
        finally:
            self._agency.feed(Unlinked())

    async def _introduce(self) -> None:
        """Listen first: what is said in answer must not be taken for what the broker kept."""
        topics, device = self._agency.topics, self._device
        await self._link.subscribe(topics.device(device, "task"), topics.round)
        await self._say("status", DeviceStatus(state="online"))
        await self._say("profile", self._agency.profile)

    async def _say_goodbye(self) -> None:
        with suppress(LinkError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._say("status", DeviceStatus(state="sleeping"))

    async def _say(self, leaf: str, message: Message, *, retain: bool = True) -> None:
        await self._link.publish(self._agency.topics.device(self._device, leaf), encoded(message), retain=retain)

    # What arrives.

    async def _receive(self) -> None:
        async for delivery in self._link.deliveries():
            kind = "topic"
            try:
                address = self._agency.topics.parse(delivery.topic)
                kind = address.kind
                if delivery.payload:  # an empty one clears what was retained
                    await self._hear(delivery, address)
            except RemoteError as error:
                self._note_refused(kind, error)
            finally:
                delivery.acknowledge()

    def _note_refused(self, kind: str, error: RemoteError) -> None:
        self._agency.tally.refused[kind] += 1
        log.warning("%s: refused a message: %s", self._device, error)

    async def _hear(self, delivery: Delivery, address: Address) -> None:
        match address.kind:
            case "layer_global":
                await self._hear_value(delivery.payload, address)
            case "advance":
                await self._hear_advance(delivery.payload)
            case "round":
                self._agency.feed(PlanCame(decoded(delivery.payload, RoundPlan), delivery.retained))
            case "task":
                self._agency.feed(TaskCame(decoded(delivery.payload, Task), delivery.retained))
            case "bundle":
                self._agency.fetcher.add(address.sha256, delivery.payload)

    async def _hear_value(self, payload: bytes, address: Address) -> None:
        """A chunk of a layer's value; the one that completes it has it taken."""
        agency = self._agency
        agency.tally.downlink_bytes += len(payload)
        if self._joiner is None:
            return
        value = self._joiner.add(payload, address.layer)
        if value is None:
            return
        if value.purpose != "global" or agency.learning.layers[value.layer].name != address.layer:
            raise DecodeError(f"{value.purpose} of layer {value.layer} on the topic of layer {address.layer}")
        if self._wants(value):
            await self._take([value])

    async def _hear_advance(self, payload: bytes) -> None:
        """Each of its values counts by itself."""
        self._agency.tally.downlink_bytes += len(payload)
        if self._joiner is None:
            return
        wanted: list[LayerValue] = []
        for message in batches.unpack(payload):
            try:
                value = self._joiner.add(message, _ADVANCE)
                if value is None:
                    continue
                if value.purpose not in ("delta", "global"):
                    raise DecodeError(f"{value.purpose} of layer {value.layer} in an advance")
            except RemoteError as error:
                self._note_refused("advance", error)
                continue
            if self._wants(value):
                wanted.append(value)
            else:
                self._agency.feed(Passed(value.epoch, value.layer, value.version))
        await self._take(wanted)

    def _wants(self, value: LayerValue) -> bool:
        return self._agency.session.wants(value.epoch, value.layer, value.version, delta=value.purpose == "delta")

    async def _take(self, values: Sequence[LayerValue]) -> None:
        agency, taken = self._agency, []
        for value, found in zip(values, await agency.learning.decoded(values), strict=True):
            if isinstance(found, RemoteError):
                self._note_refused(value.purpose, found)
            elif not self._wants(value):  # any more
                continue
            elif found.check == agency.session.check(value.layer):
                agency.learning.take(value.layer, found.vector)
                taken.append((value.layer, value.version))
            else:
                self._note_strayed(value)
        if taken:
            agency.feed(Taken(values[0].epoch, tuple(taken)))

    def _note_strayed(self, value: LayerValue) -> None:
        """It leads to another value than the plan's: what is held is another, or it is from before a crash."""
        agency, name = self._agency, self._agency.learning.layers[value.layer].name
        log.warning("%s: a %s leads to another layer %s than the plan's", self._device, value.purpose, name)
        if self._joiner is not None:  # the right one may count as older
            self._joiner.forget(name if value.purpose == "global" else _ADVANCE)
        if value.purpose == "delta":
            agency.feed(Strayed(value.epoch, value.layer, value.version))

    # What the session wants.

    async def _act(self, group: asyncio.TaskGroup) -> None:
        long: asyncio.Task[None] | None = None
        while True:
            command = await self._commands.get()
            if long is not None and isinstance(command, Prepare | Deliver | Withdraw):
                long.cancel()
            match command:
                case Subscribe():
                    await self._subscribe(command)
                case Unsubscribe():
                    await self._link.unsubscribe(*self._filters(command))
                case Prepare(task):
                    long = group.create_task(self._prepare(task), name=f"{self._device} prepare")
                case Deliver():
                    long = group.create_task(self._deliver(command), name=f"{self._device} deliver")

    async def _subscribe(self, command: Subscribe) -> None:
        layers = self._agency.learning.layers
        if self._joiner is None:
            most = 2 * sum(4 * layer.vector_size for layer in layers)  # bytes: every layer at once, however encoded
            self._joiner = Joiner(self._agency.learning.spec, max_bytes=most)
        for layer, _ in command.values:  # what came before, unwanted, must count when it comes again
            self._joiner.forget(layers[layer].name)
        if command.advance:
            self._joiner.forget(_ADVANCE)
        await self._link.subscribe(*self._filters(command))
        if command.values:
            await self._say("request", Request(layers=tuple(layer for layer, _ in command.values)), retain=False)

    def _filters(self, command: Subscribe | Unsubscribe) -> list[str]:
        topics, layers = self._agency.topics, self._agency.learning.layers
        values = [topics.layer_globals(layers[layer].name) for layer, _ in command.values]
        return [*values, topics.advances] if command.advance else values

    async def _prepare(self, task: Task) -> None:
        agency = self._agency
        log.info("%s: trains from layer %d: %s", self._device, task.cut, task.reason)
        manifest = decode_manifest(
            await agency.fetcher.manifest(self._link, task.manifest), f"manifest {task.manifest}"
        )
        await agency.fetcher.files(self._link, agency.learning.graphs(manifest, task.cut))
        progress = await agency.learning.build(task, manifest, agency.fetcher.path)
        self._joiner = None  # it may be of another model
        agency.feed(Prepared(task, manifest, progress))

    async def _deliver(self, command: Deliver) -> None:
        """The messages of all layers, then the report, without waiting for one before the next is sent."""
        plan, sending = command.plan, _Sending(self._link)
        async with asyncio.TaskGroup() as group:
            async for layers, topic, messages in self._updates(plan, command.layers):
                self._agency.tally.uplink_bytes += sum(map(len, messages))
                sent = [await sending.start(group, topic, message) for message in messages]
                group.create_task(self._confirm(Published(plan.epoch, plan.round, layers), sent))
            if command.outcome is not None:
                topic = self._agency.topics.device(self._device, "report")
                sent = [await sending.start(group, topic, encoded(self._report(plan, command.outcome)))]
                group.create_task(self._confirm(Published(plan.epoch, plan.round, (REPORT,)), sent))

    async def _updates(
        self, plan: RoundPlan, layers: Sequence[int]
    ) -> AsyncIterator[tuple[tuple[int, ...], str, list[bytes]]]:
        """All messages of the layers' updates: layers, and where what is to be published for them."""
        topics, specs, most_bytes = self._agency.topics, self._agency.learning.layers, plan.chunk_bytes
        batch: dict[int, bytes] = {}  # messages that wait for others to share theirs with, by layer

        def packed() -> tuple[tuple[int, ...], str, list[bytes]]:
            if len(batch) == 1:
                ((layer, message),) = batch.items()
                return (layer,), topics.layer_update(specs[layer].name, self._device), [message]
            return tuple(batch), topics.batch(self._device), [batches.pack(list(batch.values()))]

        async for layer, messages in self._agency.learning.encoded_updates(plan, layers):
            if not plan.batched or len(messages) != 1 or batches.size(messages) > most_bytes:
                yield (layer,), topics.layer_update(specs[layer].name, self._device), messages
                continue
            if batches.size([*batch.values(), *messages]) > most_bytes:
                yield packed()
                batch = {}
            batch[layer] = messages[0]
        if batch:
            yield packed()

    async def _confirm(self, published: Published, sent: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*sent)
        self._agency.feed(published)

    def _report(self, plan: RoundPlan, outcome: Outcome) -> Report:
        return Report(
            epoch=plan.epoch,
            round=plan.round,
            steps=outcome.steps,
            loss=outcome.loss,
            accuracy=outcome.accuracy,
            step_s=outcome.step_s,
            forward_s=outcome.forward_s,
            peak_mib=self._agency.learning.peak_mib(),
            way=self._agency.learning.way,
            uplink_bytes=self._agency.tally.uplink_bytes,
            downlink_bytes=self._agency.tally.downlink_bytes,
        )


class _Sending:
    """Publishes messages concurrently, so many at once, in order of their start."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._window = asyncio.Semaphore(MESSAGES_AT_ONCE)

    async def start(self, group: asyncio.TaskGroup, topic: str, message: bytes) -> asyncio.Task[None]:
        await self._window.acquire()
        return group.create_task(self._publish(topic, message))

    async def _publish(self, topic: str, message: bytes) -> None:
        try:
            await self._link.publish(topic, message)
        finally:
            self._window.release()
