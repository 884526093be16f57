"""Where does a federation survive its coordinator? In the folder of its run, a file a round:

    state/{round}.commit     the snapshot after so many rounds, and the values of the layers that moved in the last one

A file is MessagePack, sealed with its CRC-32C. A layer's value is in the latest file that names the layer, so a file is
kept as long as a layer rests on it: through a cycle, at most.

A commit is written at once and *settled* later, while the next round runs: only then is it sure to be on the disk, and
only then are files deleted that it makes needless. So a coordinator that is killed loses nothing that it committed, and
a machine that loses its power goes back to the last settled commit, past files that are missing or torn. Devices bear
that: they see versions go back, and begin afresh.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from lamina.broker.wire.framing import seal_of, unseal
from lamina.coordinator.records.snapshot import Snapshot
from lamina.models.errors import ConfigError, DecodeError
from lamina.models.spec import ModelSpec

_MAGIC = b"LAMS"
_SUFFIX = ".commit"

_Vector = NDArray[np.float32]


class Saved(NamedTuple):
    """What was committed: the snapshot, every layer's value, and, by layer, what is owed and the server's memory."""

    snapshot: Snapshot
    values: list[_Vector]
    owed: dict[int, _Vector]
    memory: dict[int, _Vector]


class _Layer(msgspec.Struct, frozen=True, array_like=True):
    """A layer's value, what the codec of deltas owes it, and the server's memory of it; little-endian float32."""

    version: int
    value: bytes
    owed: bytes | None
    memory: bytes | None = None


class _Commit(msgspec.Struct, frozen=True):
    """A file."""

    snapshot: Snapshot
    layers: dict[int, _Layer]


class Store:
    """The state of one federation on disk.

    Args:
        folder: of the run; the state goes to its folder ``state``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "state"
        self._held: dict[int, dict[int, int]] = {}  # round of a file to the layers in it, and their versions
        self._lock = Lock()  # of that
        self._written: dict[int, int] = {}  # every layer's version in the latest file that names it
        self._last: Snapshot | None = None

    def load(self, spec: ModelSpec, digest: str) -> Saved | None:
        """The last commit that is whole. ``None`` where nothing was committed.

        Raises:
            ConfigError: it belongs to another bundle, or nothing whole is there.
        """
        paths = sorted(self._folder.glob(f"*{_SUFFIX}"), reverse=True)
        if not paths:
            return None
        where = f"{self._folder}: start over with --fresh, or choose another folder"
        commits = [commit for path in paths if (commit := _read(path)) is not None]
        for index, last in enumerate(commits):
            if last.snapshot.manifest != digest:
                raise ConfigError(
                    f"the saved state is of bundle {last.snapshot.manifest[:12]}, not {digest[:12]}; {where}"
                )
            if (saved := _assembled(commits[index:], spec)) is not None:
                self._held = {
                    commit.snapshot.round: {layer: kept.version for layer, kept in commit.layers.items()}
                    for commit in commits[index:]
                }
                self._written = dict(enumerate(saved.snapshot.versions))
                return saved
        raise ConfigError(f"the saved state is damaged; {where}")

    def commit(
        self,
        snapshot: Snapshot,
        values: Sequence[_Vector],
        owed: Mapping[int, _Vector] | None = None,
        memory: Mapping[int, _Vector] | None = None,
    ) -> None:
        """Make this the state to return to, as long as the machine lives.

        Args:
            snapshot: of the federation.
            values: of every layer.
            owed: by layer, what the codec of deltas owes it.
            memory: by layer, what the server's optimiser remembers.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        moved = [layer for layer, version in enumerate(snapshot.versions) if self._written.get(layer) != version]
        layers = {
            layer: _Layer(
                snapshot.versions[layer],
                _bytes(values[layer]),
                _bytes_of(owed, layer),
                _bytes_of(memory, layer),
            )
            for layer in moved
        }
        content = msgspec.msgpack.encode(_Commit(snapshot, layers))
        draft = self._path(snapshot.round).with_suffix(".draft")
        with draft.open("wb") as file:
            file.write(seal_of(_MAGIC, content))
            file.write(content)
        draft.replace(self._path(snapshot.round))
        versions = {layer: snapshot.versions[layer] for layer in moved}
        self._written |= versions
        with self._lock:
            self._held[snapshot.round] = versions
        self._last = snapshot

    def settle(self) -> None:
        """Return when the last commit would survive the machine; delete what it makes needless.

        Commits may be made meanwhile, in another thread.
        """
        last = self._last
        if last is None:
            return
        with self._path(last.round).open("rb") as file:
            os.fsync(file.fileno())
        with self._lock:
            needless = [
                round_
                for round_, layers in self._held.items()
                if round_ < last.round and all(last.versions[layer] != version for layer, version in layers.items())
            ]
            for round_ in needless:
                del self._held[round_]
        for round_ in needless:
            self._path(round_).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            path.unlink()
        self._held.clear()
        self._written.clear()
        self._last = None

    def _path(self, round_: int) -> Path:
        return self._folder / f"{round_:08}{_SUFFIX}"


def _read(path: Path) -> _Commit | None:
    """A file's content; ``None`` if it is damaged."""
    try:
        return msgspec.msgpack.decode(unseal(path.read_bytes(), _MAGIC), type=_Commit)
    except (OSError, DecodeError, msgspec.DecodeError):
        return None


def _assembled(commits: Sequence[_Commit], spec: ModelSpec) -> Saved | None:
    """The state of the first commit, its layers looked for in all of them; ``None`` if one is nowhere."""
    snapshot = commits[0].snapshot
    values: list[_Vector] = []
    owed: dict[int, _Vector] = {}
    memory: dict[int, _Vector] = {}
    for layer, version in enumerate(snapshot.versions):
        candidates = (commit.layers.get(layer) for commit in commits)
        kept = next((kept for kept in candidates if kept and kept.version == version), None)
        if kept is None or len(kept.value) != 4 * spec.layers[layer].vector_size:
            return None
        values.append(_vector(kept.value))
        if kept.owed is not None:
            owed[layer] = _vector(kept.owed)
        if kept.memory is not None:
            memory[layer] = _vector(kept.memory)
    return Saved(snapshot, values, owed, memory)


def _bytes_of(vectors: Mapping[int, _Vector] | None, layer: int) -> bytes | None:
    return _bytes(vectors[layer]) if vectors and layer in vectors else None


def _bytes(vector: _Vector) -> bytes:
    return vector.astype("<f4", copy=False).tobytes()


def _vector(content: bytes) -> _Vector:
    return np.frombuffer(content, "<f4").astype(np.float32)
