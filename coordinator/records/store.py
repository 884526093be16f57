"""The store: a federation survives its coordinator in the folder of its run, a file a round.

    state/{rounds}.commit    the snapshot after so many rounds, and the values of the layers that moved in the last one

A file is MessagePack, sealed with its CRC-32C. It has an id, and names, for every layer, the file that holds the
layer's value, by round and id. So a *generation*, which is a file with all the files that it rests on, is never put
together from two timelines: a file that was written again, after the run had gone back, has another id.

A commit is written at once and *settled* later, while the next round runs: only then is it sure to be on the disk, and
only then are files deleted that it makes needless. So a coordinator that is killed loses nothing that it committed, and
a machine that loses its power goes back to the last settled commit, or to one after it. Devices bear that: they see
versions go back, and begin afresh.

The last generations are kept, and besides them the last *full* ones, whose own file has every layer: a damaged file
costs the generations that rest on it, and there is always one that does not. Files that are passed over when a run goes
on, since they are damaged or lie beyond the generation that it goes on from, are set aside under another name
(``.aside``), and never read again.
"""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock

import msgspec

from lamina.coordinator.records.commits import (
    Commit,
    Held,
    Layer,
    Saved,
    Source,
    assembled,
    decode,
    encode,
    layer_of,
    needed_files,
    whole,
)
from lamina.coordinator.records.snapshot import Snapshot
from lamina.models.arrays import Vector
from lamina.models.errors import ConfigError, DecodeError
from lamina.models.spec import ModelSpec
from lamina.models.storage.disk import DISK, Disk, read
from lamina.models.storage.replace import remove_drafts, replace_file

log = logging.getLogger("lamina.coordinator")

_SUFFIX = ".commit"
_ASIDE = ".aside"
_MOST_PARTIAL = 16
"""Commits in a row that need not have every layer: so a generation rests on few files, in a long cycle, too."""


