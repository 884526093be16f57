"""What a manifest says of a task lies within bounds: it may come from a hostile coordinator."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from lamina.models.bounds import check_bounds
from lamina.models.errors import ModelError
from lamina.models.manifest import FileEntry, Manifest, Metrics
from lamina.models.metrics import MetricSpec
from lamina.models.spec import InputSpec
from lamina.models.targets import TargetSpec
from tests.tiny_model import write_bundle

GRAPH = FileEntry("0" * 64, 10, ".onnx")
TARGET = TargetSpec("regression", "float32", (4, 2))
METRICS = Metrics(GRAPH, (MetricSpec("loss"), MetricSpec("recall", 3)), "loss")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_bundle(tmp_path / "tiny")


def test_a_task_within_them_passes(manifest: Manifest) -> None:
    inputs = (InputSpec("sensor", (3,)), InputSpec("mask", (3,), "int64"))
    check_bounds(replace(manifest, spec=replace(manifest.spec, target=TARGET, inputs=inputs), metrics=METRICS))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "x" * 257}, "a task whose name has 257 characters"),
        ({"shape": (1,) * 17}, "a tensor of 17 dimensions"),
        ({"shape": (-1,)}, "a tensor with an extent that none has"),
        ({"shape": (2**20, 2**20)}, "targets of 1099511627776 elements"),
        ({"classes": -1}, "targets of -1 classes"),
        ({"ignored": -(2**40)}, "an ignored target that no target can be"),
        ({"weights": (1.0,) * 3}, "3 weights of 0 classes"),
        ({"classes": 2, "weights": (1.0, float("nan"))}, "a class's weight that is no number"),
        ({"largest": float("inf")}, "a largest target that is no number"),
    ],
)
def test_a_target_beyond_them_is_refused(manifest: Manifest, changes: dict[str, object], said: str) -> None:
    spec = replace(manifest.spec, target=replace(TARGET, **changes))
    with pytest.raises(ModelError, match=said):
        check_bounds(replace(manifest, spec=spec))


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (Metrics(GRAPH, (), "loss"), "no metrics, or two of one name"),
        (Metrics(GRAPH, (MetricSpec("a"), MetricSpec("a")), "a"), "no metrics, or two of one name"),
        (Metrics(GRAPH, (MetricSpec("a"),), "b"), "no metric 'b' to judge by"),
        (Metrics(GRAPH, (MetricSpec("a", 0),), "a"), "a metric of too many elements"),
        (Metrics(GRAPH, (MetricSpec("a", 1 << 30),), "a"), "a metric of too many elements"),
        (Metrics(GRAPH, tuple(MetricSpec(f"m{index}") for index in range(65)), "m0"), "65 metrics"),
    ],
)
def test_metrics_beyond_them_are_refused(manifest: Manifest, metrics: Metrics, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        check_bounds(replace(manifest, metrics=metrics))


def test_too_many_inputs_are_refused(manifest: Manifest) -> None:
    inputs = tuple(InputSpec(f"i{index}", (1,)) for index in range(65))
    with pytest.raises(ModelError, match="65 inputs"):
        check_bounds(replace(manifest, spec=replace(manifest.spec, inputs=inputs)))
