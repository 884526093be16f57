"""What a command leaves for later would survive a power cut, and what a rollback made untrue has another name."""

from pathlib import Path

import numpy as np
import pytest

from lamina.coordinator.records.exporting import set_results_aside
from lamina.emulation.datasets import Dataset
from lamina.emulation.layout import test_file as held_out
from lamina.emulation.layout import write_samples
from lamina.models.bundle import MANIFEST_NAME
from lamina.models.draft import drafted
from lamina.models.storage.disk import RealDisk


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files and folders, in the order in which they were synced."""
    paths: list[Path] = []
    monkeypatch.setattr(RealDisk, "sync", lambda self, path: paths.append(path))
    monkeypatch.setattr(RealDisk, "sync_folder", lambda self, path: paths.append(path))
    return paths


def test_a_bundle_is_synced_before_it_has_its_name(tmp_path: Path, synced: list[Path]) -> None:
    folder = tmp_path / "bundle"
    with drafted(folder) as draft:
        entry = draft.add(b"graph", ".onnx")
        (draft.folder / MANIFEST_NAME).write_bytes(b"{}")
        assert synced == []
    assert {path.name for path in synced[:2]} == {entry.file_name, MANIFEST_NAME}
    assert synced[2:] == [draft.folder, tmp_path]
    assert (folder / entry.file_name).read_bytes() == b"graph"


def test_samples_are_synced(tmp_path: Path, synced: list[Path]) -> None:
    x, y = np.zeros((4, 2), np.float32), np.arange(4)
    digits = Dataset("digits", x, y, x, y, 4)
    folder = tmp_path / "samples"
    write_samples(folder, digits, ["a", "b"], [np.array([0, 1]), np.array([2, 3])])
    assert [path.suffixes[0] for path in synced if path.suffix == ".draft"] == [".npz"] * 3
    assert folder in synced
    assert tmp_path in synced
    assert np.load(folder / "b.npz")["y"].tolist() == [2, 3]
    assert held_out(folder).exists()


def test_the_result_of_a_run_that_went_back_is_set_aside(tmp_path: Path) -> None:
    for name in ("summary.json", "model.onnx", "best.safetensors", "rounds.csv", "round-4.onnx"):
        (tmp_path / name).write_text(name)
    set_results_aside(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors.aside", "model.onnx.aside", "round-4.onnx", "rounds.csv", "summary.json.aside",
    ]  # fmt: skip
    set_results_aside(tmp_path)
