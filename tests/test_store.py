"""The store: what is committed comes back, whole, whatever a crash leaves behind."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.coordinator.records.accounting import Ledger
from lamina.coordinator.records.commits import Held, decode
from lamina.coordinator.records.snapshot import Snapshot
from lamina.coordinator.records.store import Store
from lamina.models.errors import ConfigError
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec

SPEC = ModelSpec(
    name="two",
    layers=(
        LayerSpec("a", (TensorSpec("a.weight", (2,), "kernel"),)),
        LayerSpec("b", (TensorSpec("b.weight", (1,), "kernel"),)),
    ),
    blocks=(BlockSpec("a", 0, 1, (2,)), BlockSpec("b", 1, 2, (2,))),
    cuts=(0, 1),
    classes=2,
)
FIRST = Snapshot(
    epoch=1,
    manifest="cafe",
    round=0,
    cohort=(),
    versions=(0, 0),
    intervals=(5, 5),
    discrepancy=(0.0, 0.0),
    ledger=Ledger(),
    devices=(),
    local_steps=5,
    phi=2,
)


def vectors(*values: list[float]) -> list[np.ndarray]:
    return [np.array(value, np.float32) for value in values]


def test_nothing_committed_is_nothing_loaded(tmp_path: Path) -> None:
    assert Store(tmp_path).load(SPEC, "cafe") is None


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "state").iterdir())


def test_a_commit_comes_back(tmp_path: Path) -> None:
    Store(tmp_path).commit(FIRST, vectors([1, 2], [3]), {1: np.array([0.5], np.float32)})
    loaded = Store(tmp_path).load(SPEC, "cafe")
    assert loaded is not None
    assert loaded.snapshot == FIRST
    assert [value.tolist() for value in loaded.values] == [[1, 2], [3]]
    assert {layer: vector.tolist() for layer, vector in loaded.owed.items()} == {1: [0.5]}


def moved(round_: int, *versions: int, cohort: tuple[str, ...] = ("d",)) -> Snapshot:
    """The snapshot after so many rounds; within a cycle, unless the cohort is empty."""
    return msgspec.structs.replace(FIRST, round=round_, versions=versions, cohort=cohort)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def values_of(folder: Path) -> list[list[float]]:
    loaded = Store(folder).load(SPEC, "cafe")
    assert loaded is not None
    return [value.tolist() for value in loaded.values]


def test_only_layers_whose_version_moved_are_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit(FIRST, vectors([1, 2], [3]))
    # a changed value under an unchanged version would be a mistake elsewhere
    store.commit(moved(1, 0, 1), vectors([9, 9], [4]))
    assert values_of(tmp_path) == [[1, 2], [4]]


def test_a_cycles_end_and_every_seventeenth_commit_have_every_layer(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=100)
    store.commit(FIRST, vectors([1, 2], [0]))
    for round_ in range(1, 20):
        store.commit(moved(round_, 0, round_), vectors([1, 2], [float(round_)]))
    store.commit(moved(20, 0, 20, cohort=()), vectors([1, 2], [20]))
    held = {rounds: Held.of(decode(path.read_bytes())) for rounds, path in enumerate(sorted(state(tmp_path).iterdir()))}
    assert [rounds for rounds, file in held.items() if file.full] == [0, 17, 20]


def state(folder: Path) -> Path:
    return folder / "state"


def test_the_last_generations_are_kept_with_the_files_that_they_rest_on(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=2)
    store.commit(FIRST, vectors([1, 2], [0]))
    for round_ in range(1, 8):  # a cycle of four rounds
        store.commit(moved(round_, round_ // 4, round_, cohort=() if round_ == 4 else ("d",)), vectors([1, 2], [0]))
        store.settle()
    assert files(tmp_path) == [f"0000000{rounds}.commit" for rounds in (0, 4, 6, 7)]  # two full ones, and the last two
    assert Store(tmp_path).generations() == [7, 6, 4, 0]


def test_a_pinned_generation_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=1)
    for round_ in range(6):
        store.commit(moved(round_, round_, round_, cohort=()), vectors([1, 2], [float(round_)]))
        store.settle(lambda: {2})
    assert store.generations() == [5, 2]
    assert store.at(2, SPEC).values[1].tolist() == [2]
    with pytest.raises(ConfigError, match=r"round 3 is not kept; kept rounds: 2, 5"):
        store.at(3, SPEC)


def test_commits_that_were_never_settled_go_with_the_next_one_that_is(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=1)
    for round_ in range(4):
        store.commit(moved(round_, round_, round_), vectors([1, 2], [float(round_)]))
        if round_ == 1:
            store.settle()
    assert files(tmp_path) == ["00000001.commit", "00000002.commit", "00000003.commit"]
    store.settle()
    assert files(tmp_path) == ["00000003.commit"]


@pytest.mark.parametrize("torn", [b"", b"LAMT", None])
def test_a_torn_last_file_is_named_and_the_commit_before_is_used(
    tmp_path: Path, torn: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.commit(FIRST, vectors([1, 2], [3]))
    store.settle()
    store.commit(moved(1, 1, 1), vectors([5, 6], [7]))
    last = tmp_path / "state" / "00000001.commit"
    if torn is None:
        flip(last)
    else:
        last.write_bytes(torn)
    again = Store(tmp_path)
    loaded = again.load(SPEC, "cafe")
    assert loaded is not None
    assert loaded.snapshot.round == 0
    assert "going on after round 0; set aside: 00000001.commit (damaged)" in caplog.text
    assert [value.tolist() for value in loaded.values] == [[1, 2], [3]]
    again.commit(moved(1, 1, 1), vectors([5, 6], [8]))  # done once more
    assert values_of(tmp_path) == [[5, 6], [8]]


@pytest.mark.parametrize("phi", [1, 2, 4])
def test_one_flipped_bit_never_costs_a_run(tmp_path: Path, phi: int) -> None:
    for hurt in range(12):
        folder = tmp_path / str(hurt)
        store = Store(folder)
        for round_ in range(1, 13):
            cycle_ends = round_ % phi == 0
            versions = (round_ // phi, round_)
            values = vectors([float(round_ // phi)] * 2, [float(round_)])
            store.commit(moved(round_, *versions, cohort=() if cycle_ends else ("d",)), values)
            store.settle()
        names = files(folder)
        if hurt >= len(names):
            return
        flip(folder / "state" / names[hurt])
        loaded = Store(folder).load(SPEC, "cafe")
        assert loaded is not None
        assert loaded.snapshot.round >= 12 - phi
        rounds = loaded.snapshot.round
        assert [value.tolist() for value in loaded.values] == [[rounds // phi] * 2, [rounds]]


def test_a_damaged_file_that_was_passed_over_never_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit(FIRST, vectors([1, 2], [3]))
    store.commit(moved(1, 0, 1), vectors([1, 2], [10]))
    store.commit(moved(2, 1, 1), vectors([20, 20], [10]))  # rests on the file before it
    flip(tmp_path / "state" / "00000001.commit")
    again = Store(tmp_path)
    assert again.load(SPEC, "cafe") is not None
    again.commit(moved(1, 0, 1), vectors([1, 2], [11]))  # the same round and versions, in another timeline
    assert values_of(tmp_path) == [[1, 2], [11]]
    assert Store(tmp_path).generations() == [1, 0]


def test_what_is_not_in_the_history_is_passed_over_for_what_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for round_ in range(3):
        store.commit(moved(round_, round_, round_), vectors([1, 2], [float(round_)]))
    loaded = Store(tmp_path).load(SPEC, "cafe", lambda rounds: rounds < 2)
    assert loaded is not None
    assert loaded.snapshot.round == 1
    loaded = Store(tmp_path).load(SPEC, "cafe", lambda rounds: False)  # better than nothing
    assert loaded is not None
    assert loaded.snapshot.round == 1


def test_rolling_back_is_for_good_and_in_another_epoch(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for round_ in range(1, 5):
        store.commit(
            moved(round_, round_, round_, cohort=()), vectors([1, 2], [float(round_)]), {0: vectors([7, 7])[0]}
        )
    Store(tmp_path).roll_back(3, SPEC, epoch=99)
    loaded = Store(tmp_path).load(SPEC, "cafe")
    assert loaded is not None
    assert loaded.snapshot == msgspec.structs.replace(moved(3, 3, 3, cohort=()), epoch=99, run=1)
    assert [value.tolist() for value in loaded.values] == [[1, 2], [3]]
    assert loaded.owed[0].tolist() == [7, 7]
    assert Store(tmp_path).generations() == [3, 2, 1]
    with pytest.raises(ConfigError, match="round 4 is not kept"):
        Store(tmp_path).roll_back(4, SPEC, epoch=100)


def test_drafts_that_a_crash_left_are_removed(tmp_path: Path) -> None:
    Store(tmp_path).commit(FIRST, vectors([1, 2], [3]))
    (tmp_path / "state" / "00000001.commit.0123abcd.draft").write_bytes(b"half")
    assert Store(tmp_path).load(SPEC, "cafe") is not None
    assert files(tmp_path) == ["00000000.commit"]


def test_another_bundle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    Store(tmp_path).commit(FIRST, vectors([1, 2], [3]))
    with pytest.raises(ConfigError, match=r"of bundle cafe, not beef.*--fresh"):
        Store(tmp_path).load(SPEC, "beef")


@pytest.mark.parametrize("damage", [b"{", b"LAMS", b"\0" * 1000])
def test_a_damaged_state_is_said_plainly(tmp_path: Path, damage: bytes) -> None:
    Store(tmp_path).commit(FIRST, vectors([1, 2], [3]))
    (tmp_path / "state" / "00000000.commit").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"damaged.*--fresh"):
        Store(tmp_path).load(SPEC, "cafe")


def test_a_missing_layer_is_damage_and_one_of_another_size_does_not_fit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit(FIRST, vectors([1, 2, 3], [3]))
    with pytest.raises(ConfigError, match=r"does not fit.*--fresh"):
        Store(tmp_path).load(SPEC, "cafe")
    store.commit(moved(1, 0, 1), vectors([1, 2], [3]))
    (tmp_path / "state" / "00000000.commit").unlink()
    with pytest.raises(ConfigError, match="damaged"):
        Store(tmp_path).load(SPEC, "cafe")


def test_clear_forgets_everything(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit(FIRST, vectors([1, 2], [3]))
    store.clear()
    assert store.load(SPEC, "cafe") is None
    store.commit(FIRST, vectors([1, 2], [3]))
    assert store.load(SPEC, "cafe") is not None


def test_commits_are_made_while_others_settle(tmp_path: Path) -> None:
    store, rounds = Store(tmp_path), 300
    store.commit(FIRST, vectors([1, 2], [3]))
    with ThreadPoolExecutor(1) as thread:
        settling = [thread.submit(store.settle) for _ in range(rounds)]
        for round_ in range(1, rounds):
            store.commit(moved(round_, round_ // 10, round_), vectors([1, 2], [3]))
    for settled in settling:
        settled.result()
    store.settle()
    loaded = Store(tmp_path).load(SPEC, "cafe")
    assert loaded is not None
    assert loaded.snapshot.round == rounds - 1
    assert Store(tmp_path).generations()[:3] == [rounds - 1, rounds - 2, rounds - 3]
    assert len(files(tmp_path)) <= 9
