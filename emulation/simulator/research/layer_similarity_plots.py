"""Plots similarity by depth: curves over the layers, and maps of every pair of devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lamina.emulation.simulator.research.layer_similarity import LayerSimilarity

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_STYLES = ("-o", "--s")  # a measure each
_DPI = 160


def draw_curves(found: Mapping[str, Sequence[LayerSimilarity]]) -> Figure:
    """Mean similarity of two devices, layer by layer; a colour a method, its band one deviation over the seeds."""
    layers, measures = _layers(found), _measures(found)
    figure = Figure(figsize=(max(7.4, 0.3 * len(layers) + 2), 4.4), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for colour, (label, seeds) in zip(_COLOURS, found.items(), strict=False):
        for measure, style in zip(measures, _STYLES, strict=True):
            curves = np.array([one.curve(measure) for one in seeds])  # (seeds, layers)
            mean, spread, places = curves.mean(0), curves.std(0), np.arange(len(layers))
            axes.plot(places, mean, style, color=colour, markersize=3.5, label=f"{label}, {measure}")
            axes.fill_between(places, mean - spread, mean + spread, color=colour, alpha=0.12, linewidth=0)
    _name(axes, "x", layers)
    axes.set_ylim(top=1.02)
    axes.set_ylabel("similarity between devices")
    axes.set_title("Similarity of representations, by depth", loc="left", fontweight="bold", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_depths(label: str, one: LayerSimilarity) -> Figure:
    """A map a measure: a row a layer, a column a pair of devices, the least alike pairs on the left."""
    measures = list(one.matrices)
    figure = Figure(figsize=(5.2 * len(measures) + 1, 0.2 * len(one.layers) + 2), dpi=_DPI, layout="constrained")
    image = None
    for place, measure in enumerate(measures):
        axes = figure.add_subplot(1, len(measures), place + 1)
        pairs = one.pairs(measure)  # (layers, pairs)
        image = axes.imshow(
            pairs[:, np.argsort(pairs.mean(0))], vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest"
        )
        _name(axes, "y", one.layers)
        axes.set_title(f"{label}: {measure}", loc="left", fontsize=10)
        axes.set_xlabel("pair of devices")
    if image is not None:
        figure.colorbar(image, ax=figure.axes, label="similarity")
    return figure


def draw_maps(label: str, one: LayerSimilarity) -> Figure:
    """CKA between every two devices, in the first, the middle and the last layer."""
    layers = sorted({0, len(one.layers) // 2, len(one.layers) - 1})
    figure = Figure(figsize=(3.4 * len(layers) + 0.8, 3.8), dpi=_DPI, layout="constrained")
    figure.suptitle(label, fontsize=10)
    image = None
    for place, layer in enumerate(layers):
        axes = figure.add_subplot(1, len(layers), place + 1)
        image = axes.imshow(one.matrices["linear CKA"][layer], vmin=0, vmax=1, cmap="viridis")
        axes.set_title(one.layers[layer], fontsize=9)
        axes.set_xlabel("device")
    if image is not None:
        figure.colorbar(image, ax=figure.axes, label="linear CKA")
    return figure


def _name(axes: Axes, axis: str, layers: Sequence[str]) -> None:
    places = range(len(layers))
    if axis == "x":
        axes.set_xticks(places, layers, rotation=60, ha="right", fontsize=7)
    else:
        axes.set_yticks(places, layers, fontsize=7)


def _layers(found: Mapping[str, Sequence[LayerSimilarity]]) -> tuple[str, ...]:
    return next(iter(found.values()))[0].layers


def _measures(found: Mapping[str, Sequence[LayerSimilarity]]) -> tuple[str, ...]:
    return tuple(next(iter(found.values()))[0].matrices)
