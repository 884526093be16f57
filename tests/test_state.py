"""The saved state: what goes in comes out, and damage is told."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lamina.broker.wire.messages import RoundPlan
from lamina.edge_agent.service.state import DamagedState, read_progress, restore_state, save_state
from lamina.edge_agent.session.events import Outcome, Progress
from lamina.emulation.faults.simulated_disk import SimulatedDisk, Stopped
from tests.test_activation_cache import room_of

PLAN = RoundPlan(epoch=7, round=3, cycle=1, cohort=("a", "b"), due=(0,), versions=(4, 5), hyperparameters={"lr": 0.1})
OUTCOME = Outcome(steps=5, loss=0.5, accuracy=0.75, step_s=0.01, forward_s=0.0)
PROGRESS = Progress(7, "ab" * 32, 1, PLAN, (4, 5), OUTCOME)
VECTORS = {"parameters": np.array([1.5, -2], np.float32), "momentum": np.zeros(3, np.float32)}


def empty() -> dict[str, np.ndarray]:
    return {name: np.full_like(vector, 9) for name, vector in VECTORS.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "state"
    save_state(path, PROGRESS, VECTORS)
    return path


def test_what_was_saved_comes_back(path: Path) -> None:
    assert read_progress(path) == PROGRESS
    vectors = empty()
    restore_state(path, vectors)
    for name, vector in VECTORS.items():
        np.testing.assert_array_equal(vectors[name], vector)


def test_a_state_replaces_the_one_before(path: Path) -> None:
    save_state(path, PROGRESS, {name: vector + 1 for name, vector in VECTORS.items()})
    vectors = empty()
    restore_state(path, vectors)
    assert vectors["parameters"].tolist() == [2.5, -1]
    assert [file.name for file in path.parent.iterdir()] == ["state"]


def test_no_state_is_no_error(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "state") is None


def test_every_single_damaged_byte_is_told(path: Path) -> None:
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(DamagedState, match=r"state .*: "):
            restore_state(path, empty())


def test_every_truncation_is_told(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedState):
            restore_state(path, empty())
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedState, match="its checksum is wrong"):
        restore_state(path, empty())


def test_a_state_for_other_vectors_is_told(path: Path) -> None:
    with pytest.raises(DamagedState, match="it is of another model"):
        restore_state(path, {"parameters": np.zeros(2, np.float32)})


def test_a_full_disk_leaves_the_state_before(path: Path) -> None:
    before = path.read_bytes()
    with room_of(100), pytest.raises(OSError, match="File too large"):
        save_state(path, PROGRESS, VECTORS)
    assert path.read_bytes() == before


def test_a_power_cut_leaves_a_state_that_was_saved() -> None:
    path, found = Path("/agent/state"), set()
    for seed in range(300):
        disk = SimulatedDisk(seed)
        save_state(path, PROGRESS, VECTORS, disk)
        disk.stop_after(seed % 10)
        with suppress(Stopped):
            save_state(path, PROGRESS, {name: vector + 1 for name, vector in VECTORS.items()}, disk)
        vectors = empty()
        restore_state(path, vectors, disk.after_power_cut())
        found.add(tuple(vectors["parameters"].tolist()))
    assert found == {(1.5, -2.0), (2.5, -1.0)}
