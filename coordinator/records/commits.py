"""What a commit's file holds, and which files are kept. Pure: the store reads and writes.

A *generation* is what was committed after so many rounds: a file, and the files that hold the values of the layers
that did not move in its last round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from lamina.broker.wire.framing import seal_of, unseal
from lamina.coordinator.records.snapshot import Snapshot
from lamina.models.arrays import Vector
from lamina.models.decoding import from_msgpack
from lamina.models.errors import DecodeError
from lamina.models.spec import ModelSpec

_MAGIC = b"LAMT"


class Saved(NamedTuple):
    """What was committed: the snapshot, every layer's value, and, by layer, what is owed and the server's memory."""

    snapshot: Snapshot
    values: list[Vector]
    owed: dict[int, Vector]
    memory: dict[int, Vector]


class Layer(msgspec.Struct, frozen=True, array_like=True):
    """A layer's value, what the codec of deltas owes it, and the server's memory of it; little-endian float32."""

    value: bytes
    owed: bytes | None
    memory: bytes | None = None


class Source(NamedTuple):
    """The file that a layer's value is in: its rounds done, and its id."""

    rounds: int
    id: int


class Commit(msgspec.Struct, frozen=True):
    """A file. ``sources`` has the file of every layer, which is this one for those in ``layers``."""

    id: int
    snapshot: Snapshot
    sources: tuple[Source, ...]
    layers: dict[int, Layer]


class Held(NamedTuple):
    """What is remembered of a file that the store holds."""

    id: int
    versions: tuple[int, ...]
    sources: tuple[Source, ...]
    layers: frozenset[int]

    @property
    def full(self) -> bool:
        """Whether the file has every layer."""
        return len(self.layers) == len(self.sources)

    @classmethod
    def of(cls, commit: Commit) -> Held:
        """What is remembered of a file that was read or written."""
        return cls(commit.id, commit.snapshot.versions, commit.sources, frozenset(commit.layers))


def encode(commit: Commit) -> tuple[bytes, bytes]:
    """A file's content, in two parts."""
    content = msgspec.msgpack.encode(commit)
    return seal_of(_MAGIC, content), content


def decode(content: bytes) -> Commit:
    """The inverse of `encode`.

    Raises:
        DecodeError: the file is damaged, or no commit.
    """
    try:
        return from_msgpack(unseal(content, _MAGIC), Commit)
    except msgspec.DecodeError as error:
        raise DecodeError(f"no commit: {error}") from error


def layer_of(
    layer: int, values: Sequence[Vector], owed: Mapping[int, Vector] | None, memory: Mapping[int, Vector] | None
) -> Layer:
    """A layer, as a file holds it."""
    return Layer(_bytes(values[layer]), _bytes_of(owed, layer), _bytes_of(memory, layer))


def assembled(snapshot: Snapshot, layers: Mapping[int, Layer], spec: ModelSpec) -> Saved | None:
    """A generation, given all of its layers; ``None`` where they are not the network's."""
    sizes = [4 * layer.vector_size for layer in spec.layers]
    if [len(layers[index].value) for index in sorted(layers)] != sizes:
        return None
    return Saved(
        snapshot,
        [_vector(layers[index].value) for index in range(len(sizes))],
        {index: _vector(layer.owed) for index, layer in layers.items() if layer.owed is not None},
        {index: _vector(layer.memory) for index, layer in layers.items() if layer.memory is not None},
    )


def needed_files(held: Mapping[int, Held], keep: int, pinned: Collection[int], newest: int) -> set[int]:
    """The files, by rounds done, that the generations to be kept consist of.

    Args:
        held: all files.
        keep: how many generations, and how many full ones.
        pinned: generations that are kept besides.
        newest: the last settled one; what is newer is kept in any case.
    """
    settled = [rounds for rounds in whole(held) if rounds <= newest]
    full = [rounds for rounds in settled if held[rounds].full]
    kept = {rounds for rounds in held if rounds > newest or rounds in pinned} | {*settled[:keep], *full[:keep]}
    return kept | {source.rounds for rounds in kept for source in held[rounds].sources}


def whole(held: Mapping[int, Held]) -> list[int]:
    """The generations, newest first, all of whose files are there."""
    return sorted(
        (
            rounds
            for rounds, file in held.items()
            if all(
                source.rounds in held and held[source.rounds].id == source.id and layer in held[source.rounds].layers
                for layer, source in enumerate(file.sources)
            )
        ),
        reverse=True,
    )


def _bytes_of(vectors: Mapping[int, Vector] | None, layer: int) -> bytes | None:
    return _bytes(vectors[layer]) if vectors and layer in vectors else None


def _bytes(vector: Vector) -> bytes:
    return vector.astype("<f4", copy=False).tobytes()


def _vector(content: bytes) -> Vector:
    return np.frombuffer(content, "<f4").astype(np.float32)
