"""The frozen input side: piece by piece it gives what one forward pass gives, and nothing is computed twice."""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from lamina.edge_agent.training.activation_cache import ActivationCacheFull
from lamina.edge_agent.training.input_side import InputSide
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.models.definition import initial_values, load_definition
from lamina.models.graph import forward_graph
from lamina.models.layout import derive_spec
from lamina.models.manifest import FileEntry, Piece
from lamina.models.samples import LabelledSamples
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from tests.test_activation_cache import room_of

# x (2,) -> tanh(x @ a) (2,) -> tanh(. @ b) (3,) -> the rest, which this test does not need.
SPEC = ModelSpec(
    "chain",
    layers=(
        LayerSpec("first", (TensorSpec("a", (2, 2), "kernel"),)),
        LayerSpec("second", (TensorSpec("b", (2, 3), "kernel"),)),
        LayerSpec("third", (TensorSpec("c", (3, 3), "kernel"),)),
    ),
    blocks=(BlockSpec("first", 0, 1, (2,)), BlockSpec("second", 1, 2, (2,)), BlockSpec("third", 2, 3, (3,))),
    cuts=(0, 1, 2),
    classes=3,
)
VALUES = {
    "a": np.array([[0.5, -1], [0.25, 2]], np.float32),
    "b": np.array([[1, 0, -1], [0.5, 2, 1]], np.float32),
    "c": np.eye(3, dtype=np.float32),
}
X = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
DATA = LabelledSamples(X, np.zeros(20, int))
ALL = np.arange(20)


