"""The layout of a file's chunks, little-endian; a file is known by the SHA-256 of the whole.

| offset | bytes | type | field                                          |
| ------ | ----- | ---- | ---------------------------------------------- |
| 0      | 4     |      | magic, ``LAMF``                                |
| 4      | 4     | u32  | CRC-32C of everything after this field         |
| 8      | 1     | u8   | protocol, 1                                    |
| 9      | 3     |      | zero                                           |
| 12     | 4     | u32  | index of the chunk                             |
| 16     | 4     | u32  | count of chunks                                |
| 20     | 8     | u64  | bytes of the file                              |
| 28     | rest  |      | the chunk                                      |
"""

from __future__ import annotations

import hashlib
import struct

from lamina.broker.wire.framing import chunk_size, cut, seal, unseal
from lamina.broker.wire.topics import PROTOCOL
from lamina.models.errors import DecodeError

_MAGIC = b"LAMF"
_HEADER = struct.Struct("<B3xIIQ")
_OVERHEAD = 8 + _HEADER.size
_MOST_BYTES = 1 << 24  # of a file whose length isn't known
_MOST_SMALL_CHUNKS = 4096  # of fewer bytes than the next line says
_LEAST_CHUNK_BYTES = 256
_MOST_CUTS = 4  # retained chunks of runs that cut the same file otherwise may still lie on the broker


def split_file(content: bytes, chunk_bytes: int) -> list[bytes]:
    """The messages of a file, each of at most ``chunk_bytes``.

    Raises:
        ValueError: ``chunk_bytes`` leaves no room beside the header.
    """
    if chunk_bytes <= _OVERHEAD:
        raise ValueError(f"a chunk of {chunk_bytes} bytes has no room for its header of {_OVERHEAD}")
    chunks = cut(content, chunk_bytes - _OVERHEAD)
    return [
        seal(_MAGIC, _HEADER.pack(PROTOCOL, index, len(chunks), len(content)), chunk)
        for index, chunk in enumerate(chunks)
    ]


class FileJoiner:
    """Puts one file together again; holds at most twice its size.

    Args:
        sha256: hex digest of the file.
        size_bytes: its length; chunks of another length are refused. ``None``: what its first chunk says, at most
            16 MiB.
    """

    def __init__(self, sha256: str, size_bytes: int | None = None) -> None:
        self._sha256 = sha256
        self._size_bytes = size_bytes
        self._cuts: dict[int, dict[int, memoryview]] = {}  # count of chunks to chunks by index

    @property
    def chunks(self) -> tuple[int, int]:
        """How many chunks are here, and of how many: of the way to cut the file that is nearest to its end."""
        return max(((len(chunks), count) for count, chunks in self._cuts.items()), default=(0, 0))

    def missing(self, most: int) -> list[int]:
        """Indices of the first chunks that are not here; where none has come, the first one's."""
        _, count = self.chunks
        here = self._cuts.get(count, {})
        return [index for index in range(max(count, 1)) if index not in here][:most]

    def add(self, payload: bytes) -> bytes | None:
        """Take a chunk; returns the file once it is whole and its digest is right, else ``None``.

        Raises:
            DecodeError: the chunk is damaged or of another file, or the joined file has another digest.
        """
        index, count, total, chunk = _parse(payload)
        if self._size_bytes is None and total <= _MOST_BYTES:
            self._size_bytes = total
        if total != self._size_bytes:
            awaited = f"one of at most {_MOST_BYTES}" if self._size_bytes is None else f"one of {self._size_bytes}"
            raise DecodeError(f"chunk of a file of {total} bytes, where {awaited} is awaited")
        if count not in self._cuts and len(self._cuts) == _MOST_CUTS:
            raise DecodeError(f"file {self._sha256[:12]}: chunks of more than {_MOST_CUTS} ways to cut it")
        if count > _MOST_SMALL_CHUNKS + total // _LEAST_CHUNK_BYTES:
            raise DecodeError(f"file {self._sha256[:12]}: {total} bytes in {count} chunks, which are too small")
        chunks = self._cuts.setdefault(count, {})
        chunks[index] = chunk
        self._drop_beyond(2 * total, count)
        if len(chunks) < count:
            return None
        del self._cuts[count]
        content = b"".join(chunks[place] for place in range(count))
        if (digest := hashlib.sha256(content).hexdigest()) != self._sha256:
            raise DecodeError(f"file {self._sha256[:12]}: joined to one of SHA-256 {digest[:12]}")
        return content

    def _drop_beyond(self, most_bytes: int, at_hand: int) -> None:
        """Forget chunks of other cuts, those of which least is here first, while too much is held."""
        while len(self._cuts) > 1 and sum(map(_bytes, self._cuts.values())) > most_bytes:
            others = [count for count in self._cuts if count != at_hand]
            del self._cuts[min(others, key=lambda count: _bytes(self._cuts[count]))]


def _bytes(chunks: dict[int, memoryview]) -> int:
    return sum(len(chunk) for chunk in chunks.values())


def _parse(payload: bytes) -> tuple[int, int, int, memoryview]:
    """Index and count of a chunk, the length of its file, and its content."""
    rest = unseal(payload, _MAGIC)
    if len(rest) < _HEADER.size:
        raise DecodeError(f"file chunk of {len(payload)} bytes")
    protocol, index, count, total = _HEADER.unpack_from(rest)
    if protocol != PROTOCOL:
        raise DecodeError(f"file chunk of protocol {protocol}: this program speaks {PROTOCOL}")
    chunk = rest[_HEADER.size :]
    if len(chunk) != chunk_size(total, count, index):
        raise DecodeError(f"file chunk {index} of {count} has {len(chunk)} bytes")
    return index, count, total, chunk
