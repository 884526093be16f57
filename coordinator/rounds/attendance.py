"""Before a round some devices are waited for, and some sit a cycle out. A pure machine: ``now`` is a parameter.

A round waits for a device that vanished, and for one that was there when the coordinator last committed and has not
been heard of since it was started again: both are usually back in a moment. Each is waited for as long as its patience
lasts, and no longer. One that had said goodbye before the coordinator was started again isn't waited for.

A device that is there and still owes updates when a round's deadline passes is *late*. It isn't waited for in the rest
of its cycle, and sits out the next cycle; when it is late again, the next three, and so on up to `MOST_CYCLES`. Then it
is drawn again like any other. So a device that is always late costs a deadline now and then, and one that was slow for
a while takes part again.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST_CYCLES = 15
"""Cycles that a late device sits out, at most."""


class Attendance:
    """Who is waited for, and who sits out.

    Args:
        present: devices that were there when the coordinator last committed.
    """

    def __init__(self, present: Iterable[str] = ()) -> None:
        self._present = frozenset(present)
        self._present_until = -1.0
        self._gone_at: dict[str, float] = {}
        self._late: set[str] = set()  # in this cycle
        self._lateness: dict[str, int] = {}  # how often in a row
        self._back_in: dict[str, int] = {}  # the cycle in which a late device may be drawn again

    def listen(self, until: float) -> None:
        """Devices can be heard now: those that were present before are waited for until then, in seconds."""
        self._present_until = until

    def came(self, name: str) -> None:
        """A device that was away is back: whatever made it late may be over."""
        self._gone_at.pop(name, None)
        self._back_in.pop(name, None)
        self._late.discard(name)

    def went(self, name: str, at: float, *, goodbye: bool) -> None:
        """A device is gone, and is waited for until ``at``, in seconds, whether it was present before or not."""
        self._gone_at[name] = at
        if goodbye:
            self._present -= {name}

    def was_present(self, name: str) -> bool:
        """Whether a device was there when the coordinator last committed, and has not said goodbye since."""
        return name in self._present

    def gone_at(self, name: str, otherwise: float) -> float:
        """When a device that is gone is no longer waited for."""
        return self._gone_at.get(name, otherwise)

    def awaited(self, now: float) -> dict[str, float]:
        """Devices that may be back in a moment, and until when they are waited for, in seconds."""
        awaited = {name: at for name, at in self._gone_at.items() if at > now}
        if self._present_until > now:
            awaited |= {name: max(self._present_until, awaited.get(name, now)) for name in self._present}
        return awaited

    def was_late(self, names: Iterable[str], cycle: int) -> dict[str, int]:
        """These devices missed a round's deadline in a cycle; returns how many cycles each of them sits out."""
        out: dict[str, int] = {}
        for name in names:
            self._lateness[name] = self._lateness.get(name, 0) + 1
            out[name] = min(2 ** self._lateness[name] - 1, MOST_CYCLES)
            self._back_in[name] = cycle + 1 + out[name]
            self._late.add(name)
        return out

    def was_in_time(self, names: Iterable[str]) -> None:
        """These devices delivered all that was asked of them."""
        for name in names:
            self._lateness.pop(name, None)
            self._back_in.pop(name, None)
            self._late.discard(name)

    def is_late(self, name: str) -> bool:
        """Whether a device missed a deadline in this cycle, and isn't waited for in the rest of it."""
        return name in self._late

    def drawable(self, names: Iterable[str], cycle: int) -> list[str]:
        """Return the devices that don't sit this cycle out; all of them, where everyone would."""
        self._late.clear()
        available = list(names)
        return [name for name in available if self._back_in.get(name, cycle) <= cycle] or available
