"""Which global values are subscribed to, and whether the advance is, so that each crosses the network once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

from lamina.edge_agent.session.events import Command, Subscribe, Unsubscribe

Value = tuple[int, int]
"""A global value: its layer, and its version."""


class Subscriptions:
    """What a session receives on the present link."""

    def __init__(self) -> None:
        self.values: set[Value] = set()
        self._advancing = False  # subscribed to the advance
        self._passed: dict[int, int] = {}  # layers, and versions to which it led when that could not be taken

    def lose_link(self) -> None:
        """Nothing is subscribed to any more."""
        self.values.clear()
        self._advancing = False
        self._passed.clear()

    def note_passed(self, versions: Mapping[int, int]) -> None:
        """The advance to these versions, by layer, has passed, or may have: whoever needs it subscribes anew."""
        self._passed |= versions

    def fetch(self, whole: Set[Value], by_advance: Set[Value], is_held: Callable[[Value], bool]) -> list[Command]:
        """Receive these values whole, and those by the advance, unless they are on their way already."""
        commands: list[Command] = []
        kept = {value for value in self.values if is_held(value)}
        if outdated := self.values - kept - whole:
            commands.append(Unsubscribe(tuple(sorted(outdated))))
        new = whole - self.values
        self.values = kept | whole
        advance = bool(by_advance and not self._advancing) or not by_advance.isdisjoint(self._passed.items())
        if advance:
            self._advancing = True
            self._passed.clear()
        if new or advance:
            commands.append(Subscribe(tuple(sorted(new)), advance))
        return commands

    def leave(self) -> list[Command]:
        """Receive nothing any more."""
        advancing, self._advancing = self._advancing, False
        self._passed.clear()
        return self.leave_values(advancing)

    def leave_values(self, advance: bool = False) -> list[Command]:
        """Receive no values any more; the advance, too, if it is not to be left."""
        values, self.values = self.values, set()
        return [Unsubscribe(tuple(sorted(values)), advance)] if values or advance else []
