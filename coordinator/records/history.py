"""The history of a run: an append-only log of what happened, from which its records are derived.

    state/history.log      a line an event: its CRC-32C in eight hexadecimal digits, a space, the event as JSON

An event is added before the commit that it belongs to, and synced before older commits are removed: so no round that
counts is missing. What was recorded and does not count any more (a run that was broken off went back, or the operator
had it go back) stays in the log, and a later event says so. A line that a crash left torn, or that is damaged, is
passed over.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from threading import Lock
from typing import Literal

import google_crc32c
import msgspec

from lamina.coordinator.records.device_figures import DeviceFigures
from lamina.coordinator.records.records import CycleRecord, RoundRecord
from lamina.models.metrics import ACCURACY
from lamina.models.storage.disk import DISK, Disk


class RoundDone(msgspec.Struct, frozen=True, tag="round"):
    """A round is done; ``adjustment`` is there where intervals were adjusted after it."""

    record: RoundRecord
    adjustment: CycleRecord | None = None

    def with_figures(self, figures: Mapping[str, float]) -> RoundDone:
        """The round as it is recorded when it was evaluated; without figures, it was not."""
        replaced = msgspec.structs.replace(
            self.record, accuracy=figures.get(ACCURACY), metrics=_beside_accuracy(figures)
        )
        return RoundDone(replaced, self.adjustment)


class Evaluated(msgspec.Struct, frozen=True, tag="evaluated"):
    """The model after so many ``rounds`` has this accuracy, where the task has one, and these metrics."""

    rounds: int
    accuracy: float | None = None
    metrics: dict[str, float] | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, rounds: int, figures: Mapping[str, float]) -> Evaluated:
        """The event of an evaluation."""
        return cls(rounds, figures.get(ACCURACY), _beside_accuracy(figures))

    @property
    def figures(self) -> dict[str, float]:
        """All metrics by name."""
        return self.metrics or ({} if self.accuracy is None else {ACCURACY: self.accuracy})


def _beside_accuracy(figures: Mapping[str, float]) -> dict[str, float] | msgspec.UnsetType:
    """All figures where there are others than accuracy."""
    return dict(figures) if figures.keys() - {ACCURACY} else msgspec.UNSET


class WentBack(msgspec.Struct, frozen=True, tag="went back"):
    """The run goes on after so many ``rounds``: what came later does not count."""

    rounds: int
    why: Literal["restart", "rollback"]


class Judged(msgspec.Struct, frozen=True, tag="judged"):
    """Devices have judged the last model by their own samples; without ``figures``, none could."""

    rounds: int
    figures: DeviceFigures | None = None


Event = RoundDone | Evaluated | WentBack | Judged
_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(Event)


@dataclass
class Past:
    """What counts of a history.

    Attributes:
        lines: where in the log the event of each round begins, by 0-based round.
        figures: what evaluations came to, by rounds done.
        judged: what devices said of a last model, by rounds done.
    """

    lines: dict[int, int] = field(default_factory=dict)
    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    judged: dict[int, DeviceFigures | None] = field(default_factory=dict)

    def add(self, event: Event, offset: int) -> None:
        """Take in the next event, whose line begins at ``offset``."""
        match event:
            case RoundDone(record):
                self.lines[record.round] = offset
            case Evaluated(rounds):
                self.figures[rounds] = event.figures
            case Judged(rounds, figures):
                self.judged[rounds] = figures
            case WentBack(rounds):
                self.go_back(rounds)

    def go_back(self, rounds: int) -> None:
        """Forget what came after so many rounds."""
        self.lines = {round_: offset for round_, offset in self.lines.items() if round_ < rounds}
        self.figures = {done: figures for done, figures in self.figures.items() if done <= rounds}
        self.judged = {done: figures for done, figures in self.judged.items() if done <= rounds}

    def scores(self, judge: str) -> dict[int, float]:
        """One of the figures, by rounds done."""
        return {rounds: figures[judge] for rounds, figures in self.figures.items() if judge in figures}

    def missing(self, rounds: int) -> list[int]:
        """The 0-based rounds, of the first so many, that the history lacks."""
        return [round_ for round_ in range(rounds) if round_ not in self.lines]

    def reaches_beyond(self, rounds: int) -> bool:
        """Whether anything came after so many rounds."""
        return any(round_ >= rounds for round_ in self.lines) or any(done > rounds for done in self.figures)


class History:
    """The log of one run. Threads may add to it side by side.

    Args:
        path: of the log; the file is made by the first event.
        disk: it lies on.
    """

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self._path, self._disk = path, disk
        self._lock = Lock()
        self._begins_line = False  # whether the next event would stand at the beginning of a line, for sure

    def past(self) -> Past:
        """What counts, as it stands now."""
        past, offset = Past(), 0
        with self._opened() as file:
            for line in file:
                if (event := _event(line)) is not None:
                    past.add(event, offset)
                offset += len(line)
        return past

    def rounds(self, past: Past) -> Iterator[RoundDone]:
        """The rounds that count, in order, each with its accuracy where it was evaluated."""
        with self._opened() as file:
            for round_ in sorted(past.lines):
                file.seek(past.lines[round_])
                event = _event(file.readline())
                if isinstance(event, RoundDone):
                    figures = past.figures.get(round_ + 1)
                    yield event if figures is None else event.with_figures(figures)

    def add(self, event: Event) -> None:
        """Write an event; a kill does not lose it.

        Raises:
            OSError: the disk is full, or the like.
        """
        content = _encoder.encode(event)
        line = b"%08x %s\n" % (google_crc32c.value(content), content)
        with self._lock:
            if not self._begins_line:
                self._disk.make_folder(self._path.parent)
                line = line if self._ends_well() else b"\n" + line
            self._begins_line = False  # what follows may tear it
            self._disk.append(self._path, line)
            self._begins_line = True

    def go_back(self, past: Past, rounds: int, why: Literal["restart", "rollback"]) -> None:
        """Have nothing count any more that came after so many rounds, for good; ``past`` is changed accordingly."""
        if past.reaches_beyond(rounds):
            self.add(WentBack(rounds, why))
            past.go_back(rounds)
        self.sync()  # what counts from now on must not be lost behind what the run goes on with

    def sync(self) -> None:
        """Return when the events so far would survive a power cut."""
        if self._path.name in self._disk.names(self._path.parent):
            self._disk.sync(self._path)
            self._disk.sync_folder(self._path.parent)

    def _opened(self) -> BufferedIOBase:
        try:
            return self._disk.open(self._path)
        except FileNotFoundError:
            return io.BytesIO()

    def _ends_well(self) -> bool:
        with self._opened() as file:
            if not file.seek(0, io.SEEK_END):
                return True
            file.seek(-1, io.SEEK_END)
            return file.read(1) == b"\n"


def _event(line: bytes) -> Event | None:
    """The event of a line; ``None`` where the line is torn or damaged."""
    content = line[9:-1]
    if line[-1:] != b"\n" or line[:9] != b"%08x " % google_crc32c.value(content):
        return None
    try:
        event: Event = _decoder.decode(content)
        return event
    except msgspec.DecodeError:
        return None
