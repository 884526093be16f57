"""A broker in one process and without a network, for tests and small emulations.

It keeps MQTT's promises as the services see them: order, retained messages, wildcards, wills, a receive window, and a
second client with the same id taking the first one's place. Everything happens in the order of the calls, so a run over
it repeats exactly. A will's delay is not simulated: it is published at once, as brokers before MQTT 5 do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lamina.broker.link.seam import Delivery, Link, Will
from lamina.broker.wire.filters import matches, split_filter
from lamina.models.errors import LinkError, TakenOver

_ADDRESS = "broker in memory"


class MemoryBroker:
    """Links, and what is retained; ``broker.dial`` is a `Dial`.

    Args:
        window: deliveries that a link may leave unacknowledged before it receives no more.
        copies: how often each message is delivered; 2 shows that receivers bear what QoS 1 allows.
    """

    def __init__(self, *, window: int = 20, copies: int = 1) -> None:
        self.retained: dict[str, bytes] = {}  # topic to payload
        self._links: dict[str, MemoryLink] = {}  # client id to link, in the order of dialling
        self._window = window
        self._copies = copies
        self._stopped = False

    @asynccontextmanager
    async def dial(self, client_id: str, will: Will | None = None) -> AsyncIterator[Link]:
        """Open a link. Leaving by an exception other than cancellation is no goodbye: the will is published.

        Raises:
            LinkError: the broker is stopped.
        """
        await asyncio.sleep(0)  # as over a network, others run meanwhile
        if self._stopped:
            raise LinkError(f"{_ADDRESS}: connection refused")
        if client_id in self._links:
            self._links[client_id].taken_over = True
            self._end(self._links[client_id], "another client took its place")
        link = self._links[client_id] = MemoryLink(self, client_id, will, self._window)
        try:
            yield link
        except asyncio.CancelledError:
            link.say_goodbye()
            raise
        except BaseException:
            self._end(link, "closed")
            raise
        else:
            link.say_goodbye()
        finally:
            self._end(link, "closed")

    def drop(self, client_id: str) -> None:
        """End a client's link as a failing network does: it gets `LinkError`, and its will is published.

        Raises:
            KeyError: no such client is linked.
        """
        self._end(self._links[client_id], "the connection dropped")

    def stop(self) -> None:
        """Go away: links drop without wills, dialling fails, retained messages are kept."""
        self._stopped = True
        for link in list(self._links.values()):
            link.say_goodbye()
            self._end(link, "the broker stopped")

    def start(self) -> None:
        """Come back after `stop`."""
        self._stopped = False

    @property
    def clients(self) -> tuple[str, ...]:
        """Ids of the linked clients, in the order of dialling."""
        return tuple(self._links)

    def take(self, topic: str, payload: bytes, retain: bool) -> None:
        """Keep a message if it is to be retained, and pass it to whoever subscribed to it."""
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        parts = tuple(topic.split("/"))
        for link in list(self._links.values()):
            if link.wants(parts):
                for _ in range(self._copies):
                    link.receive(topic, payload, retained=False)

    def _end(self, link: MemoryLink, reason: str) -> None:
        if self._links.get(link.client_id) is link:
            del self._links[link.client_id]
        if (will := link.close(reason)) is not None:
            self.take(will.topic, will.payload, retain=True)


class MemoryLink:
    """One client's link to a `MemoryBroker`; see `lamina.broker.link.seam.Link`."""

    most_bytes = 0

    def __init__(self, broker: MemoryBroker, client_id: str, will: Will | None, window: int) -> None:
        self.client_id = client_id
        self._broker = broker
        self._will = will
        self._window = window
        self._filters: dict[str, tuple[str, ...]] = {}
        self._waiting: deque[_MemoryDelivery] = deque()
        self._unacknowledged = 0
        self._changed = asyncio.Event()
        self._closed = ""  # why, once it is
        self.taken_over = False  # by another client of the same id

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Hand a message to the broker."""
        self._check_open()
        if set(topic) & {"+", "#"} or not topic:
            raise ValueError(f"{topic!r} is no topic to publish on")
        self._broker.take(topic, bytes(payload), retain)
        await asyncio.sleep(0)
        self._check_open()

    async def subscribe(self, *filters: str) -> None:
        """Receive what matches, and the retained messages that match now."""
        self._check_open()
        for topic_filter in filters:
            levels = self._filters[topic_filter] = split_filter(topic_filter)
            for topic, payload in self._broker.retained.items():
                if matches(tuple(topic.split("/")), levels):
                    self.receive(topic, payload, retained=True)
        await asyncio.sleep(0)
        self._check_open()

    async def unsubscribe(self, *filters: str) -> None:
        """Stop receiving what matches."""
        self._check_open()
        for topic_filter in filters:
            self._filters.pop(topic_filter, None)
        await asyncio.sleep(0)
        self._check_open()

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """What arrives, in order, as far as the receive window allows."""
        while True:
            await asyncio.sleep(0)
            self._check_open()
            if self._waiting and self._unacknowledged < self._window:
                self._unacknowledged += 1
                yield self._waiting.popleft()
            else:
                self._changed.clear()
                await self._changed.wait()

    # The broker's side.

    def wants(self, topic: tuple[str, ...]) -> bool:
        """Whether it subscribed to a topic, split at its slashes."""
        return any(matches(topic, levels) for levels in self._filters.values())

    def receive(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Queue a delivery."""
        self._waiting.append(_MemoryDelivery(topic, payload, retained, self))
        self._changed.set()

    def acknowledged(self) -> None:
        """One delivery less in the receive window."""
        self._unacknowledged -= 1
        self._changed.set()

    def say_goodbye(self) -> None:
        """A clean end is near: forget the will."""
        self._will = None

    def close(self, reason: str) -> Will | None:
        """End; returns the will that is now due."""
        will, self._will = self._will, None
        self._closed = self._closed or reason
        self._changed.set()
        return will

    def _check_open(self) -> None:
        if self.taken_over:
            raise TakenOver(f"{_ADDRESS}: another program has connected as {self.client_id!r}")
        if self._closed:
            raise LinkError(f"{_ADDRESS}: {self._closed}")


class _MemoryDelivery:
    """A message on its way to one link; see `lamina.broker.link.seam.Delivery`."""

    __slots__ = ("_link", "payload", "retained", "topic")

    def __init__(self, topic: str, payload: bytes, retained: bool, link: MemoryLink) -> None:
        self.topic = topic
        self.payload = payload
        self.retained = retained
        self._link: MemoryLink | None = link

    def acknowledge(self) -> None:
        """Free its place in the receive window, once."""
        if self._link is not None:
            self._link.acknowledged()
            self._link = None
