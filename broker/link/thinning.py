"""How large a message may be on links that die again and again: as small as it takes for some to get through.

A link may die after a few kilobytes, as over a modem in a cellar. A larger message then never passes, however often it
is sent. So when links die one after the other while a message is on its way, and not even twice as much has passed on
them, messages are halved, down to `LEAST_BYTES`. A link that carries many of them has them doubled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LEAST_BYTES = 1024
_CUTS = 2  # in a row: one is an accident
_PLENTY = 32  # messages of this size on one link, after which they may be larger


@dataclass(slots=True)
class Thinning:
    """What is known from link to link.

    Attributes:
        most_bytes: of a message that is to be cut into pieces; 0 where there is no reason for a limit.
    """

    most_bytes: int = 0
    _cuts: int = 0  # links in a row
    _passed_bytes: int = 0  # on the present link
    _on_the_way: list[int] = field(default_factory=list)  # bytes of messages that are not acknowledged
    _is_judged: bool = False  # the present link

    def begin(self) -> None:
        """There is a new link."""
        self._passed_bytes, self._is_judged = 0, False
        self._on_the_way.clear()

    def sending(self, payload_bytes: int) -> None:
        """A message begins its way."""
        self._on_the_way.append(payload_bytes)

    def passed(self, payload_bytes: int) -> None:
        """The broker has a message."""
        self.withdrawn(payload_bytes)
        self._passed_bytes += payload_bytes
        if self._passed_bytes >= _PLENTY * max(self.most_bytes, LEAST_BYTES):
            self._cuts = 0
            self._passed_bytes = 0
            self.most_bytes *= 2

    def withdrawn(self, payload_bytes: int) -> None:
        """Nobody waits for a message any more."""
        if payload_bytes in self._on_the_way:
            self._on_the_way.remove(payload_bytes)

    def died(self) -> None:
        """The present link has died; said again, it changes nothing."""
        if self._is_judged:
            return
        self._is_judged = True
        largest = max(self._on_the_way, default=0)
        if largest <= LEAST_BYTES or self._passed_bytes >= 2 * largest:
            return
        self._cuts += 1
        if self._cuts >= _CUTS:
            limit = min(self.most_bytes, largest) if self.most_bytes else largest
            self.most_bytes = max(limit // 2, LEAST_BYTES)
