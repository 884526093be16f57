"""Draws figures of a run's records, as PNG.

They use matplotlib's objects directly, without ``pyplot``: nothing global is touched, and no display is needed.
Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from lamina.coordinator.records.records import CycleRecord, RoundRecord
from lamina.models.metrics import ACCURACY

BLUE, ORANGE, GREY, INK, PALE = "#0072B2", "#D55E00", "#8C8C8C", "#222222", "#DCE6EE"

_MEGABYTE = 1e6
_DPI = 160
_NAMED = 24  # layers up to which a figure names every one
_TICKS = 20  # on the axis of cycles, at most


def draw_all(
    folder: Path,
    rounds: Sequence[RoundRecord],
    cycles: Sequence[CycleRecord],
    layers: Sequence[str],
    local_steps: int,
    judge: str = ACCURACY,
) -> list[Path]:
    """Draw what the records allow: without adjustments (phi = 1, or a single cycle) nothing of the intervals.

    Args:
        folder: where the PNG files go.
        rounds: in order, one at least.
        cycles: in order.
        layers: names, in order.
        local_steps: tau', the shortest interval.
        judge: name of the figure that the model is judged by.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {judge: draw_judged(rounds, judge)}
    if any(len(record.figures) > 1 for record in rounds):
        figures["metrics"] = draw_metrics(rounds)
    if cycles:
        figures["intervals"] = draw_intervals(cycles, layers, local_steps)
        figures["crossing"] = draw_crossings(cycles, layers)
        figures["discrepancy"] = draw_discrepancy(cycles, layers, local_steps)
    return [_save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def draw_judged(rounds: Sequence[RoundRecord], judge: str = ACCURACY) -> Figure:
    """The figure that the averaged model is judged by, against what the devices have sent; what FedAvg would have sent
    is a line.
    """
    figure, name = _figure(6.4, 4.0), judge.replace("_", " ")
    title = f"{name[0].upper()}{name[1:]} against uplink"
    axes = _axes(figure, title, "sent by all devices (MB)", f"{name} on held-out data")
    points = [(record.uplink_bytes / _MEGABYTE, record.figures[judge]) for record in rounds if judge in record.figures]
    reference = rounds[-1].fedavg_uplink_bytes / _MEGABYTE
    axes.plot(*zip(*points, strict=True) if points else ([], []), color=BLUE, linewidth=1.8, label="this run")
    axes.axvline(reference, color=ORANGE, linewidth=1.6, linestyle="--")
    axes.annotate(
        f"FedAvg, float32:\n{_megabytes(reference)}", (reference, 0.06), (-6, 0), color=ORANGE, ha="right", **_OFFSET
    )
    if points:
        axes.plot(*points[-1], "o", color=BLUE, markersize=5)
        axes.annotate(
            f"{points[-1][1]:.3f} for {_megabytes(points[-1][0])}", points[-1], (7, -13), color=BLUE, **_OFFSET
        )
    axes.set_xlim(0, 1.05 * max([reference, *(sent for sent, _ in points)]) or 1.0)
    axes.set_ylim(0, 1.02 if judge == ACCURACY else None)
    return figure


def draw_metrics(rounds: Sequence[RoundRecord]) -> Figure:
    """Every metric of the averaged model by round, each in axes of its own."""
    names = list(dict.fromkeys(name for record in rounds for name in record.figures))
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure = _figure(3.2 * columns, 2.4 * lines)
    for place, name in enumerate(names):
        axes = _axes(figure, name.replace("_", " "), "round", "", (lines, columns, place + 1))
        points = [(record.round + 1, record.figures[name]) for record in rounds if name in record.figures]
        axes.plot(*zip(*points, strict=True), "-o", color=BLUE, markersize=3, linewidth=1.6)
    return figure


def draw_intervals(cycles: Sequence[CycleRecord], layers: Sequence[str], local_steps: int) -> Figure:
    """The interval of every layer in every cycle, as a map: a column a cycle, a row a layer."""
    intervals = intervals_by_cycle(cycles, len(layers), local_steps).T  # (layers, cycles)
    levels = np.unique(intervals)
    figure = _figure(min(9.5, 4.6 + 0.14 * intervals.shape[1]), _height(layers))
    axes = _axes(figure, "Interval of each layer", "cycle", "")
    shades = LinearSegmentedColormap.from_list("interval", [PALE, BLUE], N=max(len(levels), 2))
    shade = np.searchsorted(levels, intervals)
    axes.imshow(shade, cmap=shades, vmin=0, vmax=max(len(levels) - 1, 1), aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    _separate_cells(axes, *shade.shape)
    axes.xaxis.set_major_locator(FixedLocator(list(range(0, shade.shape[1], -(-shade.shape[1] // _TICKS)))))
    _name_layers(axes, layers)
    patches = [Patch(color=shades(index), label=f"{level} steps") for index, level in enumerate(levels)]
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, title="averaged every")
    return figure


def intervals_by_cycle(cycles: Sequence[CycleRecord], layers: int, local_steps: int) -> NDArray[np.int64]:
    """The intervals that held in each cycle, (cycles, layers): those of the last adjustment before it, else tau'."""
    after = {record.cycle: record.intervals for record in cycles}
    rows = [(local_steps,) * layers]
    for cycle in range(cycles[-1].cycle):
        rows.append(after.get(cycle, rows[-1]))
    return np.array(rows, np.int64)


def draw_crossings(cycles: Sequence[CycleRecord], layers: Sequence[str]) -> Figure:
    """D and 1 - S over the ordered layers at the first and at the last adjustment; relaxing ends where they cross."""
    shown = [cycles[0], cycles[-1]] if len(cycles) > 1 else [cycles[0]]
    figure = _figure(4.4 * len(shown) + 0.6, 4.4)
    for place, record in enumerate(shown):
        spot, y_label = (1, len(shown), place + 1), "" if place else "share of the whole"
        direction = "rising" if _ascends(record) else "falling"
        axes = _axes(figure, f"After cycle {record.cycle}", f"layers, by {direction} discrepancy", y_label, spot)
        _draw_crossing(axes, record, layers)
        if not place:
            axes.legend(loc="upper center", edgecolor="none", framealpha=0.9)
    return figure


def draw_discrepancy(cycles: Sequence[CycleRecord], layers: Sequence[str], local_steps: int) -> Figure:
    """d_l of every layer: its range over the cycles, the first and the last; the colour tells which are relaxed now."""
    figure = _figure(6.4, _height(layers) + 0.4)
    axes = _axes(figure, "Discrepancy of each layer", "discrepancy d, per parameter and local step", "")
    table = np.array([record.discrepancy for record in cycles])  # (cycles, layers)
    if positive := bool((table > 0).any()):
        axes.set_xscale("log")
    table = np.where(table > 0, table, np.nan) if positive else table  # a logarithmic axis has no place for 0
    for row in range(len(layers)):
        seen = table[:, row][~np.isnan(table[:, row])]
        if not len(seen):
            continue
        colour = BLUE if cycles[-1].intervals[row] > local_steps else ORANGE
        axes.plot([seen.min(), seen.max()], [row, row], color=colour, linewidth=5, alpha=0.25, solid_capstyle="round")
        axes.plot(seen[0], row, "o", markerfacecolor="white", markeredgecolor=colour, markersize=6)
        axes.plot(seen[-1], row, "o", color=colour, markersize=6)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    _name_layers(axes, layers)
    axes.legend(handles=_discrepancy_key(), loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False)
    return figure


def _draw_crossing(axes: Axes, record: CycleRecord, layers: Sequence[str]) -> None:
    places = np.arange(len(record.order) + 1)
    chosen = "relaxed" if _ascends(record) else "every round"  # the accelerating variant goes the other way
    axes.axvspan(0.5, record.crossing + 0.5, color=PALE, linewidth=0, label=chosen)
    axes.plot(places, [0.0, *record.d_curve], "-o", color=ORANGE, markersize=3.5, linewidth=1.8, label="D")
    axes.plot(
        places, [1.0, *(1 - s for s in record.s_curve)], "-s", color=BLUE, markersize=3.5, linewidth=1.8, label="1 - S"
    )
    axes.set_xlim(0, len(record.order) + 0.5)
    axes.set_ylim(-0.02, 1.02)
    if len(layers) <= _NAMED:
        axes.xaxis.set_major_locator(FixedLocator(list(places[1:])))
        axes.set_xticklabels([layers[layer] for layer in record.order], rotation=60, ha="right", rotation_mode="anchor")


def _ascends(record: CycleRecord) -> bool:
    return record.discrepancy[record.order[0]] <= record.discrepancy[record.order[-1]]


def _discrepancy_key() -> list[Any]:
    dot: dict[str, Any] = {"marker": "o", "linestyle": "", "markeredgecolor": GREY}
    return [
        Patch(color=BLUE, label="relaxed"),
        Patch(color=ORANGE, label="every round"),
        Line2D([], [], markerfacecolor="white", label="first cycle", **dot),
        Line2D([], [], markerfacecolor=GREY, label="last cycle", **dot),
    ]


_OFFSET: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}


def _figure(width_in: float, height_in: float) -> Figure:
    return Figure(figsize=(width_in, height_in), dpi=_DPI, facecolor="white", layout="constrained")


def _axes(figure: Figure, title: str, x_label: str, y_label: str, spot: tuple[int, int, int] = (1, 1, 1)) -> Axes:
    axes = figure.add_subplot(*spot)
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _separate_cells(axes: Axes, rows: int, columns: int) -> None:
    axes.set_xticks(np.arange(0.5, columns - 1), minor=True)
    axes.set_yticks(np.arange(0.5, rows - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    """Names on the y axis, the first layer on top; every second, third, ... where there are many."""
    step = -(-len(layers) // _NAMED)
    axes.yaxis.set_major_locator(FixedLocator(list(range(0, len(layers), step))))
    axes.set_yticklabels(layers[::step])


def _megabytes(amount: float) -> str:
    return f"{amount:,.0f} MB" if amount >= 1000 else f"{amount:.3g} MB"


def _height(layers: Sequence[str]) -> float:
    return 1.4 + 0.28 * max(4, min(len(layers), _NAMED))


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path
