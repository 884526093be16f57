"""Records: one line a round, readable by any CSV reader, and cut back where a run is resumed."""

import csv
from pathlib import Path

import msgspec

from lamina.coordinator.records.recorder import CYCLES, Recorder, read_cycles
from lamina.coordinator.records.records import CycleRecord, RoundRecord

ROUND = RoundRecord(
    round=0,
    cycle=0,
    cohort=("a", "b"),
    due=(0, 2),
    updates=4,
    expected=4,
    rejected=0,
    lr=0.1,
    loss=None,
    train_accuracy=0.5,
    accuracy=None,
    c_ratio=1.0,
    uplink_bytes=10,
    downlink_bytes=20,
    fedavg_uplink_bytes=40,
    wall_s=0.5,
    round_s=0.5,
)
CYCLE = CycleRecord(
    cycle=0, intervals=(5, 10), discrepancy=(1.0, 0.5), order=(1, 0), d_curve=(0.2, 1.0), s_curve=(0.5, 1.0), crossing=1
)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "rounds.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_round_is_one_line(tmp_path: Path) -> None:
    Recorder(tmp_path).add_round(ROUND)
    (row,) = rows(tmp_path)
    assert (row["cohort"], row["due"], row["loss"], row["train_accuracy"]) == ("a b", "0 2", "", "0.5")


def test_a_cycle_is_a_line_of_json(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.add_cycle(CYCLE)
    recorder.add_cycle(msgspec.structs.replace(CYCLE, cycle=1))
    with (tmp_path / CYCLES).open("a") as file:
        file.write('{"cycle":2,"int')  # killed meanwhile
    first, second = read_cycles(tmp_path / CYCLES)
    assert (first, second.cycle) == (CYCLE, 1)


def test_a_resumed_run_drops_what_was_never_committed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for round_ in range(4):
        recorder.add_round(msgspec.structs.replace(ROUND, round=round_, cycle=round_ // 2))
        if round_ % 2:
            recorder.add_cycle(msgspec.structs.replace(CYCLE, cycle=round_ // 2))
    Recorder(tmp_path, round=2)
    assert [row["round"] for row in rows(tmp_path)] == ["0", "1"]
    assert [record.cycle for record in read_cycles(tmp_path / CYCLES)] == [0]


def test_a_fresh_run_starts_with_empty_records(tmp_path: Path) -> None:
    Recorder(tmp_path).add_round(ROUND)
    Recorder(tmp_path)
    assert rows(tmp_path) == []
