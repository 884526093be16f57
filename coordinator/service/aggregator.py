"""The asyncio shell around `Site`: updates reach an aggregator, and its sums the coordinator.

It needs a broker and the federation's name, and no file: the model comes from the bundle that the broker retains. Where
a site has its own broker, a bridge brings in what the coordinator says, and takes out partials in place of updates
(`broker/mosquitto/site.conf`).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from typing import Literal

from lamina.broker.link.clock import now
from lamina.broker.link.hearing import hear_all
from lamina.broker.link.reconnect import first_error, keep_linked, say_goodbye
from lamina.broker.link.seam import Delivery, Dial, Link, Will
from lamina.broker.wire import chunks, messages
from lamina.broker.wire.chunks import FileJoiner, Joiner, LayerValue
from lamina.broker.wire.messages import CoordinatorStatus, DeviceProfile, DeviceStatus, RoundPlan, Task
from lamina.broker.wire.orders import opened
from lamina.broker.wire.topics import Address, Topics, check_name
from lamina.coordinator.rounds.site import Site, share
from lamina.coordinator.service.arrivals import joined_update, joined_updates
from lamina.models.bundle import decode_manifest
from lamina.models.errors import ConfigError, DecodeError, RejectedUpdate, RemoteError
from lamina.models.further import with_further
from lamina.models.personal import at_places, divided
from lamina.models.spec import ModelSpec

log = logging.getLogger("lamina.aggregator")

LOST_S = 5.0
_PATIENCE_S, _LONGEST_PAUSE_S = 10.0, 60.0  # with a broker that has not sent which model it is
"""How long a device that vanished is waited for."""


class Aggregator:
    """One aggregator, from its first connection to the end of the federation.

    Args:
        federation: its name.
        site: this aggregator's name, the only one of that name in the federation.
        dial: opens a link to the broker that the devices publish to.
        index: which share of the layers it folds, from 0.
        count: how many aggregators share the layers; 1: it folds all of them.
        broker_s: how long to try to reach the broker, in seconds; 0 is for ever.

    Raises:
        ConfigError: a name can't stand in a topic, or there is no such share.
    """

    def __init__(
        self, federation: str, site: str, dial: Dial, *, index: int = 0, count: int = 1, broker_s: float = 0.0
    ) -> None:
        if not 0 <= index < count:
            raise ConfigError(f"there is no share {index + 1} of {count}")
        self._topics, self._name = Topics(federation), check_name(site, "site")
        self._dial, self._index, self._count, self._broker_s = dial, index, count, broker_s
        self._site = Site()
        self._spec: ModelSpec | None = None  # as values cross the wire
        self._further: tuple[str, ...] = ()
        self._personal: tuple[int, ...] = ()
        self._digest = ""
        self._manifest: FileJoiner | None = None  # while it is on its way
        self._joiner: Joiner | None = None
        self._chunk_bytes = 0
        self._plan = b""  # as it was heard last
        self._changed = asyncio.Event()
        self._finished = False
        self.refused: Counter[str] = Counter()

    async def run(self) -> None:
        """Fold rounds until the coordinator says that the federation is finished.

        Raises:
            BrokerUnreachable: the broker stayed away for too long.
        """
        try:
            await keep_linked(
                self._dial,
                self._topics.client("aggregator", self._name),
                Will(self._topics.aggregator_status(self._name), messages.encode(DeviceStatus(state="lost"))),
                self._serve,
                give_up_s=self._broker_s,
                on_retry=lambda error, wait_s: log.warning("%s; trying again in %.1f s", error, wait_s),
            )
        except BaseExceptionGroup as raised:
            raise first_error(raised) from None

    # -- one connection ----------------------------------------------------------------------------------------------

    async def _serve(self, link: Link) -> None:
        topics = self._topics
        self._manifest = None  # what was on its way is lost with its link
        await self._say(link, "online")
        await link.subscribe(topics.devices("profile"), topics.devices("status"), topics.devices("task"))
        if self._spec is not None:
            await self._take_part(link, self._spec)
        await link.subscribe(topics.coordinator_status)
        try:
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(self._listen(link), name="listen"),
                    group.create_task(self._insist_on_the_model(link), name="insist on the model"),
                ]
                await self._send(link)
                for task in beside:
                    task.cancel()
        except asyncio.CancelledError:
            await say_goodbye(self._say(link, "sleeping"))
            raise
        await say_goodbye(self._say(link, "sleeping"))

    async def _say(self, link: Link, state: Literal["online", "sleeping"]) -> None:
        status = messages.encode(DeviceStatus(state=state))
        await link.publish(self._topics.aggregator_status(self._name), status, retain=True)

    async def _listen(self, link: Link) -> None:
        async def hear(delivery: Delivery) -> None:
            try:
                if delivery.payload:
                    await self._hear(link, delivery, self._topics.parse(delivery.topic))
            finally:
                self._changed.set()

        await hear_all(link, hear, lambda delivery, error: self._note_refused(error))

    def _note_refused(self, error: RemoteError) -> None:
        self.refused[error.reason if isinstance(error, RejectedUpdate) else "undecodable"] += 1
        log.info("refused: %s", error)

    async def _hear(self, link: Link, delivery: Delivery, address: Address) -> None:
        payload, site = delivery.payload, self._site
        match address.kind:
            case "layer_update":
                await self._hear_update(payload, address)
            case "updates":
                await self._hear_batch(payload, address)
            case "round":
                plan = messages.decode(opened(payload), RoundPlan)
                if plan.state == "waiting":
                    return
                self._hear_plan(plan, delivery.retained)
                self._plan = payload
                if delivery.retained and self._site.waits:
                    # It lay there when this aggregator came, or came back: what devices sent meanwhile is lost. Said
                    # again, and not out of the broker's memory, it makes them send their updates once more.
                    await link.publish(delivery.topic, payload)
            case "profile":
                profile = messages.decode(payload, DeviceProfile)
                if profile.device != address.device:
                    raise RejectedUpdate("stranger", f"{address.device} sent the profile of {profile.device}")
                if site.meet(profile.device, profile.num_examples):
                    await self._ask_again(link, profile.device)
            case "task":
                task = messages.decode(opened(payload), Task)
                if site.task(address.device, task):
                    await self._ask_again(link, address.device)
                elif task.owed and not delivery.retained:
                    await self._make_up(link, address.device, task)
            case "status":
                self._hear_status(address.device, messages.decode(payload, DeviceStatus).state)
            case "coordinator_status":
                await self._hear_coordinator(link, messages.decode(payload, CoordinatorStatus))
            case "bundle" if address.sha256 == self._digest:
                await self._hear_manifest(link, payload)

    async def _hear_update(self, payload: bytes, address: Address) -> None:
        assert self._joiner is not None, "updates are subscribed to once the model is known"
        assert self._spec is not None
        update = await joined_update(self._joiner, payload, address, self._spec)
        if update is not None:
            self._site.receive(update)

    async def _hear_batch(self, payload: bytes, address: Address) -> None:
        """Each of its updates counts by itself."""
        assert self._joiner is not None, "updates are subscribed to once the model is known"
        assert self._spec is not None
        updates, damaged = await joined_updates(self._joiner, payload, address, self._spec)
        for refused in damaged:
            self._note_refused(refused)
        for update in updates:
            try:
                self._site.receive(update)
            except RemoteError as error:
                self._note_refused(error)

    def _hear_plan(self, plan: RoundPlan, retained: bool) -> None:
        if plan.state == "finished":
            # One that lay there before this aggregator took part is of an earlier run.
            self._finished = self._site.round is not None or not retained
            return
        self._chunk_bytes = plan.chunk_bytes
        begins = self._site.begin(plan, now(), kept=retained)
        if self._joiner is not None:
            if begins:  # what came of a round of this number before counts as new when it is sent again
                self._joiner.follow(plan.epoch, None)
            self._joiner.follow(plan.epoch, plan.round)

    async def _make_up(self, link: Link, device: str, task: Task) -> None:
        """The coordinator asks a device for updates: they may have been sent from here before, or refused here."""
        round_ = self._site.round
        if self._joiner is None or round_ is None or round_.plan.round != task.round:
            await link.subscribe(self._topics.round)  # the plan may have been dropped on its way
            return
        if device not in round_.cuts:  # its profile or its task may have been dropped
            await link.subscribe(self._topics.device(device, "profile"), self._topics.device(device, "task"))
            return
        self._joiner.forget(device, finished_only=True)
        self._site.repeat()

    async def _ask_again(self, link: Link, device: str) -> None:
        """Have devices send their updates once more: those of this one were refused before it was known."""
        log.info("%s takes part in the open round: its updates are asked for again", device)
        if self._joiner is not None:
            self._joiner.forget(device)
        await link.publish(self._topics.round, self._plan)

    def _hear_status(self, device: str, state: str) -> None:
        if state == "online":
            self._site.came(device)
        else:
            self._site.went(device, now() + (LOST_S if state == "lost" else 0.0))

    # -- the model ---------------------------------------------------------------------------------------------------

    async def _hear_coordinator(self, link: Link, status: CoordinatorStatus) -> None:
        """Fetch the manifest, if it is another one than that at hand."""
        if not status.manifest or (status.manifest == self._digest and (self._spec or self._manifest)):
            return
        self._digest, self._spec = status.manifest, None
        self._further, self._personal = status.further or (), status.personal or ()
        self._manifest = FileJoiner(self._digest)
        await link.subscribe(self._topics.bundle_chunks(self._digest))

    async def _insist_on_the_model(self, link: Link) -> None:
        """Ask again for what says which model it is, until it is known: a broker with a short queue drops some."""
        pause_s = _PATIENCE_S
        while self._spec is None:
            await asyncio.sleep(pause_s)
            if self._manifest is not None:
                await link.subscribe(*(self._topics.bundle(self._digest, chunk) for chunk in self._manifest.missing(4)))
            elif self._spec is None:
                await link.subscribe(self._topics.coordinator_status)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _hear_manifest(self, link: Link, payload: bytes) -> None:
        if self._manifest is None or (content := self._manifest.add(payload)) is None:
            return
        self._manifest = None
        try:
            spec = decode_manifest(content).spec
            self._spec = with_further(divided(spec, at_places(spec, self._personal)), self._further)
        except ConfigError as error:
            raise DecodeError(f"the federation's manifest: {error}") from error
        await link.unsubscribe(self._topics.bundle_chunks(self._digest))
        self._site.use(self._spec, share(self._spec, self._index, self._count))
        log.info("%s folds %d of %d layers", self._name, len(self._layers(self._spec)), len(self._spec.layers))
        await self._take_part(link, self._spec)

    async def _take_part(self, link: Link, spec: ModelSpec) -> None:
        """Ask for the plan first, then for the updates that it lets in."""
        self._joiner = Joiner(spec)  # updates before there is a plan are refused by the site
        await link.subscribe(self._topics.round)
        await link.subscribe(*(self._topics.layer_updates(spec.layers[layer].name) for layer in self._layers(spec)))
        if self._count == 1:  # who share out the layers get no batches
            await link.subscribe(self._topics.devices("updates"))

    def _layers(self, spec: ModelSpec) -> list[int]:
        return sorted(share(spec, self._index, self._count))

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _send(self, link: Link) -> None:
        while not self._finished:
            for value in self._site.ready(now()):
                await self._publish(link, value)
            wait_s = self._site.patience_ends(now()) - now()
            try:
                await asyncio.wait_for(self._changed.wait(), None if math.isinf(wait_s) else max(wait_s, 0.0))
            except TimeoutError:
                continue
            self._changed.clear()

    async def _publish(self, link: Link, value: LayerValue) -> None:
        assert self._spec is not None
        topic = self._topics.layer_partial(self._spec.layers[value.layer].name, self._name)
        await asyncio.gather(*(link.publish(topic, chunk) for chunk in chunks.split(value, self._chunk_bytes)))
