"""Rules for look-ups of rows, and their gradients."""

from __future__ import annotations

from lamina.models.errors import ModelError
from lamina.models.graph.registry import rule
from lamina.models.graph.values import Call, Value, static
from lamina.models.graph.writer import GraphWriter


@rule("embedding")
def embedding(
    g: GraphWriter,
    call: Call,
    weight: Value,
    indices: Value,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> str:
    """Rows of the weight (V, E) at indices."""
    return g.Gather(weight, indices, axis=0)


@rule("embedding_dense_backward")
def embedding_backward(
    g: GraphWriter,
    call: Call,
    dy: Value,
    indices: Value,
    num_weights: int,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> str:
    """Gradient (V, E): the rows of dy, added up where their indices are the same."""
    if scale_grad_by_freq:
        raise ModelError("scale_grad_by_freq is not supported: leave it out")
    rows, width = static(call.shape)
    at = g.Reshape(indices, [-1, 1])
    updates = g.Reshape(dy, [-1, width])
    if padding_idx >= 0:
        updates = g.Where(g.Equal(at, padding_idx), 0.0, updates)
    zeros = g.Expand(0.0, [rows, width])
    return g.ScatterND(zeros, at, updates, reduction="add")
