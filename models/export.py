"""Exports a trained model as one ONNX file that any ONNX runtime loads."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_tensor

from lamina.models.bundle import Bundle
from lamina.models.constants import is_given
from lamina.models.errors import BundleError
from lamina.models.exported_inputs import take_named_inputs
from lamina.models.model_card import ModelFacts, Port, card, metadata, movements
from lamina.models.storage.replace import replace_file
from lamina.models.values import Tensors, flatten, unflatten


def export_model(bundle: Bundle, tensors: Tensors, path: Path, facts: ModelFacts | None = None) -> None:
    """Write the bundle's inference graph with the values ``tensors`` inside: ``x`` (N, ...) to ``logits`` (N, classes).

    A network of several inputs takes these by their names, in their own shapes and types.

    Args:
        bundle: of the model.
        tensors: every tensor of the model by name, statistics included.
        path: of the ``.onnx`` file; an existing one is replaced.
        facts: of the federation; with them the file says how it is used, and beside it there is a model card ``.md``.

    Raises:
        ModelError: a tensor is missing, or has another shape.
        BundleError: the inference graph asks for other values than the model's spec has.
    """
    spec = bundle.manifest.spec
    given = unflatten(spec, *flatten(spec, tensors))
    model = with_constants(bundle)
    for initializer in model.graph.initializer:
        if initializer.data_location == onnx.TensorProto.EXTERNAL:
            initializer.CopyFrom(_embedded(initializer, given, bundle.manifest.inference.file_name))
    take_named_inputs(model, spec.named_inputs)
    if facts is not None:
        _describe(model, bundle, tensors, path, facts)
    replace_file(path, model.SerializeToString(deterministic=True))


def with_constants(bundle: Bundle) -> onnx.ModelProto:
    """The bundle's inference graph with its frozen tensors inside; the trained ones are still to be given."""
    model = onnx.load(bundle.path(bundle.manifest.inference), load_external_data=False)
    for initializer in model.graph.initializer:
        if initializer.data_location == onnx.TensorProto.EXTERNAL and not is_given(initializer):
            load_external_data_for_tensor(initializer, str(bundle.folder))
            initializer.data_location = onnx.TensorProto.DEFAULT
            del initializer.external_data[:]
    return model


def _describe(model: onnx.ModelProto, bundle: Bundle, tensors: Tensors, path: Path, facts: ModelFacts) -> None:
    manifest = bundle.manifest
    given = {initializer.name for initializer in model.graph.initializer}
    inputs = [_port(value) for value in model.graph.input if value.name not in given]
    outputs = [_port(value) for value in model.graph.output]
    model.producer_name = "lamina"
    onnx.helper.set_model_props(model, metadata(manifest, facts, inputs, outputs))
    moved = movements(manifest.spec, bundle.initial_values(), tensors)
    text = card(manifest, facts, inputs, outputs, moved, path.name)
    replace_file(path.with_suffix(".md"), text.encode())


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    extents = [extent.dim_value or extent.dim_param or "?" for extent in tensor.shape.dim]
    return Port(value.name, tuple(extents), str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))


def _embedded(initializer: onnx.TensorProto, given: Tensors, graph: str) -> onnx.TensorProto:
    name, shape = initializer.name, tuple(initializer.dims)
    if name not in given:
        raise BundleError(f"graph {graph}: it asks for {name!r}, which the model's spec lacks; build the bundle again")
    if shape != given[name].shape:
        raise BundleError(f"graph {graph}: {name} has the shape {shape}, and in the spec {given[name].shape}")
    return onnx.numpy_helper.from_array(given[name], name)
