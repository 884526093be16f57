"""Rules for matrix products and softmax."""

from __future__ import annotations

import numpy as np

from lamina.models.graph.registry import rule
from lamina.models.graph.rules.elementwise import cast
from lamina.models.graph.rules.ranks import along_dimensions
from lamina.models.graph.values import Call, Value, reshaped
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter

_LOWEST = float(np.finfo(np.float32).min)


@rule("mm", "bmm")
def product(g: GraphWriter, call: Call, x: Value, y: Value) -> str:
    """X times y, over their last and last but one dimension."""
    return g.MatMul(x, y)


@rule("mv", "dot", "vdot")
def product_with_vector(g: GraphWriter, call: Call, x: Value, y: Value) -> str:
    """X (M, K) or (K,) times y (K,), written as a product of matrices.

    ONNX's MatMul takes vectors, too. But from its extended optimisations on, ONNX Runtime (1.18 to 1.31) makes of a
    transposed matrix times a vector a product with the matrix as it was: no vector may stand in a MatMul.
    """
    rows = x if len(x.shape) == 2 else g.Unsqueeze(x, [0])
    return reshaped(g, g.MatMul(rows, g.Unsqueeze(y, [1])), call.shape)


@rule("addmm")
def affine(g: GraphWriter, call: Call, bias: Value, x: Value, y: Value, beta: float = 1, alpha: float = 1) -> str:
    """Beta * bias + alpha * x times y."""
    return g.Gemm(x, y, bias, alpha=float(alpha), beta=float(beta))


@rule("baddbmm")
def batched_affine(
    g: GraphWriter, call: Call, bias: Value, x: Value, y: Value, beta: float = 1, alpha: float = 1
) -> str:
    """Beta * bias + alpha * x times y, for every matrix of a batch."""
    product = g.MatMul(x, y)
    scaled = product if alpha == 1 else g.Mul(product, float(alpha))
    return g.Add(scaled, bias if beta == 1 else g.Mul(bias, float(beta)))


@rule("_softmax", "_log_softmax")
@along_dimensions
def softmax(g: GraphWriter, call: Call, x: Value, dim: int, half_to_float: bool) -> str:
    """Softmax along a dimension, or its logarithm."""
    logits = cast(g, x, call.dtype)
    return g.Softmax(logits, axis=dim) if call.packet == "_softmax" else g.LogSoftmax(logits, axis=dim)


@rule("addbmm")
def affine_over_batch(
    g: GraphWriter, call: Call, bias: Value, x: Value, y: Value, beta: float = 1, alpha: float = 1
) -> str:
    """Beta * bias + alpha * the sum over a batch of x times y."""
    scaled = g.Mul(g.ReduceSum(g.MatMul(x, y), [0], keepdims=0), float(alpha))
    return g.Add(scaled, g.Mul(bias, float(beta)))


@rule("_safe_softmax")
@along_dimensions
def safe_softmax(g: GraphWriter, call: Call, x: Value, dim: int, dtype: object = None) -> str:
    """Softmax along a dimension; zeros where all is minus infinity, as where attention sees nothing."""
    seen = g.Greater(g.ReduceMax(x, [dim], keepdims=1), float("-inf"))
    return g.Mul(g.Softmax(g.Clip(x, _LOWEST), axis=dim), g.Cast(seen, to=ELEMENT_TYPES[call.dtype]))
