"""What a board is asked to run is looked at first: a hostile graph ends in one declared error, and is not loaded."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lamina.edge_agent.admission.graphs import check_graph, operators_allowed
from lamina.models.errors import ModelError
from lamina.models.graph import (
    Recipe,
    accumulating_graph,
    forward_graph,
    training_graph,
    updating_graph,
)
from lamina.models.graph.activation_checkpointing import checkpointed
from lamina.models.graph.liveness import tensor_bytes
from lamina.models.layout import derive_spec
from lamina.models.zoo import digits_cnn, resnet20, text_lstm

Spoil = Callable[[onnx.GraphProto], None]


def graph() -> onnx.ModelProto:
    """loss = mean(x w), as small as it can be."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("ReduceMean", ["h"], ["loss"], keepdims=0)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])]
    outputs = [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])]
    weights = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    made = helper.make_graph(nodes, "small", inputs, outputs, [weights])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def checked(
    model: onnx.ModelProto | bytes, tmp_path: Path, *, budget_mib: float | None = 200.0, batch: int = 32
) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    check_graph(path, batch=batch, budget_mib=budget_mib)


def test_an_ordinary_graph_passes(tmp_path: Path) -> None:
    checked(graph(), tmp_path)


def outside(location: str) -> Spoil:
    def spoil(g: onnx.GraphProto) -> None:
        stolen = g.initializer.add(name="stolen", data_type=1, dims=[16], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", location), ("offset", "0"), ("length", "64")):
            stolen.external_data.add(key=key, value=value)
        g.node.append(helper.make_node("Identity", ["stolen"], ["copy"]))

    return spoil


def outside_without_saying_so(g: onnx.GraphProto) -> None:
    outside("/etc/passwd")(g)
    g.initializer[-1].ClearField("data_location")


def in_an_attribute(g: onnx.GraphProto) -> None:
    stolen = TensorProto(name="v", data_type=1, dims=[16], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "/etc/passwd"), ("offset", "0"), ("length", "64")):
        stolen.external_data.add(key=key, value=value)
    g.node.append(helper.make_node("Constant", [], ["c"], value=stolen))


def endless(g: onnx.GraphProto) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [value("i", 7, []), value("go", 9, []), value("a", 1, [])],
        [value("on", 9, []), value("b", 1, [])],
    )
    g.initializer.extend([helper.make_tensor("trips", 7, [], [2**62]), helper.make_tensor("yes", 9, [], [True])])
    g.node.append(helper.make_node("Loop", ["trips", "yes", "loss"], ["again"], body=body))


def huge(operator: str, *inputs: str, **attributes: object) -> Spoil:
    def spoil(g: onnx.GraphProto) -> None:
        g.initializer.append(helper.make_tensor("big", 7, [2], [20_000, 20_000]))
        g.initializer.append(helper.make_tensor("one", 1, [1, 1], [1.0]))
        g.initializer.append(helper.make_tensor("column", 1, [20_000, 1], [1.0] * 20_000))
        g.initializer.append(helper.make_tensor("row", 1, [1, 20_000], [1.0] * 20_000))
        g.node.append(helper.make_node(operator, inputs, ["huge"], **attributes))

    return spoil


def doubling(g: onnx.GraphProto) -> None:
    name = "h"
    for step in range(40):
        g.node.append(helper.make_node("Concat", [name, name], [f"d{step}"], axis=0))
        name = f"d{step}"


def many_at_once(g: onnx.GraphProto) -> None:
    """Each takes 160 MB, which a budget of 200 MiB has room for; ten of them are kept for the last operator."""
    g.initializer.append(helper.make_tensor("shape", 7, [2], [2000, 20_000]))
    g.initializer.append(helper.make_tensor("one", 1, [1, 1], [1.0]))
    for copy in range(10):
        g.node.append(helper.make_node("Expand", ["one", "shape"], [f"e{copy}"]))
    g.node.append(helper.make_node("Max", [f"e{copy}" for copy in range(10)], ["most"]))


def shaped_by_data(g: onnx.GraphProto) -> None:
    g.node.append(helper.make_node("Cast", ["h"], ["numbers"], to=7))
    g.node.append(helper.make_node("Expand", ["loss", "numbers"], ["wide"]))


def claims_more_than_it_has(g: onnx.GraphProto) -> None:
    g.initializer.append(TensorProto(name="empty", data_type=1, dims=[10**9], raw_data=b""))


