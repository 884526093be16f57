"""What of a round is still to be sent: updates by their layers, and the report.

A broker may drop what it has acknowledged, so what was sent can be asked for again. It then goes out by itself, once
nothing else is on its way: a delivery that is under way is never begun anew for it.
"""

from __future__ import annotations

from collections.abc import Iterable


class Outbox:
    """A round's messages, by layer; what stands for the report is the caller's choice."""

    def __init__(self) -> None:
        self._owed: set[int] = set()  # not acknowledged by the broker
        self._in_flight: set[int] = set()  # those of them that are on their way
        self.again = False
        """Whether it was all acknowledged once."""

    def __bool__(self) -> bool:
        return bool(self._owed)

    def fill(self, messages: Iterable[int]) -> None:
        """Let just these be sent, whatever is on its way."""
        self._owed, self._in_flight, self.again = set(messages), set(), False

    def ask_again(self, messages: Iterable[int]) -> None:
        """Let these be sent once more, unless something is to be sent anyway: it may be what is asked for."""
        if not self._owed:
            self.fill(messages)
            self.again = True

    def take(self) -> list[int]:
        """All that is owed, ascending, if some of it is not on its way: it is from now on."""
        if not self._owed - self._in_flight:
            return []
        self._in_flight = set(self._owed)
        return sorted(self._owed)

    def acknowledge(self, messages: Iterable[int]) -> None:
        """The broker has these."""
        self._owed.difference_update(messages)
        self._in_flight.difference_update(messages)

    def lose_link(self) -> None:
        """Nothing is on its way any more."""
        self._in_flight.clear()

    def withdraw(self) -> bool:
        """Owe nothing. Whether something was on its way."""
        was_in_flight = bool(self._in_flight)
        self.fill(())
        return was_in_flight
