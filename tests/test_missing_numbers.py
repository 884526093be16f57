"""Numbers that are missing: in tables they are refused, dropped or masked; as targets they count for nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lamina.models.build import build_bundle
from lamina.models.definition import Definition
from lamina.models.errors import ConfigError, DataError
from lamina.models.graph.objectives import objective_of
from lamina.models.layout import derive_spec
from lamina.models.readers.settings import DataSettings
from lamina.models.samples import LabelledSamples
from lamina.models.sources import load_samples
from lamina.models.targets import weight_of
from lamina.models.tasks.regression import Regression

CSV = "a,b,y\n1,10,0.5\n,20,1.5\n3,nan,2.5\n4,40,\n5,50,4.5\n"
X = [[1, 10], [0, 20], [3, 0], [4, 40], [5, 50]]
THERE = [[1, 1], [0, 1], [1, 0], [1, 1], [1, 1]]


@pytest.fixture(params=["csv", "sqlite", "parquet"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same table in each of its kinds."""
    path = tmp_path / f"log.{request.param}"
    rows = [[None if cell in ("", "nan") else float(cell) for cell in line.split(",")] for line in CSV.split()[1:]]
    if request.param == "csv":
        path.write_text(CSV)
    elif request.param == "sqlite":
        with sqlite3.connect(path) as connection:
            connection.execute("create table log (a real, b real, y real)")
            connection.executemany("insert into log values (?, ?, ?)", rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = dict(zip("aby", map(list, zip(*rows, strict=True)), strict=True))
        parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def read(table: str, **settings: Any) -> LabelledSamples:
    return load_samples(DataSettings(table, target="y", inputs=("a", "b"), **settings))


def test_an_empty_cell_is_an_error_that_says_what_to_do(table: str) -> None:
    with pytest.raises(DataError, match=r"fill the gap, leave the row out, or set data\.missing to drop or mask"):
        read(table)


def test_rows_are_dropped(table: str) -> None:
    found = read(table, missing="drop")
    assert np.asarray(found.parts[""][:]).tolist() == [[1, 10], [5, 50]]
    assert np.asarray(found.y).tolist() == [0.5, 4.5]


def test_inputs_are_masked_and_a_target_stays_missing(table: str) -> None:
    found = read(table, missing="mask")
    assert np.asarray(found.parts[""][:]).tolist() == [x + there for x, there in zip(X, THERE, strict=True)]
    np.testing.assert_array_equal(np.asarray(found.y), [0.5, 1.5, 2.5, np.nan, 4.5])


def test_a_window_over_a_dropped_row_is_left_out(tmp_path: Path) -> None:
    cells = [str(number) if number != 5 else "" for number in range(12)]
    (tmp_path / "log.csv").write_text("a\n" + "".join(f'"{cell}"\n' for cell in cells))
    found = load_samples(DataSettings(str(tmp_path / "log.csv"), window=3, horizon=1, missing="drop"))
    assert [int(window[0, 0]) for window in np.asarray(found.parts[""][:])] == [0, 1, 6, 7, 8]
    assert found.stretches is not None
    assert found.stretches[2].tolist() == [0, 6, 10]


def test_a_forecast_over_gaps_has_masked_inputs_and_missing_targets(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('a\n"0"\n"1"\n""\n"3"\n"4"\n')
    found = load_samples(DataSettings(str(tmp_path / "log.csv"), window=2, horizon=1, missing="mask"))
    x, y = np.asarray(found.parts[""][:]), np.asarray(found.y)[:, 0, 0]
    assert x.tolist() == [[[0, 1], [1, 1]], [[1, 1], [0, 0]], [[0, 0], [3, 1]]]
    np.testing.assert_array_equal(y, [np.nan, 3, 4])


def test_a_class_that_is_missing_drops_its_row(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,state\n1,on\n2,\n3,off\n4,on\n")
    found = load_samples(DataSettings(str(tmp_path / "log.csv"), target="state", missing="drop"))
    assert (len(found), found.class_names) == (3, ("off", "on"))
    with pytest.raises(DataError, match=r"line 3.*the cell is empty; give its class"):
        load_samples(DataSettings(str(tmp_path / "log.csv"), target="state", missing="mask"))


def test_nothing_but_gaps_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,b\n1,\n,2\n")
    with pytest.raises(DataError, match="a cell is missing in every row"):
        load_samples(DataSettings(str(tmp_path / "log.csv"), target="b", missing="drop"))
    with pytest.raises(ConfigError, match=r"data\.missing means nothing for npz"):
        load_samples(DataSettings(str(tmp_path), kind="npz", missing="drop"))


# -- targets


def test_a_missing_target_counts_for_nothing() -> None:
    """Loss, weight and metrics are those of the targets that are there."""
    outputs, y = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    here = torch.rand(6, 4) < 0.6
    holed = torch.where(here, y, torch.nan)
    torchs = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}
    for name, function in torchs.items():
        definition = Definition("m", nn.Linear(2, 4), (2,), task=Regression(missing=True), loss=name)
        objective = objective_of(definition)
        loss = objective.loss(outputs, holed)
        torch.testing.assert_close(loss, function(outputs[here], y[here]))
        [gradient] = torch.autograd.grad(loss, outputs)
        assert torch.isfinite(gradient).all()
        assert (gradient[~here] == 0).all()
        assert objective.weight(holed).item() == here.sum().item() == weight_of(objective.target, holed.numpy())
        sums, counts = objective.metrics["mae"].function(outputs, holed)
        torch.testing.assert_close((sums / counts).float(), (outputs - y)[here].abs().mean())
    nothing = torch.full_like(y, torch.nan)
    assert objective.loss(outputs, nothing).item() == 0


def test_its_graphs_are_torchs(tmp_path: Path) -> None:
    """The proof draws missing targets, too."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    build_bundle(Definition("m", net, (3,), task=Regression(missing=True)), tmp_path / "bundle", batch_size=4)


def test_missing_targets_of_another_task_are_told() -> None:
    spec = derive_spec(Definition("m", nn.Linear(2, 3), (2,), task="regression"))
    y = np.zeros((5, 3), np.float32)
    y[3, 1] = np.nan
    data = LabelledSamples(np.zeros((5, 2), np.float32), y, "d.npz")
    with pytest.raises(DataError, match=r"target 3 is missing \(NaN\).*Regression\(missing=True\)"):
        data.check(spec)
    data.check(derive_spec(Definition("m", nn.Linear(2, 3), (2,), task=Regression(missing=True))))
    y[3, 1] = np.inf
    with pytest.raises(DataError, match="target 3 has values that are not finite"):
        LabelledSamples(np.zeros((5, 2), np.float32), y, "d.npz")


def test_missing_inputs_of_an_archive_are_told() -> None:
    x = np.zeros((4, 2), np.float32)
    x[2, 0] = np.nan
    with pytest.raises(DataError, match=r"sample 2 has values that are not finite.*give a mask"):
        LabelledSamples(x, np.zeros(4, int))
