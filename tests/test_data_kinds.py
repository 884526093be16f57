"""Federations of agents each of which reads its samples from another kind of source, until a model is exported."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from torch import nn

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.settings import Cohorts, Deadlines, Evaluation, FederationSettings, Training
from lamina.edge_agent.service.agent import Agent
from lamina.edge_agent.settings import AgentSettings
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition
from lamina.models.errors import ConfigError, DataError
from lamina.models.readers.settings import DataSettings, Source
from lamina.models.samples import LabelledSamples
from lamina.models.sources import load_samples
from tests.patience import PATIENCE_S
from tests.test_folders import picture, recording

ROOT = Path(__file__).parent.parent
NAMES = ("dry", "wet", "soaked")  # not in the order of the alphabet


def bundle_for(folder: Path, shape: tuple[int, ...]) -> Bundle:
    module = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3))
    definition = Definition("kinds", module, shape, 3, class_names=NAMES)
    build_bundle(definition, folder, batch_size=4, measure=lambda bundle, cut: 10.0, check=False)
    return read_bundle(folder)


def federation(folder: Path, bundle: Bundle, devices: int, evaluation: Source = "") -> FederationSettings:
    return FederationSettings(
        federation="kinds",
        bundle=str(bundle.folder),
        folder=str(folder / "run"),
        training=Training(rounds=2, local_steps=2, lr=0.1),
        cohorts=Cohorts(min_devices=devices, wait_s=PATIENCE_S),
        deadlines=Deadlines(round_s=PATIENCE_S, broker_s=PATIENCE_S),
        evaluation=Evaluation(data=evaluation),
    )


async def trained(folder: Path, bundle: Bundle, sources: Mapping[str, DataSettings], dial: Dial) -> Path:
    """The folder of a federation whose agents share this process."""
    agents = []
    for name, source in sources.items():
        settings = AgentSettings(
            "kinds", name, source, budget_mib=50.0, threads=1, folder=str(folder / name), once=True, shared_process=True
        )
        agents.append(asyncio.create_task(Agent(settings, load_samples(source), dial).run()))
    evaluated = next(iter(sources.values()))
    coordinator = Coordinator(federation(folder, bundle, len(sources), evaluated), bundle, dial)
    async with asyncio.timeout(PATIENCE_S):
        result = await coordinator.run()
        await asyncio.gather(*agents)
    assert result.rounds == 2
    assert result.accuracy is not None
    assert {device.id for device in result.devices if device.rounds_done == 2} == set(sources)
    return folder / "run"


def rows(seed: int) -> list[tuple[float, float, str]]:
    rng = np.random.default_rng(seed)
    return [(*map(float, rng.normal(size=2).round(3)), NAMES[rng.integers(2) + seed % 2]) for _ in range(12)]


def as_csv(path: Path, seed: int) -> DataSettings:
    path.write_text("a,b,state\n" + "".join(f"{a},{b},{state}\n" for a, b, state in rows(seed)))
    return DataSettings(str(path), target="state")


def as_sqlite(path: Path, seed: int) -> DataSettings:
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE readings (a REAL, b REAL, state TEXT)")
        base.executemany("INSERT INTO readings VALUES (?, ?, ?)", rows(seed))
        base.commit()
    return DataSettings(str(path), target="state")


def as_parquet(path: Path, seed: int) -> DataSettings:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(arrow.table(dict(zip(("a", "b", "state"), zip(*rows(seed), strict=True), strict=True))), path)
    return DataSettings(str(path), target="state")


def as_archives(path: Path, seed: int) -> DataSettings:
    path.mkdir()
    for part in range(2):
        found = rows(seed + part)
        labels = np.array([NAMES.index(state) for _, _, state in found])
        np.savez(path / f"{part}.npz", x=np.array([row[:2] for row in found], np.float32), y=labels)
    return DataSettings(str(path))


def tables(folder: Path) -> dict[str, DataSettings]:
    return {
        "csv": as_csv(folder / "a.csv", 0),
        "sqlite": as_sqlite(folder / "b.db", 1),
        "parquet": as_parquet(folder / "c.parquet", 2),
        "archives": as_archives(folder / "d", 3),
    }


async def test_tables_and_archives_train_one_model(tmp_path: Path) -> None:
    bundle = bundle_for(tmp_path / "bundle", (2,))
    run = await trained(tmp_path, bundle, tables(tmp_path), MemoryBroker().dial)
    card = (run / "model.md").read_text()
    assert "| 0 | dry |\n| 1 | wet |\n| 2 | soaked |" in card
    assert "lamina" in (run / "model.onnx").read_bytes().decode("latin-1")


async def test_windows_and_sound_train_one_model(tmp_path: Path) -> None:
    for index in range(6):
        frames = [[int(value) for value in row] for row in np.random.default_rng(index).integers(-999, 999, (4, 3))]
        recording(tmp_path / "clips" / NAMES[index % 3] / f"{index}.wav", frames)
    series = "\n".join(f"{t},{t % 5},{t % 3},{t / 10},{NAMES[t % 3]}" for t in range(30))
    (tmp_path / "series.csv").write_text(f"a,b,c,d,state\n{series}\n")
    sources = {
        "sound": DataSettings(str(tmp_path / "clips")),
        "series": DataSettings(str(tmp_path / "series.csv"), target="state", window=3),
    }
    await trained(tmp_path, bundle_for(tmp_path / "bundle", (3, 4)), sources, MemoryBroker().dial)


async def test_images_train_a_model(tmp_path: Path) -> None:
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (2, 2, 3)).astype(np.uint8)
        picture(tmp_path / f"board-{index % 2}" / NAMES[index % 2 + index % 3 // 2] / f"{index}.png", pixels)
    sources = {name: DataSettings(str(tmp_path / name)) for name in ("board-0", "board-1")}
    await trained(tmp_path, bundle_for(tmp_path / "bundle", (3, 2, 2)), sources, MemoryBroker().dial)


async def test_agents_of_their_own_processes(tmp_path: Path, any_broker: RunningBroker, root: str) -> None:
    bundle = bundle_for(tmp_path / "bundle", (2,))
    agents = []
    for name, source in (("csv", as_csv(tmp_path / "a.csv", 0)), ("archives", as_archives(tmp_path / "d", 3))):
        table = ", ".join(
            f'{key} = "{value}"' for key, value in (("path", source.path), ("target", source.target)) if value
        )
        place = f"{any_broker.address.host}:{any_broker.address.port}"
        command = [
            "-m", "lamina.edge_agent.cli", "--federation", root, "--device", name, "--data", f"{{{table}}}",
            "--budget-mib", "200", "--threads", "1", "--folder", str(tmp_path / name), "--broker", place, "--once",
        ]  # fmt: skip
        agents.append(await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT))
    settings = msgspec.structs.replace(federation(tmp_path, bundle, 2), federation=root)
    async with asyncio.timeout(PATIENCE_S):
        result = await Coordinator(settings, bundle, mqtt_dial(any_broker.address)).run()
        assert [await agent.wait() for agent in agents] == [0, 0]
    assert result.rounds == 2


def test_a_class_that_the_model_lacks_and_classes_that_nobody_numbers(tmp_path: Path) -> None:
    spec = bundle_for(tmp_path / "bundle", (2,)).manifest.spec
    (tmp_path / "a.csv").write_text("a,b,state\n1,2,wet\n3,4,sokaed\n")
    found = load_samples(DataSettings(str(tmp_path / "a.csv"), target="state"))
    with pytest.raises(DataError, match=r"model kinds has no class 'sokaed'; did you mean 'soaked'\?"):
        found.numbered_for(spec)
    stored = LabelledSamples(np.zeros((3, 2), np.float32), np.array([1, -100, 0]), "a.npz", ("wet", "dry"))
    assert np.asarray(stored.numbered_for(spec).y).tolist() == [0, -100, 1]  # what is below 0 is no class
    with pytest.raises(DataError, match=r"a\.npz: label 2 has no name: there are 2, from 0 on"):
        LabelledSamples(np.zeros((1, 2), np.float32), np.array([2]), "a.npz", ("wet", "dry")).numbered_for(spec)
    unnamed = msgspec.structs.replace(spec, class_names=msgspec.UNSET)
    with pytest.raises(DataError, match=r"build its bundle with --classes, or give data\.classes"):
        found.numbered_for(unnamed)
    given = DataSettings(str(tmp_path / "a.csv"), target="state", classes=("sokaed", "wet"))
    assert np.asarray(load_samples(given).numbered_for(unnamed).y).tolist() == [1, 0]
    with pytest.raises(ConfigError, match="class_names must name each of its 3 classes once"):
        Definition("few", nn.Linear(2, 3), (2,), 3, class_names=("a",))
