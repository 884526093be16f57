"""A model of seventeen numbers and its bundle, made by hand: no torch, no tracing."""

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lamina.models.draft import Draft, drafted
from lamina.models.manifest import Manifest, Piece, SubModel
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from lamina.models.values import encode_values

# Two dense layers, 2 -> 2 -> 3. The first carries a shift (a statistic) that is subtracted from its output.
SPEC = ModelSpec(
    "tiny",
    layers=(
        LayerSpec(
            "first",
            (TensorSpec("first.weight", (2, 2), "kernel"), TensorSpec("first.bias", (2,), "bias")),
            (TensorSpec("first.shift", (2,), "statistic"),),
            activations=2,
        ),
        LayerSpec(
            "second",
            (TensorSpec("second.weight", (2, 3), "kernel"), TensorSpec("second.bias", (3,), "bias")),
            activations=3,
        ),
    ),
    blocks=(BlockSpec("first", 0, 1, (2,)), BlockSpec("second", 1, 2, (2,))),
    cuts=(0, 1),
    classes=3,
)

VALUES = {
    "first.weight": np.array([[1, 2], [3, 4]], np.float32),
    "first.bias": np.array([5, 6], np.float32),
    "first.shift": np.array([7, 8], np.float32),
    "second.weight": np.array([[9, 10, 11], [12, 13, 14]], np.float32),
    "second.bias": np.array([15, 16, 17], np.float32),
}
PARAMETERS = np.array([1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17], np.float32)
STATISTICS = np.array([7, 8], np.float32)


def inference_graph() -> onnx.ModelProto:
    """x (N, 2) to logits (N, 3), its values external."""
    nodes = [
        helper.make_node("Gemm", ["x", "first.weight", "first.bias"], ["dense"]),
        helper.make_node("Sub", ["dense", "first.shift"], ["shifted"]),
        helper.make_node("Gemm", ["shifted", "second.weight", "second.bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "inference",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [_external(name, value.shape) for name, value in VALUES.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write_bundle(folder: Path) -> Manifest:
    """The tiny model's bundle; where a graph is not looked into, any bytes serve."""
    with drafted(folder) as draft:
        manifest = manifest_in(draft)
        draft.close(manifest)
    return manifest


def manifest_in(draft: Draft) -> Manifest:
    """Add the tiny model's files to a draft."""
    return Manifest(
        spec=SPEC,
        batch_size=1,
        sub_models=(
            SubModel(0, draft.add(b"trains all", ".onnx"), 15, 5, 1.0, 3.0),
            SubModel(1, draft.add(b"trains the second", ".onnx"), 9, 3, 0.6, 2.0),
        ),
        pieces=(Piece(0, 1, draft.add(b"runs the first", ".onnx")),),
        inference=draft.add(inference_graph().SerializeToString(), ".onnx"),
        values=draft.add(encode_values(VALUES), ".safetensors"),
        optimiser="sgd",
        optimiser_state=("momentum_buffer",),
        hyperparameters={"lr": 0.1},
    )


def _external(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    size_bytes = 4 * math.prod(shape)
    for key, value in (("location", "values"), ("offset", "0"), ("length", str(size_bytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor
