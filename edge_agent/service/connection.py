"""What an agent does on one link. It says who it is, and then, until the link drops, does four things at once:

receive   takes what arrives and tells the session of it; a message is acknowledged once it is dealt with
act       does what the session wants of the link, in order; of it, what takes long in a task of its own:
prepare   fetches the bundle and has the trainer built
deliver   publishes a round's updates, then its report
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import msgspec

from lamina.broker.link.clock import now
from lamina.broker.link.hearing import hear_all
from lamina.broker.link.reconnect import jitter, say_goodbye
from lamina.broker.link.seam import Delivery, Link
from lamina.broker.wire import batches
from lamina.broker.wire.chunks import Joiner, LayerValue
from lamina.broker.wire.messages import DeviceProfile, DeviceStatus, Message, Request, RoundPlan, Task
from lamina.broker.wire.messages import decode as decoded
from lamina.broker.wire.messages import encode as encoded
from lamina.broker.wire.topics import Address
from lamina.edge_agent.admission.bundles import check_task
from lamina.edge_agent.service.agent_context import AgentContext
from lamina.edge_agent.service.delivery import deliver
from lamina.edge_agent.session.events import (
    Deliver,
    Insist,
    Linked,
    Overdue,
    Passed,
    PlanCame,
    Prepare,
    Prepared,
    SayPresent,
    Strayed,
    Subscribe,
    Taken,
    TaskCame,
    Unlinked,
    Unsubscribe,
    Withdraw,
)
from lamina.models.bundle import decode_manifest
from lamina.models.errors import DecodeError, LinkError, RemoteError, TakenOver
from lamina.models.personal import at_places, with_personal

log = logging.getLogger("lamina.agent")


NO_TASK_S, LONGEST_NO_TASK_S = 20.0, 600.0
"""The shortest and the longest pause before a device without an answer says once more what it is."""

SPREAD_S = 1.0
"""Devices that are called answer within so long, each at a time of its own."""

PATIENCE_S, SHORTEST_S, LONGEST_S = 5.0, 1.0, 30.0
"""How long nothing may come of the values that are gathered, at first; then the shortest and the longest pause."""

SPARING_BYTES = 1024
"""Of a message of a value, where links die before larger ones have come."""

_BRIEF_S = 60.0  # a link that lives longer than this is none of those

CONSENT_S = 2.0
"""So often it is looked whether a person has allowed a bundle."""

_ADVANCE = "/advance"  # a sender to the joiner, as layers are; no layer's name holds a slash


@dataclass(frozen=True, slots=True)
class Introduce:
    """Tell the coordinator what the device is now."""

    profile: DeviceProfile


@dataclass(frozen=True, slots=True)
class AskForPieces:
    """Have the broker send the next chunks of what is insisted on."""


LinkCommand = Prepare | Subscribe | Insist | SayPresent | AskForPieces | Unsubscribe | Deliver | Withdraw | Introduce


class Connection:
    """One link's life.

    Args:
        context: what outlives it.
        link: it.
    """

    def __init__(self, context: AgentContext, link: Link) -> None:
        self._context = context
        self._link = link
        self._device = context.profile.device
        self._commands: asyncio.Queue[LinkCommand] = asyncio.Queue()
        self._arriving = context.arriving
        self._withheld: TaskCame | None = None  # until a person allows its bundle
        self._pieces = context.arriving.pieces
        self._pieces.leave()
        self._gathers = asyncio.Event()
        self._present = asyncio.Event()  # who is there is to say so

    def do(self, command: LinkCommand) -> None:
        """Have something done, after what was asked for before."""
        self._commands.put_nowait(command)

    async def serve(self) -> None:
        """Until the link drops; cancelled, it says goodbye.

        Raises:
            LinkError: the link dropped. It may come in an exception group.
            ConfigError: the device can't do what it was asked to. It comes in an exception group.
        """
        began = now()
        try:
            async with asyncio.TaskGroup() as group:
                await self._introduce()
                self._context.feed(Linked(sparing=self._arriving.is_sparing))
                group.create_task(self._act(group), name=f"{self._device} act")
                group.create_task(self._watch_gathering(), name=f"{self._device} watch gathering")
                group.create_task(self._introduce_again(), name=f"{self._device} introduce again")
                group.create_task(self._deploy(), name=f"{self._device} deploy")
                if self._context.orders.pins:
                    group.create_task(self._await_consent(), name=f"{self._device} await consent")
                await self._receive()
        except asyncio.CancelledError:
            await say_goodbye(self._say("status", DeviceStatus(state="sleeping")))
            raise
        finally:
            if now() - began >= _BRIEF_S or (self._pieces.came_at >= began and not self._arriving.is_sparing):
                self._arriving.useless = 0
            elif self._context.session.state == "gathering" and self._pieces.came_at < began:
                self._arriving.useless += 1
            self._context.feed(Unlinked())

    async def _introduce(self) -> None:
        """Listen first: what is said in answer must not be taken for what the broker kept."""
        topics, device = self._context.topics, self._device
        await self._link.subscribe(topics.device(device, "task"), topics.round)
        for further in (topics.device(device, "profile"), topics.deployment):
            with suppress(LinkError):  # a broker's rules may be from before it; a link that dropped shows below
                await self._link.subscribe(further)
        await self._say("status", DeviceStatus(state="online"))
        await self._say("profile", self._context.profile)

    async def _introduce_again(self) -> None:
        """Do so when the coordinator calls; and, until it has answered, after pauses that double.

        The broker may have dropped the profile, or the answer.
        """
        pause_s = NO_TASK_S
        while True:
            try:
                async with asyncio.timeout(pause_s if self._context.session.is_unanswered else None):
                    await self._present.wait()
                await asyncio.sleep(jitter.uniform(0.0, SPREAD_S))  # not all at once
            except TimeoutError:
                pause_s = min(2 * pause_s, LONGEST_NO_TASK_S)
            self._present.clear()
            self.do(SayPresent())
            self.do(Introduce(self._context.profile))

    async def _say(self, leaf: str, message: Message, *, retain: bool = True) -> None:
        await self._link.publish(self._context.topics.device(self._device, leaf), encoded(message), retain=retain)

    # What arrives.

    async def _receive(self) -> None:
        await hear_all(
            self._link, self._hear, lambda delivery, error: self._note_refused(self._kind(delivery.topic), error)
        )

    def _kind(self, topic: str) -> str:
        try:
            return self._context.topics.parse(topic).kind
        except DecodeError:
            return "topic"

    def _note_refused(self, kind: str, error: RemoteError) -> None:
        self._context.tally.refused[kind] += 1
        log.warning("%s: refused a message: %s", self._device, error)

    async def _hear(self, delivery: Delivery) -> None:
        address = self._context.topics.parse(delivery.topic)
        if not delivery.payload:  # it clears what was retained
            return
        match address.kind:
            case "layer_global":
                await self._hear_value(delivery.payload, address)
            case "advance":
                await self._hear_advance(delivery.payload)
            case "round":
                self._hear_plan(self._context.orders.plan(delivery.topic, delivery.payload), delivery.retained)
            case "task" if address.device == self._device:
                task = self._context.orders.task(delivery.topic, delivery.payload)
                self._hear_task(TaskCame(task, delivery.retained))
            case "deployment":
                self._context.deploying.hear(self._context.orders.deployment(delivery.topic, delivery.payload))
            case "profile":
                self._hear_profile(decoded(delivery.payload, DeviceProfile))
            case "bundle":
                self._context.fetcher.add(address.sha256, delivery.payload)

    def _hear_task(self, came: TaskCame) -> None:
        """A task with a bundle that nobody has allowed waits; the device goes on with what it has."""
        self._withheld = None
        manifest = came.task.manifest
        if came.task.accepted and manifest and not self._context.orders.allows(manifest):
            self._withheld = came
            raise DecodeError(
                f"a task with a bundle that is not allowed on this board; to allow it: lamina-agent allow {manifest}"
            )
        self._context.feed(came)

    async def _await_consent(self) -> None:
        """Look now and then whether a person has allowed what waits."""
        while True:
            await asyncio.sleep(CONSENT_S)
            came = self._withheld
            if came is not None and self._context.orders.allows(came.task.manifest):
                self._withheld = None
                self._context.feed(came)

    def _hear_plan(self, plan: RoundPlan, retained: bool) -> None:
        """A coordinator that went back makes values anew that came before, maybe the same ones: they count again."""
        if plan.state == "waiting":
            if not retained:
                self._present.set()
            return
        (epoch, round_), joiner = self._arriving.plan, self._arriving.joiner
        if joiner is not None and (plan.epoch, plan.round) != (epoch, round_ + 1):
            joiner.forget_all(finished_only=(plan.epoch, plan.round) == (epoch, round_))
        self._arriving.plan = plan.epoch, plan.round
        self._context.feed(PlanCame(plan, retained))
        if self._context.session.state == "gathering":
            self._gathers.set()

    def _hear_profile(self, profile: DeviceProfile) -> None:
        if self._context.rivals.took_over(profile.instance, now()):
            raise TakenOver(
                f"another program takes part as device {self._device!r} of federation "
                f"{self._context.topics.federation!r}: give each board a name of its own"
            )

    async def _hear_value(self, payload: bytes, address: Address) -> None:
        """A chunk of a layer's value; the one that completes it has it taken."""
        context = self._context
        context.tally.downlink_bytes += len(payload)
        if self._arriving.joiner is None:
            return
        held_bytes = self._arriving.joiner.held_bytes
        value = self._arriving.joiner.add(payload, address.layer, ("global",))
        if value is None and self._arriving.joiner.held_bytes == held_bytes:
            return  # it was here
        if self._pieces.came(address.layer, address.chunk, now(), whole=value is not None):
            self.do(AskForPieces())
        if value is None:
            return
        if context.learning.layers[value.layer].name != address.layer:
            raise DecodeError(f"layer {value.layer} on the topic of layer {address.layer}")
        if self._wants(value):
            await self._take([value])

    async def _hear_advance(self, payload: bytes) -> None:
        """Each of its values counts by itself."""
        self._context.tally.downlink_bytes += len(payload)
        self._pieces.came_at = now()
        if self._arriving.joiner is None:
            return
        wanted: list[LayerValue] = []
        for message in batches.unpack(payload, len(self._context.learning.layers)):
            try:
                value = self._arriving.joiner.add(message, _ADVANCE, ("delta", "global"))
                if value is None:
                    continue
            except RemoteError as error:
                self._note_refused("advance", error)
                continue
            if self._wants(value):
                wanted.append(value)
            else:
                self._context.feed(Passed(value.epoch, value.layer, value.version))
        await self._take(wanted)

    def _wants(self, value: LayerValue) -> bool:
        return self._context.session.wants(value.epoch, value.layer, value.version, delta=value.purpose == "delta")

    async def _take(self, values: Sequence[LayerValue]) -> None:
        context, taken = self._context, []
        digested = any(context.session.digest(value.layer) for value in values)
        for value, found in zip(values, await context.learning.decoded(values, digested=digested), strict=True):
            if isinstance(found, RemoteError):
                self._note_refused(value.purpose, found)
            elif not self._wants(value):  # any more
                continue
            elif (found.check, found.digest) == (
                context.session.check(value.layer),
                context.session.digest(value.layer),
            ):
                context.learning.take(value.layer, found.vector)
                taken.append((value.layer, value.version))
            else:
                self._note_strayed(value)
        if taken:
            context.feed(Taken(values[0].epoch, tuple(taken)))

    def _note_strayed(self, value: LayerValue) -> None:
        """It leads to another value than the plan's: what is held is another, or it is from before a crash."""
        context, name = self._context, self._context.learning.layers[value.layer].name
        log.warning("%s: a %s leads to another layer %s than the plan's", self._device, value.purpose, name)
        if self._arriving.joiner is not None:  # the right one may count as older
            self._arriving.joiner.forget(name if value.purpose == "global" else _ADVANCE)
        if value.purpose == "delta":
            context.feed(Strayed(value.epoch, value.layer, value.version))

    async def _deploy(self) -> None:
        """Follow deployments, and say what became of each."""
        context = self._context
        async for answer in context.deploying.answers(self._link, context.fetcher):
            await self._say("deployed", answer)

    # What the session wants.

    async def _act(self, group: asyncio.TaskGroup) -> None:
        long: asyncio.Task[None] | None = None
        while True:
            command = await self._commands.get()
            if long is not None and isinstance(command, Prepare | Deliver | Withdraw):
                long.cancel()
            match command:
                case Introduce(profile):
                    await self._say("profile", profile)
                case SayPresent():
                    await self._say("status", DeviceStatus(state="online"))
                case Subscribe():
                    await self._subscribe(command)
                case Insist(values):
                    await self._insist([layer for layer, _ in values])
                case AskForPieces():
                    await self._ask_for_pieces()
                case Unsubscribe():
                    await self._link.unsubscribe(*self._filters(command), *self._piece_topics(self._pieces.leave()))
                case Prepare(task):
                    long = group.create_task(self._prepare(task), name=f"{self._device} prepare")
                case Deliver():
                    long = group.create_task(
                        deliver(self._context, self._link, command), name=f"{self._device} deliver"
                    )

    async def _subscribe(self, command: Subscribe) -> None:
        layers = self._context.learning.layers
        if self._arriving.joiner is None:
            most = 2 * sum(4 * layer.vector_size for layer in layers)  # bytes: every layer at once, however encoded
            self._arriving.joiner = Joiner(self._context.learning.spec, max_bytes=most)
        for layer, _ in command.values:  # what came before, unwanted, must count when it comes again
            self._arriving.joiner.forget(layers[layer].name, finished_only=True)
        if command.advance:
            self._arriving.joiner.forget(_ADVANCE)
        layers_wanted = [layer for layer, _ in command.values]
        if layers_wanted and self._arriving.is_sparing:
            await self._insist(layers_wanted)
            return
        await self._link.subscribe(*self._filters(command))
        if layers_wanted:
            await self._say("request", Request(layers=tuple(layers_wanted)), retain=False)

    async def _insist(self, layers: Sequence[int]) -> None:
        """Ask for values that don't come."""
        self._pieces.insist([self._context.learning.layers[layer].name for layer in layers])
        most_bytes = SPARING_BYTES if self._arriving.is_sparing else msgspec.UNSET
        await self._say("request", Request(layers=tuple(layers), most_bytes=most_bytes), retain=False)
        await self._ask_for_pieces()

    async def _watch_gathering(self) -> None:
        """While values are gathered and do not come, say so, after pauses that double from the first time on."""
        session = self._context.session
        while True:
            await self._gathers.wait()
            self._gathers.clear()
            pause_s = PATIENCE_S
            while session.state == "gathering":
                await asyncio.sleep(pause_s)
                if self._pieces.is_coming(now(), pause_s):
                    pause_s = min(pause_s, PATIENCE_S)
                elif session.state == "gathering":
                    self._context.feed(Overdue())
                    pause_s = SHORTEST_S if pause_s == PATIENCE_S else min(2 * pause_s, LONGEST_S)

    async def _ask_for_pieces(self) -> None:
        """Have the broker send a few chunks of one value: its queue may have no room for more."""
        if self._arriving.joiner is None:
            return
        joiner = self._arriving.joiner
        before, wanted = self._pieces.turn(lambda name, most: joiner.missing(name, "global", most))
        await self._link.unsubscribe(*self._piece_topics(before))
        await self._link.subscribe(*self._piece_topics(wanted))

    def _piece_topics(self, pieces: Iterable[tuple[str, int]]) -> list[str]:
        return [self._context.topics.layer_global(layer, index) for layer, index in pieces]

    def _filters(self, command: Subscribe | Unsubscribe) -> list[str]:
        topics, layers = self._context.topics, self._context.learning.layers
        filters = [topics.layer_globals(layers[layer].name) for layer, _ in command.values]
        if command.advance:
            filters.append(topics.advances)
        if isinstance(command, Subscribe) and command.plan:
            filters.append(topics.round)
        return filters

    async def _prepare(self, task: Task) -> None:
        context = self._context
        log.info("%s: trains from layer %d: %s", self._device, task.cut, task.reason)
        manifest = decode_manifest(
            await context.fetcher.manifest(self._link, task.manifest), f"manifest {task.manifest}"
        )
        manifest = with_personal(manifest, at_places(manifest.spec, task.personal or ()))
        graphs = partial(context.learning.graphs, judges=bool(task.held_out))
        check_task(manifest, task.cut, graphs, context.learning.budget_mib)
        await context.fetcher.files(self._link, graphs(manifest, task.cut))
        progress = await context.learning.build(task, manifest, context.fetcher.path)
        self._arriving.joiner = None  # it may be of another model
        context.feed(Prepared(task, manifest, progress))
        self._gathers.set()
