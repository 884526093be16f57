"""The figures of a study: its methods in one figure each, accuracy against traffic, and against capacity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lamina.coordinator.records.recorder import CYCLES, read_cycles
from lamina.emulation.plots import draw_crossings, draw_discrepancy, draw_intervals
from lamina.emulation.simulator.run import Result
from lamina.emulation.simulator.studies.tables import Results, scaled
from lamina.models.metrics import ACCURACY

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#222222")
_DPI = 160


def draw_accuracies(results: Results) -> Figure:
    """Accuracy of the averaged model against what all devices had sent; a line a method, its band one deviation."""
    name = _name(results)
    figure, axes = _figure(f"{name.capitalize()} against traffic", "sent by all devices (MB of float32)", name)
    for (label, runs), colour in zip(results.items(), _colours(results), strict=True):
        length = min(len(run.points) for run in runs)  # one that no longer got better has ended early
        sent = np.array([point.uplink_bytes / 1e6 for point in runs[0].points[:length]])
        curves = np.array([[scaled(run, point.accuracy) for point in run.points[:length]] for run in runs])
        mean, spread = curves.mean(0), curves.std(0)
        axes.plot(sent, mean, "-o", color=colour, label=label, markersize=3, linewidth=1.6)
        axes.fill_between(sent, mean - spread, mean + spread, color=colour, alpha=0.12, linewidth=0)
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_capacities(results: Results) -> Figure:
    """Final accuracy against the mean capacity of the devices: what small devices cost, by the way they take part."""
    name = _name(results)
    figure, axes = _figure(f"Capacity against {name}", "mean capacity of the devices", name)
    for reduction, marker, colour in (("cut", "o", COLOURS[0]), ("width", "s", COLOURS[1])):
        chosen = {label: runs for label, runs in results.items() if runs[0].setting.reduction == reduction}
        points = sorted((mean_capacity(runs[0]), _mean_figure(runs), label) for label, runs in chosen.items())
        if not points:
            continue
        x, y, labels = zip(*points, strict=True)
        way = "layers from a cut on" if reduction == "cut" else "narrow networks"
        axes.plot(x, y, marker, color=colour, label=way, linestyle="")
        for place, label in zip(zip(x, y, strict=True), labels, strict=True):
            axes.annotate(label, place, (5, -3), textcoords="offset points", fontsize=7, color=colour)
    axes.margins(x=0.2)  # room for the labels
    axes.legend(frameon=False, fontsize=8)
    return figure


def mean_capacity(result: Result) -> float:
    """Return the mean capacity of the devices that take part."""
    devices = sum(tier.devices for tier in result.tiers)
    return sum(tier.devices * tier.capacity for tier in result.tiers) / devices


def draw_study(folder: Path, results: Results, cache: Path) -> list[Path]:
    """All figures of a study: two over its methods, and those of the intervals of each method that has any.

    Args:
        folder: where the PNG files go.
        results: by method.
        cache: folder of all runs, where the adjustments of the intervals are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"accuracy": draw_accuracies(results)}
    if any(len(run.tiers) > 1 for runs in results.values() for run in runs):
        figures["capacity"] = draw_capacities(results)
    for label, runs in results.items():
        figures |= _interval_figures(label, runs[0], cache)
    return [_save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _interval_figures(label: str, result: Result, cache: Path) -> dict[str, Figure]:
    """Draw the intervals of the first seed."""
    setting = result.setting
    if setting.aggregation.phi == 1:
        return {}
    cycles = read_cycles(cache / setting.digest / CYCLES)
    if not cycles:
        return {}
    layers, steps = [layer.name for layer in result.layers], setting.training.local_steps
    slug = "".join(letter if letter.isalnum() else "-" for letter in label.lower()).strip("-")
    return {
        f"intervals-{slug}": draw_intervals(cycles, layers, steps),
        f"crossing-{slug}": draw_crossings(cycles, layers),
        f"discrepancy-{slug}": draw_discrepancy(cycles, layers, steps),
    }


def _mean_figure(runs: Sequence[Result]) -> float:
    return sum(scaled(run) for run in runs) / len(runs)


def _name(results: Results) -> str:
    """What the runs are judged by, for an axis."""
    judge = next(iter(results.values()))[0].judge
    return "accuracy (%)" if judge == ACCURACY else judge.replace("_", " ")


def _colours(results: Results) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(results))]


def _figure(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.0, 4.4), dpi=_DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path
