"""What a run writes so that nothing of it is lost: its history and its commits, in the order that a crash must find.

a round ends     its event is added to the history, then its commit is written
meanwhile        the history is synced, then the commits, then the folder; then needless commits are removed
a run goes on    from the newest commit that is whole, and whose rounds are all in the history; the history goes back
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from threading import Lock

from lamina.coordinator.records.commits import Saved
from lamina.coordinator.records.history import History, Past, RoundDone
from lamina.coordinator.records.snapshot import Snapshot
from lamina.coordinator.records.store import Store, state_folder
from lamina.models.arrays import Vector
from lamina.models.spec import ModelSpec
from lamina.models.storage.disk import DISK, Disk

log = logging.getLogger("lamina.coordinator")


class Journal:
    """The history and the commits of one run.

    Args:
        folder: of the run.
        keep: how many generations are kept, and how many full ones (`lamina.coordinator.records.store`).
        disk: they lie on.
        new_id: draws a commit's id.

    Attributes:
        store: of the commits.
        history: the log.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 3,
        disk: Disk = DISK,
        new_id: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        self.store = Store(folder, keep, disk, new_id)
        self.history = History(state_folder(folder) / "history.log", disk)
        self._turn, self._closed = Lock(), False

    def recover(self, spec: ModelSpec, digest: str) -> tuple[Saved | None, Past]:
        """Return where the run goes on, and what counts of its history; nothing is saved where nothing was committed.

        Args:
            spec: of the network.
            digest: of the bundle.

        Raises:
            ConfigError: the state belongs to another bundle, or no generation is whole.
        """
        past = self.history.past()
        saved = self.store.load(spec, digest, lambda rounds: not past.missing(rounds))
        rounds = saved.snapshot.round if saved else 0
        if missing := past.missing(rounds):
            log.warning("the history is damaged: the records lack %d of %d rounds", len(missing), rounds)
        self.history.go_back(past, rounds, "restart")
        return saved, past

    def commit(
        self,
        done: RoundDone,
        snapshot: Snapshot,
        values: Sequence[Vector],
        owed: Mapping[int, Vector] | None = None,
        memory: Mapping[int, Vector] | None = None,
    ) -> None:
        """Record a finished round and commit what it led to (`Store.commit`); a kill loses neither.

        Raises:
            OSError: the disk is full, or the like. What was committed before is unharmed.
        """
        with self._turn:
            if self._closed:
                return
            self.history.add(done)  # first: a round too many does not count after a restart, none is added
            if self.store.empty:
                self.history.sync()  # the first commit is durable at once: there is none to go back to
            self.store.commit(snapshot, values, owed, memory)

    def settle(self, pinned: Callable[[], Collection[int]] = lambda: ()) -> None:
        """Return when no power cut could take what was committed; what that makes needless is removed.

        Args:
            pinned: gives the generations, by rounds done, that are kept besides the last ones.
        """
        with self._turn:
            if not self._closed:
                self.store.settle(pinned, first=self.history.sync)

    def close(self) -> None:
        """Write nothing more: returns once what is being written, in another thread, is whole."""
        with self._turn:
            self._closed = True

    def roll_back(self, rounds: int, spec: ModelSpec, epoch: int) -> None:
        """Have the run go on after so many rounds, for good, in another epoch.

        Raises:
            ConfigError: the round is not kept.
        """
        self.store.roll_back(rounds, spec, epoch)
        self.history.go_back(self.history.past(), rounds, "rollback")
