"""Fetches a bundle to the board, file by file, by digest, and each only once: what is on the disk stays there.

A broker whose queues are short drops retained chunks without a word, and one that takes no large messages never had
them. So a file of which nothing comes for a while is named and asked for again: a few of its missing chunks at a time,
from the broker by topics of their own, and from the coordinator by a request.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from lamina.broker.link.seam import Link
from lamina.broker.wire.files import FileJoiner
from lamina.broker.wire.messages import Request, encode
from lamina.broker.wire.topics import Topics
from lamina.models.errors import ConfigError
from lamina.models.manifest import FileEntry
from lamina.models.storage.replace import replace_file

MANIFEST_SUFFIX = ".json"
PATIENCE_S = 10.0
"""So long may nothing of a file come before it is asked for again."""

_AT_ONCE = 8  # chunks that are asked for by topics of their own; a short queue has room for them

log = logging.getLogger("lamina.agent")


class Fetcher:
    """The files of bundles in a folder, and the way to those that are not there yet.

    Args:
        topics: of the federation.
        device: who fetches.
        folder: for the files; it is made when the first one comes.
        patience_s: so long may nothing of a file come before it is asked for again.
    """

    def __init__(self, topics: Topics, device: str, folder: Path, patience_s: float = PATIENCE_S) -> None:
        self._topics, self._device, self._patience_s = topics, device, patience_s
        self._folder = folder
        self._joiners: dict[str, FileJoiner] = {}  # by SHA-256: what is on its way
        self.fetched = 0  # files that came over a link
        self._arrivals: dict[str, asyncio.Future[bytes]] = {}
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}  # by SHA-256, with how many want the file
        self._came = asyncio.Event()  # a chunk

    def path(self, entry: FileEntry) -> Path:
        """Return where a file of the bundle lies, once it is fetched."""
        return self._folder / entry.file_name

    async def manifest(self, link: Link, sha256: str) -> bytes:
        """The bytes of the manifest with this digest."""
        return await self._fetch(link, sha256, None, self._folder / f"{sha256}{MANIFEST_SUFFIX}")

    async def files(self, link: Link, entries: Iterable[FileEntry]) -> None:
        """Have these files of a bundle on the disk, one after the other."""
        for entry in entries:
            await self._fetch(link, entry.sha256, entry.size_bytes, self.path(entry))

    async def file(self, link: Link, sha256: str, size_bytes: int, path: Path) -> bytes:
        """The bytes of a file that is no bundle's; they are kept at ``path``."""
        return await self._fetch(link, sha256, size_bytes, path)

    def add(self, sha256: str, payload: bytes) -> None:
        """A chunk of a file has arrived.

        Raises:
            DecodeError: it is damaged, or of another file.
        """
        if sha256 not in self._joiners:
            return
        content = self._joiners[sha256].add(payload)
        self._came.set()
        arrival = self._arrivals[sha256]
        if content is not None and not arrival.done():
            arrival.set_result(content)

    async def _fetch(self, link: Link, sha256: str, size_bytes: int | None, path: Path) -> bytes:
        async with self._turn(sha256):
            content = await asyncio.to_thread(_read_if_whole, path, sha256)
            if content is None:
                content = await self._receive(link, sha256, size_bytes, path)
        return content

    @asynccontextmanager
    async def _turn(self, sha256: str) -> AsyncIterator[None]:
        """One fetches a file at a time: training and a deployment may want the same one."""
        lock, users = self._turns.get(sha256, (asyncio.Lock(), 0))
        self._turns[sha256] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._turns.pop(sha256)
            if users > 1:
                self._turns[sha256] = lock, users - 1

    async def _receive(self, link: Link, sha256: str, size_bytes: int | None, path: Path) -> bytes:
        self._joiners[sha256] = FileJoiner(sha256, size_bytes)
        self._arrivals[sha256] = asyncio.get_running_loop().create_future()
        try:
            await link.subscribe(self._topics.bundle_chunks(sha256))
            content = await self._arrival(link, sha256)
            await asyncio.to_thread(_write, path, content)  # before the link can be lost
            self.fetched += 1
            await link.unsubscribe(self._topics.bundle_chunks(sha256))
            return content
        finally:
            del self._joiners[sha256], self._arrivals[sha256]

    async def _arrival(self, link: Link, sha256: str) -> bytes:
        """The file, once it is here; it is asked for again whenever nothing of it comes."""
        joiner, arrival = self._joiners[sha256], self._arrivals[sha256]
        asked: list[int] = []
        while not arrival.done():
            self._came.clear()
            coming = asyncio.ensure_future(self._came.wait())
            both: set[asyncio.Future[Any]] = {coming, arrival}
            await asyncio.wait(both, timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED)
            stalled = not coming.done()
            coming.cancel()
            if arrival.done():
                break
            if stalled:
                here, count = joiner.chunks
                log.warning(
                    "%s: file %s of the bundle does not arrive: %d of %s chunks are here, and none came for %g s; it "
                    "is asked for again (a broker with a short queue, mosquitto's max_queued_messages, drops chunks)",
                    self._device, sha256[:12], here, count or "an unknown number of", self._patience_s,
                )  # fmt: skip
                request = encode(Request(files=(sha256,)))
                await link.publish(self._topics.device(self._device, "request"), request)
            if stalled or (asked and not set(asked) & set(joiner.missing(len(asked)))):
                asked = await self._ask_by_chunk(link, sha256, asked)
        if asked:
            await link.unsubscribe(*(self._topics.bundle(sha256, index) for index in asked))
        return arrival.result()

    async def _ask_by_chunk(self, link: Link, sha256: str, before: list[int]) -> list[int]:
        """Have the broker send the first missing chunks once more; returns which."""
        await link.unsubscribe(*(self._topics.bundle(sha256, index) for index in before))
        asked = self._joiners[sha256].missing(_AT_ONCE)
        await link.subscribe(*(self._topics.bundle(sha256, index) for index in asked))
        return asked


def _read_if_whole(path: Path, sha256: str) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def _write(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise ConfigError(f"folder {path.parent}: can't keep the bundle there: {error.strerror}") from error
