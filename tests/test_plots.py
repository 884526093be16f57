"""Figures: what they show is what the records say; how they look is for eyes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lamina.emulation.plots import (
    draw_all,
    draw_crossings,
    draw_discrepancy,
    draw_intervals,
    draw_judged,
    intervals_by_cycle,
)
from tests.synthetic_run import LAYERS, cycle, rounds


def only_axes(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def test_all_figures_are_written_as_png(tmp_path: Path) -> None:
    files = draw_all(tmp_path / "plots", rounds(4), [cycle(0), cycle(1)], LAYERS, 5)
    assert [path.name for path in files] == ["accuracy.png", "intervals.png", "crossing.png", "discrepancy.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_without_adjustments_there_is_one_figure(tmp_path: Path) -> None:
    assert [path.name for path in draw_all(tmp_path, rounds(2), [], LAYERS, 5)] == ["accuracy.png"]


def test_accuracy_stands_over_megabytes_sent_and_ends_left_of_fedavg() -> None:
    line, reference, end = only_axes(draw_judged(rounds(3))).lines
    assert np.asarray(line.get_xdata()).tolist() == [1.5, 3.0, 4.5]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([0.1, 0.55, 0.7])
    assert np.asarray(reference.get_xdata()).tolist() == [12.0, 12.0]
    assert np.asarray(end.get_xdata()).tolist() == [4.5]


def test_rounds_that_were_not_evaluated_leave_no_point() -> None:
    line, _ = only_axes(draw_judged(rounds(3, evaluated=False))).lines
    assert len(np.asarray(line.get_xdata())) == 0


def test_intervals_hold_from_the_cycle_after_their_adjustment() -> None:
    records = [cycle(0, (5, 5, 10)), cycle(1, (5, 10, 10)), cycle(2, (10, 10, 10))]
    assert intervals_by_cycle(records, 3, 5).tolist() == [[5, 5, 5], [5, 5, 10], [5, 10, 10]]


def test_cycles_of_the_warm_up_keep_the_shortest_interval() -> None:
    assert intervals_by_cycle([cycle(2, (5, 5, 10)), cycle(3)], 3, 5).tolist() == [[5] * 3] * 3 + [[5, 5, 10]]


def test_the_map_names_layers_from_the_top_and_says_what_its_shades_mean() -> None:
    axes = only_axes(draw_intervals([cycle(0), cycle(1)], LAYERS, 5))
    assert [label.get_text() for label in axes.get_yticklabels()] == list(LAYERS)
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["5 steps", "10 steps"]


def test_curves_begin_at_nothing_and_everything_and_follow_the_order() -> None:
    first, last = draw_crossings([cycle(0), cycle(1), cycle(2)], LAYERS).axes
    d, one_minus_s = first.lines
    assert np.asarray(d.get_ydata()).tolist() == [0, 0.05, 0.3, 1]
    assert np.asarray(one_minus_s.get_ydata()).tolist() == pytest.approx([1, 0.8, 0.1, 0])
    assert [label.get_text() for label in first.get_xticklabels()] == ["classifier", "hidden", "conv"]
    assert (first.get_title("left"), last.get_title("left")) == ("After cycle 0", "After cycle 2")


def test_the_accelerating_variant_is_labelled_the_other_way_round() -> None:
    relaxing, accelerating = cycle(0), cycle(0, discrepancy=(1e-4, 1e-3, 4e-2))  # its order is 2, 1, 0 in both
    for record, direction, chosen in ((relaxing, "rising", "relaxed"), (accelerating, "falling", "every round")):
        axes = only_axes(draw_crossings([record], LAYERS))
        legend = axes.get_legend()
        assert legend is not None
        assert axes.get_xlabel() == f"layers, by {direction} discrepancy"
        assert legend.get_texts()[0].get_text() == chosen


def test_a_single_adjustment_is_drawn_once() -> None:
    assert len(draw_crossings([cycle(0)], LAYERS).axes) == 1


def test_discrepancies_run_from_least_to_largest_over_the_cycles() -> None:
    records = [
        cycle(0, discrepancy=(3.0, 2.0, 1.0)),
        cycle(1, discrepancy=(5.0, 2.0, 1.0)),
        cycle(2, discrepancy=(4.0, 2.0, 1.0)),
    ]
    span, first, last = only_axes(draw_discrepancy(records, LAYERS, 5)).lines[:3]
    assert np.asarray(span.get_xdata()).tolist() == [3.0, 5.0]
    assert np.asarray(first.get_xdata()).tolist() == [3.0]
    assert np.asarray(last.get_xdata()).tolist() == [4.0]


@pytest.mark.parametrize("discrepancy", [(0.0, 0.0, 0.0), (1.0, 0.0, 1e-9)])
def test_layers_that_never_drift_can_be_drawn(tmp_path: Path, discrepancy: Any) -> None:
    draw_all(tmp_path, rounds(1), [cycle(0, discrepancy=discrepancy)], LAYERS, 5)


def test_many_layers_are_named_now_and_then() -> None:
    layers = tuple(f"layer{index}" for index in range(60))
    record = cycle(0, (5,) * 60)
    shown = [label.get_text() for label in only_axes(draw_intervals([record], layers, 5)).get_yticklabels()]
    assert shown == list(layers[::3])
