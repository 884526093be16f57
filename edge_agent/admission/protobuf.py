"""Protocol Buffers, as far as a graph needs them: the fields of a message, in bounded memory and in one pass.

A board has no package that reads ONNX files but the engine, which is to be given none that was not looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lamina.models.errors import ModelError

Field = int | memoryview
Message = dict[int, list[Field]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10


def message(data: memoryview, known: Collection[int], single: Collection[int], what: str) -> Message:
    """The fields of a message, by number, in their order.

    Args:
        data: the message.
        known: numbers that it may have.
        single: of these, the numbers that it may have once: readers disagree about what a second one means.
        what: what it is of, for the error.

    Raises:
        ModelError: it is damaged, or has other fields.
    """
    found: Message = {}
    for number, value in _fields(data, what):
        if number not in known:
            raise ModelError(f"{what} has a field {number} that no graph of this project has")
        if number in single and number in found:
            raise ModelError(f"{what} has its field {number} twice")
        found.setdefault(number, []).append(value)
    return found


def integers(fields: list[Field], what: str) -> tuple[int, ...]:
    """Repeated whole numbers, each by itself or packed, as signed ones of 64 bits."""
    numbers: list[int] = []
    for field in fields:
        if isinstance(field, int):
            numbers.append(_signed(field))
            continue
        offset = 0
        while offset < len(field):
            number, offset = _varint(field, offset, what)
            numbers.append(_signed(number))
    return tuple(numbers)


def text(fields: list[Field], what: str) -> str:
    """A string; empty where there is none.

    Raises:
        ModelError: it is no text.
    """
    if not fields:
        return ""
    if isinstance(fields[0], int):
        raise ModelError(f"{what} has a number where a name should be")
    try:
        return bytes(fields[0]).decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{what} has a name that is no text") from error


def parts(fields: list[Field], what: str) -> list[memoryview]:
    """Nested messages, or bytes."""
    found = [field for field in fields if not isinstance(field, int)]
    if len(found) < len(fields):
        raise ModelError(f"{what} has a number where a part should be")
    return found


def _fields(data: memoryview, what: str) -> Iterator[tuple[int, Field]]:
    offset = 0
    while offset < len(data):
        key, offset = _varint(data, offset, what)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, offset = _varint(data, offset, what)
            yield number, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if size is None:
            if kind != _BYTES:
                raise ModelError(f"{what} has a field of the unknown kind {kind}")
            size, offset = _varint(data, offset, what)
        if size > len(data) - offset:
            raise ModelError(f"{what} ends within a field")
        yield number, data[offset : offset + size]
        offset += size


def _varint(data: memoryview, offset: int, what: str) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for place in range(_MOST_VARINT_BYTES):
        if offset >= len(data):
            raise ModelError(f"{what} ends within a number")
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & (2**64 - 1), offset
    raise ModelError(f"{what} has a number that is too long")


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
