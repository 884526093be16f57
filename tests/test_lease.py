"""One coordinator leads a federation: a second one is refused and told who leads, or takes over from a dead one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.seam import Link
from lamina.broker.wire.messages import Lease, decode, encode
from lamina.broker.wire.topics import Topics
from lamina.coordinator.service import lease as leases
from lamina.coordinator.service.lease import Leadership, Superseded, holder_has_ended, this_process

TOPICS = Topics("lab")
FIRST = Lease(holder="first", process=7, host="desk", since="2026-01-02 03:04:05+00:00")
SECOND = msgspec.structs.replace(FIRST, holder="second", process=8, host="shelf")


def unknown(lease: Lease) -> None:
    """Nothing is known of a lease's process."""


@pytest.fixture(autouse=True)
def an_answer_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "ANSWER_S", 0.2)


@asynccontextmanager
async def leading(broker: MemoryBroker, lease: Lease) -> AsyncIterator[Leadership]:
    """A coordinator that leads, and listens."""
    leadership = Leadership(TOPICS, lease, unknown)
    async with broker.dial(f"candidate {lease.holder}") as link:
        await leadership.claim(link)
    async with broker.dial("coordinator") as link:
        await leadership.attend(link)
        listening = asyncio.create_task(listen(leadership, link))
        try:
            yield leadership
        finally:
            listening.cancel()
            await asyncio.wait({listening})


async def listen(leadership: Leadership, link: Link) -> None:
    async for delivery in link.deliveries():
        delivery.acknowledge()
        await leadership.hear(link, delivery)


def kept(broker: MemoryBroker) -> str:
    payload = broker.retained.get(TOPICS.lease)
    return decode(payload, Lease).holder if payload else ""


async def test_the_first_one_takes_the_lease_and_gives_it_back() -> None:
    broker = MemoryBroker()
    async with leading(broker, FIRST) as leadership, broker.dial("x") as link:
        assert kept(broker) == "first"
        await leadership.give_up(link)
    assert kept(broker) == ""


async def test_a_second_one_is_refused_and_told_who_leads_since_when() -> None:
    broker = MemoryBroker()
    async with leading(broker, FIRST), broker.dial("candidate") as link:
        with pytest.raises(Superseded, match="led by another coordinator: process 7 on desk, since 2026-01-02"):
            await Leadership(TOPICS, SECOND, unknown).claim(link)
    assert kept(broker) == "first"


async def test_a_holder_that_does_not_answer_is_replaced() -> None:
    broker = MemoryBroker()
    broker.retained[TOPICS.lease] = encode(FIRST)
    async with broker.dial("candidate") as link:
        await Leadership(TOPICS, SECOND, unknown).claim(link)
    assert kept(broker) == "second"


@pytest.mark.parametrize("ended", [True, False])
async def test_what_is_known_of_the_holder_needs_no_answer(ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "ANSWER_S", 1e9)
    broker = MemoryBroker()
    broker.retained[TOPICS.lease] = encode(FIRST)
    async with broker.dial("candidate") as link:
        leadership = Leadership(TOPICS, SECOND, lambda lease: ended)
        if ended:
            await leadership.claim(link)
        else:
            with pytest.raises(Superseded):
                await leadership.claim(link)
    assert kept(broker) == ("second" if ended else "first")


async def test_a_holder_ends_when_another_has_taken_the_lease() -> None:
    broker = MemoryBroker()
    leadership = Leadership(TOPICS, FIRST, unknown)
    async with broker.dial("coordinator") as link, broker.dial("rival") as rival:
        await leadership.attend(link)
        await rival.publish(TOPICS.lease, encode(SECOND), retain=True)
        with pytest.raises(Superseded, match="led by another coordinator now: process 8 on shelf"):
            await listen(leadership, link)


async def test_a_lease_that_the_broker_forgot_is_said_again_on_the_next_link() -> None:
    broker = MemoryBroker()
    async with leading(broker, FIRST):
        for _ in range(20):
            await asyncio.sleep(0)
        broker.retained.clear()
    async with broker.dial("coordinator") as link:
        leadership = Leadership(TOPICS, FIRST, unknown)
        await leadership.attend(link)
        listening = asyncio.create_task(listen(leadership, link))
        while not kept(broker):
            await asyncio.sleep(0)
        listening.cancel()
        await asyncio.wait({listening})


async def test_its_own_earlier_lease_is_no_obstacle() -> None:
    broker = MemoryBroker()
    for _ in range(2):
        async with broker.dial("candidate") as link:
            await Leadership(TOPICS, FIRST, unknown).claim(link)
    assert kept(broker) == "first"


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only Linux says what runs")
def test_this_machine_tells_whether_a_process_has_ended() -> None:
    mine = this_process()
    script = (
        "import msgspec; from lamina.coordinator.service.lease import this_process;"
        "print(msgspec.json.encode(this_process()).decode(), flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert child.stdout is not None
    other = msgspec.json.decode(child.stdout.readline(), type=Lease)
    assert holder_has_ended(other) is False
    child.kill()
    child.communicate()
    assert holder_has_ended(other) is True
    assert holder_has_ended(msgspec.structs.replace(mine, started="1")) is True  # its process id is used again
    assert holder_has_ended(mine) is True  # no coordinator of this process leads
    assert holder_has_ended(msgspec.structs.replace(mine, machine="another")) is None


@pytest.mark.parametrize(
    ("since", "survives"), [("2026-01-02 03:04:04+00:00", True), ("2026-01-02 03:04:06+00:00", False)]
)
async def test_an_older_lease_that_a_killed_broker_still_knew_ends_nobody(since: str, survives: bool) -> None:
    broker, other = MemoryBroker(), msgspec.structs.replace(SECOND, since=since)
    leadership = Leadership(TOPICS, FIRST, unknown)
    async with broker.dial("candidate") as link:
        await leadership.claim(link)
    broker.retained[TOPICS.lease] = encode(other)  # what it had saved last
    async with broker.dial("coordinator") as link:
        await leadership.attend(link)
        listening = asyncio.create_task(listen(leadership, link))
        await asyncio.wait({listening}, timeout=0.3)
        assert listening.done() is not survives
        assert kept(broker) == ("first" if survives else "second")
        listening.cancel()
        with suppress(asyncio.CancelledError, Superseded):
            await listening
