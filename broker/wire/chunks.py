"""A layer's value crosses the wire in chunks that each say all about it, in this layout, little-endian.

| offset | bytes   | type | field                                                                             |
| ------ | ------- | ---- | --------------------------------------------------------------------------------- |
| 0      | 4       |      | magic, ``LAML``                                                                   |
| 4      | 4       | u32  | CRC-32C of everything after this field                                            |
| 8      | 1       | u8   | protocol, 1                                                                       |
| 9      | 1       | u8   | purpose: 1 a global value, 2 an update, 3 a delta (`wire.deltas`), 4 a partial  |
|        |         |      | (`wire.partials`)                                                               |
| 10     | 1       | u8   | codec, by its wire id; 0 for a partial                                            |
| 11     | 1       | u8   | named scalars of an update, S: 0, unless the algorithm asks for some              |
| 12     | 2       | u16  | layer, by its index in the spec                                                   |
| 14     | 2       | u16  | tensors of the layer, T                                                           |
| 16     | 4       | u32  | round                                                                             |
| 20     | 4       | u32  | version: of this global value or delta, or the one that the update is based on    |
| 24     | 8       | u64  | epoch of the federation                                                           |
| 32     | 8       | f64  | weight of the update, positive                                                    |
| 40     | 4       | u32  | bytes of the codec's data, all chunks together                                    |
| 44     | 4       | u32  | index of the chunk                                                                |
| 48     | 4       | u32  | count of chunks                                                                   |
| 52     | 16      |      | transfer id: BLAKE2b-128 of bytes 8 to 44, the table and the data of all chunks   |
| 68     | varying |      | table: for each tensor its rank (u8) and its extents (u32 each)                   |
|        | varying |      | for each scalar the length of its name (u8), its name and the number (f64)        |
|        | rest    |      | the chunk                                                                         |

The transfer id is the digest of what is transferred: publishing a value again repeats it, so duplicates are seen as
such, and chunks of two values are never mixed. A value of several chunks is checked against it when it is joined. With
a single chunk there is nothing to join: its CRC covers all of it, and a sender that lies could give its lie the right
digest. A conv with its norm (five tensors) takes 105 bytes besides the data.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from lamina.broker.wire import partials
from lamina.broker.wire.codecs import codec as codec_named
from lamina.broker.wire.codecs import codec_by_id
from lamina.broker.wire.files import FileJoiner, split_file
from lamina.broker.wire.framing import chunk_size, cut, seal, unseal
from lamina.broker.wire.packing import (
    LayerValue,
    Purpose,
    Scalars,
    pack,
    pack_all,
    pack_partial,
    unpack,
    unpack_all,
    unpack_partial,
    unpack_to_fold,
)
from lamina.broker.wire.topics import PROTOCOL
from lamina.models.arrays import Shapes
from lamina.models.errors import DecodeError, RejectedUpdate
from lamina.models.spec import ModelSpec

__all__ = [
    "FileJoiner",
    "Joiner",
    "LayerValue",
    "Purpose",
    "pack",
    "pack_all",
    "pack_partial",
    "split",
    "split_file",
    "unpack",
    "unpack_all",
    "unpack_partial",
    "unpack_to_fold",
]

_MAGIC = b"LAML"
_WHAT = struct.Struct("<BBBxHHIIQdI")  # what is transferred: protocol to the data's bytes
_SCALARS_AT = 3  # the byte of `_WHAT` that counts scalars; 0 for none
_SCALAR = struct.Struct("<d")

_LONGEST_NAME = 32  # of a scalar
_WHICH = struct.Struct("<II16s")  # which chunk of it
PURPOSES: tuple[Purpose, ...] = ("global", "update", "delta", "partial")
_PURPOSE_IDS: dict[Purpose, int] = {"global": 1, "update": 2, "delta": 3, "partial": 4}
_PURPOSES: dict[int, Purpose] = {number: purpose for purpose, number in _PURPOSE_IDS.items()}

_OVERHEAD_BYTES = 256  # of memory that a chunk takes beside its message
_SLACK_BYTES = 64 * 1024  # that a sender may hold beyond twice its values


def split(value: LayerValue, chunk_bytes: int) -> list[bytes]:
    """The messages of a value, each of at most ``chunk_bytes``.

    Raises:
        ValueError: a field does not fit the header, or ``chunk_bytes`` leaves no room beside it.
    """
    if not (math.isfinite(value.weight) and value.weight > 0):
        raise ValueError(f"weight must be finite and positive, and is {value.weight}")
    table = _table(value.shapes) + _packed_scalars(value.scalars)
    try:
        what = _WHAT.pack(
            PROTOCOL,
            _PURPOSE_IDS[value.purpose],
            codec_named(value.codec).wire_id if value.codec else 0,
            value.layer,
            len(value.shapes),
            value.round,
            value.version,
            value.epoch,
            value.weight,
            len(value.data),
        )
        if value.scalars:
            what = what[:_SCALARS_AT] + bytes([len(value.scalars)]) + what[_SCALARS_AT + 1 :]
    except struct.error as error:
        raise ValueError(f"layer value does not fit its header: {error}") from error
    room = chunk_bytes - 8 - _WHAT.size - _WHICH.size - len(table)
    if room < 1:
        raise ValueError(f"a chunk of {chunk_bytes} bytes has no room for its header of {chunk_bytes - room}")
    chunks = cut(value.data, room)
    transfer = _digest(what, table, chunks)
    return [
        seal(_MAGIC, what + _WHICH.pack(index, len(chunks), transfer) + table, chunk)
        for index, chunk in enumerate(chunks)
    ]


class Joiner:
    """Puts layer values together again, from many senders at once, in any order, and in bounded memory.

    A chunk is refused before anything is kept of it unless its layer, its tensors and its size are the model's. Of each
    sender, purpose and layer one transfer is kept: a newer one replaces an older one, whose later chunks are ignored.
    Beyond the limits the transfer that was idle longest is forgotten. What a single sender holds is limited to twice
    the values that it can have under way, in chunks of ordinary size; beyond that its own transfers are forgotten, and
    nobody else's. Whatever is held counts with what it takes in memory, not only with its payload.

    Args:
        spec: the model.
        epoch: chunks of other epochs are ignored; ``None`` takes all.
        max_transfers: transfers to keep in mind, finished ones (to know their duplicates) included.
        max_bytes: bytes of unfinished transfers to hold.

    Attributes:
        held_bytes: memory that unfinished transfers take.
    """

    def __init__(
        self, spec: ModelSpec, *, epoch: int | None = None, max_transfers: int = 16384, max_bytes: int = 1 << 30
    ) -> None:
        self._layers = spec.layers
        self._known = [(layer.shapes, _table(layer.shapes)) for layer in spec.layers]
        self._most_bytes: dict[tuple[int, Purpose, int], int] = {}  # of a layer's data, by layer, purpose and codec
        self._epoch = epoch
        self._any_round, self._round = True, -1
        self._max_transfers = max_transfers
        self._max_bytes = max_bytes
        self._transfers: OrderedDict[_Key, _Transfer] = OrderedDict()  # the one idle longest first
        self._held_by: Counter[tuple[str, Purpose]] = Counter()  # bytes of unfinished transfers, by sender
        self._most_held: dict[Purpose, int] = {}  # by one sender
        self.held_bytes = 0

    def add(self, payload: bytes, sender: str, purposes: tuple[Purpose, ...] = PURPOSES) -> LayerValue | None:
        """Take a chunk; returns the value that it completes, else ``None`` (more to come, a duplicate, or outdated).

        Args:
            payload: the message.
            sender: whose it is, as its topic says.
            purposes: what this sender may send there.

        Raises:
            DecodeError: the chunk is damaged, not of this model, or of another purpose; its transfer joined to
                something else, or takes too much memory.
            RejectedUpdate: ``round``: the chunk is of another round than `follow` named. Nothing of it is remembered.
        """
        header, chunk = _parse(payload, self._known)
        if header.purpose not in purposes:
            raise DecodeError(f"a {header.purpose} of layer {header.layer}, where {' or '.join(purposes)} is awaited")
        if self._epoch is not None and header.epoch != self._epoch:
            return None
        self._check_round(header, sender)
        self._check(header)
        transfer = self._transfer(_Key(sender, header.purpose, header.layer), header)
        if transfer is None or transfer.finished or header.chunk in transfer.chunks:
            return None
        if header.chunks == 1:
            transfer.finished = True
            return _value(header, bytes(chunk))
        self._hold(transfer, header.chunk, chunk, len(payload) + _OVERHEAD_BYTES)
        if len(transfer.chunks) < header.chunks:
            return None
        return self._finish(transfer)

    def follow(self, epoch: int, round_: int | None) -> None:
        """Take the chunks of one round alone from now on, or of none; forget what came of others.

        What comes before its round is open, or of a round that a coordinator has gone back from, so leaves no trace:
        it counts as new when it is sent again.
        """
        self._epoch, self._any_round, self._round = epoch, False, -1 if round_ is None else round_
        for key in [key for key, transfer in self._transfers.items() if not self._is_followed(transfer.header)]:
            self._drop(key)

    def forget(self, sender: str, *, finished_only: bool = False) -> None:
        """Forget a sender's transfers: the finished ones, when they come again, count as new."""
        for key, transfer in list(self._transfers.items()):
            if key.sender == sender and (transfer.finished or not finished_only):
                self._drop(key)

    def held(self, purpose: Purpose) -> dict[str, int]:
        """Bytes of unfinished transfers of a purpose, by sender."""
        return {sender: held for (sender, other), held in self._held_by.items() if other == purpose}

    def missing(self, sender: str, purpose: Purpose, most: int) -> list[int]:
        """The first chunks that are lacking of what is on its way from a sender; where nothing is, the very first."""
        for key, transfer in self._transfers.items():
            if (key.sender, key.purpose) == (sender, purpose) and not transfer.finished:
                lacking = (index for index in range(transfer.header.chunks) if index not in transfer.chunks)
                return list(islice(lacking, most))
        return list(range(most))

    def forget_all(self, *, finished_only: bool = False) -> None:
        """Forget every transfer: whoever sends has gone back, and what comes again counts as new."""
        for key, transfer in list(self._transfers.items()):
            if transfer.finished or not finished_only:
                self._drop(key)

    def _is_followed(self, header: _ChunkHeader) -> bool:
        return self._any_round or (header.epoch, header.round) == (self._epoch, self._round)

    def _check_round(self, header: _ChunkHeader, sender: str) -> None:
        if not self._is_followed(header):
            now = "no round is open" if self._round < 0 else f"round {self._round} is open"
            raise RejectedUpdate("round", f"{sender} sent layer {header.layer} of round {header.round} while {now}")

    def _check(self, header: _ChunkHeader) -> None:
        if header.layer >= len(self._layers):
            raise DecodeError(f"layer {header.layer}, and the model has {len(self._layers)}")
        layer, (shapes, _) = self._layers[header.layer], self._known[header.layer]
        if header.shapes is not shapes:  # known ones are the same object
            raise DecodeError(f"layer {layer.name}: tensors of other shapes than {shapes}")
        kind = header.layer, header.purpose, header.codec
        most = self._most_bytes.get(kind)
        if most is None:
            most = self._most_bytes[kind] = _most_bytes(header, layer.vector_size)
        if header.data_bytes > most:
            raise DecodeError(f"layer {layer.name}: {header.data_bytes} bytes of data, more than the possible {most}")

    def _transfer(self, key: _Key, header: _ChunkHeader) -> _Transfer | None:
        """The transfer that a chunk belongs to, begun if it is new; ``None``: an older one than the one at hand."""
        transfer = self._transfers.get(key)
        if transfer is not None and header.is_of(transfer.header):
            self._transfers.move_to_end(key)
            return transfer
        if transfer is not None and header.is_older_than(transfer.header):
            return None
        self._drop(key)
        while len(self._transfers) >= self._max_transfers:
            self._drop(next(iter(self._transfers)))
        transfer = self._transfers[key] = _Transfer(key, header)
        return transfer

    def _hold(self, transfer: _Transfer, index: int, chunk: memoryview, taken_bytes: int) -> None:
        key = transfer.key
        most = self._most_of(key.purpose)
        while self._held_by[key.sender, key.purpose] + taken_bytes > most:
            other = self._largest_other(key)
            self._drop(other or key)
            if other is None:
                raise DecodeError(
                    f"layer {key.layer}: its chunks take more than {most} bytes of memory: too small ones"
                )
        while self.held_bytes + taken_bytes > self._max_bytes and len(self._transfers) > 1:
            self._drop(next(iter(self._transfers)))  # never the one at hand, which was moved to the end
        transfer.chunks[index] = chunk
        transfer.held_bytes += taken_bytes
        self._held_by[key.sender, key.purpose] += taken_bytes
        self.held_bytes += taken_bytes

    def _release(self, transfer: _Transfer) -> None:
        """Hold nothing of a transfer any more."""
        sender = transfer.key.sender, transfer.key.purpose
        self.held_bytes -= transfer.held_bytes
        self._held_by[sender] -= transfer.held_bytes
        if not self._held_by[sender]:
            del self._held_by[sender]
        transfer.chunks, transfer.held_bytes = {}, 0

    def _drop(self, key: _Key) -> None:
        transfer = self._transfers.pop(key, None)
        if transfer is not None:
            self._release(transfer)

    def _most_of(self, purpose: Purpose) -> int:
        """Bytes that one sender may hold of values of a purpose."""
        if purpose not in self._most_held:
            sizes = [layer.vector_size for layer in self._layers]
            values = sum(partials.most_bytes(size) if purpose == "partial" else 8 * size + 4096 for size in sizes)
            self._most_held[purpose] = 2 * values + _SLACK_BYTES
        return self._most_held[purpose]

    def _largest_other(self, key: _Key) -> _Key | None:
        """Return the transfer of the same sender and purpose that holds most, apart from this one."""
        others = (key._replace(layer=layer) for layer in range(len(self._layers)) if layer != key.layer)
        holding = [other for other in others if other in self._transfers and self._transfers[other].held_bytes]
        return max(holding, key=lambda other: self._transfers[other].held_bytes, default=None)

    def _finish(self, transfer: _Transfer) -> LayerValue:
        header = transfer.header
        chunks = [transfer.chunks[index] for index in range(header.chunks)]
        self._release(transfer)
        transfer.finished = True
        if _digest(header.what, header.table, chunks) != header.transfer:
            self._drop(transfer.key)
            raise DecodeError(f"layer {header.layer}: the joined transfer has another digest than its id")
        return _value(header, b"".join(chunks))


