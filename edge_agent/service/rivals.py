"""Whether another program takes part under this device's name: a cloned memory card, a second service.

The newer one takes the older one's place at the broker. Where the broker says so (MQTT 5), the link does; others only
end the connection, and the two would take it from each other for ever. So each start of an agent has an instance in its
profile, which the broker retains, and listens to its own.

Another's instance is a rival's if it was not there when this one came, and its program was started later. One that was
started earlier may be a profile from several starts ago: a broker that is killed comes back with what it saved last. It
is a rival's, on a board whose clock runs ahead, only if it is heard again and again within a short time, as it is when
two programs take the connection from each other.
"""

from __future__ import annotations

AGAIN = 5
"""How often an earlier instance is heard within `WITHIN_S` before it is a rival's."""

WITHIN_S = 30.0


def instance_of(started_ms: int, random: str) -> str:
    """The name of one start of an agent; names sort as their times do.

    Args:
        started_ms: wall clock at the start, in milliseconds since 1970.
        random: tells apart starts at the same time.
    """
    return f"{started_ms:012x}-{random}"


class Rivals:
    """What an agent has heard under its own name.

    Args:
        mine: its instance, as `instance_of` makes it.
    """

    def __init__(self, mine: str) -> None:
        self._mine = mine
        self._before: set[str] = set()  # instances that were there when it came
        self._announced = False
        self._earlier: list[float] = []  # when an instance was heard that was started earlier, in seconds

    def took_over(self, instance: str, now: float) -> bool:
        """Whether a profile of this instance, heard at ``now`` (seconds), shows that a rival has this device's name."""
        if instance == self._mine:
            self._announced = True
        elif not self._announced:
            self._before.add(instance)
        if not self._announced or instance in {"", self._mine, *self._before}:
            return False
        if instance > self._mine:
            return True
        self._earlier = [at for at in self._earlier if at > now - WITHIN_S] + [now]
        return len(self._earlier) >= AGAIN
