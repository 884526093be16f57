"""Dialling again: quickly at first, ever more slowly, not for ever if told so. Time is a number here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.broker.brokers.starter import RunningBroker, running_broker
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.reconnect import FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S, keep_linked, wait_before
from lamina.broker.link.seam import Link, Will
from lamina.models.errors import BrokerUnreachable, ConfigError, LinkError
from tests.patience import PATIENCE_S

REFUSED = "broker somewhere:1883: connection refused"


class Upper(random.Random):
    """Draws the upper end, so that the waits are the doubling itself."""

    def uniform(self, a: float, b: float) -> float:
        return b


@dataclass
class World:
    """A clock that only sleeping moves, and a broker that answers from ``up_at_s`` on."""

    now: float = 0.0
    up_at_s: float = 0.0
    waits: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    broker: MemoryBroker = field(default_factory=MemoryBroker)

    def clock(self) -> float:
        return self.now

    async def sleep(self, wait_s: float) -> None:
        self.now += wait_s

    def note(self, error: LinkError, wait_s: float) -> None:
        self.waits.append(wait_s)
        self.errors.append(str(error))

    @asynccontextmanager
    async def dial(self, client_id: str, will: Will | None) -> AsyncIterator[Link]:
        if self.now < self.up_at_s:
            raise LinkError(REFUSED)
        async with self.broker.dial(client_id, will) as link:
            yield link

    async def keep(self, serve: Callable[[Link], Awaitable[str]], give_up_s: float = 0.0) -> str:
        return await keep_linked(
            self.dial,
            "pi",
            Will("status", b"lost"),
            serve,
            give_up_s=give_up_s,
            on_retry=self.note,
            rng=Upper(),
            clock=self.clock,
            sleep=self.sleep,
        )


async def done(link: Link) -> str:
    await link.publish("greeting", b"hello", retain=True)
    return "done"


async def test_result_of_the_service_is_returned_and_no_will_is_published() -> None:
    world = World()
    assert await world.keep(done) == "done"
    assert world.waits == []
    assert world.broker.retained == {"greeting": b"hello"}


async def test_waits_double_until_the_broker_is_there() -> None:
    world = World(up_at_s=3.0)
    assert await world.keep(done) == "done"
    assert world.waits == [0.2, 0.4, 0.8, 1.5, 1.5]  # no more, while the outage is short
    assert world.errors == [REFUSED] * 5


@given(st.integers(1, 10_000), st.randoms(use_true_random=False))
def test_wait_is_spread_over_its_upper_half_and_capped(failures: int, rng: random.Random) -> None:
    whole = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(failures - 1, 20))
    assert whole / 2 <= wait_before(failures, rng) <= whole


async def test_gives_up_after_the_stated_time_and_says_where_and_why() -> None:
    world = World(up_at_s=1e9)
    message = f"{REFUSED}; gave up after 10 s without a connection"
    with pytest.raises(BrokerUnreachable, match=message):
        await world.keep(done, give_up_s=10.0)
    assert world.now == pytest.approx(10.0)  # the last wait is cut short
    assert sum(world.waits) == pytest.approx(10.0)


async def test_without_a_limit_it_never_gives_up() -> None:
    world = World(up_at_s=7 * 24 * 3600.0)
    assert await world.keep(done) == "done"
    assert max(world.waits) == LONGEST_WAIT_S


async def test_whoever_waits_is_back_soon_after_a_broker_that_was_away_for_a_minute() -> None:
    world = World(up_at_s=60.0)
    assert await world.keep(done) == "done"
    assert world.now - 60.0 <= 3.0


def lives(world: World, *durations_s: float) -> Callable[[Link], Awaitable[str]]:
    """A service whose link drops after each duration, and that then is done."""
    left = list(durations_s)

    async def serve(link: Link) -> str:
        if not left:
            return "done"
        world.now += left.pop(0)
        world.broker.drop("pi")
        await link.publish("x", b"y")
        raise AssertionError

    return serve


async def test_after_a_steady_link_the_first_wait_is_short_again() -> None:
    world = World(up_at_s=3.0)
    assert await world.keep(lives(world, STEADY_S)) == "done"
    assert world.waits == [0.2, 0.4, 0.8, 1.5, 1.5, 0.2]


async def test_links_that_drop_at_once_are_dialled_ever_more_slowly() -> None:
    world = World()
    assert await world.keep(lives(world, 0.0, 0.0, 0.0, 0.0)) == "done"
    assert world.waits == [0.2, 0.4, 0.8, 1.6]


async def test_time_to_give_up_counts_from_the_last_link() -> None:
    world = World()

    async def serve(link: Link) -> str:
        world.now += 100.0
        world.up_at_s = 1e9
        world.broker.drop("pi")
        return await done(link)

    with pytest.raises(BrokerUnreachable):
        await world.keep(serve, give_up_s=10.0)
    assert world.now == pytest.approx(110.0)


async def test_group_of_link_errors_counts_as_one() -> None:
    world = World()
    attempts = []

    async def serve(link: Link) -> str:
        attempts.append(link)
        if len(attempts) == 2:
            return "done"
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(anext(link.deliveries()))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            world.broker.drop("pi")
            await asyncio.sleep(1)
        raise AssertionError

    assert await world.keep(serve) == "done"
    assert world.errors == ["broker in memory: the connection dropped"]


async def test_nested_groups_that_fall_together_are_no_cancellation() -> None:
    world, calls = World(), 0

    async def drop() -> None:
        await asyncio.sleep(0)
        raise LinkError("the link dropped")

    async def serve(link: Link) -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            async with asyncio.TaskGroup() as outer:
                outer.create_task(drop())
                async with asyncio.TaskGroup() as inner:
                    inner.create_task(drop())
        return "back"

    assert await world.keep(serve) == "back"
    assert len(world.errors) == 1


async def test_group_with_another_error_passes() -> None:
    async def serve(link: Link) -> str:
        raise ExceptionGroup("both", [LinkError("dropped"), ConfigError("refused")])

    world = World()
    with pytest.raises(ExceptionGroup):
        await world.keep(serve)
    assert world.waits == []


async def test_any_other_error_passes_and_the_will_is_published() -> None:
    async def serve(link: Link) -> str:
        raise ConfigError("refused: too small")

    world = World()
    with pytest.raises(ConfigError, match="refused: too small"):
        await world.keep(serve)
    assert world.broker.retained == {"status": b"lost"}


async def test_cancelling_ends_it() -> None:
    async def serve(link: Link) -> str:
        await anext(link.deliveries())
        return "received"

    task = asyncio.create_task(World().keep(serve))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_ends_it_although_the_link_drops_in_the_same_moment() -> None:
    world, linked = World(), asyncio.Event()

    async def drop_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise LinkError(REFUSED) from None

    async def serve(link: Link) -> str:
        async with asyncio.TaskGroup() as group:  # raises its task's error in place of the cancellation
            group.create_task(drop_when_cancelled())
            linked.set()
        return "never"

    task = asyncio.create_task(world.keep(serve))
    await linked.wait()
    await asyncio.sleep(0)  # the group's task waits, too
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.waits == []


@pytest.mark.broker
async def test_service_goes_on_when_a_real_broker_comes_back(any_broker: RunningBroker, root: str) -> None:
    subscribed = asyncio.Event()

    async def serve(link: Link) -> bytes:
        await link.subscribe(root)
        subscribed.set()
        delivery = await anext(link.deliveries())
        delivery.acknowledge()
        return delivery.payload

    async with asyncio.timeout(PATIENCE_S):
        with running_broker(any_broker.kind) as broker:
            dial = mqtt_dial(broker.address)
            service = asyncio.create_task(keep_linked(dial, root, None, serve))
            await subscribed.wait()
        await asyncio.sleep(0.1)
        assert not service.done()
        subscribed.clear()
        with running_broker(any_broker.kind, port=broker.address.port):
            await subscribed.wait()
            async with dial(f"{root}-sender", None) as sender:
                await sender.publish(root, b"back")
            assert await service == b"back"


async def test_a_link_that_did_useful_work_is_dialled_again_quickly_however_soon_it_was_lost() -> None:
    world, done_so_far = World(), 0

    async def serve(link: Link) -> str:
        nonlocal done_so_far
        world.now += 0.5
        if len(world.waits) in (3, 4):
            done_so_far += 1
        if len(world.waits) == 7:
            return "done"
        raise LinkError("cut")

    await keep_linked(
        world.dial,
        "pi",
        None,
        serve,
        progress=lambda: done_so_far,
        on_retry=world.note,
        rng=Upper(),
        clock=world.clock,
        sleep=world.sleep,
    )
    first = FIRST_WAIT_S
    assert world.waits == [first, 2 * first, 4 * first, first, first, 2 * first, 4 * first]