class _Key(NamedTuple):
    sender: str
    purpose: Purpose
    layer: int


@dataclass(slots=True)
class _Transfer:
    """What has come of a value; a finished one is kept without its chunks, to know its duplicates."""

    key: _Key
    header: _ChunkHeader
    chunks: dict[int, memoryview] = field(default_factory=dict)
    held_bytes: int = 0
    finished: bool = False


class _ChunkHeader(NamedTuple):
    """A chunk's header, checked as far as it can be without the model."""

    purpose: Purpose
    codec: int
    layer: int
    round: int
    version: int
    epoch: int
    weight: float
    data_bytes: int
    chunk: int
    chunks: int
    transfer: bytes
    shapes: Shapes
    what: bytes
    table: bytes
    scalars: Scalars = ()

    def is_of(self, other: _ChunkHeader) -> bool:
        """Whether both are chunks of one transfer, cut alike."""
        return (self.transfer, self.chunks, self.what, self.table) == (
            other.transfer, other.chunks, other.what, other.table
        )  # fmt: skip

    def is_older_than(self, other: _ChunkHeader) -> bool:
        """Whether this one belongs to an earlier value in the same epoch."""
        return self.epoch == other.epoch and (self.round, self.version) < (other.round, other.version)


def _parse(payload: bytes, known: Sequence[tuple[Shapes, bytes]]) -> tuple[_ChunkHeader, memoryview]:
    """Header and content of a chunk; ``known`` are the shapes of each of the model's layers, and its table."""
    rest = unseal(payload, _MAGIC)
    if len(rest) < _WHAT.size + _WHICH.size:
        raise DecodeError(f"layer chunk of {len(payload)} bytes")
    protocol, purpose, codec, layer, tensors, round_, version, epoch, weight, data_bytes = _WHAT.unpack_from(rest)
    if protocol != PROTOCOL:
        raise DecodeError(f"layer chunk of protocol {protocol}: this program speaks {PROTOCOL}")
    if purpose not in _PURPOSES:
        raise DecodeError(f"layer chunk of unknown purpose {purpose}")
    if not (math.isfinite(weight) and weight > 0):
        raise DecodeError(f"layer chunk of weight {weight}")
    index, count, transfer = _WHICH.unpack_from(rest, _WHAT.size)
    start = _WHAT.size + _WHICH.size
    shapes, table = known[layer] if layer < len(known) else ((), b"")
    stop = start + len(table)
    if tensors != len(shapes) or rest[start:stop] != table:
        shapes, stop = _read_table(rest, start, tensors)
        table = bytes(rest[start:stop])
    scalars: Scalars = ()
    if rest[_SCALARS_AT]:
        scalars, after = _read_scalars(rest, stop, rest[_SCALARS_AT])
        table, stop = table + bytes(rest[stop:after]), after
    chunk = rest[stop:]
    if len(chunk) != chunk_size(data_bytes, count, index):
        raise DecodeError(f"layer chunk {index} of {count} has {len(chunk)} bytes")
    header = _ChunkHeader(
        purpose=_PURPOSES[purpose],
        codec=codec_by_id(codec).wire_id if codec or _PURPOSES[purpose] != "partial" else 0,
        layer=layer,
        round=round_,
        version=version,
        epoch=epoch,
        weight=weight,
        data_bytes=data_bytes,
        chunk=index,
        chunks=count,
        transfer=transfer,
        shapes=shapes,
        what=bytes(rest[: _WHAT.size]),
        table=table,
        scalars=scalars,
    )
    return header, chunk


