"""One coordinator at a time leads a federation. What says so is a lease that the broker retains.

A coordinator that starts looks for a lease, over a link of its own, so that it takes nobody's place meanwhile:

    none, or its own               it takes the lease
    its holder has ended           it takes the lease: a process of this machine that is no more
    its holder is there            it refuses to start, and says who leads and since when
    nobody knows                   it asks the holder; an answer within `ANSWER_S` refuses it

Later, the holder answers those who ask, and ends when it hears of another's lease. On a link of its own it asks, too:
when its own question comes back and no lease came before it, the broker has forgotten the lease, and it is said again.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from lamina.broker.link.seam import Delivery, Link
from lamina.broker.wire.messages import Lease, Question, decode, encode
from lamina.broker.wire.topics import Topics
from lamina.models.errors import ConfigError, DecodeError

ANSWER_S = 5.0

_leading: set[str] = set()  # holders in this process


class Superseded(ConfigError):
    """Another coordinator leads the federation."""


class Leadership:
    """One coordinator's side of the lease.

    Args:
        topics: of the federation.
        mine: its lease.
        has_ended: whether the process that a lease names is known to have ended (True), to run (False), or neither.
    """

    def __init__(
        self, topics: Topics, mine: Lease | None = None, has_ended: Callable[[Lease], bool | None] | None = None
    ) -> None:
        self._topics = topics
        self._mine = mine or this_process()
        self._has_ended = has_ended or holder_has_ended
        self._heard = False  # a lease, on the present link
        self._sure = False  # that it is the leader, on the present link

    async def claim(self, link: Link) -> None:
        """Take the lease, before anything else is said.

        Raises:
            Superseded: another coordinator leads the federation.
        """
        found = await self._found(link)
        if found is not None and found.holder != self._mine.holder and not await self._may_replace(link, found):
            raise Superseded(
                f"federation {self._topics.federation!r} is led by another coordinator: {told(found)}; "
                "end that one first, or give this federation another name"
            )
        await self._say(link)
        _leading.add(self._mine.holder)

    async def attend(self, link: Link) -> None:
        """Listen for other coordinators on the link that the federation is led over."""
        self._heard = self._sure = False
        await link.subscribe(self._topics.lease, self._topics.lease_question)
        await self._ask(link)

    async def hear(self, link: Link, delivery: Delivery) -> None:
        """Take in a message of `attend`'s subscriptions.

        Raises:
            Superseded: another coordinator has taken the lease.
            DecodeError: it is no such message.
        """
        if delivery.topic == self._topics.lease:
            lease = decode(delivery.payload, Lease)
            self._heard = True
            if delivery.retained and self._is_past(lease):  # a broker that was killed knows what it saved last
                await self._say(link)
            elif lease.holder != self._mine.holder:
                raise Superseded(
                    f"federation {self._topics.federation!r} is led by another coordinator now: {told(lease)}; "
                    "this one ends"
                )
        elif decode(delivery.payload, Question).asker != self._mine.holder:
            if self._sure:
                await self._say(link)
        else:
            self._sure = True
            if not self._heard:
                await self._say(link)

    async def give_up(self, link: Link) -> None:
        """Leave the federation without a leader."""
        await link.publish(self._topics.lease, b"", retain=True)
        self.end()

    def end(self) -> None:
        """This coordinator leads no more."""
        _leading.discard(self._mine.holder)

    async def _found(self, link: Link) -> Lease | None:
        """The lease that the broker keeps: what it keeps comes before the answer to a later question."""
        await link.subscribe(self._topics.lease, self._topics.lease_question)
        await self._ask(link)
        found: Lease | None = None
        async for delivery in link.deliveries():
            delivery.acknowledge()
            with suppress(DecodeError):
                if delivery.topic == self._topics.lease:
                    found = decode(delivery.payload, Lease) if delivery.payload else None
                elif decode(delivery.payload, Question).asker == self._mine.holder:
                    break
        return found

    async def _may_replace(self, link: Link, found: Lease) -> bool:
        ended = self._has_ended(found)
        if ended is not None:
            return ended
        try:
            async with asyncio.timeout(ANSWER_S):
                async for delivery in link.deliveries():
                    delivery.acknowledge()
                    with suppress(DecodeError):
                        if delivery.topic == self._topics.lease and not delivery.retained:
                            return not delivery.payload or decode(delivery.payload, Lease).holder == self._mine.holder
        except TimeoutError:
            return True
        raise AssertionError("deliveries end by an error only")

    def _is_past(self, found: Lease) -> bool:
        """Whether a lease that the broker kept is another's from before this coordinator took its own."""
        if found.holder == self._mine.holder:
            return False
        return self._has_ended(found) is True or _time(found) < _time(self._mine)

    async def _ask(self, link: Link) -> None:
        await link.publish(self._topics.lease_question, encode(Question(asker=self._mine.holder)))

    async def _say(self, link: Link) -> None:
        await link.publish(self._topics.lease, encode(self._mine), retain=True)


def _time(lease: Lease) -> float:
    """When the lease was taken, in seconds since 1970; 0 where it does not say."""
    try:
        return datetime.fromisoformat(lease.since).timestamp()
    except ValueError:
        return 0.0


def told(lease: Lease) -> str:
    """Who leads, for a person."""
    return f"process {lease.process} on {lease.host}, since {lease.since}"


def this_process() -> Lease:
    """A lease for this process, from now on."""
    return Lease(
        holder=secrets.token_hex(8),
        process=os.getpid(),
        host=platform.node()[:1000],
        since=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        machine=_machine(),
        started=_started(os.getpid()) or "",
    )


def holder_has_ended(lease: Lease) -> bool | None:
    """Whether a lease's holder has ended, where this machine can tell: it ran here, and Linux says what runs."""
    if not lease.machine or lease.machine != _machine():
        return None
    if (lease.process, lease.started) == (os.getpid(), _started(os.getpid())):
        return lease.holder not in _leading
    return _started(lease.process) != lease.started


def _machine() -> str:
    """What tells this boot of this machine, and its space of process ids, from all others; empty if nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process began, in the kernel's ticks: process ids are used again. ``None`` if there is no such process."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
