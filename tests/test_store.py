"""The store: what is committed comes back, whole, whatever a crash leaves behind."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.coordinator.records.accounting import Ledger
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


def test_only_layers_whose_version_moved_are_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit(FIRST, vectors([1, 2], [3]))
    # a changed value under an unchanged version would be a mistake elsewhere
    store.commit(msgspec.structs.replace(FIRST, round=1, versions=(0, 1)), vectors([9, 9], [4]))
    for loaded in (store.load(SPEC, "cafe"), Store(tmp_path).load(SPEC, "cafe")):
        assert loaded is not None
        assert [value.tolist() for value in loaded.values] == [[1, 2], [4]]


def test_settling_keeps_the_files_that_a_layer_rests_on_and_no_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit(FIRST, vectors([1, 2], [3]))
    second = msgspec.structs.replace(FIRST, round=1, versions=(0, 1))
    third = msgspec.structs.replace(FIRST, round=2, versions=(0, 2))
    for snapshot, value in ((second, 4.0), (third, 5.0)):
        store.commit(snapshot, vectors([1, 2], [value]))
        store.settle()
    assert files(tmp_path) == ["00000000.commit", "00000002.commit"]
    again = Store(tmp_path)
    loaded = again.load(SPEC, "cafe")
    assert loaded is not None
    assert [value.tolist() for value in loaded.values] == [[1, 2], [5]]
    fourth = msgspec.structs.replace(FIRST, round=3, versions=(1, 2))
    again.commit(fourth, vectors([7, 8], [5]))  # as after a restart
    again.settle()
    assert files(tmp_path) == ["00000002.commit", "00000003.commit"]


def test_commits_that_were_never_settled_go_with_the_next_one_that_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for round_ in range(4):
        snapshot = msgspec.structs.replace(FIRST, round=round_, versions=(round_, round_))
        store.commit(snapshot, vectors([1, 2], [float(round_)]))
        if round_ == 1:
            store.settle()
    assert files(tmp_path) == ["00000001.commit", "00000002.commit", "00000003.commit"]
    store.settle()
    assert files(tmp_path) == ["00000003.commit"]


@pytest.mark.parametrize("torn", [b"", b"LAMS", None])
def test_a_torn_last_file_leaves_the_former_commit(tmp_path: Path, torn: bytes | None) -> None:
    store = Store(tmp_path)
    store.commit(FIRST, vectors([1, 2], [3]))
    store.settle()
    store.commit(msgspec.structs.replace(FIRST, round=1, versions=(1, 1)), vectors([5, 6], [7]))
    last = tmp_path / "state" / "00000001.commit"
    content = last.read_bytes()
    last.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if torn is None else torn)
    again = Store(tmp_path)
    loaded = again.load(SPEC, "cafe")
    assert loaded is not None
    assert loaded.snapshot.round == 0
    assert [value.tolist() for value in loaded.values] == [[1, 2], [3]]
    again.commit(msgspec.structs.replace(FIRST, round=1, versions=(1, 1)), vectors([5, 6], [8]))  # done once more
    once_more = Store(tmp_path).load(SPEC, "cafe")
    assert once_more is not None
    assert [value.tolist() for value in once_more.values] == [[5, 6], [8]]


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


def test_a_missing_layer_or_one_of_another_size_is_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit(FIRST, vectors([1, 2, 3], [3]))
    with pytest.raises(ConfigError, match="damaged"):
        store.load(SPEC, "cafe")
    store.commit(msgspec.structs.replace(FIRST, round=1, versions=(0, 1)), vectors([1, 2], [3]))
    (tmp_path / "state" / "00000000.commit").unlink()
    with pytest.raises(ConfigError, match="damaged"):
        store.load(SPEC, "cafe")


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
            versions = (round_ // 10, round_)
            store.commit(msgspec.structs.replace(FIRST, round=round_, versions=versions), vectors([1, 2], [3]))
    for settled in settling:
        settled.result()
    store.settle()
    loaded = Store(tmp_path).load(SPEC, "cafe")
    assert loaded is not None
    assert loaded.snapshot.round == rounds - 1
    assert len(files(tmp_path)) == 2  # of the layer that moved last, and of the other one
