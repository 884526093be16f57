"""Rules for ONNX Runtime's training build, which has operators of its own for some gradients.

They compute what the rules for all engines write out in standard operators: the gradient of a convolution by im2col and
a matrix product for each image, and that of a batch norm in one operator. Where one of them is not made for a case, the
rule for all engines serves.

What else that build has is left aside. Its optimiser has no momentum, its modules put every norm into training mode and
keep no running statistics; its MaxPoolGrad takes the extents from the file, where the batch's is open.
"""

from __future__ import annotations

from collections.abc import Sequence

from lamina.models.graph.registry import rule
from lamina.models.graph.rules.convolution import convolution_backward
from lamina.models.graph.rules.normalisation import batch_norm_backward
from lamina.models.graph.rules.pooling import spread
from lamina.models.graph.values import Call, Value
from lamina.models.graph.writer import TRAINING_DOMAIN, GraphWriter
from lamina.models.manifest import ONNXRUNTIME_TRAINING


@rule("convolution_backward", engine=ONNXRUNTIME_TRAINING)
def convolution_backward_at_once(
    g: GraphWriter,
    call: Call,
    dy: Value,
    x: Value,
    weight: Value,
    bias_sizes: object,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[str | None, ...]:
    """Gradients of x, weight and bias in one operator; a transposed convolution has none."""
    if transposed:
        return convolution_backward(
            g, call, dy, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, mask
        )
    rank = len(weight.shape) - 2
    gradients = g.many(
        "ConvGrad",
        3,
        dy,
        x,
        weight,
        domain=TRAINING_DOMAIN,
        kernel_shape=list(weight.shape[2:]),
        strides=spread(stride, rank),
        pads=spread(padding, rank) * 2,
        dilations=spread(dilation, rank),
        group=groups,
    )
    return tuple(gradient if wanted else None for gradient, wanted in zip(gradients, mask, strict=True))


@rule("native_batch_norm_backward", engine=ONNXRUNTIME_TRAINING)
def batch_norm_backward_at_once(
    g: GraphWriter,
    call: Call,
    dy: Value,
    x: Value,
    weight: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    mean: Value | None,
    inverse: Value | None,
    training: bool,
    eps: float,
    mask: Sequence[bool],
) -> tuple[str | None, ...]:
    """Gradients of x, scale and shift in one operator; there is none for the inference mode."""
    if not training or weight is None:
        return batch_norm_backward(
            g, call, dy, x, weight, running_mean, running_var, mean, inverse, training, eps, mask
        )
    return g.many("BatchNormalizationGrad", 3, dy, x, weight, mean, inverse, domain=TRAINING_DOMAIN, epsilon=eps)
