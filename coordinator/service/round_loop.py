"""Rounds are opened, waited for and finished whether there is a link or not, so that a deadline is kept at all times.

A round begins only while there is a link on which nothing is left to say; what is said on it is `say_plans`, which a
link runs for as long as it lives. So a link that hangs delays the next plan, and never the end of a round.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from lamina.broker.link.clock import now
from lamina.broker.wire.messages import RoundPlan
from lamina.coordinator.rounds import waiting
from lamina.coordinator.rounds.asking import Asking, RollCall
from lamina.coordinator.rounds.federation import Federation, RoundOutcome
from lamina.coordinator.rounds.round import Round
from lamina.coordinator.rounds.waiting import Reminder, some
from lamina.coordinator.settings import FederationSettings
from lamina.models.errors import ConfigError

log = logging.getLogger("lamina.coordinator")

_QUIET_S = 15.0
"""A round that takes no longer is not spoken of while it lasts."""

_MOST_DIVERGED = 3
"""Rounds in a row in which every device's loss was not finite, before the run ends."""


class RoundLoop:
    """One federation's rounds, to the last one.

    Args:
        settings: the operator's.
        federation: it.
        uplink_bytes: payload bytes of updates received since the federation began.
        follow: is told which round's updates may come from now on; ``None`` is none.
        commit: is given each finished round, and returns when it would survive this program.
        ask: has a device asked for the updates of these layers, and its report, once more.
        held: bytes of updates that are here in part, by device.
        call: has every device say that it is there.

    Attributes:
        note_judged: is given the round in which devices judged the last model.
        paused: whether no further round begins; the open one is finished. After a change, `tell` has it noticed.
    """

    def __init__(
        self,
        settings: FederationSettings,
        federation: Federation,
        uplink_bytes: Callable[[], int],
        follow: Callable[[int | None], None],
        commit: Callable[[RoundOutcome], Awaitable[None]],
        ask: Callable[[str, tuple[int, ...]], None],
        held: Callable[[], Mapping[str, int]],
        call: Callable[[], None],
    ) -> None:
        self._settings, self._federation = settings, federation
        self._uplink_bytes, self._follow, self._commit = uplink_bytes, follow, commit
        self._ask, self._held, self._call = ask, held, call
        self._roll_call = RollCall()
        self._asking: Asking | None = None  # once the open round's plan was said on the present link
        self.note_judged: Callable[[Round], None] = lambda round_: None
        self._changed, self._planned = asyncio.Event(), asyncio.Event()
        self._linked = False
        self._unsaid: RoundPlan | None = None  # the last plan, until the broker has it
        self._last_s = 0.0  # what the last round took
        self._recent_s: deque[float] = deque(maxlen=3)  # and those before it
        self._diverged = 0  # rounds in a row
        self.paused = False

    def tell(self) -> None:
        """Something has arrived."""
        self._changed.set()

    def heard(self, device: str, *, delivers: bool = False) -> None:
        """A device has given a sign of life."""
        if self._asking is not None:
            self._asking.heard(device, now(), delivers=delivers)

    def asked(self, device: str) -> None:
        """The broker has what a device was asked for."""
        if self._asking is not None:
            self._asking.asked(device, now())

    async def run(self) -> None:
        """Do all rounds.

        Raises:
            ConfigError: too few devices came in time, or training diverges on every device.
        """
        federation = self._federation
        while not federation.finished:
            await self._until_it_may_begin()
            if federation.trained and not federation.accepted:
                log.warning("no device is here to judge the last model (evaluation.devices)")
                federation.judged()
                continue
            self._unsaid = plan = federation.begin(now())
            self._follow(plan.round)
            self._planned.set()
            await self._see_through()
        self._planned.set()

    async def say_plans(self, say: Callable[[RoundPlan], Awaitable[None]]) -> None:
        """Say, on one link, the open round's plan and all that follow, until the federation is finished."""
        said: RoundPlan | None = None
        self._linked = True
        self.tell()
        try:
            while not self._federation.finished:
                self._planned.clear()
                round_ = self._federation.round
                if round_ is not None and round_.plan is not said:
                    said = round_.plan
                    await say(said)
                    self._begin_asking(said)
                if self._unsaid is said or self._federation.round is None:
                    self._unsaid = None
                    self.tell()
                await self._planned.wait()
        finally:
            self._linked, self._asking = False, None

    def _begin_asking(self, plan: RoundPlan) -> None:
        if self._federation.round is None or self._federation.round.plan is not plan:
            return  # it is over already
        settings = self._settings
        self._asking = Asking(
            now(),
            plan.deadline_s,
            min(self._recent_s, default=0.0),
            settings.deadlines.lost_s,
            reports_are_last=not settings.aggregation.aggregators,
        )
        self.tell()

    def _ask_the_silent(self, round_: Round) -> None:
        """Ask those who should have been heard, and wait no longer for those who do not answer."""
        asking, federation = self._asking, self._federation
        if asking is None:
            return
        for name in asking.gone(now()):
            if federation.went(name, now(), 0.0):
                log.warning("%s has not answered for %g s: it is taken for lost", name, asking.patience_s)
        if now() < asking.next_at:
            return
        owed = {name: layers for name, layers in round_.owed(now()).items() if federation.devices[name].online}
        for name in asking.look(now(), owed, self._held(), round_.reports.keys(), len(round_.cuts)):
            log.debug("%s is asked for layers %s of round %d", name, owed[name], round_.plan.round)
            self._ask(name, owed[name])

    def waits_for(self, now: float) -> str:
        """Say for what or whom it waits at ``now``, in seconds; empty while it is on its way to the next round."""
        federation = self._federation
        if federation.round:
            return waiting.within_the_round(federation, now)
        if self.paused:
            return "paused by the operator: `lamina resume` goes on"
        if federation.finished or federation.can_begin(now):
            return ""
        return waiting.before_the_round(federation, now)

    async def _until_it_may_begin(self) -> None:
        federation, wait_s = self._federation, self._settings.cohorts.wait_s
        began, reminder = now(), Reminder(now())
        while self.paused or not self._linked or self._unsaid is not None or not federation.can_begin(now()):
            if self.paused:
                began = now()
            if wait_s and not federation.snapshot.round and now() - began > wait_s:
                raise ConfigError(waiting.too_few(federation, wait_s))
            if self._linked and self._unsaid is None and reminder.is_due(now(), waiting.refused(federation)):
                log.info("%s", self.waits_for(now()))
            if self._roll_call.is_due(now(), waits=self._linked and self._unsaid is None and not self.paused):
                self._call()
            await self._news(1.0)
        self._roll_call.is_due(now(), waits=False)
        away = [name for name, device in federation.devices.items() if device.task.accepted and not device.online]
        for name in self._roll_call.absent(away, now()):
            self._ask(name, ())

    async def _see_through(self) -> None:
        """Close the open round's layers as they become ready, and commit it before the next one is planned.

        A coordinator that dies before the commit plans the round again, and is sent the same updates again. One that
        had planned the next round already would find devices that are ahead of it.
        """
        federation, round_ = self._federation, self._federation.round
        assert round_ is not None
        reminder = Reminder(now(), max(_QUIET_S, 1.5 * self._last_s))
        while True:
            self._ask_the_silent(round_)
            federation.close(round_.ready(now()))
            if round_.done(now()):
                break
            if now() >= reminder.next_at and reminder.is_due(now()):
                log.info("%s", waiting.within_the_round(federation, now()))
            wake_at = [round_.patience_ends(now()), reminder.next_at]
            await self._news(min(wake_at if self._asking is None else [*wake_at, self._asking.next_at]) - now())
        self._follow(None)
        self._asking = None
        if federation.trained:
            self.note_judged(federation.end_judging(now()))
            return
        if round_.empty:
            self._give_up(round_)
            return
        outcome = federation.finish(now(), self._uplink_bytes())
        self._diverged, self._last_s = 0, outcome.seconds
        self._recent_s.append(outcome.seconds)
        for name, cycles in outcome.late.items():
            log.warning(
                "%s still owed something when the deadline of round %d passed (deadlines.round_s = %g), and sits out "
                "%d cycles; a longer deadline or fewer training.local_steps would give it time",
                name, round_.plan.round, round_.plan.deadline_s, cycles,
            )  # fmt: skip
        await self._commit(outcome)

    def _give_up(self, round_: Round) -> None:
        """A round in which nobody delivered does not count: it is planned again."""
        self._federation.abandon(now())
        number, diverged = round_.plan.round, round_.diverged
        self._diverged = self._diverged + 1 if len(diverged) == len(round_.cuts) else 0
        if self._diverged >= _MOST_DIVERGED:
            raise ConfigError(
                f"training diverges on every device in round {number}: no loss is finite; lower training.lr, and go on "
                f"from the last good round in {self._settings.folder}"
            )
        why = [
            f"{what}: {some(names)}"
            for what, names in (
                ("with a loss that is not finite", diverged),
                ("with unusable numbers", round_.refused()),
            )
            if names
        ]
        log.warning(
            "nobody delivered in round %d within deadlines.round_s = %g (%s): it does not count, and is planned again",
            number, round_.plan.deadline_s, "; ".join(why) or f"nothing came from {some(round_.cuts)}",
        )  # fmt: skip

    async def _news(self, timeout_s: float) -> None:
        """Until something has arrived, or the time is up."""
        try:
            async with asyncio.timeout(max(timeout_s, 0.0)):  # wait_for would swallow a cancellation now and then
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()
