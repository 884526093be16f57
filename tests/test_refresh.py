"""A board's samples are looked at anew at the start of each cycle, and the coordinator hears how many there are."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from lamina.edge_agent.service.refresh import Refresh, is_reread
from lamina.models.readers.settings import DataSettings
from lamina.models.sources import load_samples
from tests.agent_lab import Lab, X, Y, lab_in, until


def archive(folder: Path, name: str, count: int = len(Y)) -> None:
    folder.mkdir(exist_ok=True)
    draft = folder / f".{name}.part"
    with draft.open("wb") as file:
        np.savez(file, x=X[:count], y=Y[:count])
    draft.rename(folder / f"{name}.npz")


def test_what_is_looked_at(tmp_path: Path) -> None:
    archive(tmp_path / "growing", "a")
    assert is_reread(str(tmp_path / "growing"))
    assert is_reread(DataSettings(str(tmp_path / "growing")))
    assert is_reread(DataSettings("a.csv", reread=True))
    assert not is_reread("a.csv")
    assert not is_reread(str(tmp_path))
    assert Refresh("in memory").changed() is None


def test_a_folder_is_read_again_only_where_it_has_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive(tmp_path / "data", "a")
    refresh = Refresh(str(tmp_path / "data"))
    assert refresh.changed() is None
    archive(tmp_path / "data", "b", 2)
    new = refresh.changed()
    assert new is not None
    assert len(new) == len(Y) + 2
    assert refresh.changed() is None
    for name in ("a", "b"):
        (tmp_path / "data" / f"{name}.npz").unlink()
    assert refresh.changed() is None
    assert "training goes on with those before" in caplog.text


def test_a_table_that_is_logged_to_is_read_again_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("a,y\n1,0\n")
    refresh = Refresh(DataSettings(str(path), target="y", reread=True))
    assert refresh.changed() is None
    with path.open("a") as file:
        file.write("2,1\n")
    new = refresh.changed()
    assert new is not None
    assert len(new) == 2
    with path.open("a") as file:
        file.write("3")  # half of a row
    assert refresh.changed() is None
    with path.open("a") as file:
        file.write(",1\n")
    new = refresh.changed()
    assert new is not None
    assert len(new) == 3


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with lab_in(tmp_path) as lab:
        yield lab


@pytest.mark.parametrize("cut", [0, 1])
async def test_a_new_cycle_takes_the_new_samples_and_their_weight(lab: Lab, cut: int) -> None:
    folder = lab.folder / "data"
    archive(folder, "a")
    await lab.ready(cut, load_samples(str(folder)), source=str(folder))
    plan = lab.coordinator.plan
    await plan(0, (0, 0), weighting="num_examples", cycle=0)
    await lab.coordinator.until_report()
    archive(folder, "b", 2)
    await plan(1, (0, 0), weighting="num_examples", cycle=0)
    await until(lambda: len(lab.coordinator.reports) == 2)
    assert {value.weight for value in lab.coordinator.updates} == {5.0}  # within the cycle they are the same
    await plan(2, (0, 0), weighting="num_examples", cycle=1)
    await until(lambda: len(lab.coordinator.reports) == 3)
    assert [value.weight for value in lab.coordinator.updates if value.round == 2] == [7.0] * (2 - cut)
    assert [profile.num_examples for profile in lab.coordinator.profiles] == [5, 7]
    assert len({profile.instance for profile in lab.coordinator.profiles}) == 1


async def test_new_samples_that_do_not_suit_the_model_are_left_alone(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    folder = lab.folder / "data"
    archive(folder, "a")
    await lab.ready(0, load_samples(str(folder)), source=str(folder))
    await lab.coordinator.plan(0, (0, 0), cycle=0)
    await lab.coordinator.until_report()
    np.savez(folder / "b.npz", x=X, y=Y + 7)
    os.utime(folder / "b.npz", (1e9, 1e9))
    await lab.coordinator.plan(1, (0, 0), cycle=1)
    await until(lambda: len(lab.coordinator.reports) == 2)
    assert "new samples are left alone" in caplog.text
    assert len(lab.coordinator.profiles) == 1
