"""What a board reads is a data set of an emulation, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lamina.emulation.commands.partition import configure, run
from lamina.emulation.datasets import load_dataset
from lamina.emulation.experiment import Experiment, Group, Partition
from lamina.emulation.layout import share_samples
from lamina.models.errors import ConfigError, DataError
from lamina.models.readers.settings import DataSettings
from lamina.models.sources import load_samples


@pytest.fixture
def readings(tmp_path: Path) -> Path:
    path = tmp_path / "readings.csv"
    rows = [f"m{row % 2},{row},{'hot' if row % 3 else 'ok'}" for row in range(40)]
    path.write_text("machine,a,state\n" + "\n".join(rows) + "\n")
    return path


def test_a_table_has_class_names_and_owners(readings: Path) -> None:
    found = load_dataset(DataSettings(str(readings), inputs=("a",), target="state", group="machine"))
    assert (found.class_names, found.classes, len(found.x_train) + len(found.x_test)) == (("hot", "ok"), 2, 40)
    assert found.ids is not None
    assert set(zip(found.ids.tolist(), (found.x_train[:, 0] % 2).tolist(), strict=True)) == {(0, 0), (1, 1)}


def test_the_last_fifth_of_each_series_is_held_out(readings: Path) -> None:
    found = load_dataset(DataSettings(str(readings), inputs=("a",), window=2, horizon=1, group="machine"))
    assert found.y_test is not None
    assert found.x_test[:, 0, 0].tolist() == [28, 30, 32, 34, 29, 31, 33, 35]
    assert found.y_test[0].tolist() == [[32]]
    assert found.x_train[:, 0, 0].max() == 23  # of which the last row that it covers is 27


def test_partitions_by_time_and_quantity_need_no_labels_and_others_say_so(readings: Path) -> None:
    data = DataSettings(str(readings), inputs=("a",), window=2, horizon=1)
    dataset = load_dataset(data)

    def shared(kind: str, spread: float = 10.0) -> list[int]:
        partition = Partition(kind=kind, spread=spread)  # type: ignore[arg-type]
        parts = share_samples(Experiment(data=data, partition=partition, fleet=(Group(devices=4),)), dataset)
        return [len(part) for part in parts]

    assert sum(shared("time")) == len(dataset.x_train)
    assert max(shared("quantity")) > 4 * min(shared("quantity"))
    for kind in ("dirichlet", "shards"):
        with pytest.raises(DataError, match=r"goes by one class a sample.*'time', 'quantity'"):
            shared(kind)
    with pytest.raises(DataError, match="times those of another"):
        shared("quantity", 1000.0)
    with pytest.raises(ConfigError, match="spread must be at least 1"):
        Partition(spread=0.5)


def test_the_command_divides_a_table_and_the_names_go_along(readings: Path, tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    configure(parser)
    data = f'{{path = "{readings}", inputs = ["a"], target = "state"}}'
    assert run(parser.parse_args([data, str(tmp_path / "out"), "--devices", "2", "--kind", "time"])) == 0
    samples = load_samples(str(tmp_path / "out" / "device-1.npz"))
    assert (samples.class_names, samples.numbered) == (("hot", "ok"), True)
    assert np.asarray(samples.x).shape[1:] == (1,)
