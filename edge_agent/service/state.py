"""What survives a restart of the agent: one file, with a header that says what it is, the vectors, and a checksum.

| bytes   | field                                                                          |
| ------- | ------------------------------------------------------------------------------ |
| 8       | magic, ``LAMSTAT1``                                                            |
| 4       | u32, little-endian: length of the header                                       |
| varying | header, JSON: the progress, and name and length of each vector                 |
| rest    | the vectors, float32, one after the other; then the CRC-32 of all before it, u32 |

The vectors are written from where they are and read to where they belong, so that neither takes memory. A file is
synced before it takes the place of the one before, so an agent that is killed, or a board that loses its power, goes on
from the last round that it saved, or from the one before. The checksum tells what else may have damaged the file; the
agent then begins without it, as a new one does.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path

import msgspec

from lamina.edge_agent.session.events import Progress
from lamina.models.arrays import Vector
from lamina.models.decoding import from_json
from lamina.models.errors import LaminaError
from lamina.models.storage.disk import DISK, Disk
from lamina.models.storage.replace import replace_file

_MAGIC = b"LAMSTAT1"
_U32 = struct.Struct("<I")
_MOST_HEADER_BYTES = 1 << 24


class DamagedState(LaminaError):
    """The file holds no state that can be used."""


class _StateHeader(msgspec.Struct, frozen=True):
    """``vectors`` are names and lengths, in the order of the file."""

    progress: Progress
    vectors: tuple[tuple[str, int], ...]


def save_state(path: Path, progress: Progress, vectors: Mapping[str, Vector], disk: Disk = DISK) -> None:
    """Write the file, in the place of the one before.

    Args:
        path: where; its folder is made if need be.
        progress: what the vectors contain.
        vectors: float32, one-dimensional, by name.
        disk: the file lies on.

    Raises:
        OSError: the disk is full, or the like. The file before is unharmed.
    """
    header = msgspec.json.encode(_StateHeader(progress, tuple((name, len(vector)) for name, vector in vectors.items())))
    parts: list[bytes | memoryview] = [_MAGIC, _U32.pack(len(header)), header]
    replace_file(path, _sealed([*parts, *(vector.data for vector in vectors.values())]), disk)


def read_progress(path: Path, disk: Disk = DISK) -> Progress | None:
    """What the file says it contains; ``None`` if there is none.

    Raises:
        DamagedState: it is no such file.
    """
    try:
        with disk.open(path) as file:
            return _read_header(file, path)[0].progress
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedState(f"state {path}: can't be read: {error.strerror}") from error


def restore_state(path: Path, vectors: Mapping[str, Vector], disk: Disk = DISK) -> None:
    """Read the file's vectors into these.

    Args:
        path: of the file.
        vectors: the same, in name, order and length, as those that were saved; overwritten in place.
        disk: the file lies on.

    Raises:
        DamagedState: it is no such file, it is for other vectors, or its checksum is wrong; the vectors may then hold
            anything.
    """
    try:
        with disk.open(path) as file:
            header, check = _read_header(file, path)
            if header.vectors != tuple((name, len(vector)) for name, vector in vectors.items()):
                raise DamagedState(f"state {path}: it is of another model")
            for vector in vectors.values():
                file.readinto(vector.data)
                check = zlib.crc32(vector.data, check)
            if file.read() != _U32.pack(check):
                raise DamagedState(f"state {path}: its checksum is wrong")
    except OSError as error:
        raise DamagedState(f"state {path}: can't be read: {error.strerror}") from error


def _sealed(parts: list[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The parts, and their checksum behind them."""
    check = 0
    for part in parts:
        yield part
        check = zlib.crc32(part, check)
    yield _U32.pack(check)


def _read_header(file: BufferedIOBase, path: Path) -> tuple[_StateHeader, int]:
    """The header, and the checksum as far as it goes."""
    start = file.read(len(_MAGIC) + _U32.size)
    if len(start) < len(_MAGIC) + _U32.size or not start.startswith(_MAGIC):
        raise DamagedState(f"state {path}: not a state of this program")
    [length] = _U32.unpack_from(start, len(_MAGIC))
    content = file.read(min(length, _MOST_HEADER_BYTES))
    try:
        return from_json(content, _StateHeader), zlib.crc32(content, zlib.crc32(start))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamagedState(f"state {path}: its header is damaged: {error}") from error
