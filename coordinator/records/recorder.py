"""Where are a run's records? ``rounds.csv``, a line a round, and ``cycles.jsonl``, a line an adjustment."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec

from lamina.coordinator.records.records import CycleRecord, RoundRecord

CYCLES = "cycles.jsonl"
_FIELDS = RoundRecord.__struct_fields__
_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(CycleRecord)


class Recorder:
    """Writes the records of one run as they come.

    Args:
        folder: of the run.
        round: the first round to be recorded: what an earlier, broken-off run wrote from there on is dropped.
    """

    def __init__(self, folder: Path, round: int = 0) -> None:  # noqa: A002 - the project's word
        folder.mkdir(parents=True, exist_ok=True)
        self._rounds, self._cycles = folder / "rounds.csv", folder / CYCLES
        kept = [row for row in self._old_rows() if int(row["round"]) < round]
        with self._rounds.open("w", newline="") as file:
            writer = csv.DictWriter(file, _FIELDS)
            writer.writeheader()
            writer.writerows(kept)
        last_cycle = max((int(row["cycle"]) for row in kept), default=-1)
        cycles = [record for record in read_cycles(self._cycles) if record.cycle <= last_cycle]
        self._cycles.write_bytes(_encoder.encode_lines(cycles))

    def add_round(self, record: RoundRecord) -> None:
        """Append a line."""
        with self._rounds.open("a", newline="") as file:
            csv.writer(file).writerow([_cell(getattr(record, name)) for name in _FIELDS])

    def add_cycle(self, record: CycleRecord) -> None:
        """Append a line."""
        with self._cycles.open("ab") as file:
            file.write(_encoder.encode_lines([record]))

    def _old_rows(self) -> list[dict[str, str]]:
        try:
            with self._rounds.open(newline="") as file:
                return list(csv.DictReader(file))
        except FileNotFoundError:
            return []


def read_cycles(path: Path) -> list[CycleRecord]:
    """The lines of a ``cycles.jsonl``, of which a run that was killed may have left the last one torn."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [_decoder.decode(line) for line in lines]


def _cell(value: object) -> object:
    """Tuples as words between spaces; nothing as an empty cell."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else value
