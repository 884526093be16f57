"""Entropy coding: bytes that compress go through Zstandard, others stay as they are; a first byte tells which.

Codes of quantised floats have no repetitions but runs of zeros: what makes them fewer is Zstandard's Huffman stage,
which reaches their entropy. So the search for repetitions is made as short as it can be, with a table of 64 entries,
which is a quarter faster than level 1 and finds the runs. Where even the entropy gains little (codes of one or two
bits), a sample tells so, and the time is saved.
"""

from __future__ import annotations

import threading

from lamina.broker.wire.codecs.frames import SHORT_SEARCH, Deflater, inflate
from lamina.models.errors import DecodeError


class _Contexts(threading.local):
    """Zstandard's working memory, for each thread: to get it anew takes longer than to compress a small layer."""

    def __init__(self) -> None:
        self.deflater = Deflater(SHORT_SEARCH)


_OF_THREAD = _Contexts()
_STORED, _COMPRESSED = b"\0", b"\1"
_SAMPLE_BYTES = 16 * 1024
_WORTH = 0.97  # of the length: less gain than that isn't worth the receiver's time


def entropy_encoded(content: bytes | memoryview) -> bytes:
    """The content, shorter if that is possible, and at most one byte longer."""
    return b"".join(entropy_encoded_parts(content))


def entropy_encoded_parts(content: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """What `entropy_encoded` joins; whoever joins it to something else saves a copy of it."""
    middle = len(content) // 2
    if len(content) > 4 * _SAMPLE_BYTES and not _pays(content[middle : middle + _SAMPLE_BYTES]):
        return _STORED, content
    compressed = _compressed(content)
    return (_COMPRESSED, compressed) if len(compressed) < _WORTH * len(content) else (_STORED, content)


def entropy_decoded(data: bytes | memoryview, most_bytes: int, name: str) -> bytes | memoryview:
    """The content, of at most ``most_bytes``.

    Args:
        data: what `entropy_encoded` made.
        most_bytes: a content that claims to be longer is not looked into.
        name: of the codec, for the message.

    Raises:
        DecodeError: it is damaged, or longer.
    """
    kind, rest = bytes(data[:1]), data[1:]
    if kind == _STORED:
        if len(rest) > most_bytes:
            raise DecodeError(f"{name}: {len(rest)} bytes, where at most {most_bytes} are possible")
        return rest
    if kind != _COMPRESSED:
        raise DecodeError(f"{name}: neither stored nor compressed bytes, but {kind!r}")
    return inflate(rest, most_bytes, name)


def most_entropy_encoded(content_bytes: int) -> int:
    """No content of that length takes more than this."""
    return 1 + content_bytes


def _pays(sample: bytes | memoryview) -> bool:
    return len(_compressed(sample)) < _WORTH * len(sample)


def _compressed(content: bytes | memoryview) -> bytes:
    return _OF_THREAD.deflater.frame(content)
