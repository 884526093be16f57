"""A resident vector is taken in segments, and training ends in the same bits as with the vector whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.segments import LARGE, joined, names_of, segments_of, sizes_of, spread
from lamina.models.values import flatten

HYPERPARAMETERS = {"lr": 0.01, "weight_decay": 1e-3, "bias_weight_decay": 1e-4, "mu": 0.1, "clip_norm": 0.5}


def network() -> Definition:
    """Two large dense layers, one of them the last, and what lies between."""
    parts = [nn.Linear(300, 512), nn.Tanh(), nn.BatchNorm1d(512), nn.Linear(512, 400, bias=False)]
    return Definition("wide", nn.Sequential(*parts), (300,), 400)


@pytest.mark.parametrize("optimiser", ["sgd", "nesterov", "adam", "adamw"])
@pytest.mark.parametrize("more", [{}, {"proximal": True, "clipped": True}])
def test_a_step_in_segments_ends_in_the_bits_of_a_step_on_whole_vectors(
    optimiser: str, more: dict[str, Any], tmp_path: Path
) -> None:
    build_bundle(network(), tmp_path / "b", batch_size=4, optimiser=optimiser, check=optimiser == "sgd", **more)
    bundle = read_bundle(tmp_path / "b")
    given = {name: value for name, value in HYPERPARAMETERS.items() if name in bundle.manifest.hyperparameters}
    x, y = np.random.default_rng(0).standard_normal((4, 300), np.float32), np.arange(4)
    steps = _started(OnnxRuntime().trainer(bundle.manifest, 0, bundle.path), bundle)
    parts = _started(OnnxRuntime().parts_trainer(bundle.manifest, 0, bundle.path), bundle)
    for _ in range(3):
        result = steps.step(x, y, given)
        assert parts.gather(x, y, 1.0) == result
        parts.update(given)
    assert steps.vectors.keys() == parts.vectors.keys()
    for name, vector in steps.vectors.items():
        assert np.array_equal(vector, parts.vectors[name]), name


def test_a_network_that_draws_random_numbers_trains_in_segments(tmp_path: Path) -> None:
    parts = nn.Sequential(nn.Linear(300, 512), nn.Dropout(0.5), nn.Linear(512, 10))
    build_bundle(Definition("dropping", parts, (300,), 10), tmp_path / "b", batch_size=4)  # it is proved, too
    bundle = read_bundle(tmp_path / "b")
    trainer = _started(OnnxRuntime().trainer(bundle.manifest, 0, bundle.path), bundle)
    x, y = np.ones((4, 300), np.float32), np.arange(4)
    losses = [trainer.step(x, y, {"lr": 1e-4}).loss for _ in range(3)]
    assert abs(losses[1] - losses[0]) > 0.01  # another mask, as the parameters have changed: the step itself is tiny


def _started(trainer: Any, bundle: Bundle) -> Any:
    parameters, statistics = flatten(bundle.manifest.spec, bundle.initial_values())
    trainer.parameters[:], trainer.statistics[:] = parameters, statistics
    if trainer.anchor is not None:
        trainer.anchor[:] = 0.9 * trainer.parameters
    return trainer


def test_large_tensors_are_segments_of_rows_and_what_lies_between_is_together() -> None:
    found = segments_of([3, 5, LARGE, 2 * LARGE, 7, 2 * LARGE])
    assert [(segment.first, segment.stop) for segment in found] == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert [segment.shape for segment in found] == [(8,), (1, LARGE), (2, LARGE), (7,), (2, LARGE)]
    assert segments_of([3, 5])[0].shape == (8,)


def test_a_tensor_that_has_no_good_rows_is_not_set_apart() -> None:
    prime = 1_000_003
    assert [segment.shape for segment in segments_of([3, prime, 5])] == [(prime + 8,)]


sizes = st.lists(st.one_of(st.integers(1, 50), st.sampled_from([LARGE, LARGE + 2, 6 * 2048, 1_000_003])), min_size=1)


@given(sizes.filter(lambda sizes: sum(sizes) < 4_000_000))
def test_segments_cover_a_vector_in_its_order(sizes: list[int]) -> None:
    segments = segments_of(sizes)
    assert [segments[0].first, *(each.stop for each in segments)] == [*(each.first for each in segments), len(sizes)]
    assert [each.size for each in segments] == [sum(sizes[each.first : each.stop]) for each in segments]
    shapes = dict(zip(names_of("v", segments), (each.shape for each in segments), strict=True))
    vector = np.arange(sum(sizes), dtype=np.float32)
    places = spread({"v": vector, "lr": np.zeros(())}, {**dict(reversed(shapes.items())), "lr": ()})
    assert all(np.shares_memory(vector, place) for name, place in places.items() if name != "lr")
    assert np.array_equal(joined({f"{name}_next": place for name, place in places.items()}, "v"), vector)
    assert sizes_of(shapes) == {"v": len(vector)}


def test_a_graph_with_segments_that_are_not_the_vectors_is_refused(tmp_path: Path) -> None:
    import onnx

    manifest = build_bundle(network(), tmp_path / "b", batch_size=4, check=False)
    path = read_bundle(tmp_path / "b").path(manifest.sub_model(0).graph)
    model = onnx.load(path)
    for place in model.graph.input:
        if place.name == "parameters.0":
            place.name = "parameters.7"
    for operator in model.graph.node:
        operator.input[:] = ["parameters.7" if name == "parameters.0" else name for name in operator.input]
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(ModelError, match="must be numbered from 0 on"):
        OnnxRuntime().trainer(manifest, 0, lambda _: tmp_path / "wrong.onnx")
