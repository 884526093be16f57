"""Power cuts at every write of a run: what the next start finds is a state that was committed, never a mixture.

    python -m emulation.faults.power_cuts --cuts 10000

Each seed draws a run of the journal (`lamina.coordinator.records.journal`) on a simulated disk: rounds in which some
layers move, settling now and then, evaluations, restarts and rollbacks. The run is repeated with a stop at each of its
changes to the disk in turn; a stop is a power cut or a kill, after which a bit of a commit may read the wrong way. The
run then goes on, through more stops, to its end. Every recovery is checked:

    the state         is one that was committed, bit for bit; after a power cut none before the last settled one
    the records       are those of the rounds that led to it, without a gap
    after a kill      it is the last one that was committed
    a damaged commit  costs no more than the generations that rest on it
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from lamina.coordinator.records.accounting import Ledger
from lamina.coordinator.records.history import Evaluated, RoundDone
from lamina.coordinator.records.journal import Journal
from lamina.coordinator.records.records import RoundRecord
from lamina.coordinator.records.snapshot import Snapshot
from lamina.coordinator.records.store import state_folder
from lamina.emulation.faults.simulated_disk import SimulatedDisk, Stopped
from lamina.models.arrays import Vector
from lamina.models.errors import ConfigError
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec

FOLDER = Path("/run")
_DIGEST = "cafe"
_SIZES = (3, 200, 40)
_ROUNDS, _PHI, _KEEP = 8, 2, 2
_STOPS = 4  # in one run, at most
SPEC = ModelSpec(
    name="simulated",
    layers=tuple(
        LayerSpec(f"l{index}", (TensorSpec(f"l{index}.w", (size,), "kernel"),)) for index, size in enumerate(_SIZES)
    ),
    blocks=tuple(BlockSpec(f"l{index}", index, index + 1, (2,)) for index in range(len(_SIZES))),
    cuts=tuple(range(len(_SIZES))),
    classes=2,
)
_FIRST = Snapshot(
    epoch=1, manifest=_DIGEST, round=0, cohort=(), versions=(0,) * len(_SIZES), intervals=(1,) * len(_SIZES),
    discrepancy=(0.0,) * len(_SIZES), ledger=Ledger(), devices=(), local_steps=1, phi=_PHI,
)  # fmt: skip


class Broken(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True)
class _State:
    """What was committed, and the marks of the rounds that led to it. A mark is used once, as ``uplink_bytes``."""

    snapshot: Snapshot
    values: tuple[Vector, ...]
    marks: tuple[int, ...]


@dataclass
class PowerCutCounts:
    """What was tried.

    Attributes:
        runs: with their stops.
        power_cuts: after which the disk kept what it liked.
        kills: after which the disk kept everything.
        flips: bits of commits that read the wrong way.
        went_back: recoveries to an earlier state than the last one committed.
        beyond_repair: recoveries refused, as the only full generation was damaged.
    """

    runs: int = 0
    power_cuts: int = 0
    kills: int = 0
    flips: int = 0
    went_back: int = 0
    beyond_repair: int = 0


class _TrialRun:
    """One run: what it does is drawn from a seed; what befalls it, from another random state."""

    def __init__(self, seed: int, fate: random.Random, tally: PowerCutCounts) -> None:
        self._draw, self._fate, self._tally = random.Random(seed), fate, tally
        self.disk = SimulatedDisk(fate.getrandbits(64))
        self._marks = 0
        self._states: dict[int, _State] = {}  # by the mark of the last round: all that may ever have been committed
        start = tuple(np.zeros(size, np.float32) for size in _SIZES)
        self._now = _State(_FIRST, start, ())
        self._tried: _State | None = None  # a commit that was begun, and maybe not finished
        self._floor = 0  # rounds that no power cut may take
        self._last_for_sure: int | None = None  # rounds that the kill just now can't have taken
        self._rolled_back = False
        self._cut = False  # what the last power cut, or flipped bit, left is not known yet
        self._flipped, self._repairable, self._lost = False, True, False
        self._rolling_to = _ROUNDS  # rounds that a rollback, which may be interrupted, goes back to
        self._journal = self._recovered()

    def to_its_end(self, stop_at: int | None) -> int:
        """Carry the run out, stopped first after so many changes. Returns how many changes it made until then."""
        stops = 0
        if stop_at is not None:
            self.disk.stop_after(stop_at)
        while self._now.snapshot.round < _ROUNDS and not self._lost:
            try:
                self._step()
            except Stopped:
                stops += 1
                self._befall()
                if stops < _STOPS and self._fate.random() < 0.6:
                    self.disk.stop_after(self._fate.randrange(40))
                self._restart()
        return self.disk.changes

    def _restart(self) -> None:
        try:
            self._journal = self._recovered()
        except Stopped:  # while it recovered
            self._befall()
            self._restart()
        except ConfigError:
            if self._repairable:
                raise
            self._lost = True
            self._tally.beyond_repair += 1

    def _step(self) -> None:
        match self._draw.choices(("round", "settle", "evaluate", "restart", "roll back"), (10, 5, 3, 1, 0.5))[0]:
            case "round":
                self._round()
            case "settle":
                self._journal.settle()
                self._floor = self._now.snapshot.round
            case "evaluate":
                self._journal.history.add(Evaluated(self._now.snapshot.round, 0.5))
            case "restart":
                self._journal = self._recovered()
            case "roll back":
                self._roll_back()

    def _round(self) -> None:
        before = self._now
        self._marks += 1
        done = before.snapshot.round + 1
        cycle_ends = done % _PHI == 0
        moved = [cycle_ends or self._draw.random() < 0.5 for _ in _SIZES]
        values = tuple(
            np.full(size, self._marks, np.float32) if moves else value
            for size, moves, value in zip(_SIZES, moved, before.values, strict=True)
        )
        snapshot = msgspec.structs.replace(
            before.snapshot,
            round=done,
            cohort=() if cycle_ends else ("d",),
            versions=tuple(version + moves for version, moves in zip(before.snapshot.versions, moved, strict=True)),
            uplink_bytes=self._marks,
        )
        self._tried = _State(snapshot, values, (*before.marks, self._marks))
        self._states[self._marks] = self._tried
        owed = {1: values[1] + 1}
        self._journal.commit(RoundDone(_record(done - 1, self._marks)), snapshot, values, owed)
        self._now, self._tried = self._tried, None

    def _roll_back(self) -> None:
        kept = self._journal.store.generations()
        if not kept:
            return
        rounds, self._rolled_back = self._draw.choice(kept), True
        self._floor, self._rolling_to = min(self._floor, rounds), rounds
        self._journal.roll_back(rounds, SPEC, epoch=self._draw.getrandbits(53))
        self._journal = self._recovered(rolled_back_to=rounds)
        self._floor = rounds

    def _befall(self) -> None:
        """A power cut, or a kill; and sometimes a bit that flips in a commit."""
        if self._fate.random() < 0.8:
            self._tally.power_cuts += 1
            self.disk = self.disk.after_power_cut()
            self._last_for_sure, self._cut = None, True
        else:
            self._tally.kills += 1
            self.disk = self.disk.after_kill()
            self._last_for_sure = None if self._cut else min(self._now.snapshot.round, self._rolling_to)
        commits = [name for name in self.disk.names(state_folder(FOLDER)) if name.endswith(".commit")]
        if commits and not self._flipped and self._fate.random() < 0.2:
            self._flipped = True
            self._tally.flips += 1
            self.disk.flip_bit(state_folder(FOLDER) / self._fate.choice(commits))
            whole = Journal(FOLDER, _KEEP, self.disk).store.generations()
            self._repairable = any(rounds <= self._floor for rounds in whole)
            if not self._repairable and self._floor >= 2 * _PHI and not self._rolled_back:
                raise Broken(f"one flipped bit took every generation of {commits}")
            self._floor, self._last_for_sure, self._cut = 0, None, True

    def _recovered(self, rolled_back_to: int | None = None) -> Journal:
        """The journal as the next start finds it, and the state that it goes on from, both checked."""
        journal = Journal(FOLDER, _KEEP, self.disk, new_id=lambda: self._fate.getrandbits(63))
        saved, past = journal.recover(SPEC, _DIGEST)
        if saved is None:
            if self._floor:
                raise Broken(f"nothing was found, and round {self._floor} was settled")
            self._now = _State(_FIRST, tuple(np.zeros(size, np.float32) for size in _SIZES), ())
        else:
            self._now = self._checked(saved.snapshot, saved.values, saved.owed, rolled_back_to)
        marks = tuple(done.record.uplink_bytes for done in journal.history.rounds(past))
        if marks != self._now.marks and (self._repairable or not set(marks) < set(self._now.marks)):
            raise Broken(f"the records are of the rounds {marks}, the state is of {self._now.marks}")
        self._tried, self._last_for_sure, self._rolling_to, self._cut = None, None, _ROUNDS, False
        return journal

    def _checked(
        self,
        snapshot: Snapshot,
        values: Sequence[Vector],
        owed: dict[int, Vector],
        rolled_back_to: int | None,
    ) -> _State:
        state = self._states.get(snapshot.uplink_bytes)
        if state is None or _by_rounds(snapshot) != _by_rounds(state.snapshot):
            raise Broken(f"a state that was never committed: {snapshot}")
        if any(not np.array_equal(value, was) for value, was in zip(values, state.values, strict=True)):
            raise Broken(f"a mixture: round {snapshot.round} with other values")
        if not np.array_equal(owed[1], state.values[1] + 1):
            raise Broken(f"a mixture: round {snapshot.round} owes another delta")
        if rolled_back_to is not None and snapshot.round != rolled_back_to:
            raise Broken(f"rolled back to round {rolled_back_to}, and found round {snapshot.round}")
        if snapshot.round < self._floor:
            raise Broken(f"round {snapshot.round} was found, and round {self._floor} was settled")
        if self._last_for_sure is not None and snapshot.round < self._last_for_sure:
            raise Broken(f"a kill took round {self._last_for_sure}: round {snapshot.round} was found")
        self._tally.went_back += snapshot.round < self._now.snapshot.round
        return _State(snapshot, state.values, state.marks)


def _record(round_: int, mark: int) -> RoundRecord:
    return RoundRecord(
        round=round_, cycle=round_ // _PHI, cohort=("d",), due=(0,), updates=1, expected=1, rejected=0, lr=0.1,
        loss=None, train_accuracy=None, accuracy=None, c_ratio=1.0, uplink_bytes=mark, downlink_bytes=0,
        fedavg_uplink_bytes=0, wall_s=0.0, round_s=0.0,
    )  # fmt: skip


@dataclass
class Cutter:
    """Draws runs, and stops each of them at every change in turn."""

    tally: PowerCutCounts = field(default_factory=PowerCutCounts)

    def seed(self, seed: int, most_cuts: int) -> None:
        """All the stops of one seed's run, while fewer than ``most_cuts`` power cuts were made.

        Raises:
            Broken: a promise was broken; the message says for which seed and stop.
        """
        changes = _TrialRun(seed, random.Random(seed), PowerCutCounts()).to_its_end(stop_at=None)
        for stop_at in range(changes):
            if self.tally.power_cuts >= most_cuts:
                return
            self.one(seed, stop_at)

    def one(self, seed: int, stop_at: int) -> None:
        """One run, stopped first after so many changes.

        Raises:
            Broken: a promise was broken.
        """
        self.tally.runs += 1
        try:
            _TrialRun(seed, random.Random(f"{seed} {stop_at}"), self.tally).to_its_end(stop_at)
        except (AssertionError, ConfigError) as error:
            raise Broken(f"seed {seed}, stop after {stop_at} changes: {error}") from error


def _by_rounds(snapshot: Snapshot) -> Snapshot:
    """What the rounds have made of a run: a rollback gives it another epoch, and notes in which it began."""
    return msgspec.structs.replace(snapshot, epoch=0, run=0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Cut the power so often; print what was tried, or the first promise that was broken."""
    parser = argparse.ArgumentParser(prog="python -m emulation.faults.power_cuts", description=__doc__.split("\n")[0])
    parser.add_argument("--cuts", type=int, default=10_000, metavar="N", help="power cuts (10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first run (0)")
    options = parser.parse_args(arguments)
    cutter, seed = Cutter(), options.seed
    logging.disable(logging.WARNING)  # each recovery says what it set aside
    try:
        while cutter.tally.power_cuts < options.cuts:
            cutter.seed(seed, options.cuts)
            seed += 1
    except Broken as broken:
        print(f"broken: {broken}")
        return 1
    finally:
        logging.disable(logging.NOTSET)
    tally = cutter.tally
    print(
        f"{tally.power_cuts} power cuts and {tally.kills} kills in {tally.runs} runs of {seed - options.seed} seeds, "
        f"{tally.flips} flipped bits: 0 mixtures, 0 rows lost; {tally.went_back} went back to an earlier commit, "
        f"{tally.beyond_repair} had no second full generation yet"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
