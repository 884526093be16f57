"""Predicted peaks of memory against measured ones, for every network at every tier, by every memory plan that a device
may use.

Measured is what the agent's own learner takes above its idle process, in a fresh one (`training.measure`); predicted
is what the manifest says (`lamina.models.peaks`), from the graphs alone.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.reporting import Figures, Row, main
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import load_definition
from lamina.models.fitting import MemoryPlan
from lamina.models.machine import module_command
from lamina.models.manifest import SubModel

NETWORKS = (
    *("resnet20", "resnet20,norm=group", "ds_cnn", "mobilenet_v2", "sensor_cnn"),
    *("tiny_transformer", "text_lstm", "leaf_cnn", "digits_cnn"),
)
BATCH_SIZE, MICRO_BATCH = 32, 8


def measure(quick: bool) -> tuple[Figures, list[Row]]:
    """The figures and their table."""
    table: list[Row] = [("peak above idle, MiB", "predicted", "measured", "ratio")]
    found: list[float] = []
    for name in ["ds_cnn"] if quick else NETWORKS:
        for text, predicted, measured in compared(name):
            table.append((f"{name}, {text}", f"{predicted:.1f}", f"{measured:.1f}", f"{predicted / measured:.2f}"))
            found.append(predicted / measured)
    return {"predicted_vs_measured_peak": furthest(found)}, table


def furthest(ratios: Iterable[float]) -> float:
    """The one that is furthest from 1."""
    return max(ratios, key=lambda ratio: abs(ratio - 1))


def compared(source: str) -> Iterator[tuple[str, float, float]]:
    """The memory plan, its predicted peak, and its measured one, in MiB, at each tier of a network."""
    with tempfile.TemporaryDirectory() as folder:
        build_bundle(load_definition(source), Path(folder) / "bundle", batch_size=BATCH_SIZE)
        bundle = read_bundle(Path(folder) / "bundle")
        cuts = bundle.manifest.spec.cuts
        for cut in dict.fromkeys((cuts[0], cuts[len(cuts) // 2], cuts[-1])):
            for plan in _plans(bundle.manifest.sub_model(cut)):
                yield f"cut {cut}, {plan.text}", plan.peak_mib, measured_mib(bundle, plan)


def measured_mib(bundle: Bundle, plan: MemoryPlan) -> float:
    """The peak of a fresh process that trains in this plan."""
    command = [*module_command("lamina.edge_agent.training.measure"), str(bundle.folder), "--cut", str(plan.cut)]
    command += ["--micro-batch", str(plan.micro_batch)] + ["--recompute"] * plan.checkpoints
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["peak_mib"])


def _plans(sub_model: SubModel) -> Iterator[MemoryPlan]:
    if sub_model.cost:
        yield MemoryPlan(sub_model.cut, peak_mib=sub_model.cost.peak_mib(BATCH_SIZE))
    if sub_model.cost_in_parts:
        yield MemoryPlan(sub_model.cut, MICRO_BATCH, peak_mib=sub_model.cost_in_parts.peak_mib(MICRO_BATCH))
    if sub_model.cost_recomputing:
        yield MemoryPlan(sub_model.cut, BATCH_SIZE, True, sub_model.cost_recomputing.peak_mib(BATCH_SIZE))


if __name__ == "__main__":
    main("How near is a predicted peak to the measured one?", measure)