def sparse(g: onnx.GraphProto) -> None:
    g.sparse_initializer.add(dims=[10**9])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (outside("/etc/passwd"), "lies in a file"),
        (outside("../../secret.bin"), "lies in a file"),
        (outside("values"), "lies in a file"),
        (outside_without_saying_so, "lies in a file"),
        (in_an_attribute, "has no value of its own"),
        (endless, "Loop is not among the operators"),
        (huge("ConstantOfShape", "big"), "huge takes 1526 MiB"),
        (huge("Expand", "one", "big"), "huge takes 1526 MiB, and the budget is 200 MiB"),
        (huge("Tile", "one", "big"), "huge takes 1526 MiB"),
        (huge("Add", "column", "row"), "huge takes 1526 MiB"),
        (huge("MatMul", "column", "row"), "huge takes 1526 MiB"),
        (huge("Einsum", "column", "row", equation="ij,jk->ik"), "Einsum is not among"),
        (doubling, "takes 256 MiB"),
        (many_at_once, "take more than 500 MiB together"),
        (shaped_by_data, "Expand makes a shape of data"),
        (claims_more_than_it_has, "claims 1000000000 elements"),
        (sparse, "has a field 15"),
    ],
)
def test_a_hostile_graph_is_refused_before_it_is_loaded(spoil: Spoil, says: str, tmp_path: Path) -> None:
    model = graph()
    spoil(model.graph)
    with pytest.raises(ModelError, match=f"{re.escape(says)}.*; it is not loaded"):
        checked(model, tmp_path)


def test_functions_of_a_model_are_refused(tmp_path: Path) -> None:
    model = graph()
    model.functions.add(name="f", domain="mine")
    with pytest.raises(ModelError, match="has a field 25"):
        checked(model, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 100, b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x00\x3a\x00"])
def test_what_is_no_graph_ends_in_the_declared_error(content: bytes, tmp_path: Path) -> None:
    if content != b"":
        with pytest.raises(ModelError, match="it is not loaded"):
            checked(content, tmp_path)
        return
    with pytest.raises(ModelError, match="holds no graph"):
        checked(content, tmp_path)


def test_damaged_graphs_end_in_the_declared_error_or_pass(tmp_path: Path) -> None:
    rng, whole = random.Random(5), graph().SerializeToString()
    for _ in range(2000):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        with suppress(ModelError):  # any other error fails the test
            checked(bytes(content[: rng.choice((len(content), rng.randrange(len(content))))]), tmp_path)


@pytest.mark.parametrize("network", [digits_cnn, pytest.param(text_lstm, marks=pytest.mark.exhaustive)])
def test_the_graphs_of_this_project_pass_and_their_shapes_are_those_of_onnx(network: object, tmp_path: Path) -> None:
    definition = network.build()  # type: ignore[attr-defined]
    spec = derive_spec(definition)
    tensors = {t.name: t.shape for layer in spec.layers for t in (*layer.parameters, *layer.statistics)}
    cut = spec.cuts[min(1, len(spec.cuts) - 1)]
    accumulating = accumulating_graph(definition, spec, cut)
    models = [
        *(training_graph(definition, spec, cut, "adam", serial=serial, block=block).model
          for serial, block in ((True, 0), (False, 0), (False, 8))),
        training_graph(definition, spec, cut, Recipe("sgd", True, True), engine="onnxruntime-training").model,
        accumulating,
        checkpointed(accumulating, 8),
        updating_graph(spec, cut, Recipe("adamw", True, True)),
    ]  # fmt: skip
    for model in models:
        checked(model, tmp_path, budget_mib=200.0, batch=8)
        largest = max(tensor_bytes(model, 8).values()) / 2**20
        if largest > 16.0:  # below that there is always room
            with pytest.raises(ModelError):
                checked(model, tmp_path, budget_mib=0.9 * largest, batch=8)
    piece = forward_graph(definition, spec, 0, spec.block_at(cut))
    (tmp_path / "piece.onnx").write_bytes(piece.SerializeToString())
    check_graph(tmp_path / "piece.onnx", batch=8, budget_mib=200.0, given=tensors)
    with pytest.raises(ModelError, match="lies in a file"):
        check_graph(tmp_path / "piece.onnx", batch=8, budget_mib=200.0)


@pytest.mark.exhaustive
def test_a_graph_of_a_network_of_many_tensors_passes(tmp_path: Path) -> None:
    definition = resnet20.build()
    spec = derive_spec(definition)
    assert sum(len(layer.parameters) for layer in spec.layers) > 64
    checked(training_graph(definition, spec, 0).model, tmp_path, batch=8)


def test_every_operator_that_this_project_writes_is_on_the_list() -> None:
    root = Path(__file__).parent.parent / "models" / "graph"
    sources = "\n".join(path.read_text() for path in root.rglob("*.py"))
    written = set(re.findall(r"\b(?:g|body)\.([A-Z][A-Za-z0-9]+)\(", sources))
    written |= set(re.findall(r"many\(\s*\"([A-Za-z]+)\"", sources)) - {"BatchNormalizationGrad", "ConvGrad"}
    named = set(re.findall(r"\"([A-Z][a-z][A-Za-z]+)\"", sources))
    written |= {name for name in named if onnx.defs.has(name, max_inclusive_version=18)} - LOOKED_AT_ONLY
    assert len(written) > 60
    assert written <= operators_allowed()


LOOKED_AT_ONLY = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip
"""Operators that this project names, and never writes."""
