"""The agent's life: it keeps a link, follows its session, and learns in a thread.

What is to be done is decided in `session.session`; this file passes on what happened and starts what is wanted.

    link    dials, and dials again; what happens on a link is in `lamina.edge_agent.service.connection`
    train   has one round after the other trained, whether there is a link or not
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from pathlib import Path

import msgspec

from lamina.broker.link.reconnect import first_error, jitter, keep_linked
from lamina.broker.link.seam import Dial, Link, Will
from lamina.broker.wire.messages import DeviceProfile, DeviceStatus, encode
from lamina.broker.wire.topics import Topics
from lamina.edge_agent.service.agent_context import Acknowledged, AgentContext, Arriving, TrafficCounters
from lamina.edge_agent.service.connection import Connection, Introduce, LinkCommand
from lamina.edge_agent.service.deploying import Deploying
from lamina.edge_agent.service.fetch import Fetcher
from lamina.edge_agent.service.learning import Learning
from lamina.edge_agent.service.orders import Orders
from lamina.edge_agent.service.profile import probe
from lamina.edge_agent.service.rivals import Instances, Rivals
from lamina.edge_agent.session.events import (
    Abandon,
    Command,
    Complain,
    End,
    Event,
    Outcome,
    Prepared,
    Published,
    Refuse,
    Rest,
    Taken,
    Train,
    Trained,
)
from lamina.edge_agent.session.session import Session
from lamina.edge_agent.settings import AgentSettings
from lamina.edge_agent.training.learner import Learner
from lamina.models.errors import ConfigError, LinkError, TakenOver
from lamina.models.samples import LabelledSamples
from lamina.models.storage.disk import DISK, Disk

log = logging.getLogger("lamina.agent")

CONTESTED_S = 20.0
"""So long an enrolled board waits where the broker says that another program has taken its place."""


class Agent:
    """One device's service; runs once.

    Args:
        settings: the operator's.
        data: the device's samples.
        dial: opens links to the broker.
        learner: how it learns; see `lamina.edge_agent.service.learning.Learning`.
        disk: its saved state lies on.

    Attributes:
        profile: what it tells the coordinator of the device.
        tally: what it has counted.

    Raises:
        ConfigError: no memory budget is given, and the platform does not say what is free; or the engine that is
            chosen is not installed; or the operator's key can't be read.
    """

    def __init__(
        self,
        settings: AgentSettings,
        data: LabelledSamples,
        dial: Dial,
        *,
        learner: type[Learner] = Learner,
        disk: Disk = DISK,
    ) -> None:
        learning = Learning(settings, data, learner, disk)
        profile = probe(settings, learning.samples, learning.engine.name)
        self._instances = Instances(settings, disk)
        self.profile: DeviceProfile = msgspec.structs.replace(
            profile, instance=self._instances.next(time.time_ns() // 10**6, secrets.token_hex(4))
        )
        self._rivals = Rivals(self.profile.instance, self._instances.key)
        self._orders = Orders(settings, disk)
        learning.budget_mib = self.profile.budget_mib
        self.tally = TrafficCounters()
        self._arriving, self._acknowledged = Arriving(), Acknowledged()
        self._settings = settings
        self._dial = dial
        self._device = settings.device
        self._topics = Topics(settings.federation)
        self._session = Session(settings.device, once=settings.once)
        self._learning = learning
        self._deploying = Deploying(settings, learning, self._orders, disk)
        self._fetcher = Fetcher(self._topics, settings.device, Path(settings.folder) / "bundle")
        self._trainings: asyncio.Queue[Train] = asyncio.Queue()
        self._connection: Connection | None = None
        self._useful = 0  # what links have brought: values taken, updates that the broker has
        self._ending: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Take part in one training after the other, or in one (``once``).

        Cancelled, the agent says that it sleeps, and leaves.

        Raises:
            ConfigError: the coordinator refused the device, or it can't do what it was asked to: why is in the message.
            BrokerUnreachable: there was no link for ``broker_s``.
        """
        self._ending = asyncio.get_running_loop().create_future()
        self._instances.note(self.profile.instance)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._keep_linked(), name=f"{self._device} link"),
                    group.create_task(self._train(), name=f"{self._device} train"),
                ]
                await self._ending
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as raised:
            raise first_error(raised) from None
        finally:
            await self._learning.close()

    async def _keep_linked(self) -> None:
        """Stay linked. That another program took its place, an enrolled board believes by that one's profile alone."""
        while True:
            try:
                return await self._linked()
            except TakenOver as error:
                if self._rivals.found or not self._rivals.needs_proof:
                    raise
                wait_s = CONTESTED_S * jitter.uniform(0.5, 1.0)
                log.warning("%s: %s; nothing proves it: back in %.0f s", self._device, error, wait_s)
                await asyncio.sleep(wait_s)

    async def _linked(self) -> None:
        topic = self._topics.device(self._device, "status")
        await keep_linked(
            self._dial,
            self._topics.client("device", self._device),
            Will(topic, encode(DeviceStatus(state="lost"))),  # at once: it is the coordinator that has patience
            self._serve,
            give_up_s=self._settings.broker_s,
            progress=self._progress,
            patient=True,  # nobody stands beside a board; the operator may let it in later
            on_retry=self._note_retry,
        )

    def _progress(self) -> object:
        """It differs where a link has been of use."""
        return self._useful, self._fetcher.fetched, len(self._acknowledged), self._arriving.pieces.came_at

    async def _serve(self, link: Link) -> None:
        context = AgentContext(
            profile=self.profile,
            topics=self._topics,
            learning=self._learning,
            fetcher=self._fetcher,
            tally=self.tally,
            session=self._session,
            orders=self._orders,
            deploying=self._deploying,
            rivals=self._rivals,
            arriving=self._arriving,
            acknowledged=self._acknowledged,
            feed=self._feed,
        )
        self._connection = Connection(context, link)
        log.info("%s: linked to federation %s", self._device, self._settings.federation)
        await self._connection.serve()

    async def _train(self) -> None:
        while True:
            command = await self._trainings.get()
            outcome = await self._learning.train(command)
            self._log_round(command, outcome)
            self._tell_of_samples()
            self._feed(Trained(outcome))

    def _tell_of_samples(self) -> None:
        """The coordinator hears of a new number of samples before it gets updates that weigh as much."""
        if self._learning.num_examples == self.profile.num_examples:
            return
        self.profile = msgspec.structs.replace(self.profile, num_examples=self._learning.num_examples)
        self._ask_of_link(Introduce(self.profile))

    def _feed(self, event: Event) -> None:
        """Tell the session what happened, and do what it wants."""
        if isinstance(event, Taken | Published | Prepared):
            self._useful += 1
        if isinstance(event, Prepared):
            self._tell_of_samples()
        for command in self._session.receive(event):
            self._do(command)

    def _do(self, command: Command) -> None:
        match command:
            case Train(plan):
                log.debug("%s: round %d begins", self._device, plan.round)
                self._learning.will_train()
                self._trainings.put_nowait(command)
            case Abandon():
                self._learning.leave_off()
            case Complain(text):
                self.tally.refused["round"] += 1
                log.warning("%s: %s", self._device, text)
            case Refuse(reason):
                self._end(ConfigError(f"device {self._device} was refused: {reason}"))
            case Rest(rounds):
                log.info(
                    "%s: federation %s is finished, after %d rounds; waiting for the next training",
                    self._device,
                    self._settings.federation,
                    rounds,
                )
            case End():
                log.info("%s: the federation is finished", self._device)
                self._end(None)
            case _:
                self._ask_of_link(command)

    def _ask_of_link(self, command: LinkCommand) -> None:
        if self._connection is not None:  # the session asks only while there is a link
            self._connection.do(command)

    def _end(self, error: ConfigError | None) -> None:
        if self._ending is None or self._ending.done():
            return
        if error is None:
            self._ending.set_result(None)
        else:
            self._ending.set_exception(error)

    def _log_round(self, command: Train, outcome: Outcome | None) -> None:
        if outcome is None:
            log.info("%s: round %d: left off, the coordinator has gone on", self._device, command.plan.round)
            return
        if not outcome.steps:
            log.info("%s: judged the model after %d rounds", self._device, command.plan.round)
            return
        right = f", accuracy {outcome.accuracy:.1%}" if self._learning.spec.wanted.is_right_or_wrong else ""
        log.info(
            "%s: round %d: loss %.4f%s, %d steps of %.1f ms",
            self._device,
            command.plan.round,
            outcome.loss,
            right,
            outcome.steps,
            1000 * outcome.step_s,
        )

    def _note_retry(self, error: LinkError, wait_s: float) -> None:
        log.warning("%s: %s; trying again in %.1f s", self._device, error, wait_s)
