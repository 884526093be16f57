"""Similarity by depth: devices that did not move are alike, and what a study of similarity leaves behind."""

import csv
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.emulation.simulator.research.layer_similarity import MEASURES, layer_similarity
from lamina.emulation.simulator.run_context import prepare_run
from lamina.emulation.simulator.studies.many import Means
from lamina.emulation.simulator.studies.study import Study
from lamina.emulation.simulator.studies.studying import conduct
from tests.simulated import setting

pytestmark = pytest.mark.no_cover  # simulations: see conftest.py


@pytest.mark.parametrize("net", ["dense", "recurrent"])  # without running statistics, which move at any rate
def test_devices_that_did_not_move_are_alike_and_those_that_did_are_less_so(tmp_path: Path, net: str) -> None:
    still = prepare_run(setting(tmp_path, net, training={"lr": 1e-9}))
    moved = prepare_run(setting(tmp_path, net, training={"lr": 0.5}))
    for measure in MEASURES:
        np.testing.assert_allclose(layer_similarity(still, still.initial).matrices[measure], 1, atol=1e-4)
        found = layer_similarity(moved, moved.initial)
        assert found.curve(measure)[-1] < 0.999
        np.testing.assert_array_equal(found.matrices[measure], found.matrices[measure].swapaxes(1, 2))


def test_pairs_and_curve_by_hand(tmp_path: Path) -> None:
    found = layer_similarity(
        prepare_run(setting(tmp_path, fleet={"strong": 3})), prepare_run(setting(tmp_path)).initial
    )
    matrix = found.matrices["SVCCA"][0]
    np.testing.assert_array_equal(found.pairs("SVCCA")[0], [matrix[0, 1], matrix[0, 2], matrix[1, 2]])
    assert found.curve("SVCCA")[0] == pytest.approx((matrix[0, 1] + matrix[0, 2] + matrix[1, 2]) / 3)


@pytest.mark.exhaustive
def test_a_study_of_similarity_leaves_a_table_curves_and_maps(tmp_path: Path) -> None:
    tree = {
        "name": "alike",
        "question": "Where?",
        "kind": "similarity",
        "seeds": [0, 1],
        "setting": msgspec.to_builtins(setting(tmp_path, "dense", training={"rounds": 1})),
        "method": [{"label": "uneven"}, {"label": "even", "set": {"partition": {"kind": "iid"}}}],
    }
    findings = conduct(msgspec.convert(tree, Study), "full", tmp_path / "out", Means(tmp_path / "cache", "loop", 1))
    with (findings.folder / "similarity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["uneven"] * 3 + ["even"] * 3
    assert [float(row["depth"]) for row in rows[:3]] == [0, 0.5, 1]
    assert all(0 <= float(row["linear CKA"]) <= 1 and float(row["SVCCA sd"]) >= 0 for row in rows)
    for name in ("similarity", "similarity-depth-0", "similarity-depth-1", "similarity-map-0"):
        assert (findings.folder / "plots" / f"{name}.png").stat().st_size > 1000
