"""A message that arrived over MQTT, until it is acknowledged."""

from __future__ import annotations

from collections.abc import Callable


class MqttDelivery:
    """See `broker.link.seam.Delivery`.

    Args:
        topic: where it was published.
        payload: its bytes.
        retained: whether the broker had kept it.
        acknowledge: sends the PUBACK; ``None`` for a message that needs none.
    """

    __slots__ = ("_acknowledge", "payload", "retained", "topic")

    def __init__(self, topic: str, payload: bytes, retained: bool, acknowledge: Callable[[], None] | None) -> None:
        self.topic, self.payload, self.retained = topic, payload, retained
        self._acknowledge = acknowledge

    def acknowledge(self) -> None:
        """Send the PUBACK, once; nothing happens when the connection has dropped."""
        acknowledge, self._acknowledge = self._acknowledge, None
        if acknowledge is not None:
            acknowledge()
