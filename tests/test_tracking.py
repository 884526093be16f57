"""Finished rounds as curves for other programs."""

import sys
import types
from pathlib import Path

import pytest

from lamina.coordinator import cli
from lamina.coordinator.commands import track
from lamina.coordinator.tracking.curves import points

RECORD = {
    "round": 0,
    "due": [0, 2],
    "lr": 0.1,
    "loss": None,
    "train_accuracy": 0.5,
    "c_ratio": 0.75,
    "uplink_bytes": 100,
    "downlink_bytes": 50,
    "fedavg_uplink_bytes": 400,
    "round_s": 1.5,
    "figures": {"accuracy": 0.6, "f1": None},
}


def test_a_rounds_points_are_what_is_known_of_it() -> None:
    assert points(RECORD) == {
        "lr": 0.1,
        "train_accuracy": 0.5,
        "c_ratio": 0.75,
        "uplink_bytes": 100,
        "downlink_bytes": 50,
        "fedavg_uplink_bytes": 400,
        "round_s": 1.5,
        "layers_averaged": 2,
        "evaluation/accuracy": 0.6,
    }


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    records = [RECORD | {"round": number} for number in range(3)]
    monkeypatch.setattr(track, "rounds_after", lambda folder, done: records[done:])
    path = tmp_path / "federation.toml"
    path.write_text('federation = "greenhouse"\nbundle = "bundle"\n')
    return path


class Writer:
    """What TensorBoard has, as far as it is used."""

    def __init__(self, folder: str) -> None:
        self.points: list[tuple[str, float, int]] = []
        written[folder] = self.points

    def add_scalar(self, name: str, value: float, *, step: int) -> None:
        self.points.append((name, value, step))

    def flush(self) -> None: ...
    def close(self) -> None: ...


written: dict[str, list[tuple[str, float, int]]] = {}


def test_every_round_goes_to_tensorboard_once(federation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tensorboard.summary")
    monkeypatch.setattr(module, "Writer", Writer, raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "tensorboard.summary", module)
    monkeypatch.delitem(sys.modules, "lamina.coordinator.tracking.tensorboard", raising=False)
    assert cli.main(["track", str(federation), "--tensorboard", "curves"]) == 0
    sys.modules.pop("lamina.coordinator.tracking.tensorboard")  # it has the stand-in
    assert [point for point in written["curves"] if point[0] == "c_ratio"] == [("c_ratio", 0.75, n) for n in (1, 2, 3)]


def test_what_is_missing_is_told(
    federation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lamina.coordinator.tracking.mlflow", None)
    assert cli.main(["track", str(federation), "--mlflow", "http://nowhere"]) == 2
    assert "pip install 'lamina-fl[mlflow]'" in capsys.readouterr().err


def test_tensorboard_itself_reads_it(federation: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert cli.main(["track", str(federation), "--tensorboard", str(tmp_path / "curves")]) == 0
    read = accumulator.EventAccumulator(str(tmp_path / "curves"))
    read.Reload()
    assert "evaluation/accuracy" in {*read.Tags()["scalars"], *read.Tags()["tensors"]}


def test_mlflow_itself_reads_it(federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server or a database would do, too
    uri = (tmp_path / "runs").as_uri()
    assert cli.main(["track", str(federation), "--mlflow", uri]) == 0
    client = tracking.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("greenhouse")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["evaluation/accuracy"] == 0.6
