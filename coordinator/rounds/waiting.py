"""While the coordinator waits it says for whom, who was refused and why, and what would help. Pure: texts and times.

Before a round that can't begin it says so at once; within a round, when that takes longer than usual; and then now and
then, at intervals that double.
"""

from __future__ import annotations

from collections.abc import Iterable

from lamina.coordinator.rounds.federation import Federation

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 300.0
_MOST_NAMES = 5
_MOST_LETTERS = 400


class Reminder:
    """When to say again that something is waited for.

    Args:
        now: when the waiting began, in seconds.
        patience_s: how long nothing is said at first.
    """

    def __init__(self, now: float, patience_s: float = 0.0) -> None:
        self.next_at = now + patience_s
        self._pause_s = FIRST_PAUSE_S
        self._news: object = None

    def is_due(self, now: float, news: object = None) -> bool:
        """Whether to say it now: the pause is over, or there is news; then the next pause is twice as long."""
        if now < self.next_at and (news == self._news or self._news is None):
            return False
        self._news = news
        self.next_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return True


def refused(federation: Federation) -> tuple[str, ...]:
    """Devices that may not take part, ascending."""
    return tuple(sorted(name for name, device in federation.devices.items() if not device.task.accepted))


def before_the_round(federation: Federation, now: float) -> str:
    """Say for whom a round that can't begin waits, and what would help."""
    number, wanted = federation.snapshot.round, federation.settings.cohorts.min_devices
    turned_away = _refusals(federation)
    if number == 0:
        helps = "start lamina-agent on more devices, or lower cohorts.min_devices"
        return (
            f"waiting for devices: {federation.accepted} of {wanted} are here (cohorts.min_devices = {wanted})"
            f"{turned_away}; {helps}"
        )
    awaited = federation.awaited(now)
    if awaited:
        left_s = max(awaited.values()) - now
        return (
            f"round {number} waits up to {left_s:.0f} s for {some(awaited)}, who were here and have not come back "
            "(deadlines.lost_s); then it begins without them"
        )
    known = [name for name, device in federation.devices.items() if device.task.accepted]
    gone = f"; {some(known)} took part before" if known else ""
    return f"round {number} waits: no device is here{gone}{turned_away}; start lamina-agent on one of them"


def too_few(federation: Federation, wait_s: float) -> str:
    """Why a run ends before its first round."""
    return (
        f"only {federation.accepted} of {federation.settings.cohorts.min_devices} devices came within {wait_s:g} s "
        f"(cohorts.min_devices, cohorts.wait_s){_refusals(federation)}"
    )


def within_the_round(federation: Federation, now: float) -> str:
    """Say from whom the open round still needs something, and how long it waits."""
    round_ = federation.round
    assert round_ is not None, "a round is open"
    missing = round_.owing()
    online = [name for name in missing if name in federation.devices and federation.devices[name].online]
    away = [name for name in missing if name not in online]
    parts = [f"{some(names)} ({what})" for names, what in ((online, "online"), (away, "gone")) if names]
    whom = " and ".join(parts) or "nobody"
    answered = len(round_.cuts) - len(missing)
    unusable = f"; the numbers of {some(round_.refused())} can't be used" if round_.refused() else ""
    return (
        f"round {round_.plan.round} has everything from {answered} of {len(round_.cuts)} devices and waits for {whom}"
        f"{unusable}; it ends without them in {max(round_.deadline - now, 0.0):.0f} s (deadlines.round_s = "
        f"{round_.plan.deadline_s:g})"
    )


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = sorted(names)
    more = f" and {len(every) - _MOST_NAMES} more" if len(every) > _MOST_NAMES else ""
    return ", ".join(every[:_MOST_NAMES]) + more


def _refusals(federation: Federation) -> str:
    names = refused(federation)
    if not names:
        return ""
    reasons = [f"{name} ({federation.devices[name].task.reason[:_MOST_LETTERS]})" for name in names[:_MOST_NAMES]]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"; refused: {', '.join(reasons)}{more}"
