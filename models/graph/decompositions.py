"""Lists the aten operators that torch's own decompositions write out in others before rules are applied.

Those of the explicit list are always written out. So are all others that torch can write out and that have no rule:
what has a rule is not taken apart, since its rule is the better way.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch._decomp import decomposition_table, get_decompositions

import lamina.models.graph.rules  # noqa: F401 - registers them
from lamina.models.graph.registry import find_rule, operator_name

_ACTIVATIONS = """
    _prelu_kernel _prelu_kernel_backward celu elu elu_backward gelu gelu_backward glu glu_backward hardshrink
    hardsigmoid hardsigmoid_backward hardswish hardswish_backward leaky_relu
    leaky_relu_backward log_sigmoid_backward log_sigmoid_forward mish mish_backward sigmoid_backward silu
    silu_backward softplus softplus_backward softshrink tanh_backward threshold
"""
_LOSSES = """
    _log_softmax_backward_data _softmax_backward_data binary_cross_entropy binary_cross_entropy_backward
    binary_cross_entropy_with_logits huber_loss huber_loss_backward mse_loss mse_loss_backward nll_loss_backward
    nll_loss_forward smooth_l1_loss smooth_l1_loss_backward
"""
_NORMS_AND_DROPOUT = """
    _fused_rms_norm _fused_rms_norm_backward native_dropout_backward native_layer_norm
    native_layer_norm_backward
"""
_ARITHMETIC = """
    addcdiv addcmul addmv cumprod dist frac heaviside isin lerp linear_backward logit logit_backward masked_fill
    nan_to_num rsub sgn trace trunc
"""
_REDUCTIONS = """
    aminmax linalg_vector_norm logsumexp std std_mean
"""
_MOVING_ELEMENTS = """
    adaptive_max_pool2d channel_shuffle col2im diagonal_backward eye im2col index_add linspace new_zeros
    pixel_shuffle pixel_unshuffle stack tril triu unbind unfold_backward
"""


@cache
def decompositions() -> dict[Any, Any]:
    """The table of decompositions, as a trace takes it."""
    listed = (_ACTIVATIONS, _LOSSES, _NORMS_AND_DROPOUT, _ARITHMETIC, _REDUCTIONS, _MOVING_ELEMENTS)
    table = dict(get_decompositions([getattr(torch.ops.aten, name) for names in listed for name in names.split()]))
    others = {operator: function for operator, function in decomposition_table.items() if _is_left(operator)}
    return others | table


def _is_left(operator: Any) -> bool:
    """Whether it is an operator that has no rule, and that changes nothing in place."""
    if not isinstance(operator, torch._ops.OpOverload) or operator._schema.is_mutable:
        return False
    return find_rule(operator_name(operator)) is None
