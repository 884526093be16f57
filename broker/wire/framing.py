"""Cuts a long content into messages, and tells whether a message is whole.

A message is ``magic`` (4 bytes), the CRC-32C of all that follows (4 bytes), a header, and one chunk of the content.
Chunk ``index`` of ``count`` has its place by arithmetic: all chunks have ``ceil(total / count)`` bytes, the last one
what is left.
"""

from __future__ import annotations

import struct

import google_crc32c

from lamina.models.errors import DecodeError

_SEAL = struct.Struct("<4sI")


def cut(content: bytes, most_bytes: int) -> list[memoryview]:
    """The content's chunks, each of at most ``most_bytes``; an empty content is one empty chunk."""
    total = len(content)
    count = max(1, -(-total // most_bytes))
    stride = -(-total // count)
    view = memoryview(content)
    return [view[index * stride : (index + 1) * stride] for index in range(count)]


def chunk_size(total: int, count: int, index: int) -> int:
    """Bytes of chunk ``index`` when ``total`` bytes are cut into ``count``.

    Raises:
        DecodeError: nothing of that total is cut so.
    """
    if not 0 <= index < count:
        raise DecodeError(f"chunk {index} of {count}")
    stride = -(-total // count)
    if (count - 1) * stride >= max(total, 1):
        raise DecodeError(f"{total} bytes are not cut into {count} chunks")
    return min(stride, total - index * stride)


def seal(magic: bytes, header: bytes, chunk: memoryview) -> bytes:
    """The message of a header and a chunk."""
    rest = b"".join((header, chunk))
    return seal_of(magic, rest) + rest


def seal_of(magic: bytes, rest: bytes) -> bytes:
    """What stands before all else of a message, or of a file that is checked like one."""
    return _SEAL.pack(magic, google_crc32c.value(rest))


def unseal(payload: bytes, magic: bytes) -> memoryview:
    """Header and chunk of a message that arrived undamaged.

    Raises:
        DecodeError: it is another message, or damaged.
    """
    if len(payload) < _SEAL.size or payload[:4] != magic:
        raise DecodeError(f"not a {magic.decode()} message: it begins with {bytes(payload[:4])!r}")
    if google_crc32c.value(bytes(payload[_SEAL.size :])) != _SEAL.unpack_from(payload)[1]:
        raise DecodeError(f"damaged {magic.decode()} message: its CRC-32C does not match")
    return memoryview(payload)[_SEAL.size :]