def write_graph(folder: Path, *names: str) -> Path:
    """x through tanh(. @ value) for each name."""
    shapes = [VALUES[name].shape for name in names]
    body = f"i0 = MatMul (x, {names[0]}) o0 = Tanh (i0)"
    for index, name in enumerate(names[1:], start=1):
        body += f" i{index} = MatMul (o{index - 1}, {name}) o{index} = Tanh (i{index})"
    text = (
        f'<ir_version: 10, opset_import: ["": 18]> piece (float[N, {shapes[0][0]}] x) '
        f"=> (float[N, {shapes[-1][1]}] boundary) {{ {body} boundary = Identity (o{len(names) - 1}) }}"
    )
    model = onnx.parser.parse_model(text)
    for name, shape in zip(names, shapes, strict=True):
        tensor = onnx.TensorProto(name=name, dims=shape, data_type=1, data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", "values"), ("offset", "0"), ("length", str(4 * math.prod(shape)))):
            tensor.external_data.add(key=key, value=value)
        model.graph.initializer.append(tensor)
    path = folder / f"{'-'.join(names)}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def piece(first: int, stop: int) -> Piece:
    return Piece(first, stop, FileEntry("", 0, ".onnx"))


def expected(values: dict[str, NDArray[np.float32]], x: NDArray[np.float32] = X) -> NDArray[np.float32]:
    return np.tanh(np.tanh(x @ values["a"]) @ values["b"])


@pytest.fixture
def side(tmp_path: Path) -> Iterator[InputSide]:
    """Two pieces, three samples at once."""
    pieces = [(piece(0, 1), write_graph(tmp_path, "a")), (piece(1, 2), write_graph(tmp_path, "b"))]
    side = InputSide(SPEC, pieces, DATA, tmp_path / "activations", OnnxRuntime(), micro_batch=3)
    yield side
    side.close()


def test_two_pieces_give_bit_for_bit_what_one_gives(side: InputSide, tmp_path: Path) -> None:
    whole = InputSide(
        SPEC,
        [(piece(0, 2), write_graph(tmp_path, "a", "b"))],
        DATA,
        tmp_path / "activations",
        OnnxRuntime(),
        micro_batch=3,
    )
    assert side.compute(ALL, VALUES)
    assert whole.compute(ALL, VALUES)
    np.testing.assert_array_equal(side.activations(ALL), whole.activations(ALL))
    np.testing.assert_allclose(side.activations(ALL), expected(VALUES), rtol=1e-5)
    whole.close()


def test_samples_may_repeat_and_come_in_any_order(side: InputSide) -> None:
    order = np.array([7, 3, 7, 19])
    assert side.compute(order, VALUES)
    np.testing.assert_allclose(side.activations(order), expected(VALUES)[order], rtol=1e-5)


def test_a_later_round_computes_only_what_is_new(side: InputSide) -> None:
    """The second call gets other values on purpose: what they do not touch was not computed again."""
    negative = {name: -value for name, value in VALUES.items()}
    assert side.compute(np.array([1, 2]), VALUES)
    assert side.compute(np.array([2, 5, 1]), negative)
    np.testing.assert_allclose(side.activations(np.array([1, 2])), expected(VALUES)[[1, 2]], rtol=1e-5)
    np.testing.assert_allclose(side.activations(np.array([5])), expected(negative)[[5]], rtol=1e-5)


def test_what_is_forgotten_is_computed_anew(side: InputSide) -> None:
    doubled = {name: 2 * value for name, value in VALUES.items()}
    assert side.compute(ALL, VALUES)
    side.forget()
    assert side.compute(ALL, doubled)
    np.testing.assert_allclose(side.activations(ALL), expected(doubled), rtol=1e-5)


def test_a_stopped_round_keeps_what_is_done(side: InputSide) -> None:
    asked = iter([False] * 7 + [False, False, True])  # 7 micro-batches of the first piece, 2 of the second
    assert not side.compute(ALL, VALUES, stop=lambda: next(asked))
    doubled = {name: 2 * value for name, value in VALUES.items()}
    assert side.compute(ALL, doubled)  # what was done is not computed again, and so not doubled
    np.testing.assert_allclose(side.activations(ALL[:6]), expected(VALUES)[:6], rtol=1e-5)
    np.testing.assert_allclose(side.activations(ALL[6:]), expected(doubled)[6:], rtol=1e-5)


def test_a_disk_with_room_for_one_round_drops_the_earlier_ones(side: InputSide) -> None:
    with room_of(10 * 3 * 4):  # ten rows of three float32
        assert side.compute(ALL[:10], VALUES)
        assert side.compute(ALL[10:], VALUES)
        np.testing.assert_allclose(side.activations(ALL[10:]), expected(VALUES)[10:], rtol=1e-5)


def test_a_disk_without_room_for_one_round_is_an_error(side: InputSide) -> None:
    with room_of(5 * 3 * 4), pytest.raises(ActivationCacheFull, match="the disk is full"):
        side.compute(ALL, VALUES)
    assert side.compute(ALL, VALUES)  # once there is room
    np.testing.assert_allclose(side.activations(ALL), expected(VALUES), rtol=1e-5)


def test_a_convolutional_network_in_two_pieces_gives_bit_for_bit_what_it_gives_in_one(tmp_path: Path) -> None:
    definition = load_definition("digits_cnn")
    spec = derive_spec(definition)
    middle, end = (spec.block_at(cut) for cut in spec.cuts[1:3])
    values = initial_values(definition, spec)
    data = LabelledSamples(
        np.random.default_rng(0).normal(size=(10, *spec.input_shape)).astype(np.float32), np.zeros(10, int)
    )
    found = []
    for edges in ([0, end], [0, middle, end]):
        pieces = []
        for first, stop in pairwise(edges):
            path = tmp_path / f"{first}-{stop}.onnx"
            path.write_bytes(forward_graph(definition, spec, first, stop).SerializeToString())
            pieces.append((piece(first, stop), path))
        side = InputSide(spec, pieces, data, tmp_path, OnnxRuntime(), micro_batch=4)
        assert side.compute(np.arange(10), values)
        found.append(side.activations(np.arange(10)))
        side.close()
    np.testing.assert_array_equal(*found)
    assert np.abs(found[0]).max() > 0.1
