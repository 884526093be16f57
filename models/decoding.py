"""Decodes into msgspec's types from any thread.

msgspec 0.22 examines a type when a decoder is first made of it, and shows the half-made result to other threads: two
threads that decode the same new type at once end the process with a segmentation fault. So decoders are made here,
under one lock, and kept.
"""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")
_making = Lock()


def from_json(content: bytes | str, kind: type[_T]) -> _T:
    """The value of a type that JSON holds.

    Raises:
        msgspec.MsgspecError: it holds something else.
    """
    value: _T = _json_decoder(kind).decode(content)  # type: ignore[arg-type] # classes are hashable
    return value


def from_msgpack(content: bytes | memoryview, kind: type[_T]) -> _T:
    """The value of a type that MessagePack holds.

    Raises:
        msgspec.MsgspecError: it holds something else.
    """
    value: _T = _msgpack_decoder(kind).decode(content)  # type: ignore[arg-type]
    return value


@cache  # two threads may both come here at first: one after the other, each makes a whole decoder
def _json_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    with _making:
        return msgspec.json.Decoder(kind)


@cache
def _msgpack_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    with _making:
        return msgspec.msgpack.Decoder(kind)