def _packed_scalars(scalars: Scalars) -> bytes:
    return b"".join(bytes([len(name)]) + name.encode("ascii") + _SCALAR.pack(number) for name, number in scalars)


def _read_scalars(rest: memoryview, offset: int, count: int) -> tuple[Scalars, int]:
    """The named scalars, and where they end."""
    if count > partials.MOST_SCALARS:
        raise DecodeError(f"layer chunk with {count} scalars, where at most {partials.MOST_SCALARS} are possible")
    scalars: list[tuple[str, float]] = []
    for _ in range(count):
        length = rest[offset] if offset < len(rest) else 0
        stop = offset + 1 + length
        if not 1 <= length <= _LONGEST_NAME or stop + _SCALAR.size > len(rest):
            raise DecodeError("layer chunk ends within its scalars")
        name, (number,) = bytes(rest[offset + 1 : stop]), _SCALAR.unpack_from(rest, stop)
        if not (name.isascii() and name.decode("ascii").isidentifier() and math.isfinite(number)):
            raise DecodeError("layer chunk with a scalar that has no name, or is not finite")
        scalars.append((name.decode("ascii"), number))
        offset = stop + _SCALAR.size
    return tuple(scalars), offset


@lru_cache(maxsize=4096)
def _table(shapes: Shapes) -> bytes:
    """Return the table as it stands in a header."""
    return b"".join(struct.pack(f"<B{len(shape)}I", len(shape), *shape) for shape in shapes)


