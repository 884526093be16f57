"""The coordinator says everything retained, so the broker answers for it when it is away, or when a device comes late.

What the broker has, it isn't sent again: a retained message lists the bundle's files that are there, and was published
after them, so a broker that has the list has the files. To see whether it is there, the coordinator says something to
itself on the same topic, which the broker delivers behind what it has kept. The plan goes out on every connection, with
its advance behind it; a layer's value when a device requests it, and at the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec

from lamina.broker.link.reconnect import jitter
from lamina.broker.link.seam import Link
from lamina.broker.wire import batches, chunks, messages
from lamina.broker.wire.chunks import split_file
from lamina.broker.wire.messages import Kept, Message, RoundPlan, Task
from lamina.broker.wire.packing import least_chunk_bytes
from lamina.broker.wire.topics import Topics
from lamina.coordinator.rounds.federation import Federation
from lamina.coordinator.service.signing import ORDERS, Signer
from lamina.models.bundle import MANIFEST_NAME, Bundle, entries
from lamina.models.errors import BundleError, ConfigError

log = logging.getLogger("lamina.coordinator")

_ECHO_S = 20.0
_LATE_S = 5.0  # some brokers send what they kept a little later than what was said since
"""How long a broker may take to return what was said to see what it has kept."""


class _Said(NamedTuple):
    """A layer's value that the broker may keep: its version, in how many chunks, and whether this link published it."""

    version: int
    chunks: int
    is_sure: bool


