"""What does the coordinator say on one link, and what does the broker keep of it? Everything that it says is retained.

It is said anew on every connection: a broker that lost its memory, or a device that comes late, needs nothing else. The
plan goes out with its advance behind it; a layer's value at the beginning, at the end, and when a device requests it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from typing import NamedTuple

from lamina.broker.link.seam import Link
from lamina.broker.wire import batches, chunks, messages
from lamina.broker.wire.chunks import split_file
from lamina.broker.wire.messages import Message, RoundPlan
from lamina.broker.wire.topics import Topics
from lamina.coordinator.rounds.federation import Federation
from lamina.models.bundle import MANIFEST_NAME, Bundle, entries


class _Said(NamedTuple):
    """A layer's value that was published: its version, and in how many chunks."""

    version: int
    chunks: int


class Broadcast:
    """The coordinator's voice on one link.

    Args:
        link: it.
        topics: of the federation.
        bundle: what is trained.
        federation: whose values are published.
        chunk_bytes: of a message, at most.
    """

    def __init__(self, link: Link, topics: Topics, bundle: Bundle, federation: Federation, chunk_bytes: int) -> None:
        self._link, self._topics, self._bundle = link, topics, bundle
        self._federation, self._chunk_bytes = federation, chunk_bytes
        self._layers = bundle.manifest.spec.layers
        self._said: dict[int, _Said] = {}  # by layer; it stays on the broker
        self._parts = 0  # messages of the last advance
        self._requested: set[int] = set()  # layers, whose values are to be published
        self._outbox: list[tuple[str, Message]] = []
        self._asked = asyncio.Event()

    async def say(self, topic: str, message: Message, *, retain: bool = True) -> None:
        """Have a message kept at a topic, over the one before; or, not retained, heard by whoever is there."""
        await self._link.publish(topic, messages.encode(message), retain=retain)

    def say_later(self, topic: str, message: Message) -> None:
        """Have a message kept at a topic soon, in the order of the calls."""
        self._outbox.append((topic, message))
        self._asked.set()

    async def forget(self, topic: str) -> None:
        """Have what is kept at a topic forgotten."""
        await self._link.publish(topic, b"", retain=True)

    async def files(self) -> None:
        """The bundle."""
        for path in dict.fromkeys(self._bundle.path(entry) for entry in entries(self._bundle.manifest)):
            await self._file(path.stem, path.read_bytes())
        await self._file(self._bundle.digest, (self._bundle.folder / MANIFEST_NAME).read_bytes())

    async def values(self, layers: Iterable[int] | None = None) -> None:
        """The values of these layers, or of all, unless the broker has them."""
        publishes: list[Awaitable[None]] = []
        for layer in range(len(self._layers)) if layers is None else layers:
            if layer in self._said and self._said[layer].version == self._federation.snapshot.versions[layer]:
                continue
            value = self._federation.whole(layer)
            parts = chunks.split(value, self._chunk_bytes)
            self._said[layer] = _Said(value.version, len(parts))
            publishes += [
                self._link.publish(self._topics.layer_global(self._layers[layer].name, index), part, retain=True)
                for index, part in enumerate(parts)
            ]
        await _together(publishes)

    async def plan(self, plan: RoundPlan) -> None:
        """A plan, and behind it what leads devices that have the versions before to those of the plan."""
        topics = self._topics
        parts = list(batches.packed(list(self._advance()), self._chunk_bytes))
        needless = range(len(parts), self._parts)  # of a longer advance before it
        self._parts = len(parts)
        await _together(
            [
                self.say(topics.round, plan),
                *(self._link.publish(topics.advance(index), part, retain=True) for index, part in enumerate(parts)),
                *(self.forget(topics.advance(index)) for index in needless),
                *(self.forget(topic) for topic in self._outdated(plan)),
            ]
        )

    def request(self, layers: Iterable[int]) -> None:
        """Have values published that a device lacks; layers that the network doesn't have are passed over."""
        self._requested |= set(layers) & set(range(len(self._layers)))
        self._asked.set()

    async def serve_requests(self) -> None:
        """Publish what is requested, and what is to be said soon, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            outbox, self._outbox = self._outbox, []
            for topic, message in outbox:
                await self.say(topic, message)
            requested, self._requested = self._requested, set()
            await self.values(sorted(requested))

    def _advance(self) -> Iterator[bytes]:
        for value in self._federation.advance:
            yield from chunks.split(value, self._chunk_bytes - batches.WRAPPING_BYTES)

    def _outdated(self, plan: RoundPlan) -> Iterator[str]:
        """Topics of values that are not the plan's any more; who subscribes for the right ones would get them, too."""
        for layer, said in list(self._said.items()):
            if said.version != plan.versions[layer]:
                del self._said[layer]
                yield from (self._topics.layer_global(self._layers[layer].name, index) for index in range(said.chunks))

    async def _file(self, sha256: str, content: bytes) -> None:
        parts = split_file(content, self._chunk_bytes)
        await _together(
            self._link.publish(self._topics.bundle(sha256, index), part, retain=True)
            for index, part in enumerate(parts)
        )


async def _together(publishes: Iterable[Awaitable[None]]) -> None:
    """All at once: the link keeps as many in flight as the broker can take."""
    await asyncio.gather(*publishes)
