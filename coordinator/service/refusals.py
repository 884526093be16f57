"""What was refused, counted by sender, and said in the log: at first every time, then more and more rarely."""

from __future__ import annotations

import logging
from collections import Counter

from lamina.broker.wire.messages import Task
from lamina.models.errors import RejectedUpdate, RemoteError

log = logging.getLogger("lamina.coordinator")

_EVERY_TIME = 3
UNDECODABLE = "undecodable"


class Refusals:
    """How often something was refused, by sender and reason.

    Senders are devices that have registered, so that their number is bounded; all others are counted as one.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, sender: str, error: RemoteError) -> str:
        """Count an error, say so unless the same was said often before, and return its reason in one word."""
        reason = error.reason if isinstance(error, RejectedUpdate) else UNDECODABLE
        self._counts[sender, reason] += 1
        count = self._counts[sender, reason]
        if is_worth_saying(count):
            often = f" ({count} times by now for this reason, from {sender or 'strangers'})" if count > 1 else ""
            log.info("refused: %s%s", error, often)
        return reason


class Verdicts:
    """Which verdicts on devices are said in the log: each device's when it changes, strangers' more and more rarely."""

    def __init__(self) -> None:
        self._strangers = 0

    def is_news(self, before: Task | None, task: Task, *, known: bool) -> bool:
        """Whether to say a verdict.

        Args:
            before: the one before on the same device, if there was one.
            task: it.
            known: whether the device is kept; those for which there is no place may be without number.
        """
        if known:
            return task != before
        self._strangers += 1
        return is_worth_saying(self._strangers)


def is_worth_saying(count: int) -> bool:
    """Whether the so-manyth message of a kind is said: the first ones, and then those at powers of two."""
    return count <= _EVERY_TIME or count.bit_count() == 1
