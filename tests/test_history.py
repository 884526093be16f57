"""The history: what happened comes back, what does not count any more does not, and damage is passed over."""

from pathlib import Path

import msgspec

from lamina.coordinator.records.history import Evaluated, History, RoundDone
from lamina.emulation.faults.simulated_disk import SimulatedDisk
from tests.test_recorder import CYCLE, ROUND


def done(round_: int, mark: int = 0) -> RoundDone:
    return RoundDone(msgspec.structs.replace(ROUND, round=round_, uplink_bytes=mark), CYCLE if round_ % 2 else None)


def recorded(path: Path) -> list[tuple[int, int, float | None]]:
    """Rounds, marks and accuracies that count."""
    history = History(path)
    rounds = [each.record for each in history.rounds(history.past())]
    return [(record.round, record.uplink_bytes, record.accuracy) for record in rounds]


def test_nothing_happened_where_there_is_no_log(tmp_path: Path) -> None:
    assert recorded(tmp_path / "log") == []
    History(tmp_path / "log").sync()


def test_rounds_come_back_with_their_accuracies(tmp_path: Path) -> None:
    history = History(tmp_path / "state" / "log")
    for round_ in range(3):
        history.add(done(round_))
    history.add(Evaluated(2, 0.75))
    assert recorded(tmp_path / "state" / "log") == [(0, 0, None), (1, 0, 0.75), (2, 0, None)]
    assert [each.adjustment for each in history.rounds(history.past())] == [None, CYCLE, None]


def test_what_came_after_the_round_that_a_run_goes_on_from_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "log"
    history = History(path)
    for round_ in range(4):
        history.add(done(round_, mark=1))
        history.add(Evaluated(round_ + 1, 0.1))
    past = history.past()
    history.go_back(past, 2, "restart")
    assert past.missing(3) == [2]
    history.add(done(2, mark=2))
    assert recorded(path) == [(0, 1, 0.1), (1, 1, 0.1), (2, 2, None)]
    before = path.read_bytes()
    again = History(path)
    again.go_back(again.past(), 3, "restart")  # nothing came later: nothing to say
    assert path.read_bytes() == before


def test_a_torn_or_damaged_line_is_passed_over_and_the_next_event_is_not(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for round_ in range(3):
        History(path).add(done(round_))
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for length in range(len(lines[0]) + len(lines[1]), len(content)):
        path.write_bytes(content[:length])
        History(path).add(done(2, mark=7))
        assert [(round_, mark) for round_, mark, _ in recorded(path)] == [(0, 0), (1, 0), (2, 7)]
    flipped = bytearray(content)
    flipped[len(lines[0]) + 30] ^= 1
    path.write_bytes(flipped)
    history = History(path)
    assert history.past().missing(3) == [1]
    assert [each.record.round for each in history.rounds(history.past())] == [0, 2]


def test_synced_events_survive_power_cuts() -> None:
    path = Path("/run/state/log")
    for seed in range(100):
        disk = SimulatedDisk(seed)
        for round_ in range(6):
            history = History(path, disk)
            assert not history.past().missing(round_)
            history.add(done(round_))
            history.sync()
            history.add(done(round_ + 1, mark=99))  # not synced: it may be torn, and must not harm the next one
            disk = disk.after_power_cut()
            history = History(path, disk)
            history.go_back(history.past(), round_ + 1, "restart")
