"""Named tensors, flat vectors and layer vectors hold the same numbers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.models import values
from lamina.models.errors import ModelError
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from tests.tiny_model import PARAMETERS, SPEC, STATISTICS, VALUES


def test_flat_parameters_follow_layers_and_statistics_stand_apart() -> None:
    parameters, statistics = values.flatten(SPEC, VALUES)
    assert parameters.tolist() == PARAMETERS.tolist()
    assert statistics.tolist() == [7, 8]
    assert parameters.dtype == statistics.dtype == np.float32


def test_unflatten_gives_the_tensors_back() -> None:
    tensors = values.unflatten(SPEC, PARAMETERS, STATISTICS)
    assert tensors.keys() == VALUES.keys()
    for name, tensor in tensors.items():
        assert tensor.tolist() == VALUES[name].tolist()


def test_unflattened_tensors_are_copies() -> None:
    parameters = PARAMETERS.copy()
    values.unflatten(SPEC, parameters, STATISTICS)["first.bias"][0] = 99
    assert parameters.tolist() == PARAMETERS.tolist()


def test_a_layers_vector_is_its_parameters_and_then_its_statistics() -> None:
    assert values.layer_vector(SPEC, 0, PARAMETERS, STATISTICS).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert values.layer_vector(SPEC, 1, PARAMETERS, STATISTICS).tolist() == [9, 10, 11, 12, 13, 14, 15, 16, 17]


def test_set_layer_touches_that_layer_alone() -> None:
    parameters, statistics = PARAMETERS.copy(), STATISTICS.copy()
    values.set_layer(SPEC, 0, np.arange(8, dtype=np.float32), parameters, statistics)
    assert parameters.tolist() == [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17]
    assert statistics.tolist() == [6, 7]


def test_layer_tensors_have_names_and_shapes() -> None:
    tensors = values.layer_tensors(SPEC, 0, np.arange(8, dtype=np.float32))
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "first.weight": [[0, 1], [2, 3]],
        "first.bias": [4, 5],
        "first.shift": [6, 7],
    }


@pytest.mark.parametrize("length", [7, 9])
def test_a_vector_of_another_length_is_refused(length: int) -> None:
    vector = np.zeros(length, np.float32)
    with pytest.raises(ValueError, match="layer first: its vector has 8 elements"):
        values.layer_tensors(SPEC, 0, vector)
    with pytest.raises(ValueError, match="layer first"):
        values.set_layer(SPEC, 0, vector, PARAMETERS.copy(), STATISTICS.copy())


def test_a_missing_tensor_is_named() -> None:
    lacking = {name: tensor for name, tensor in VALUES.items() if name != "second.bias"}
    with pytest.raises(ModelError, match=r"lack the tensor second\.bias"):
        values.flatten(SPEC, lacking)


def test_a_tensor_of_another_shape_is_refused_even_where_it_would_broadcast() -> None:
    with pytest.raises(ModelError, match=r"first\.bias has the shape \(1,\), and must have \(2,\)"):
        values.flatten(SPEC, {**VALUES, "first.bias": np.zeros(1, np.float32)})


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    values.write_values(path, VALUES)
    found = values.read_values(path)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in VALUES.items()
    }
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_order_of_tensors_does_not_change_the_file() -> None:
    backwards = dict(reversed(VALUES.items()))
    assert values.encode_values(backwards) == values.encode_values(VALUES)


def test_a_transposed_tensor_is_written_as_it_reads() -> None:
    transposed = {"a": np.array([[1, 2], [3, 4]], np.float32).T}
    assert values.encode_values(transposed) == values.encode_values({"a": np.array([[1, 3], [2, 4]], np.float32)})


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
def test_a_file_that_holds_no_values_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=str(path)):
        values.read_values(path)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    """Models of one to four layers of small tensors, scalars and empty statistics included."""
    shapes = st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), max_size=3)
    layers = tuple(
        LayerSpec(
            f"l{index}",
            tuple(TensorSpec(f"l{index}.p{i}", shape, "kernel") for i, shape in enumerate(draw(shapes))),
            tuple(TensorSpec(f"l{index}.s{i}", shape, "statistic") for i, shape in enumerate(draw(shapes))),
        )
        for index in range(draw(st.integers(1, 4)))
    )
    return ModelSpec("any", layers, (BlockSpec("all", 0, len(layers), (1,)),), (0,), classes=2)


@given(specs())
def test_all_layers_one_by_one_make_up_the_model(spec: ModelSpec) -> None:
    parameters = np.arange(spec.size, dtype=np.float32)
    statistics = -np.arange(spec.statistics_offsets[-1], dtype=np.float32)
    rebuilt, rebuilt_statistics = np.full_like(parameters, np.nan), np.full_like(statistics, np.nan)
    tensors = {}
    for layer in range(len(spec.layers)):
        vector = values.layer_vector(spec, layer, parameters, statistics)
        values.set_layer(spec, layer, vector, rebuilt, rebuilt_statistics)
        tensors |= values.layer_tensors(spec, layer, vector)
    assert rebuilt.tolist() == parameters.tolist()
    assert rebuilt_statistics.tolist() == statistics.tolist()
    flat, flat_statistics = values.flatten(spec, tensors)
    assert flat.tolist() == parameters.tolist()
    assert flat_statistics.tolist() == statistics.tolist()