class Store:
    """The state of one federation on disk.

    Args:
        folder: of the run; the state goes to its folder ``state``.
        keep: how many generations are kept, and how many full ones.
        disk: it lies on.
        new_id: draws a file's id.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 3,
        disk: Disk = DISK,
        new_id: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        self._folder, self._keep, self._disk, self._new_id = state_folder(folder), keep, disk, new_id
        self._held: dict[int, Held] = {}  # by rounds done
        self._lock = Lock()  # of that
        self._last: Held | None = None  # the last commit, on which the next one builds
        self._unsettled: list[int] = []
        self._settling = Lock()

    # -- reading -------------------------------------------------------------------------------------------------------

    def load(self, spec: ModelSpec, digest: str, recorded: Callable[[int], bool] = lambda rounds: True) -> Saved | None:
        """The newest generation that is whole; later commits build on it. ``None`` where nothing was committed.

        What is damaged, or newer, is set aside, and what a crash left half written is removed.

        Args:
            spec: of the network.
            digest: of the bundle.
            recorded: whether all rounds of a generation are in the history. One that is recorded is preferred.

        Raises:
            ConfigError: the state belongs to another bundle, or no generation is whole.
        """
        remove_drafts(self._folder, self._disk)
        held, damaged, manifest = self._scan()
        if not held and not damaged:
            return None
        where = f"{self._folder}: start over with --fresh, or choose another folder"
        if manifest not in ("", digest):
            raise ConfigError(f"the saved state is of bundle {manifest[:12]}, not {digest[:12]}; {where}")
        kept = whole(held)
        if not kept:
            raise ConfigError(f"the saved state is damaged; {where}")
        rounds = next(filter(recorded, kept), kept[0])
        saved = self._assembled(rounds, held[rounds], spec)
        if saved is None:
            raise ConfigError(
                f"the saved state does not fit the bundle's model as aggregation.algorithm and aggregation.personal "
                f"have it: put them back as they were; or, in {where}"
            )
        self._set_aside(rounds, held, damaged)
        self._held = {done: file for done, file in held.items() if done <= rounds}
        self._last = self._held[rounds]
        self._unsettled = list(self._held)  # whoever wrote them may have been killed before they were synced
        return saved

    def generations(self) -> list[int]:
        """The generations that are whole, by rounds done, newest first. Changes nothing: another process may write."""
        return whole(self._scan()[0])

    def named(self) -> list[int]:
        """The generations of which there is a file, by rounds done, ascending; whether it is whole isn't looked at."""
        stems = (name.removesuffix(_SUFFIX) for name in self._disk.names(self._folder) if name.endswith(_SUFFIX))
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def at(self, rounds: int, spec: ModelSpec) -> Saved:
        """A generation. Changes nothing: another process may write.

        Raises:
            ConfigError: it is not kept, or it is damaged.
        """
        held = self._scan()[0]
        kept = whole(held)
        saved = self._assembled(rounds, held[rounds], spec) if rounds in kept else None
        if saved is None:
            names = ", ".join(map(str, sorted(kept))) or "none"
            raise ConfigError(f"{self._folder}: round {rounds} is not kept; kept rounds: {names}")
        return saved

    # -- writing -------------------------------------------------------------------------------------------------------

    def commit(
        self,
        snapshot: Snapshot,
        values: Sequence[Vector],
        owed: Mapping[int, Vector] | None = None,
        memory: Mapping[int, Vector] | None = None,
    ) -> None:
        """Make this the state to return to, as long as the machine lives; the first one outlives it at once.

        Args:
            snapshot: of the federation.
            values: of every layer.
            owed: by layer, what the codec of deltas owes it.
            memory: by layer, what the server's optimiser remembers.

        Raises:
            OSError: the disk is full, or the like. What was committed before is unharmed.
        """
        self._write(snapshot, values, owed, memory, durable=self.empty)

    @property
    def empty(self) -> bool:
        """Whether there is no commit to return to."""
        return self._last is None

    def settle(
        self, pinned: Callable[[], Collection[int]] = lambda: (), first: Callable[[], None] = lambda: None
    ) -> None:
        """Return when all commits so far would survive the machine; delete what they make needless.

        Commits may be made meanwhile, in another thread.

        Args:
            pinned: gives the rounds done of generations that are kept besides the last ones.
            first: is called before commits are synced, to sync what they refer to.
        """
        with self._settling:
            self._settle(pinned, first)

    def roll_back(self, rounds: int, spec: ModelSpec, epoch: int) -> None:
        """Make a kept generation the newest one, for good, in another epoch: no device's late update can fit it.

        Args:
            rounds: rounds done.
            spec: of the network.
            epoch: the new one.

        Raises:
            ConfigError: the generation is not kept.
        """
        saved = self.at(rounds, spec)
        self._held, self._last = {}, None  # so that every layer is written
        run = saved.snapshot.run or saved.snapshot.epoch  # devices keep their personal layers
        snapshot = msgspec.structs.replace(saved.snapshot, epoch=epoch, run=run)
        self._write(snapshot, saved.values, saved.owed, saved.memory, durable=True)
        held, damaged, _ = self._scan()
        self._set_aside(rounds, held, damaged)

    def clear(self) -> None:
        """Forget everything, the history included."""
        self._disk.remove_folder(self._folder)
        self._held, self._last, self._unsettled = {}, None, []

    # -- inside --------------------------------------------------------------------------------------------------------

    def _write(
        self,
        snapshot: Snapshot,
        values: Sequence[Vector],
        owed: Mapping[int, Vector] | None,
        memory: Mapping[int, Vector] | None,
        *,
        durable: bool,
    ) -> None:
        commit = Commit(self._new_id(), snapshot, (), {})
        written = self._to_write(snapshot)
        here = Source(snapshot.round, commit.id)
        commit = msgspec.structs.replace(
            commit,
            sources=tuple(
                here if layer in written or self._last is None else self._last.sources[layer]
                for layer in range(len(snapshot.versions))
            ),
            layers={layer: layer_of(layer, values, owed, memory) for layer in written},
        )
        replace_file(self._path(snapshot.round), encode(commit), self._disk, durable=durable)
        with self._lock:
            self._last = self._held[snapshot.round] = Held.of(commit)
            self._unsettled.append(snapshot.round)

    def _settle(self, pinned: Callable[[], Collection[int]], first: Callable[[], None]) -> None:
        with self._lock:
            unsettled, self._unsettled = self._unsettled, []
        if not unsettled:
            return
        first()
        for rounds in unsettled:
            self._disk.sync(self._path(rounds))
        self._disk.sync_folder(self._folder)
        with self._lock:
            needed = needed_files(self._held, self._keep, pinned(), newest=max(unsettled))
            needless = [rounds for rounds in self._held if rounds not in needed]
            for rounds in needless:
                del self._held[rounds]
        for rounds in needless:
            self._disk.remove(self._path(rounds))

    def _to_write(self, snapshot: Snapshot) -> list[int]:
        """The layers that moved since the last commit; all of them at a cycle's end, and now and then besides."""
        every, last = list(range(len(snapshot.versions))), self._last
        if last is None or not snapshot.cohort or self._partial_in_a_row() >= _MOST_PARTIAL:
            return every
        return [layer for layer in every if last.versions[layer] != snapshot.versions[layer]]

    def _partial_in_a_row(self) -> int:
        full = max((rounds for rounds, file in self._held.items() if file.full), default=0)
        return sum(rounds > full for rounds in self._held)

    def _scan(self) -> tuple[dict[int, Held], list[str], str]:
        """The files that can be read, by rounds done; names of the others; and the newest one's bundle."""
        held: dict[int, Held] = {}
        damaged: list[str] = []
        manifest = ""
        for name in self._disk.names(self._folder):
            if not name.endswith(_SUFFIX):
                continue
            commit = self._read(self._folder / name)
            if commit is None or self._path(commit.snapshot.round).name != name:
                damaged.append(name)
            else:
                held[commit.snapshot.round] = Held.of(commit)
                manifest = commit.snapshot.manifest
        return held, damaged, manifest

    def _read(self, path: Path) -> Commit | None:
        """A file's content; ``None`` if it is damaged, or gone by now."""
        try:
            return decode(read(path, self._disk))
        except DecodeError:
            return None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO):
                return None
            raise  # a file that this user may not read is no damage

    def _assembled(self, rounds: int, file: Held, spec: ModelSpec) -> Saved | None:
        """A generation, its layers from the files that it names; ``None`` if one is gone by now, or of another size."""
        if (last := self._read(self._path(rounds))) is None or last.id != file.id:
            return None
        layers: dict[int, Layer] = {}
        for source in set(last.sources):
            commit = last if source.rounds == rounds else self._read(self._path(source.rounds))
            if commit is None or commit.id != source.id:
                return None
            layers |= {layer: commit.layers[layer] for layer, named in enumerate(last.sources) if named == source}
        return assembled(last.snapshot, layers, spec)

    def _set_aside(self, rounds: int, held: Iterable[int], damaged: Collection[str]) -> None:
        """Give other names, for good, to the damaged files and to those after so many rounds."""
        newer = [self._path(done).name for done in held if done > rounds]
        if not newer and not damaged:
            return
        log.warning(
            "%s: going on after round %d; set aside: %s",
            self._folder,
            rounds,
            ", ".join([*(f"{name} (damaged)" for name in damaged), *newer]),
        )
        for name in self._disk.names(self._folder):
            if name.endswith(_ASIDE):
                self._disk.remove(self._folder / name)
        for name in sorted([*damaged, *newer], reverse=True):  # a crash meanwhile leaves the older ones
            self._disk.rename(self._folder / name, self._folder / f"{name}{_ASIDE}")
        self._disk.sync_folder(self._folder)

    def _path(self, rounds: int) -> Path:
        return self._folder / f"{rounds:08}{_SUFFIX}"


def state_folder(folder: Path) -> Path:
    """Return the folder of a run's state, below the run's folder."""
    return folder / "state"
