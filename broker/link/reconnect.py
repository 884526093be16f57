"""Keeps a service linked to a broker that comes and goes: it dials again, backing off, until it gives up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from lamina.broker.link.clock import now
from lamina.broker.link.seam import Dial, Link, Will
from lamina.models.errors import AccessDenied, BrokerUnreachable, ConfigError, LinkError

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 30.0
GOODBYE_S = 2.0
BRIEF_WAIT_S = 1.5
"""The longest wait in an outage that has not lasted long: whoever waits for the broker is back soon after it."""
PATIENT_SHARE = 0.05
"""Of an outage, the longest wait beyond that: a broker that is down for hours is asked every half minute."""
STEADY_S = 10.0  # a link that held so long was a good one: the next wait is short again

_T = TypeVar("_T")
jitter = random.Random()
"""Its draws decide nothing but when to dial; a simulation seeds it, so that a run repeats exactly."""


def wait_before(failures: int, rng: random.Random, longest_s: float = LONGEST_WAIT_S) -> float:
    """Seconds to wait after ``failures`` in a row (at least 1): doubling, capped, and spread over its upper half.

    The spread keeps a fleet whose broker restarts from dialling in step.
    """
    return min(longest_s, FIRST_WAIT_S * 2.0 ** min(failures - 1, 30)) * rng.uniform(0.5, 1.0)


def longest_wait(outage_s: float) -> float:
    """The longest wait before a broker is dialled that has not answered for so long."""
    return min(max(PATIENT_SHARE * outage_s, BRIEF_WAIT_S), LONGEST_WAIT_S)


async def say_goodbye(words: Awaitable[None]) -> None:
    """Say last words on a link; where it is gone, or too slow for `GOODBYE_S`, they go unsaid."""
    with suppress(LinkError, TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await words


async def keep_linked(
    dial: Dial,
    client_id: str,
    will: Will | None,
    serve: Callable[[Link], Awaitable[_T]],
    *,
    give_up_s: float = 0.0,
    patient: bool = False,
    progress: Callable[[], object] = lambda: None,
    on_retry: Callable[[LinkError, float], None] = lambda error, wait_s: None,
    rng: random.Random = jitter,
    clock: Callable[[], float] = now,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> _T:
    """Run ``serve`` over a link, and over a new one whenever it raises `LinkError`; returns what it returns.

    An exception group of nothing but `LinkError`, as a task group raises it, counts as one. Everything else passes.

    Args:
        dial: opens a link.
        client_id: the client's name at the broker.
        will: what the broker publishes when the client vanishes.
        serve: the service's life on one link. It is started anew on each, so it subscribes first of all.
        give_up_s: seconds without a link after which to give up; 0 is never.
        patient: whether to try again even where the broker denies access: an operator may let the client in later.
        progress: a value that changes where a link did useful work; the next wait is then short again, however soon
            the link was lost.
        on_retry: told of each failure, and of the seconds until the next attempt.
        rng: spreads the waits.
        clock: seconds that only grow.
        sleep: waits.

    Raises:
        BrokerUnreachable: no link for ``give_up_s``.
        AccessDenied: the broker refuses the client; with ``patient``, for ``give_up_s``.
        TakenOver: another client has taken this one's place.
    """
    unanswered, useless = 0, 0  # dials in a row without a link; links in a row without use
    without_since = clock()
    while True:
        linked_at: float | None = None
        before = progress()
        try:
            async with dial(client_id, will) as link:
                linked_at = clock()
                # In a task of its own: nested task groups that fail together leave theirs marked as cancelled.
                return await asyncio.ensure_future(serve(link))
        except (LinkError, BaseExceptionGroup) as raised:
            error = _lost_link(raised)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from error  # a service that ends by an error keeps quiet about it
            if isinstance(error, ConfigError) and not (patient and isinstance(error, AccessDenied)):
                raise error from None
        if linked_at is not None:
            without_since = clock()
            useful = without_since - linked_at >= STEADY_S or progress() != before
            unanswered, useless = 0, 1 if useful else useless + 1
            wait_s = wait_before(useless, rng)
        else:
            unanswered += 1
            wait_s = wait_before(unanswered, rng, longest_wait(clock() - without_since))
        if give_up_s > 0:
            wait_s = min(wait_s, _left_s(error, without_since + give_up_s - clock(), give_up_s))
        on_retry(error, wait_s)
        await sleep(wait_s)


def _left_s(error: LinkError, left_s: float, give_up_s: float) -> float:
    """Return the seconds that are left until the service gives up; where none are, raise what it gives up with."""
    if left_s > 0:
        return left_s
    if isinstance(error, AccessDenied):
        raise error
    raise BrokerUnreachable(f"{error}; gave up after {give_up_s:g} s without a connection") from error


def _lost_link(raised: LinkError | BaseExceptionGroup[BaseException]) -> LinkError:
    """The `LinkError` in ``raised``; raises again what is not only that."""
    if isinstance(raised, LinkError):
        return raised
    _, rest = raised.split(LinkError)
    if rest is not None:
        raise raised
    final, _ = raised.split(ConfigError)  # where the whole fleet of tasks fell, what can't be retried counts
    first = first_error(final or raised)
    assert isinstance(first, LinkError)
    return first


def first_error(raised: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error inside groups of them: one cause ended a service, whatever else fell with it."""
    error: BaseException = raised
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
