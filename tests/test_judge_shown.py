"""A task that isn't judged by accuracy: whoever looks sees its own figure, by its name, and which way is better."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.broker.link.memory import MemoryBroker
from lamina.coordinator.commands.watch import _screen as watched
from lamina.coordinator.dashboard.metrics import exposition
from lamina.coordinator.dashboard.overview import JudgeView, Overview
from lamina.coordinator.dashboard.source import overview_of, rounds_after
from lamina.coordinator.dashboard.text import _judged, summary_lines
from lamina.coordinator.records.device_figures import DeviceFigures
from lamina.coordinator.records.records import RoundRecord
from lamina.coordinator.settings import Evaluation
from lamina.emulation.plots import draw_all, draw_judged
from lamina.emulation.progress import plain_line
from lamina.emulation.simulator.run import run as simulate_once
from lamina.emulation.simulator.setting import Setting
from lamina.emulation.simulator.studies.study import Study, Tree
from lamina.emulation.simulator.studies.tables import cells, entries, heads, verdicts
from tests import synthetic_run, task_nets
from tests.test_simulator_and_federation import federate
from tests.test_tasks_federated import arrays, bundle_of, context_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Overview]:
    """What a federation that forecasts leaves behind."""
    folder = tmp_path_factory.mktemp("judged")
    context, bundle = context_of(folder, "forecast"), bundle_of(folder, "forecast")
    np.savez(folder / "test.npz", **arrays(*task_nets.data("forecast", 2, 60)))
    evaluation = Evaluation(data=str(folder / "test.npz"), devices=0.3)
    asyncio.run(federate(context, bundle, MemoryBroker().dial, folder, name="load", evaluation=evaluation))
    run = folder / "coordinator"
    return run, overview_of(run, "load", bundle, 4)


def test_the_overview_names_the_judge(folder: tuple[Path, Overview]) -> None:
    judge = folder[1].judge
    assert (judge.name, judge.lower_is_better) == ("loss", True)
    assert judge.last == judge.figures["loss"]
    assert {"loss", "mse", "rmse", "mae"} == judge.figures.keys()
    assert judge.best is not None
    assert judge.last is not None
    assert judge.best <= judge.last
    assert judge.on_devices
    assert judge.on_devices.rounds == 4
    told = json.loads(msgspec.json.encode(folder[1]))["judge"]
    assert told["name"] == "loss"
    assert told["on_devices"]["devices"] == 3


def test_commands_show_its_own_figures(folder: tuple[Path, Overview]) -> None:
    run, overview = folder
    text = "\n".join([*summary_lines(overview, 0.0), *watched(overview, run)])
    assert "accuracy" not in text
    assert "(lower is better)" in text
    assert "on 3 devices' own samples" in text
    assert "mae ▁" in text or "mae █" in text
    assert rounds_after(run, 3)[0]["figures"] == pytest.approx(overview.judge.figures)
    assert all("on_devices" not in name for name in rounds_after(run, 3)[0]["figures"])


def test_prometheus_has_every_figure(folder: tuple[Path, Overview]) -> None:
    text = exposition(folder[1]).decode()
    assert "lamina_accuracy" not in text
    assert 'lamina_evaluation{federation="load",metric="mae",on="held-out data"}' in text
    assert 'lamina_evaluation{federation="load",metric="loss",on="devices"}' in text


def test_the_model_card_names_it(folder: tuple[Path, Overview]) -> None:
    card = (folder[0] / "model.md").read_text()
    assert "Evaluation: loss " in card
    assert "accuracy" not in card


def test_accuracy_is_shown_as_before() -> None:
    judge = JudgeView("accuracy", last=0.5, best=0.75, best_round=3, figures={"accuracy": 0.5})
    assert _judged(judge) == ["  accuracy 0.5000, best 0.7500 after round 3"]
    said = DeviceFigures(4, 10, {"accuracy": 0.4}, "accuracy", 0.4, 0.1, 0.2)
    assert "worst tenth 0.2" in _judged(msgspec.structs.replace(judge, on_devices=said))[-1]


# -- emulations and simulations


def forecasts() -> list[RoundRecord]:
    return [
        msgspec.structs.replace(record, accuracy=None, metrics={"mae": 2.0 / (index + 1), "loss": 5.0})
        for index, record in enumerate(synthetic_run.rounds(3))
    ]


def test_plots_and_progress_show_them(tmp_path: Path) -> None:
    files = draw_all(tmp_path, forecasts(), [], synthetic_run.LAYERS, 5, "mae")
    assert [path.name for path in files] == ["mae.png", "metrics.png"]
    assert "mae on held-out data" in draw_judged(forecasts(), "mae").axes[0].get_ylabel()
    assert "mae 0.6667" in plain_line(forecasts()[2], 3, 4, "mae")
    assert "accuracy" not in plain_line(forecasts()[2], 3, 4, "mae")


def test_a_study_ranks_lower_figures_first(tmp_path: Path) -> None:
    """Of two learning rates, the one that learns is ahead, though its figure is the lower one."""
    plain = context_of(tmp_path, "forecast").setting
    tree: Tree = {
        "name": "forecasts",
        "question": "Which learns?",
        "method": [{"label": "learns"}, {"label": "stands still"}],
        "claim": [{"method": "learns", "against": "stands still", "least": 0.001}],
    }
    study = msgspec.convert(tree, Study)
    results = {}
    for label, lr in (("learns", 0.05), ("stands still", 1e-9)):
        setting: Setting = msgspec.structs.replace(plain, training=msgspec.structs.replace(plain.training, lr=lr))
        results[label] = [simulate_once(setting, tmp_path / "runs", backend="loop")]
    table = entries(study, results)
    assert heads(table)[1] == "loss"
    assert float(cells(table[0])[1]) < float(cells(table[1])[1])
    [verdict] = verdicts(study, results)
    assert verdict.holds
    assert verdict.difference > 0


def test_a_simulation_ends_when_it_gets_no_better(tmp_path: Path) -> None:
    plain = context_of(tmp_path, "forecast").setting
    still = msgspec.structs.replace(
        plain,
        training=msgspec.structs.replace(plain.training, lr=1e-12, rounds=40),
        evaluation=Evaluation(every=2, stop_after=2),
    )
    result = simulate_once(still, tmp_path / "runs", backend="loop")
    assert [point.round for point in result.points] == [2, 4, 6]