def _read_table(rest: memoryview, offset: int, tensors: int) -> tuple[Shapes, int]:
    """The shapes, and where the table ends."""
    shapes: list[tuple[int, ...]] = []
    for _ in range(tensors):
        if offset >= len(rest) or offset + 1 + 4 * rest[offset] > len(rest):
            raise DecodeError("layer chunk ends within its table of tensors")
        shapes.append(struct.unpack_from(f"<{rest[offset]}I", rest, offset + 1))
        offset += 1 + 4 * rest[offset]
    return tuple(shapes), offset


def _most_bytes(header: _ChunkHeader, size: int) -> int:
    """The most data that a layer's vector (``size``,) can have."""
    if header.purpose == "partial":
        return partials.most_bytes(size)
    return codec_by_id(header.codec).for_tensors(header.shapes).most_bytes(size)


def _value(header: _ChunkHeader, data: bytes) -> LayerValue:
    return LayerValue(
        purpose=header.purpose,
        epoch=header.epoch,
        round=header.round,
        layer=header.layer,
        version=header.version,
        weight=header.weight,
        codec=codec_by_id(header.codec).name if header.codec else "",
        shapes=header.shapes,
        data=data,
        scalars=header.scalars,
    )


def _digest(what: bytes, table: bytes, chunks: Iterable[memoryview]) -> bytes:
    digest = hashlib.blake2b(what + table, digest_size=16)
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()
