"""Zstandard frames that state their content's length, by the standard library's module or its backport."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from lamina.models.errors import DecodeError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_P = zstd.CompressionParameter

SHORT_SEARCH: Mapping[int, int] = {
    _P.strategy: zstd.Strategy.fast,
    _P.window_log: 17,
    _P.hash_log: 6,
    _P.chain_log: 6,
    _P.search_log: 1,
    _P.min_match: 7,
}
"""Options of Zstandard for codes of floats, which have no repetitions but runs of zeros."""

LEVEL = 1
"""Of Zstandard, for bytes that may well repeat. Higher levels take longer and gain nothing on floats."""


class Deflater:
    """Makes frames; it keeps its working memory, and is for one thread.

    Args:
        options: of Zstandard; `LEVEL` where there are none.
    """

    def __init__(self, options: Mapping[int, int] | None = None) -> None:
        self._compressor = zstd.ZstdCompressor(options=options) if options else zstd.ZstdCompressor(level=LEVEL)

    def frame(self, content: bytes | memoryview) -> bytes:
        """One frame, which states the content's length."""
        return self._compressor.compress(content, zstd.ZstdCompressor.FLUSH_FRAME)


def claimed_bytes(frame: bytes | memoryview, name: str) -> int | None:
    """The content's length as the frame states it; ``None`` where it does not.

    Raises:
        DecodeError: these bytes do not begin a frame.
    """
    try:
        return zstd.get_frame_info(frame).decompressed_size
    except zstd.ZstdError as error:
        raise DecodeError(f"{name}: {error}") from error


def inflate(frame: bytes | memoryview, most_bytes: int, name: str) -> bytes:
    """The content of exactly one frame, which states its length.

    Args:
        frame: its bytes.
        most_bytes: a content that claims to be longer is not looked into.
        name: of the codec, for the message.

    Raises:
        DecodeError: it is no such frame, or its content is longer than ``most_bytes``, or claims to be.
    """
    claimed = claimed_bytes(frame, name)
    if claimed is None:
        raise DecodeError(f"{name}: a compressed frame does not say how long its content is")
    if claimed > most_bytes:
        raise DecodeError(f"{name}: claims {claimed} bytes decompressed, where at most {most_bytes} are possible")
    inflating = zstd.ZstdDecompressor()
    try:
        content = inflating.decompress(frame, claimed + 1)  # one more, so that the end of the frame is reached
    except zstd.ZstdError as error:
        raise DecodeError(f"{name}: {error}") from error
    if not inflating.eof or inflating.unused_data or len(content) != claimed:
        raise DecodeError(f"{name}: a compressed frame is cut short, or is followed by something")
    return content
