"""The time of a round in which training costs nothing: two agents and a trivial model, over a real broker."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.reporting import Figures, Row, main
from lamina.coordinator.settings import Aggregation, Evaluation, Training
from lamina.emulation.experiment import BrokerKind, Experiment, Group
from lamina.emulation.progress import ProgressDisplay
from lamina.emulation.run import open_broker, prepare, train

_MODEL = """
from torch import nn


def build():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module.input_shape, module.classes = (1, 8, 8), 10
    return module
"""


def measure(quick: bool) -> tuple[Figures, list[Row]]:
    """Median and 90th percentile of a round, per broker."""
    rounds = 30 if quick else 200
    figures: Figures = {}
    table: list[Row] = [("broker", "rounds", "median ms", "p90 ms")]
    brokers: tuple[BrokerKind, ...] = ("mosquitto", "amqtt")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "trivial.py"
        model.write_text(_MODEL)
        for broker in brokers:
            seconds = sorted(_round_seconds(Path(folder), f"{model}:build", broker, rounds))
            median, p90 = statistics.median(seconds), seconds[int(0.9 * len(seconds))]
            figures[f"round_s_median_{broker}"] = median
            table.append((broker, str(len(seconds)), f"{1000 * median:.1f}", f"{1000 * p90:.1f}"))
    return figures, table


def _round_seconds(folder: Path, model: str, broker: BrokerKind, rounds: int) -> list[float]:
    experiment = Experiment(
        name=f"latency-{broker}",
        model=model,
        batch_size=1,
        out=str(folder / broker),
        broker=broker,
        fleet=(Group(devices=2),),
        training=Training(rounds=rounds, local_steps=1, lr=0.01),
        aggregation=Aggregation(phi=1),
        evaluation=Evaluation(every=rounds),
    )
    prepared = prepare(experiment)
    with open_broker(broker) as endpoint:
        outcome = asyncio.run(train(prepared, endpoint, ProgressDisplay(Console(quiet=True))))
    return [record.round_s for record in outcome.rounds[5:]]  # the first ones wait for processes to start


if __name__ == "__main__":
    main("How long does a round take when training costs nothing?", measure)
