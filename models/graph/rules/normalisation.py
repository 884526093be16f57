"""Rules for norms.

A norm in training mode takes its statistics in two passes: ONNX Runtime's LayerNormalization takes sums and sums of
squares in one, which costs about 2e-4 of the gradient's precision.
"""

from __future__ import annotations

from collections.abc import Sequence

from lamina.models.graph.registry import rule
from lamina.models.graph.values import Batched, Call, Extent, Value, count, extents, reshaped
from lamina.models.graph.writer import GraphWriter


@rule("_native_batch_norm_legit_functional")
def batch_norm_in_training(
    g: GraphWriter,
    call: Call,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[str | None, ...]:
    """Batch norm with the statistics of the batch; also mean, 1 / deviation, and the next running statistics."""
    if not training:
        return batch_norm_in_inference(g, call, x, weight, bias, running_mean, running_var, momentum, eps)
    scale, shift = _affine(g, x, weight, bias)
    private = g.Sub(running_mean, running_mean), g.Sub(running_var, running_var)
    y, mean, variance = _standardised(g, x, scale, shift, private, eps)
    n = count(g, _without_channels(x))
    unbiased = g.Mul(variance, g.Div(n, g.Max(g.Sub(n, 1.0), 1.0)))  # of a single value the variance is 0
    return (
        y,
        mean,
        _inverse_deviation(g, variance, eps),
        _moved(g, running_mean, mean, momentum),
        _moved(g, running_var, unbiased, momentum),
    )


@rule("_native_batch_norm_legit.no_stats")
def batch_norm_without_statistics(
    g: GraphWriter,
    call: Call,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[str, ...]:
    """Batch norm with the statistics of the batch, in either mode; also mean and 1 / deviation."""
    first = g.Slice(x, [0] * (len(x.shape) - 1), [1] * (len(x.shape) - 1), [0, *range(2, len(x.shape))])
    zeros = _zeros(g, first)
    y, mean, variance = _standardised(g, x, *_affine(g, x, weight, bias), (zeros, g.Neg(zeros)), eps)
    return y, mean, _inverse_deviation(g, variance, eps)


@rule("_native_batch_norm_legit_no_training")
def batch_norm_in_inference(
    g: GraphWriter,
    call: Call,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    momentum: float,
    eps: float,
) -> tuple[str | None, ...]:
    """Batch norm with the running statistics."""
    scale, shift = _affine(g, x, weight, bias)
    y = g.BatchNormalization(x, scale, shift, running_mean, running_var, epsilon=eps)
    return y, None, None, running_mean, running_var


@rule("native_batch_norm_backward")
def batch_norm_backward(
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
    """Gradients of x, scale and shift.

    With inv = 1 / deviation, n the count, and sums by channel: dshift = sum dy; dscale = inv * sum dy * (x - mean);
    dx = scale * inv * (dy - dshift / n - (x - mean) * inv * dscale / n). In inference mode the mean and the deviation
    do not depend on x, and dx = scale * inv * dy.
    """
    if training:
        assert mean is not None
        assert inverse is not None
        centre, inv = str(mean), str(inverse)
    else:
        assert running_mean is not None
        assert running_var is not None
        centre, inv = str(running_mean), _inverse_deviation(g, running_var, eps)
    channels = x.shape[1]
    over = [dim for dim in range(len(x.shape)) if dim != 1]
    dshift = g.ReduceSum(dy, over, keepdims=0)
    dscale = g.Mul(inv, g.Sub(g.ReduceSum(g.Mul(dy, x), over, keepdims=0), g.Mul(centre, dshift)))
    share = g.Reciprocal(count(g, _without_channels(x)))
    common = scale_and_shift(g, x, g.Mul(g.Mul(inv, dscale), share), g.Mul(dshift, share), centre, channels=channels)
    unscaled = g.Sub(dy, common) if training else str(dy)
    factor = inv if weight is None else g.Mul(weight, inv)
    dx = scale_and_shift(g, unscaled, factor, channels=channels)
    g.remember(dx, unscaled, factor)  # a convolution before the norm can do without the pass that multiplies them
    return dx, dscale, dshift


@rule("native_group_norm")
def group_norm(
    g: GraphWriter,
    call: Call,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    samples: object,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> tuple[str, ...]:
    """Group norm; also mean and 1 / deviation of every group, (N, G).

    The statistics are those of a batch norm in training mode, for which every group of every image is a channel.
    """
    rows = g.Reshape(x, [1, -1, channels // groups * positions])  # (1, N * G, L)
    zeros = _zeros(g, g.Gather(rows, 0, axis=2))
    private = g.Neg(zeros), g.Mul(zeros, 2.0)
    y, mean, variance = _standardised(g, rows, g.Add(zeros, 1.0), zeros, private, eps)
    y = reshaped(g, y, x.shape)
    if weight is not None and bias is not None:
        y = scale_and_shift(g, y, weight, bias, channels=channels)
    return y, g.Reshape(mean, [-1, groups]), g.Reshape(_inverse_deviation(g, variance, eps), [-1, groups])


@rule("native_group_norm_backward")
def group_norm_backward(
    g: GraphWriter,
    call: Call,
    dy: Value,
    x: Value,
    mean: Value,
    inverse: Value,
    weight: Value | None,
    samples: object,
    channels: int,
    positions: int,
    groups: int,
    mask: Sequence[bool],
) -> tuple[str | None, ...]:
    """Gradients of x, scale and shift.

    As in batch norm, but the sums are over a group of one image, with dy * scale in place of dy.
    """
    width = channels // groups
    over = list(range(2, len(x.shape)))
    sums = g.Reshape(_summed(g, dy, over), [-1, groups, width])  # (N, G, D) of dy
    products = g.Reshape(_summed(g, g.Mul(dy, x), over), [-1, groups, width])  # of dy * x
    centre, inv = g.Unsqueeze(mean, [2]), g.Unsqueeze(inverse, [2])  # (N, G, 1)
    centred = g.Mul(g.Sub(products, g.Mul(centre, sums)), inv)  # of dy * (x - mean) / deviation
    scale = g.constant([1.0] * channels, "float32") if weight is None else weight
    scale = g.Reshape(scale, [1, groups, width])
    factor = g.Mul(scale, inv)  # (N, G, D)
    share = g.Div(inv, float(width * positions))
    slope = g.Mul(g.Mul(share, inv), g.ReduceSum(g.Mul(centred, scale), [2], keepdims=1))  # (N, G, 1)
    shift = g.Mul(share, g.ReduceSum(g.Mul(sums, scale), [2], keepdims=1))
    rows = g.Reshape(x, [1, -1, width * positions])  # (1, N * G, L)
    common = scale_and_shift(
        g, rows, *(g.Reshape(each, [-1]) for each in (slope, shift, mean)), channels=_times(groups, x.shape[0])
    )
    straight = g.Mul(dy, g.Reshape(factor, [-1, channels, *[1] * len(over)]))
    dx = g.Sub(straight, reshaped(g, common, x.shape))
    return (
        dx,
        g.Reshape(g.ReduceSum(centred, [0], keepdims=0), [channels]),
        g.Reshape(g.ReduceSum(sums, [0], keepdims=0), [channels]),
    )


@rule("_weight_norm_interface")
def weight_norm(g: GraphWriter, call: Call, v: Value, magnitude: Value, dim: int = 0) -> tuple[str, str]:
    """V with another norm over all dimensions but one; and its own norm."""
    norm = g.ReduceL2(v, _all_but(v, dim), keepdims=1)
    return g.Mul(v, g.Div(magnitude, norm)), norm


@rule("_weight_norm_interface_backward")
def weight_norm_backward(
    g: GraphWriter, call: Call, dw: Value, v: Value, magnitude: Value, norm: Value, dim: int
) -> tuple[str, str]:
    """Gradients of v and of the norm that it was given."""
    along = g.Div(g.ReduceSum(g.Mul(dw, v), _all_but(v, dim), keepdims=1), norm)  # what of dw lies along v
    return g.Mul(g.Div(magnitude, norm), g.Sub(dw, g.Mul(v, g.Div(along, norm)))), along


def scale_and_shift(
    g: GraphWriter, x: str, scale: str, shift: str | None = None, centre: str | None = None, *, channels: Extent
) -> str:
    """(x - centre) * scale + shift by channel (dimension 1), in one pass: as a batch norm in inference mode."""
    zeros, ones = _filled(g, channels, 0.0), _filled(g, channels, 1.0)
    return g.BatchNormalization(x, scale, shift or zeros, centre or zeros, ones, epsilon=0.0)


def _standardised(
    g: GraphWriter, x: str, scale: str, shift: str, private: tuple[str, str], eps: float
) -> tuple[str, ...]:
    """X with mean 0 and variance 1 by channel, scaled and shifted; and the mean and the variance that it had.

    ONNX Runtime writes running statistics of its own in place over inputs 3 and 4, even where these are constants. So
    they are ``private``: zeros that nobody reads afterwards, computed from what is no constant. They are differences,
    since a product with 0 may stand in the graph for another reason, and would then be the same operator. Momentum 0
    makes the outputs those of the batch alone.
    """
    return g.many("BatchNormalization", 3, x, scale, shift, *private, training_mode=1, momentum=0.0, epsilon=eps)


def _zeros(g: GraphWriter, like: str) -> str:
    """Write a vector of as many zeros as ``like`` has elements."""
    vector = g.Reshape(like, [-1])
    return g.Sub(vector, vector)


def _affine(g: GraphWriter, x: Value, weight: Value | None, bias: Value | None) -> tuple[str, str]:
    """Scale and shift, which a norm may lack."""
    return (
        weight if weight is not None else _filled(g, x.shape[1], 1.0),
        bias if bias is not None else _filled(g, x.shape[1], 0.0),
    )


def _filled(g: GraphWriter, extent: Extent, value: float) -> str:
    """A vector of equal numbers."""
    return g.constant([value] * extent, "float32") if isinstance(extent, int) else g.Expand(value, extents(g, [extent]))


def _without_channels(x: Value) -> list[Extent]:
    return [extent for dim, extent in enumerate(x.shape) if dim != 1]


def _summed(g: GraphWriter, x: str, over: Sequence[int]) -> str:
    """The sum over some dimensions, if there are any."""
    return g.ReduceSum(x, list(over), keepdims=0) if over else x


def _times(number: int, extent: Extent) -> Extent:
    return Batched(number * extent.times) if isinstance(extent, Batched) else number * extent


def _all_but(x: Value, dim: int) -> list[int]:
    return [other for other in range(len(x.shape)) if other != dim % len(x.shape)]


def _inverse_deviation(g: GraphWriter, variance: str, eps: float) -> str:
    return g.Reciprocal(g.Sqrt(g.Add(variance, float(eps))))


def _moved(g: GraphWriter, running: str, of_batch: str, momentum: float) -> str:
    """The running statistic, moved towards the batch's."""
    return g.Add(g.Mul(running, 1.0 - momentum), g.Mul(of_batch, float(momentum)))
