"""Reports a study's similarity: a table over all its seeds, curves by depth, and maps of pairs of devices."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lamina.emulation.simulator.research.layer_similarity import MEASURES, LayerSimilarity, layer_similarity
from lamina.emulation.simulator.research.layer_similarity_plots import draw_curves, draw_depths, draw_maps
from lamina.emulation.simulator.rows import to_row
from lamina.emulation.simulator.run import Result, folder_of
from lamina.emulation.simulator.run_context import prepare_run
from lamina.emulation.simulator.studies.tables import mean_and_spread
from lamina.models.values import read_values

_OF = ("", " sd")  # over the seeds


def compare_layers(results: Mapping[str, Sequence[Result]], cache: Path, folder: Path) -> None:
    """Write ``similarity.csv`` over all seeds, one figure of the curves, and two of maps a method, of the first seed.

    In the table, depth is 0 at the network's input and 1 at its output, so that networks can be laid side by side.
    """
    lines: list[tuple[object, ...]] = [
        ("method", "layer", "depth", *(f"{name}{of}" for name in MEASURES for of in _OF))
    ]
    found: dict[str, list[LayerSimilarity]] = {}
    for label, runs in results.items():
        found[label] = [_after(run, cache) for run in runs]
        curves = {measure: np.array([one.curve(measure) for one in found[label]]) for measure in MEASURES}
        layers = found[label][0].layers
        for index, name in enumerate(layers):
            figures = [figure for curve in curves.values() for figure in mean_and_spread(curve[:, index].tolist())]
            depth = index / max(1, len(layers) - 1)
            lines.append((label, name, f"{depth:.3f}", *(f"{figure:.4f}" for figure in figures)))
    with (folder / "similarity.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    draw_curves(found).savefig(folder / "plots" / "similarity.png")
    for index, (label, seeds) in enumerate(found.items()):
        draw_depths(label, seeds[0]).savefig(folder / "plots" / f"similarity-depth-{index}.png")
        draw_maps(label, seeds[0]).savefig(folder / "plots" / f"similarity-map-{index}.png")


def _after(run: Result, cache: Path) -> LayerSimilarity:
    """Return the similarity of one more cohort after a run."""
    context = prepare_run(run.setting)
    return layer_similarity(
        context, to_row(context.spec, read_values(folder_of(run.setting, cache) / "model.safetensors"))
    )
