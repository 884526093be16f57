"""Graphs without training: a section of the network, or all of it, in inference mode.

The values of its parameters and statistics change from round to round, and are no part of the file: they are external
initialisers, named as in the spec. Whoever makes a session gives them, from memory:

    options = onnxruntime.SessionOptions()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensors[name]) for name in names]
    options.add_external_initializers(names, values)        # every tensor of the section's layers
    session = onnxruntime.InferenceSession(path_or_bytes, options)

So a convolution is folded with its norm, and its weights are packed, as if the values had stood in the file; this holds
for a model from a file and for one from bytes. (``add_initializer`` would not do: the folding takes values from the
file.) The arrays must live as long as the session.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph.flattening import flatten, without_values
from lamina.models.graph.places import place
from lamina.models.graph.registry import operator_name
from lamina.models.graph.sections import CutPoint, beginning, end, is_random, run_section, start_of
from lamina.models.graph.tracing import TracedForward, example, trace
from lamina.models.graph.translation import translate
from lamina.models.graph.writer import GraphWriter
from lamina.models.spec import LayerSpec, ModelSpec


def forward_graph(definition: Definition, spec: ModelSpec, first_block: int, stop_block: int) -> onnx.ModelProto:
    """Blocks ``[first_block, stop_block)`` in inference mode, from ``x`` (N, ...) to ``boundary`` (N, ...).

    Raises:
        ModelError: an operator has no rule.
    """
    forward = trace(definition, training=False)
    blocks = spec.blocks[first_block:stop_block]
    layers = spec.layers[blocks[0].first : blocks[-1].stop]
    training = trace(definition, training=True)
    section = [start_of(forward, spec, block, training) for block in (first_block, stop_block)]
    return _written(forward, section[0], section[1], layers, "boundary")


def inference_graph(definition: Definition, spec: ModelSpec) -> onnx.ModelProto:
    """The whole network in inference mode, from ``x`` (N, ...) to ``logits`` (N, classes).

    Raises:
        ModelError: an operator has no rule.
    """
    forward = trace(definition, training=False)
    return _written(forward, beginning(forward), end(forward), spec.layers, "logits")


def _written(
    forward: TracedForward, start: CutPoint, stop: CutPoint, layers: tuple[LayerSpec, ...], output: str
) -> onnx.ModelProto:
    def section(tensors: dict[str, Tensor], x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [run_section(forward, start, stop, tensors, x)]

    with without_values(forward):
        x = torch.empty_like(example(start.activation), requires_grad=False)
    if drawing := [operator for operator in forward.operators[start.index : stop.index] if is_random(operator)]:
        name = operator_name(drawing[0].target)
        raise ModelError(
            f"model {forward.name}: operator {name}{place(drawing[0])} draws random numbers in "
            f"inference mode, too; give it the module's mode, as F.dropout(x, p, training=self.training) does"
        )
    g = GraphWriter(f"{forward.name} to {output}")
    tensors = {
        tensor.name: g.external(tensor.name, tensor.shape)
        for layer in layers
        for tensor in (*layer.parameters, *layer.statistics)
    }
    inputs = [g.input("x", start.dtype, ("N", *start.shape))]
    (result,) = translate(g, forward, flatten(forward, section, x), tensors, inputs)
    g.output(output, result, stop.dtype, ("N", *stop.shape))
    return g.model()
