"""The coordinator's thin asyncio shell moves bytes between the network and the federation's decisions.

On each link, *listen* feeds what arrives into the pure `Federation`, plans are said as they are made, and *serve
requests* publishes the values that devices ask for (`service.broadcast`). Three tasks outlive the link: the rounds are
opened and finished (`service.round_loop`), *record* evaluates finished rounds and writes them down
(`service.round_log`), and *settle* sees that commits are on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from lamina.broker.link.clock import now
from lamina.broker.link.hearing import hear_all
from lamina.broker.link.reconnect import first_error, keep_linked, say_goodbye
from lamina.broker.link.seam import Delivery, Dial, Link, Will
from lamina.broker.wire import messages
from lamina.broker.wire.chunks import Joiner
from lamina.broker.wire.messages import (
    CoordinatorStatus,
    DeviceProfile,
    DeviceStatus,
    Kept,
    Report,
    Request,
    RoundPlan,
    Task,
)
from lamina.broker.wire.topics import Address, Topics
from lamina.coordinator.folds.passes import load_if_worth_it
from lamina.coordinator.records.commits import Saved
from lamina.coordinator.records.journal import Journal
from lamina.coordinator.records.kept_model import as_trained, kept_spec, personal_warnings
from lamina.coordinator.records.records import CycleRecord, RoundRecord, RunResult
from lamina.coordinator.records.snapshot import fresh
from lamina.coordinator.rounds.federation import Federation, RoundOutcome
from lamina.coordinator.service.activity import Activity
from lamina.coordinator.service.arrivals import joined_partial, joined_update, joined_updates
from lamina.coordinator.service.broadcast import Broadcast
from lamina.coordinator.service.lease import Leadership, Superseded
from lamina.coordinator.service.operator import Operator
from lamina.coordinator.service.refusals import Refusals, Verdicts
from lamina.coordinator.service.round_log import RoundLog
from lamina.coordinator.service.round_loop import RoundLoop
from lamina.coordinator.service.signing import Signer
from lamina.coordinator.settings import FederationSettings
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError, LinkError, RejectedUpdate, RemoteError, TakenOver
from lamina.models.metrics import ACCURACY
from lamina.models.storage.disk import DISK, Disk
from lamina.models.values import flatten, layer_vector

log = logging.getLogger("lamina.coordinator")

_T = TypeVar("_T")

_AWAY_S = 30
"""A coordinator that is back within this time was never lost, and its broker has kept what was sent to it (MQTT 5)."""


class Coordinator:
    """One federation, from waiting for devices to the exported model.

    Args:
        settings: the operator's; its paths are used as they stand.
        bundle: what is trained.
        dial: opens a link to the broker.
        observe: is told of every finished round, in order.
        observe_cycle: is told of every adjustment of the intervals.
        new_epoch: draws the number that tells this run of the federation from all others.
        disk: state and records lie on; what the models are exported to is the machine's own.
        leadership: makes this coordinator's side of the lease.
        signer: signs orders; ``None``: nobody does.

    Attributes:
        operator: for who looks at it and gives it orders.
        refused: updates and messages that were refused, by reason.
    """

    def __init__(
        self,
        settings: FederationSettings,
        bundle: Bundle,
        dial: Dial,
        *,
        observe: Callable[[RoundRecord], None] = lambda record: None,
        observe_cycle: Callable[[CycleRecord], None] = lambda record: None,
        new_epoch: Callable[[], int] = lambda: secrets.randbits(53),
        disk: Disk = DISK,
        leadership: Callable[[Topics], Leadership] = Leadership,
        signer: Signer | None = None,
    ) -> None:
        bundle = as_trained(bundle, settings)
        self._settings, self._bundle, self._dial = settings, bundle, dial
        self._new_epoch = new_epoch
        self._topics = Topics(settings.federation)
        self._journal = Journal(Path(settings.folder), settings.state.generations, disk)
        saved, past = self._journal.recover(kept_spec(bundle, settings), bundle.digest)
        self._federation = self._begun(saved)
        self._round_log = RoundLog(
            settings, bundle, self._federation, self._journal, past, disk, observe, observe_cycle
        )
        self._broadcast = Broadcast(self._topics, bundle, self._federation, settings.wire.chunk_bytes, signer)
        self._listens = False  # from the first link on
        self._joiner = Joiner(self._federation.wire_spec)
        self._follow(None)
        if self._federation.trained and self._federation.snapshot.round in past.judged:
            self._federation.judged()
        self._rounds = loop = RoundLoop(
            settings,
            self._federation,
            lambda: self._uplink_bytes,
            self._follow,
            self._commit,
            self._ask_again,
            lambda: self._joiner.held("update"),
            self._broadcast.call_the_roll,
        )
        loop.note_judged = self._round_log.note_judged
        self._activity = Activity([layer.name for layer in bundle.manifest.spec.layers])
        self.operator = Operator(
            settings, self._federation, self._rounds, self._activity, self._round_log, self._say_task, disk
        )
        self._committed = asyncio.Event()
        self._uplink_bytes = self._federation.snapshot.uplink_bytes
        self.refused: Counter[str] = Counter()
        self._leadership = leadership(self._topics)
        self._refusals = Refusals()
        self._verdicts = Verdicts()

    async def run(self) -> RunResult:
        """Train until all rounds are done.

        Raises:
            ConfigError: too few devices came in time, or the state on disk is of another federation.
            BrokerUnreachable: the broker stayed away for longer than ``deadlines.broker_s``.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(self._load_passes), name="load passes")
                group.create_task(self._round_log.keep(), name="record")
                settling = group.create_task(self._settle_commits(), name="settle")
                group.create_task(self._do_rounds(), name="rounds")
                await self._keep_serving()
                await self._round_log.end()
                settling.cancel()
            await asyncio.to_thread(self._journal.settle, self._round_log.pinned)
        except BaseExceptionGroup as raised:
            raise first_error(raised) from None
        finally:
            self._leadership.end()
        return self._round_log.result()

    def close(self) -> None:
        """Write nothing more, once `run` has ended: what threads of it still do may take a moment."""
        self._journal.close()

    def _load_passes(self) -> None:
        elements = sum(layer.vector_size for layer in self._bundle.manifest.spec.layers)
        load_if_worth_it(elements * self._settings.cohorts.min_devices)

    async def _keep_serving(self) -> None:
        if self._settings.wire.update_codec == "top1":
            log.warning("wire.update_codec top1 sends one element in a hundred: give it many more rounds than others")
        for warning in personal_warnings(
            self._settings, self._bundle.manifest.spec, self._federation.snapshot.personal
        ):
            log.warning("%s", warning)
        will = Will(self._topics.coordinator_status, messages.encode(self._status("lost")), _AWAY_S)
        while True:
            await self._linked(self._topics.client("candidate", secrets.token_hex(4)), None, self._leadership.claim)
            try:
                failure = await self._linked(self._topics.client("coordinator"), will, self._live)
            except TakenOver as error:  # the lease says whether by another coordinator
                log.warning("%s", error)
                continue
            if failure is not None:
                raise failure
            return

    async def _linked(self, client_id: str, will: Will | None, serve: Callable[[Link], Awaitable[_T]]) -> _T:
        return await keep_linked(
            self._dial,
            client_id,
            will,
            serve,
            give_up_s=self._settings.deadlines.broker_s,
            progress=self._progress,
            on_retry=lambda error, wait_s: log.warning("%s; trying again in %.1f s", error, wait_s),
        )

    def _progress(self) -> object:
        """It differs where a link has brought the federation on."""
        federation, round_ = self._federation, self._federation.round
        folded = (round_.updates, len(round_.reports)) if round_ else ()
        said = self._broadcast.files_kept, self._broadcast.taken
        return federation.snapshot.round, folded, len(federation.devices), said, self._uplink_bytes

    # -- one connection ----------------------------------------------------------------------------------------------

    async def _live(self, link: Link) -> BaseException | None:
        """Serve over one link. What ends the service for good is returned, once it has been said that it stopped."""
        try:
            await self._serve(link)
        except asyncio.CancelledError:
            await say_goodbye(self._say_stopped(link))
            raise
        except (ConfigError, BaseExceptionGroup) as raised:
            rest = raised.split(LinkError)[1] if isinstance(raised, BaseExceptionGroup) else raised
            if rest is None or isinstance(rest, LinkError):
                raise
            error = first_error(rest) if isinstance(rest, BaseExceptionGroup) else rest
            if not isinstance(error, Superseded):
                await say_goodbye(self._say_stopped(link))
            return error
        return None

    async def _say_stopped(self, link: Link) -> None:
        status = messages.encode(self._status("stopped"))
        await link.publish(self._topics.coordinator_status, status, retain=True)
        await self._leadership.give_up(link)

    async def _serve(self, link: Link) -> None:
        broadcast = self._broadcast
        broadcast.use(link)
        async with asyncio.TaskGroup() as group:
            serving = [
                group.create_task(self._listen(link, broadcast), name="listen"),
                group.create_task(broadcast.serve_requests(), name="serve requests"),
            ]
            await self._announce(link, broadcast)
            await self._rounds.say_plans(self._say_plan)  # devices that are done answer at once
            for task in serving:
                task.cancel()
        await self._retire(broadcast)

    async def _announce(self, link: Link, broadcast: Broadcast) -> None:
        """Ask for everything that devices say, and then say whatever a device may need and the broker doesn't have."""
        federation, topics = self._federation, self._topics
        updates = () if self._settings.aggregation.aggregators else (topics.updates, topics.devices("updates"))
        said = map(topics.devices, ("status", "profile", "request", "report"))
        await link.subscribe(topics.kept, *said, topics.partials, topics.aggregators, *updates)
        await self._leadership.attend(link)
        if not self._listens:
            self._listens = True
            federation.listen(now())
            if not federation.finished:
                await broadcast.forget(topics.round)  # the end of an earlier training is not the end of this one
        await broadcast.say(topics.coordinator_status, self._status())
        for name, device in list(federation.devices.items()):  # more may come meanwhile
            await broadcast.say(topics.device(name, "task"), broadcast.dated(device.task))
        await broadcast.files()

    async def _say_plan(self, plan: RoundPlan) -> None:
        await self._broadcast.plan(plan)
        await self._broadcast.say(self._topics.coordinator_status, self._status())

    async def _listen(self, link: Link, broadcast: Broadcast) -> None:
        await hear_all(
            link,
            lambda delivery: self._hear(broadcast, delivery),
            lambda delivery, error: self._note_refused(broadcast, self._sender(delivery.topic), error),
        )

    def _follow(self, round_: int | None) -> None:
        """Take updates of this round alone; of none, while no round is open."""
        self._joiner.follow(self._federation.snapshot.epoch, round_)

    def _note_refused(self, broadcast: Broadcast, device: str, error: RemoteError) -> None:
        """Count it, say so now and then, and put its sender aside where it was one too many."""
        reason = self._refusals.note(device, error)
        self.refused[reason] += 1
        if task := self._federation.refused(device, reason):
            log.warning("%s is %s", device, task.reason)
            self._say_task(device, task)
            self._rounds.tell()

    def _say_task(self, device: str, task: Task) -> None:
        """Say it on the present link, or on the next one, which says all tasks anew."""
        self._broadcast.say_later(self._topics.device(device, "task"), task)

    def _ask_again(self, device: str, layers: tuple[int, ...]) -> None:
        self._broadcast.ask_again(device, layers, lambda: self._rounds.asked(device))

    def _sender(self, topic: str) -> str:
        """The device whose topic it is; empty where it is nobody's that is known."""
        try:
            device = self._topics.parse(topic).device
        except RemoteError:
            return ""
        return device if device in self._federation.devices else ""

    async def _hear(self, broadcast: Broadcast, delivery: Delivery) -> None:
        if not delivery.payload:  # a retained message that was cleared
            return
        address = self._topics.parse(delivery.topic)
        match address.kind:
            case "lease" | "question":
                await self._leadership.hear(broadcast.link, delivery)
            case "layer_update":
                self._uplink_bytes += len(delivery.payload)
                await self._hear_update(delivery.payload, address)
            case "updates":
                self._uplink_bytes += len(delivery.payload)
                await self._hear_batch(broadcast, delivery.payload, address)
            case "layer_partial":
                await self._hear_partial(delivery.payload, address)
            case "aggregator_status":
                self._hear_aggregator(address.site, messages.decode(delivery.payload, DeviceStatus).state)
            case "status":
                self._hear_status(address.device, messages.decode(delivery.payload, DeviceStatus).state)
            case "report":
                self._hear_of(address.device, delivers=True)
                self._federation.report(address.device, messages.decode(delivery.payload, Report))
            case "request":
                request = messages.decode(delivery.payload, Request)
                self._hear_of(address.device)
                broadcast.request(request.layers, request.most_bytes or 0)
                broadcast.request_files(request.files)
            case "bundle":
                broadcast.hear_file(delivery.topic)
            case "kept":
                broadcast.hear_kept(messages.decode(delivery.payload, Kept))
            case "profile":
                await self._hear_profile(broadcast, messages.decode(delivery.payload, DeviceProfile), address)
        self._rounds.tell()

    async def _hear_profile(self, broadcast: Broadcast, profile: DeviceProfile, address: Address) -> None:
        if profile.device != address.device:
            raise RejectedUpdate("stranger", f"{address.device} sent the profile of {profile.device}")
        before = self._federation.devices.get(profile.device)
        task = self._federation.register(profile)
        known = profile.device in self._federation.devices  # the others may be without number: nothing is kept of them
        if self._verdicts.is_news(before.task if before else None, task, known=known):
            verdict = f"trains from layer {task.cut}" if task.accepted else "is refused"
            log.info("%s %s: %s", profile.device, verdict, task.reason)
        await broadcast.say(self._topics.device(profile.device, "task"), broadcast.dated(task), retain=known)

    async def _hear_update(self, payload: bytes, address: Address) -> None:
        self._hear_of(address.device, delivers=True)
        if address.device in self._federation.devices:
            self._activity.sent_chunk(address.device, len(payload), address.layer)
        update = await joined_update(self._joiner, payload, address, self._federation.wire_spec)
        if update is not None:
            self._federation.receive(update)

    async def _hear_batch(self, broadcast: Broadcast, payload: bytes, address: Address) -> None:
        """Each of its updates counts by itself."""
        self._hear_of(address.device, delivers=True)
        updates, damaged = await joined_updates(self._joiner, payload, address, self._federation.wire_spec)
        for error in damaged:
            self._note_refused(broadcast, self._sender(self._topics.batch(address.device)), error)
        if address.device in self._federation.devices:
            sizes = {update.layer: update.delta.size for update in updates}
            self._activity.sent_batch(address.device, len(payload), sizes)
        for update in updates:
            try:
                self._federation.receive(update)
            except RejectedUpdate as error:
                self._note_refused(broadcast, address.device, error)

    async def _hear_partial(self, payload: bytes, address: Address) -> None:
        self._uplink_bytes += len(payload)
        update = await joined_partial(self._joiner, payload, address, self._federation.wire_spec)
        if update is not None:
            for device in update.partial.devices:
                self._hear_of(device)
            self._federation.receive_partial(update)

    def _hear_status(self, device: str, state: str) -> None:
        if state == "online":
            self._hear_of(device)
            return
        # One that vanishes may be back in a moment, and one that says goodbye may be started again at once.
        if self._federation.went(device, now(), self._settings.deadlines.lost_s, goodbye=state == "sleeping"):
            log.info("%s is %s", device, state)

    def _hear_aggregator(self, site: str, state: str) -> None:
        if state == "lost":
            log.warning("aggregator %s is lost: what its devices send counts again when it is back", site)
        else:
            log.info("aggregator %s is %s", site, state)

    def _hear_of(self, device: str, *, delivers: bool = False) -> None:
        """A sign of life."""
        if device in self._federation.devices:
            self._activity.heard(device, now())
            self._rounds.heard(device, delivers=delivers)
        if self._federation.came(device):
            log.info("%s is online", device)

    # -- what is finished ----------------------------------------------------------------------------------------------

    async def _commit(self, outcome: RoundOutcome) -> None:
        done = self._round_log.note(outcome)
        moved = outcome.snapshot, outcome.values, outcome.owed, outcome.memory
        await asyncio.to_thread(self._journal.commit, done, *moved)
        self._committed.set()
        await self._round_log.add(done, outcome)
        await self._stop_if_stalled()

    async def _do_rounds(self) -> None:
        await self._stop_if_stalled()
        await self._rounds.run()

    async def _stop_if_stalled(self) -> None:
        """End training with its cycle, where evaluations have been no better than the best one for too long."""
        patience = self._settings.evaluation.stop_after
        if not patience or self._federation.trained or self._federation.snapshot.cohort:
            return
        await self._round_log.caught_up()
        if self._round_log.evaluations.stalled(patience):
            log.info("no better than before in %d evaluations (evaluation.stop_after): training ends", patience)
            self._federation.stop()

    async def _settle_commits(self) -> None:
        """Whenever there is one; where the disk is slower than the rounds, several at once."""
        while True:
            await self._committed.wait()
            self._committed.clear()
            await asyncio.to_thread(self._journal.settle, self._round_log.pinned)

    # -- saying how it stands ----------------------------------------------------------------------------------------

    async def _retire(self, broadcast: Broadcast) -> None:
        """Tell everyone that it is over, and take the tasks back: who comes later waits for the next run.

        It is said once the last commit would survive the machine: nobody is there to train a lost round again.
        Bundle and values stay retained: they are what somebody who looks at the finished federation may want.
        """
        federation, topics = self._federation, self._topics
        snapshot = federation.snapshot
        await asyncio.to_thread(self._journal.settle, self._round_log.pinned)
        await broadcast.values(is_last=True)
        await broadcast.say(topics.round, RoundPlan(state="finished", epoch=snapshot.epoch, round=snapshot.round))
        for name in list(federation.devices):
            await broadcast.forget(topics.device(name, "task"))
        await self._round_log.caught_up()  # the status says the accuracy of the last round
        await broadcast.say(topics.coordinator_status, self._status("finished"))
        await self._leadership.give_up(broadcast.link)

    def _status(self, state: str = "") -> CoordinatorStatus:
        federation = self._federation
        snapshot, judge = federation.snapshot, self._bundle.manifest.judge
        if not state:
            begun = federation.round or snapshot.round
            state = "finished" if federation.finished else "training" if begun else "waiting"
        return CoordinatorStatus(
            state=state,  # type: ignore[arg-type] # one of the five
            epoch=snapshot.epoch,
            manifest=self._bundle.digest,
            round=snapshot.round,
            rounds=federation.rounds,
            devices=federation.accepted,
            accuracy=self._round_log.accuracy,
            c_ratio=snapshot.ledger.c_ratio,
            further=self._settings.algorithm.further or msgspec.UNSET,
            personal=federation.personal or msgspec.UNSET,
            judge=msgspec.UNSET if judge == ACCURACY else judge,
            figure=msgspec.UNSET if judge == ACCURACY else self._round_log.figures.get(judge, msgspec.UNSET),
        )

    # -- beginning ---------------------------------------------------------------------------------------------------

    def _begun(self, saved: Saved | None) -> Federation:
        """The federation as it was saved, or a new one."""
        bundle, settings = self._bundle, self._settings
        manifest = bundle.manifest
        if saved:
            snapshot, values, owed, memory = saved
            snapshot.check(settings)
            log.info("going on after round %d of %s", snapshot.round, settings.federation)
        else:
            owed, memory = {}, {}
            snapshot = fresh(manifest, bundle.digest, self._new_epoch(), settings)
            parameters, statistics = flatten(manifest.spec, bundle.initial_values())
            indices = range(len(manifest.spec.layers))
            values = [layer_vector(manifest.spec, index, parameters, statistics) for index in indices]
        return Federation(settings, manifest, bundle.digest, values, snapshot, owed, memory)
