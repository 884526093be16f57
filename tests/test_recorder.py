"""Records: one line a round, readable by any CSV reader, and made anew where a run goes on."""

import csv
from pathlib import Path

import msgspec

from lamina.coordinator.records.history import RoundDone
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
    Recorder(tmp_path).add(RoundDone(ROUND))
    (row,) = rows(tmp_path)
    assert (row["cohort"], row["due"], row["loss"], row["train_accuracy"]) == ("a b", "0 2", "", "0.5")


def test_a_cycle_is_a_line_of_json(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.add(RoundDone(ROUND, CYCLE))
    recorder.add(RoundDone(ROUND, msgspec.structs.replace(CYCLE, cycle=1)))
    with (tmp_path / CYCLES).open("a") as file:
        file.write('{"cycle":2,"int')  # killed meanwhile
    first, second = read_cycles(tmp_path / CYCLES)
    assert (first, second.cycle) == (CYCLE, 1)


def test_records_are_made_anew_whatever_a_crash_left(tmp_path: Path) -> None:
    whole, torn = Recorder(tmp_path / "whole"), Recorder(tmp_path / "torn")
    done = [RoundDone(msgspec.structs.replace(ROUND, round=round_), CYCLE) for round_ in range(3)]
    for each in done:
        whole.add(each)
        torn.add(each)
    for name in ("rounds.csv", CYCLES):
        path = tmp_path / "torn" / name
        path.write_bytes(path.read_bytes()[:-20])
        Recorder(tmp_path / "torn", done)
        assert path.read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_fresh_run_starts_with_empty_records(tmp_path: Path) -> None:
    Recorder(tmp_path).add(RoundDone(ROUND))
    Recorder(tmp_path)
    assert rows(tmp_path) == []