class Broadcast:
    """The coordinator's voice, and what the broker keeps of it. It is given a link before it speaks.

    Args:
        topics: of the federation.
        bundle: what is trained.
        federation: whose values are published.
        chunk_bytes: of a message, at most.
        signer: signs what makes a board fetch, load or run something; ``None``: nobody does.

    Attributes:
        link: the present one.
    """

    link: Link

    def __init__(
        self, topics: Topics, bundle: Bundle, federation: Federation, chunk_bytes: int, signer: Signer | None = None
    ) -> None:
        self._signer = signer
        self._topics, self._bundle = topics, bundle
        self._federation, self._chunk_bytes, self._value_bytes = federation, chunk_bytes, chunk_bytes
        self._layers = bundle.manifest.spec.layers
        self._least_chunk_bytes = least_chunk_bytes(federation.wire_spec)
        # A coordinator before this one may have left values of any version.
        self._said = {
            index: _Said(-1, 2 + 8 * layer.vector_size // chunk_bytes, False)
            for index, layer in enumerate(self._layers)
        }
        self._parts = 0  # messages of the last advance
        self._requested: set[int] = set()  # layers, whose values are to be published
        self._requested_files: set[str] = set()
        paths = {path.stem: path for path in map(bundle.path, entries(bundle.manifest))}
        self._files = {**paths, bundle.digest: bundle.folder / MANIFEST_NAME}  # by SHA-256, the manifest last
        self._outbox: list[Callable[[], Awaitable[None]]] = []
        self._repeated: list[tuple[str, bytes]] = []  # retained parts, to be published again
        self._acknowledged: dict[str, bytes] = {}  # topics, and a digest of what the broker took there last
        self.taken = 0  # retained parts that the broker took
        self._asked = asyncio.Event()
        self._kept = Kept()  # what the broker is known to have
        self._echo = 0
        self._echoed = asyncio.Event()
        self._awaited = ""  # a topic, of which a message is to come back
        self._returned = asyncio.Event()
        self._proven_bytes = 0  # of the largest message that the broker was seen to keep

    @property
    def files_kept(self) -> int:
        """Files of the bundle that the broker is known to have."""
        return len(self._kept.files)

    def use(self, link: Link) -> None:
        """Speak on this link from now on; what the broker kept of the one before is not sure any more."""
        self.link = link
        self._said = {layer: said._replace(is_sure=False) for layer, said in self._said.items()}
        self._repeated.clear()
        self._kept = Kept()
        self._echo = jitter.getrandbits(53)
        self._echoed.clear()

    def hear_kept(self, kept: Kept) -> None:
        """What the broker has kept came back, or what was said to see whether it has."""
        if kept.echo:
            if kept.echo == self._echo:
                self._echoed.set()
        elif kept.chunk_bytes == self._chunk_bytes:
            self._kept = kept

    async def say(self, topic: str, message: Message, *, retain: bool = True) -> None:
        """Have a message kept at a topic, over the one before; or, not retained, heard by whoever is there."""
        if self._signer is not None and isinstance(message, ORDERS):
            payload = self._signer.sealed(topic, message)
        else:
            payload = messages.encode(message)
        await self.link.publish(topic, payload, retain=retain)

    def say_later(
        self, topic: str, message: Message, *, retain: bool = True, then: Callable[[], None] = lambda: None
    ) -> None:
        """As `say`, but soon, in the order of the calls; ``then`` is called when the broker has it."""

        async def say() -> None:
            await self.say(topic, message, retain=retain)
            then()

        self._outbox.append(say)
        self._asked.set()

    async def _keep(self, parts: Iterable[tuple[str, bytes]], *others: Awaitable[None], is_last: bool = False) -> None:
        """Have parts kept, after the others; those that a broker took on an earlier link soon, behind what it has not.

        It may have died with them. But where links die soon, what it has not would never get through behind them.
        """
        new: list[tuple[str, bytes]] = []
        for topic, part in parts:
            is_known = self._acknowledged.get(topic) == _digest(part)
            (self._repeated if is_known and not is_last else new).append((topic, part))
        if self._repeated:
            self._asked.set()
        await _together([*others, *(self._keep_part(topic, part) for topic, part in new)])

    async def _keep_part(self, topic: str, part: bytes) -> None:
        await self.link.publish(topic, part, retain=True)
        self._acknowledged[topic] = _digest(part)
        self.taken += 1

    @property
    def _present_chunk_bytes(self) -> int:
        """Bytes of a message, at most, that passes on the present link."""
        if not self.link.most_bytes:
            return self._chunk_bytes
        return min(self._chunk_bytes, max(self.link.most_bytes, self._least_chunk_bytes))

    def dated(self, task: Task) -> Task:
        """A device's task, with the round at which it is said."""
        return msgspec.structs.replace(task, round=self._federation.snapshot.round) if task.accepted else task

    def ask_again(self, device: str, layers: tuple[int, ...], then: Callable[[], None]) -> None:
        """Ask a device soon for the updates of these layers, and its report; ``then``, as in `say_later`."""
        task = self.dated(self._federation.devices[device].task)
        self.say_later(self._topics.device(device, "task"), msgspec.structs.replace(task, owed=layers), then=then)

    def call_the_roll(self) -> None:
        """Have every device say soon that it is there."""
        snapshot = self._federation.snapshot
        call = RoundPlan(state="waiting", epoch=snapshot.epoch, round=snapshot.round)
        self.say_later(self._topics.round, call, retain=False)

    async def forget(self, topic: str) -> None:
        """Have what is kept at a topic forgotten."""
        self._acknowledged.pop(topic, None)
        await self.link.publish(topic, b"", retain=True)

    async def files(self) -> None:
        """The bundle's files that the broker doesn't have, the manifest last."""
        await self._hear_what_is_kept()
        for sha256, path in self._files.items():
            if sha256 not in self._kept.files:
                await self._prove(*await self._file(sha256, _content(path)))
                self._kept = Kept(chunk_bytes=self._chunk_bytes, files=(*self._kept.files, sha256))
                await self.say(self._topics.kept, self._kept)

    async def _prove(self, topic: str, payload_bytes: int) -> None:
        """See that the broker has kept a message, where none as large was seen before.

        Before MQTT 5 a broker acknowledges what it drops: without this a bundle would be waited for, and never come.

        Raises:
            ConfigError: it has not.
        """
        if payload_bytes <= self._proven_bytes:
            return
        self._awaited = topic
        self._returned.clear()
        self._echo = jitter.getrandbits(53)
        self._echoed.clear()
        await self.link.subscribe(topic)
        await self._hear_what_is_kept()
        try:
            async with asyncio.timeout(_LATE_S):
                await self._returned.wait()
        except TimeoutError:
            raise ConfigError(
                f"the broker has not kept a message of {payload_bytes} bytes for {topic}, though it took it: its limit "
                "may be lower (mosquitto: message_size_limit), so lower wire.chunk_kib of federation.toml; or it keeps "
                "no messages at all (retain_available)"
            ) from None
        await self.link.unsubscribe(topic)
        self._proven_bytes = payload_bytes

    def hear_file(self, topic: str) -> None:
        """A chunk of the bundle came back."""
        if topic == self._awaited:
            self._returned.set()

    async def _hear_what_is_kept(self) -> None:
        await self.link.publish(self._topics.kept, messages.encode(Kept(echo=self._echo)))
        try:
            async with asyncio.timeout(_ECHO_S):
                await self._echoed.wait()
        except TimeoutError:  # a broker that denies the topic, before MQTT 5 without a word
            log.warning("the broker doesn't return what is said on %s: the bundle is sent anew", self._topics.kept)

    async def values(self, layers: Iterable[int] | None = None, *, is_last: bool = False) -> None:
        """The values of these layers, or of all, unless the broker has them: this link has published them."""
        kept: list[tuple[str, bytes]] = []
        for layer in range(len(self._layers)) if layers is None else layers:
            said = self._said.get(layer)
            if said is not None and said.is_sure and said.version == self._federation.snapshot.versions[layer]:
                continue
            value = self._federation.whole(layer)
            parts = chunks.split(value, min(self._present_chunk_bytes, self._value_bytes))
            self._said[layer] = _Said(value.version, len(parts), is_sure=True)
            name = self._layers[layer].name
            kept += [(self._topics.layer_global(name, index), part) for index, part in enumerate(parts)]
        await self._keep(kept, is_last=is_last)

    async def plan(self, plan: RoundPlan) -> None:
        """A plan, and behind it what leads devices that have the versions before to those of the plan."""
        topics = self._topics
        if self._signer is not None:
            plan = msgspec.structs.replace(plan, digests=self._federation.digests)
        most_bytes = self._present_chunk_bytes
        parts = list(batches.packed(list(self._advance(most_bytes)), most_bytes))
        needless = range(len(parts), self._parts)  # of a longer advance before it
        self._parts = len(parts)
        await self._keep(
            ((topics.advance(index), part) for index, part in enumerate(parts)),
            self.say(topics.round, plan),
            *(self.forget(topics.advance(index)) for index in needless),
            *(self.forget(topic) for topic in self._outdated(plan)),
        )

    def request(self, layers: Iterable[int], most_bytes: int = 0) -> None:
        """Have values published that a device lacks; layers that the network doesn't have are passed over.

        Where larger messages than ``most_bytes`` do not get through to it, values are cut so finely from now on.
        """
        wanted = set(layers) & set(range(len(self._layers)))
        self._requested |= wanted
        finely = max(most_bytes, self._least_chunk_bytes)
        if most_bytes > 0 and finely < self._value_bytes:
            self._value_bytes = finely
            self._said = {layer: said._replace(is_sure=False) for layer, said in self._said.items()}
        self._asked.set()

    def request_files(self, files: Iterable[str]) -> None:
        """Have files of the bundle published once more; others are passed over."""
        self._requested_files |= set(files) & set(self._files)
        self._asked.set()

    async def serve_requests(self) -> None:
        """Publish what is requested, and what is to be said soon, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            outbox, self._outbox = self._outbox, []
            for say in outbox:
                await say()
            repeated, self._repeated = self._repeated, []
            await _together(self.link.publish(topic, part, retain=True) for topic, part in repeated)
            requested, self._requested = self._requested, set()
            await self.values(sorted(requested))
            files, self._requested_files = self._requested_files, set()
            for sha256 in sorted(files):
                await self._file(sha256, _content(self._files[sha256]))

    def _advance(self, most_bytes: int) -> Iterator[bytes]:
        for value in self._federation.advance:
            yield from chunks.split(value, most_bytes - batches.WRAPPING_BYTES)

    def _outdated(self, plan: RoundPlan) -> Iterator[str]:
        """Topics of values that are not the plan's any more; who subscribes for the right ones would get them, too."""
        for layer, said in list(self._said.items()):
            if said.version != plan.versions[layer]:
                del self._said[layer]
                yield from (self._topics.layer_global(self._layers[layer].name, index) for index in range(said.chunks))

    async def _file(self, sha256: str, content: bytes) -> tuple[str, int]:
        """Publish a file; returns where its first chunk is, and that chunk's size."""
        parts = split_file(content, self._chunk_bytes)
        await _together(
            self.link.publish(self._topics.bundle(sha256, index), part, retain=True) for index, part in enumerate(parts)
        )
        return self._topics.bundle(sha256, 0), len(parts[0])


def _digest(part: bytes) -> bytes:
    return blake2b(part, digest_size=8).digest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"bundle file {path}: can't be read: {error.strerror}; put the bundle back, and start again"
        ) from error


async def _together(publishes: Iterable[Awaitable[None]]) -> None:
    """All at once: the link keeps as many in flight as the broker can take."""
    await asyncio.gather(*publishes)
