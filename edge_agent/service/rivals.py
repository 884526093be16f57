"""Whether another program takes part under this device's name: a cloned memory card, a second service.

The newer one takes the older one's place at the broker. Where the broker says so (MQTT 5), the link does; others only
end the connection, and the two would take it from each other for ever. So each start of an agent has an instance in its
profile, which the broker retains, and listens to its own: another's, that wasn't there when it came, has come since.
"""

from __future__ import annotations


class Rivals:
    """What an agent has heard under its own name.

    Args:
        mine: its instance.
    """

    def __init__(self, mine: str) -> None:
        self._mine = mine
        self._before: set[str] = set()  # instances that were there when it came
        self._announced = False

    def took_over(self, instance: str) -> bool:
        """Whether a profile of this instance shows that a newer program has this device's name."""
        if instance == self._mine:
            self._announced = True
        elif not self._announced:
            self._before.add(instance)
        return self._announced and instance not in {"", self._mine, *self._before}
