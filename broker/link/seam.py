"""The interface between a service and a network: what `MqttLink` and `MemoryLink` both offer.

A service never sees a broker: it is given a `Dial`, opens it for one connection's life, and opens it again when that
connection is lost.

    async with dial(client_id, will) as link:       # LinkError: no broker, or it refused
        await link.subscribe("lamina/v1/lab/round")
        async for delivery in link.deliveries():    # LinkError: the connection dropped
            ...
            delivery.acknowledge()
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


class Delivery(Protocol):
    """One message that arrived.

    Attributes:
        topic: where it was published.
        payload: its bytes.
        retained: whether the broker had kept it from before the subscription.
    """

    @property
    def topic(self) -> str: ...  # noqa: D102 - see Attributes
    @property
    def payload(self) -> bytes: ...  # noqa: D102
    @property
    def retained(self) -> bool: ...  # noqa: D102

    def acknowledge(self) -> None:
        """Tell the broker that it is processed. Until then it counts against the receive window."""


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when this client vanishes without saying goodbye.

    Attributes:
        topic: where.
        payload: what.
        delay_s: how long the broker waits for the client to come back first (MQTT 5; ignored before).
    """

    topic: str
    payload: bytes
    delay_s: int = 0


class Link(Protocol):
    """One live connection. Everything raises `LinkError` once it has dropped.

    Attributes:
        most_bytes: of a message, where links die before larger ones have passed; 0: there is no such limit.
    """

    @property
    def most_bytes(self) -> int: ...  # noqa: D102 - see Attributes

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Deliver at least once (QoS 1): returns when the broker has taken it.

        Raises:
            LinkError: the connection dropped, the broker refused the message, or did not answer in time.
        """

    async def subscribe(self, *filters: str) -> None:
        """Receive what matches, and the retained messages that match now (again, if already subscribed)."""

    async def unsubscribe(self, *filters: str) -> None:
        """Stop receiving what matches."""

    def deliveries(self) -> AsyncIterator[Delivery]:
        """What arrives, in order. Ends only by raising `LinkError`; iterate once."""


Dial = Callable[[str, Will | None], AbstractAsyncContextManager[Link]]
"""Opens a link: ``dial(client_id, will)``. A second client with the same id takes the first one's place."""
