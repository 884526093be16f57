"""A bundle of four small dense layers for the scripted learner, made without torch: its training graphs do not run.

The third layer is large enough to be quantised, and takes several messages where chunks are small.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lamina.models.bundle import Bundle, read_bundle
from lamina.models.draft import drafted
from lamina.models.manifest import EXTERNAL_LOCATION, Manifest, Piece, SubModel
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from lamina.models.values import encode_values

WIDTHS = (4, 6, 6, 48, 3)
PEAKS_MIB = {0: 30.0, 1: 20.0, 3: 10.0}
"""By cut."""

_LAYERS = tuple(
    LayerSpec(
        f"dense{index}",
        (
            TensorSpec(f"dense{index}.weight", (before, after), "kernel"),
            TensorSpec(f"dense{index}.bias", (after,), "bias"),
        ),
        activations=after,
    )
    for index, (before, after) in enumerate(pairwise(WIDTHS))
)
SPEC = ModelSpec(
    "faults",
    layers=_LAYERS,
    blocks=(BlockSpec("a", 0, 1, (4,)), BlockSpec("b", 1, 3, (6,)), BlockSpec("c", 3, 4, (48,))),
    cuts=tuple(PEAKS_MIB),
    classes=3,
)


def small_bundle(folder: Path) -> Bundle:
    """Write the bundle, and read it."""
    rng = np.random.default_rng(0)
    tensors = [tensor for layer in SPEC.layers for tensor in layer.parameters]
    values = {tensor.name: rng.standard_normal(tensor.shape).astype(np.float32) for tensor in tensors}
    with drafted(folder) as draft:
        sub_models = tuple(
            SubModel(cut, draft.add(_placeholder(f"trains from {cut}"), ".onnx"), 1, 1, 1.0, peak)
            for cut, peak in PEAKS_MIB.items()
        )
        pieces = tuple(Piece(block, block + 1, draft.add(_placeholder(f"runs {block}"), ".onnx")) for block in range(2))
        manifest = Manifest(
            spec=SPEC,
            batch_size=1,
            sub_models=sub_models,
            pieces=pieces,
            inference=draft.add(_inference().SerializeToString(), ".onnx"),
            values=draft.add(encode_values(values), ".safetensors"),
            optimiser="sgd",
            optimiser_state=("momentum_buffer",),
            hyperparameters={"lr": 0.1},
        )
        draft.close(manifest)
    return read_bundle(folder)


def _placeholder(name: str) -> bytes:
    """A graph that agents check as they check any, and that nobody runs."""
    x, y = (helper.make_tensor_value_info(each, TensorProto.FLOAT, [1]) for each in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], name, [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def _inference() -> onnx.ModelProto:
    names = ["x", *(f"h{index}" for index in range(len(_LAYERS) - 1)), "logits"]
    nodes = [
        helper.make_node("Gemm", [names[index], *(tensor.name for tensor in layer.parameters)], [names[index + 1]])
        for index, layer in enumerate(_LAYERS)
    ]
    graph = helper.make_graph(
        nodes,
        "inference",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTHS[0]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", WIDTHS[-1]])],
        [_external(tensor) for layer in _LAYERS for tensor in layer.parameters],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _external(spec: TensorSpec) -> onnx.TensorProto:
    tensor = TensorProto(
        name=spec.name, dims=spec.shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", EXTERNAL_LOCATION), ("offset", "0"), ("length", str(4 * spec.size))):
        tensor.external_data.add(key=key, value=value)
    return tensor
