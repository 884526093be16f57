"""A run's records, for people and programs: ``rounds.csv``, a line a round; ``cycles.jsonl``, a line an adjustment.

Both are derived from the history (`lamina.coordinator.records.history`): they are made anew when a run begins or goes
on, and grow while it lasts. Nothing that matters is read from them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from lamina.coordinator.records.history import RoundDone
from lamina.coordinator.records.records import CycleRecord, RoundRecord
from lamina.models.storage.disk import DISK, Disk
from lamina.models.storage.replace import replace_file

ROUNDS = "rounds.csv"
CYCLES = "cycles.jsonl"
FIELDS = tuple(name for name in RoundRecord.__struct_fields__ if name not in ("metrics", "on_devices"))
EVALUATED = "evaluation_"
"""Before the name of a metric that is called as another column."""
ON_DEVICES = "on_devices_"
"""Before the columns of what devices say."""
_OF_DEVICES = ("devices", "mean", "spread", "worst")
_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(CycleRecord)


class Recorder:
    """Writes the records of one run as they come.

    Args:
        folder: of the run.
        before: the rounds that are done already, in order.
        disk: the files lie on.
        metrics: names of those that have columns of their own, behind the others.
        judged: whether there are columns for what devices say of the model with which a round began.
    """

    def __init__(
        self,
        folder: Path,
        before: Iterable[RoundDone] = (),
        disk: Disk = DISK,
        metrics: Collection[str] = (),
        *,
        judged: bool = False,
    ) -> None:
        self._disk, self._metrics, self._judged = disk, tuple(metrics), judged
        self._rounds, self._cycles = folder / ROUNDS, folder / CYCLES
        cycles: list[bytes] = []
        replace_file(self._rounds, _table(before, cycles, self._metrics, judged), disk)
        replace_file(self._cycles, cycles, disk)

    def add(self, done: RoundDone) -> None:
        """Append a round's lines."""
        self._disk.append(self._rounds, _row(done.record, self._metrics, self._judged))
        if done.adjustment:
            self._disk.append(self._cycles, _encoder.encode_lines([done.adjustment]))


def read_cycles(path: Path) -> list[CycleRecord]:
    """The lines of a ``cycles.jsonl``, of which a run that was killed may have left the last one torn."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [_decoder.decode(line) for line in lines]


def _table(rounds: Iterable[RoundDone], cycles: list[bytes], metrics: tuple[str, ...], judged: bool) -> Iterator[bytes]:
    """The lines of ``rounds.csv``; those of the other file are added to ``cycles``."""
    of_devices = [f"{ON_DEVICES}{name}" for name in _OF_DEVICES] if judged else []
    yield _line([*FIELDS, *(f"{EVALUATED}{name}" if name in FIELDS else name for name in metrics), *of_devices])
    for done in rounds:
        yield _row(done.record, metrics, judged)
        if done.adjustment:
            cycles.append(_encoder.encode_lines([done.adjustment]))


def _row(record: RoundRecord, metrics: tuple[str, ...], judged: bool) -> bytes:
    figures, on_devices = record.metrics or {}, record.on_devices or None
    cells = [*(_cell(getattr(record, name)) for name in FIELDS), *(figures.get(name, "") for name in metrics)]
    return _line([*cells, *(getattr(on_devices, name, "") for name in _OF_DEVICES if judged)])


def _line(cells: Iterable[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    """Tuples as words between spaces; nothing as an empty cell."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else value
