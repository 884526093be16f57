"""Decides which devices are asked for what is still to come of a round: a broker may drop what it has acknowledged.

A broker with a full queue drops messages without a word to anybody, in either direction. So a device that is waited for
is asked (`Task.owed`) when it should have been heard, and again after pauses that double, for as long as it is of no
use:

    its report has come, and updates have not    `SOON_S` later: they were sent before it
    some of its updates have come                `PART_S` after the last of them
    nothing has                                  after three times what half of its cohort has taken, and half as long
                                                 again as rounds take; where neither is known, after `UNKNOWN_S`

A device answers in any case, though it is training. One that has not answered for long is gone, and nobody else has
noticed: its broker may have died with it. In a round that nothing disturbs, and that takes no longer than the one
before, nobody is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set

SOON_S = 1.0
PART_S = 5.0
LONGEST_S = 60.0
UNANSWERED_S = 30.0
"""The least patience with a device that does not answer: as long as a link may be silent."""

UNKNOWN_S = 60.0
"""A first round may take that long, or a quarter of its deadline, before anybody is asked."""

AT_ONCE = 4
"""Devices that are asked in one go: the answers of many would meet the same short queue."""

FIRST_CALL_S, LONGEST_CALL_S = 3.0, 300.0
"""The shortest and the longest pause between two calls to all devices, while no round can begin."""

FIRST_ABSENT_S, LONGEST_ABSENT_S = 30.0, 3600.0
"""The same between two questions to a device that is away, asked between rounds."""

_LOOK_S = 1.0
_SHARE = 0.05  # of the time since the plan, which passes between two looks


class Asking:
    """One round's asking, over one link.

    Args:
        now: when the plan was said, in seconds.
        deadline_s: of the round.
        usual_s: what rounds take; 0 where there was none.
        patience_s: with a device that does not answer.
        reports_are_last: whether a report comes behind its device's updates: not where aggregators fold them.

    Attributes:
        next_at: when to `look` again, in seconds.
        patience_s: with a device that does not answer.
    """

    def __init__(
        self, now: float, deadline_s: float, usual_s: float, patience_s: float, *, reports_are_last: bool = True
    ) -> None:
        self._began = now
        self.patience_s = max(patience_s, UNANSWERED_S)
        self._usual_s, self._unknown_s = usual_s, min(deadline_s / 4, UNKNOWN_S)
        self._half_s: float | None = None  # after which half of the devices had reported
        self._reports_are_last = reports_are_last
        self._heard: dict[str, float] = {}
        self._delivering: set[str] = set()
        self._next_ask: dict[str, float] = {}
        self._pause_s: dict[str, float] = {}
        self._owed_then: dict[str, tuple[tuple[int, ...], int]] = {}  # when it was asked last
        self._unanswered: dict[str, float] = {}  # since when
        self.next_at = now + _LOOK_S

    def heard(self, device: str, now: float, *, delivers: bool = False) -> None:
        """A sign of life, maybe some of an update, or the report."""
        self._heard[device] = now
        self._unanswered.pop(device, None)
        if delivers:
            self._delivering.add(device)

    def asked(self, device: str, now: float) -> None:
        """The broker has what was asked of a device."""
        self._unanswered.setdefault(device, now)

    def gone(self, now: float) -> list[str]:
        """Devices that have not answered for too long, each once."""
        gone = [device for device, since in self._unanswered.items() if now - since >= self.patience_s]
        for device in gone:
            del self._unanswered[device]
        return gone

    def look(
        self, now: float, owed: Mapping[str, tuple[int, ...]], held: Mapping[str, int], reported: Set[str], devices: int
    ) -> list[str]:
        """Devices to ask now, in seconds.

        Args:
            now: at `next_at`, or later.
            owed: what is waited for, by device (`Round.owed`), without those that are known to be gone.
            held: bytes of updates that are here in part, by device.
            reported: devices whose report has come.
            devices: of the round, altogether.
        """
        self.next_at = now + max(_LOOK_S, _SHARE * (now - self._began))
        if self._half_s is None and 2 * len(reported) >= devices:
            self._half_s = now - self._began
        for device, layers in owed.items():
            state = layers, held.get(device, 0)
            if self._owed_then.get(device, state) != state:  # it helped
                del self._owed_then[device], self._pause_s[device], self._next_ask[device]
        due = sorted((at, device) for device in owed if (at := self._due_at(device, device in reported)) <= now)
        asked = [device for _, device in due[:AT_ONCE]]
        for device in asked:
            pause_s = self._pause_s[device] = min(2 * self._pause_s.get(device, SOON_S / 2), LONGEST_S)
            self._next_ask[device] = now + pause_s
            self._owed_then[device] = owed[device], held.get(device, 0)
        return asked

    def _due_at(self, device: str, has_reported: bool) -> float:
        heard = self._heard.get(device, self._began)
        if has_reported and self._reports_are_last:
            at = heard + SOON_S
        elif device in self._delivering:
            at = heard + PART_S
        else:
            at = self._began + self._expected_s
        return max(at, self._next_ask.get(device, at))

    @property
    def _expected_s(self) -> float:
        """After so long, a device of whom nothing was heard is asked."""
        if self._half_s is None and not self._usual_s:
            return self._unknown_s
        return max(3 * (self._half_s or 0.0), 1.5 * self._usual_s, PART_S)


class RollCall:
    """When those who are there are called, while no round can begin, and whom of the absent to ask whether they are.

    A broker may have dropped a device's profile, or that it is back, and a device has no reason to say it again.
    """

    def __init__(self) -> None:
        self._waits_since: float | None = None
        self._pause_s = FIRST_CALL_S
        self._asked: dict[str, tuple[float, float]] = {}  # an absent device: when it may be asked, and the pause then

    def is_due(self, now: float, *, waits: bool) -> bool:
        """Whether to call now, in seconds; ``waits``: whether no round can begin."""
        if not waits:
            self._waits_since, self._pause_s = None, FIRST_CALL_S
            return False
        if self._waits_since is None:
            self._waits_since = now
        if now - self._waits_since < self._pause_s:
            return False
        self._waits_since, self._pause_s = now, min(2 * self._pause_s, LONGEST_CALL_S)
        return True

    def absent(self, names: Collection[str], now: float) -> list[str]:
        """Which of the devices that are away to ask now."""
        self._asked = {name: self._asked.get(name, (now + FIRST_ABSENT_S, FIRST_ABSENT_S)) for name in names}
        due = [name for name in sorted(names) if self._asked[name][0] <= now][:AT_ONCE]
        for name in due:
            pause_s = min(2 * self._asked[name][1], LONGEST_ABSENT_S)
            self._asked[name] = now + pause_s, pause_s
        return due
