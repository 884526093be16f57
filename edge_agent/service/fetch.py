"""How does a bundle come to the board? File by file, by digest, and each only once: what is on the disk stays there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from pathlib import Path

from lamina.broker.link.seam import Link
from lamina.broker.wire.files import FileJoiner
from lamina.broker.wire.topics import Topics
from lamina.models.errors import ConfigError
from lamina.models.manifest import FileEntry
from lamina.models.storage.replace import replace_file

MANIFEST_SUFFIX = ".json"


class Fetcher:
    """The files of bundles in a folder, and the way to those that are not there yet.

    Args:
        topics: of the federation.
        folder: for the files; it is made when the first one comes.
    """

    def __init__(self, topics: Topics, folder: Path) -> None:
        self._topics = topics
        self._folder = folder
        self._joiners: dict[str, FileJoiner] = {}  # by SHA-256: what is on its way
        self.fetched = 0  # files that came over a link
        self._arrivals: dict[str, asyncio.Future[bytes]] = {}

    def path(self, entry: FileEntry) -> Path:
        """Where a file of the bundle lies, once it is fetched."""
        return self._folder / entry.file_name

    async def manifest(self, link: Link, sha256: str) -> bytes:
        """The bytes of the manifest with this digest."""
        return await self._fetch(link, sha256, None, self._folder / f"{sha256}{MANIFEST_SUFFIX}")

    async def files(self, link: Link, entries: Iterable[FileEntry]) -> None:
        """Have these files of a bundle on the disk, one after the other."""
        for entry in entries:
            await self._fetch(link, entry.sha256, entry.size_bytes, self.path(entry))

    def add(self, sha256: str, payload: bytes) -> None:
        """A chunk of a file has arrived.

        Raises:
            DecodeError: it is damaged, or of another file.
        """
        if sha256 not in self._joiners:
            return
        content = self._joiners[sha256].add(payload)
        arrival = self._arrivals[sha256]
        if content is not None and not arrival.done():
            arrival.set_result(content)

    async def _fetch(self, link: Link, sha256: str, size_bytes: int | None, path: Path) -> bytes:
        content = await asyncio.to_thread(_read_if_whole, path, sha256)
        if content is None:
            content = await self._receive(link, sha256, size_bytes, path)
        return content

    async def _receive(self, link: Link, sha256: str, size_bytes: int | None, path: Path) -> bytes:
        self._joiners[sha256] = FileJoiner(sha256, size_bytes)
        self._arrivals[sha256] = asyncio.get_running_loop().create_future()
        try:
            await link.subscribe(self._topics.bundle_chunks(sha256))
            content = await self._arrivals[sha256]
            await asyncio.to_thread(_write, path, content)  # before the link can be lost
            self.fetched += 1
            await link.unsubscribe(self._topics.bundle_chunks(sha256))
            return content
        finally:
            del self._joiners[sha256], self._arrivals[sha256]


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
