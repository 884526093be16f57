"""Operators whose gradient torch computes by an operator of its own, written out in ones that have rules.

They stand in for these operators when the traced forward pass is run, so that autograd goes through what they consist
of. Each takes the operator's arguments, and yields what it yields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import unset_fake_temporarily

from lamina.models.errors import ModelError

_ATEN = torch.ops.aten


def cdist(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """Distances of every row of x (..., P, M) from every row of y (..., R, M)."""
    return _norm(x.unsqueeze(-2) - y.unsqueeze(-3), p)


def pdist(x: Tensor, p: float = 2.0) -> Tensor:
    """Distances of every row from every later one."""
    first, second = torch.triu_indices(x.shape[0], x.shape[0], 1).unbind()
    return _norm(x[first] - x[second], p)


def _norm(differences: Tensor, p: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(differences, p, -1)
    return norm


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X (..., I), y (..., J) and weight (O, I, J) to (..., O)."""
    rows = torch.einsum("...i,oij->...oj", x, weight)
    result = (rows * y.unsqueeze(-2)).sum(-1)
    return result if bias is None else result + bias


def cummax(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The largest element so far, and its last index."""
    return _extremum_so_far(x, dim, -torch.inf)


def cummin(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The smallest element so far, and its last index."""
    return _extremum_so_far(x, dim, torch.inf)


def _extremum_so_far(x: Tensor, dim: int, nothing: float) -> tuple[Tensor, Tensor]:
    if not x.dim():
        return x, torch.zeros_like(x, dtype=torch.int64)
    backwards = _so_far(x, dim, nothing).flip(-1)
    found = backwards.detach().max(-1)[1] if nothing < 0 else backwards.detach().min(-1)[1]
    indices = (x.shape[dim] - 1 - found).movedim(-1, dim)
    return x.gather(dim, indices), indices


def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """The logarithm of the sum of exponentials so far."""
    return _so_far(x, dim, -torch.inf).logsumexp(-1).movedim(-1, dim) if x.dim() else x


def _so_far(x: Tensor, dim: int, nothing: float) -> Tensor:
    """Repeat the elements for each one along a dimension, made the last but one, without those after it."""
    extent = x.shape[dim]
    if not isinstance(extent, int) or extent > _LONGEST:
        raise ModelError(f"a running extremum or sum of exponentials is written for at most {_LONGEST} elements")
    later = torch.ones(extent, extent, dtype=torch.bool).triu(1)
    return x.movedim(dim, -1).unsqueeze(-2).masked_fill(later, nothing)


_LONGEST = 1024


def median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The middle element along a dimension, the lower of two, and its index."""
    return kthvalue(x, (x.shape[dim] + 1) // 2, dim, keepdim) if x.dim() else kthvalue(x, 1, dim, keepdim)


def median_of_all(x: Tensor) -> Tensor:
    """The middle one of all elements."""
    return median(x.reshape(-1), 0)[0]


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The k-th smallest element along a dimension, and its index."""
    if not x.dim():
        return x, torch.zeros_like(x, dtype=torch.int64)
    indices = x.detach().sort(dim)[1].narrow(dim, k - 1, 1)
    values = x.gather(dim, indices)
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """X with the next element of the source wherever the mask holds."""
    x, mask = torch.broadcast_tensors(x, mask)  # type: ignore[no-untyped-call]  # torch's
    order = (mask.reshape(-1).to(torch.int64).cumsum(0) - 1).clamp_min(0)
    return torch.where(mask, source.reshape(-1)[order].reshape(x.shape), x)


def rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: object = None
) -> Tensor:
    """A rectifier whose slope below 0 is drawn for each element; without training, the middle one."""
    slope = torch.rand_like(x) * (upper - lower) + lower if training else (lower + upper) / 2
    return torch.where(x <= 0, x * slope, x)


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum (mode 0), mean (1) or maximum (2) of rows of the weight, by bags that begin at the offsets."""
    if scale_grad_by_freq:
        raise ModelError("embedding_bag with scale_grad_by_freq is not supported: leave it out")
    places = torch.arange(indices.shape[0]).unsqueeze(0)
    starts = offsets[:-1] if include_last_offset else offsets
    is_in = (places >= starts.unsqueeze(1)) & (
        places < torch.cat([starts[1:], torch.full_like(starts[:1], indices.shape[0])]).unsqueeze(1)
    )  # (bags, indices)
    if padding_idx is not None and padding_idx >= 0:
        is_in = is_in & (indices != padding_idx).unsqueeze(0)
    rows = torch.nn.functional.embedding(indices, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    count = is_in.sum(1)
    if mode == 2:
        inside = rows.unsqueeze(0).masked_fill(~is_in.unsqueeze(2), -torch.inf).amax(1)
        result = torch.where((count > 0).unsqueeze(1), inside, torch.zeros_like(inside))
    else:
        result = is_in.to(rows.dtype) @ rows
        result = result / count.clamp_min(1).unsqueeze(1) if mode == 1 else result
    return result, torch.zeros_like(indices), count, torch.zeros_like(count)


def grid_sampler(image: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    """The image (N, C, H, W) at the points of a grid (N, H', W', 2)."""
    if image.dim() != 4:
        raise ModelError("grid_sample is supported for images (N, C, H, W), not for volumes")
    sampled: Tensor = decomposition_table[_ATEN.grid_sampler_2d.default](image, grid, mode, padding, align_corners)
    return sampled


def take(x: Tensor, index: Tensor) -> Tensor:
    """Elements of x by their places in the order of all elements."""
    return x.reshape(-1)[index]


def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """X with elements of the source put, or added, at places in the order of all elements."""
    flat = x.reshape(-1).index_put((index.reshape(-1),), source.reshape(-1), accumulate)
    return flat.reshape(x.shape)


def index_fill(x: Tensor, dim: int, index: Tensor, value: Tensor | float) -> Tensor:
    """X with one value at indices along a dimension."""
    if not x.dim():
        return torch.full_like(x, value) if not isinstance(value, Tensor) else value.to(x.dtype).expand(x.shape)
    extent = x.shape[dim]
    chosen = (torch.arange(extent).unsqueeze(1) == index.reshape(1, -1) % extent).any(1)
    mask = chosen.reshape(-1, *[1] * (x.dim() - 1 - dim % x.dim()))
    return torch.where(mask, torch.as_tensor(value, dtype=x.dtype) if not isinstance(value, Tensor) else value, x)


def index_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """The product, mean or extremum of what the source has for an index along a dimension."""
    if not x.dim():
        joined = index_reduce(x[None], 0, index.reshape(-1), source.reshape(-1), reduce, include_self=include_self)
        return joined[0]
    at = index.reshape(-1, *[1] * (x.dim() - 1 - dim % x.dim())).expand(source.shape)
    return x.scatter_reduce(dim, at, source, reduce, include_self=include_self)


def bucketize(x: Tensor | float, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many of the boundaries lie below each element; with ``right``, or are equal to it."""
    return searchsorted(boundaries, x, out_int32=out_int32, right=right)


def searchsorted(
    boundaries: Tensor,
    x: Tensor | float,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """How many of the boundaries, which stand along the last dimension, lie before each element."""
    ordered = boundaries if sorter is None else boundaries.gather(-1, sorter)
    wanted = x.unsqueeze(-1) if isinstance(x, Tensor) else torch.tensor(float(x)).unsqueeze(-1)
    rows = ordered.unsqueeze(-2) if ordered.dim() > 1 else ordered
    before = rows <= wanted if right or side == "right" else rows < wanted
    return before.sum(-1).to(torch.int32 if out_int32 else torch.int64)


def nanmedian(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The middle one along a dimension of those elements that are numbers, the lower of two, and its index."""
    if not x.dim():
        return x, torch.zeros_like(x, dtype=torch.int64)
    missing = x.detach().isnan()
    order = x.detach().masked_fill(missing, torch.inf).sort(dim)[1]
    middle = (((~missing).sum(dim, keepdim=True) - 1) // 2).clamp_min(0)
    indices = order.gather(dim, middle)
    values = x.gather(dim, indices)
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def nanmedian_of_all(x: Tensor) -> Tensor:
    """The middle one of all elements that are numbers."""
    return nanmedian(x.reshape(-1), 0)[0]


def smoothed(name: str) -> Callable[..., Tensor]:
    """Resampling against aliases, of images (N, C, H, W): torch's own gradient of it knows no open batch size.

    It is linear and works on rows and columns by themselves, by the matrices that it makes of the identity.
    """
    operator = getattr(_ATEN, name)

    def resampled(
        x: Tensor, size: Sequence[int] | None, align_corners: bool, scales: Sequence[float] | None = None, *more: float
    ) -> Tensor:
        factors = list(scales) if isinstance(scales, list | tuple) else [scales, *more] if scales else [None, None]
        extents = size or [int(x.shape[2 + dim] * factors[dim]) for dim in (0, 1)]  # type: ignore[operator]
        for dim in (0, 1):
            with unset_fake_temporarily():
                rows = torch.eye(int(x.shape[2 + dim])).reshape(1, 1, -1, x.shape[2 + dim])
                sizes = [rows.shape[2], int(extents[dim])]
                matrix = operator(rows, sizes, align_corners, None, factors[dim])[0, 0].tolist()
            x = (x.movedim(2 + dim, -1) @ torch.tensor(matrix, dtype=x.dtype)).movedim(-1, 2 + dim)
        return x

    return resampled


def multilabel_margin_loss(x: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """The loss of several labels, by margins."""
    loss: Tensor = decomposition_table[_ATEN.multilabel_margin_loss_forward.default](x, target, reduction)[0]
    return loss


WRITTEN_OUT: dict[Any, Callable[..., Any]] = {
    _ATEN._upsample_bicubic2d_aa.default: smoothed("_upsample_bicubic2d_aa"),
    _ATEN._upsample_bicubic2d_aa.vec: smoothed("_upsample_bicubic2d_aa"),
    _ATEN._upsample_bilinear2d_aa.default: smoothed("_upsample_bilinear2d_aa"),
    _ATEN._upsample_bilinear2d_aa.vec: smoothed("_upsample_bilinear2d_aa"),
    _ATEN.affine_grid_generator.default: decomposition_table[_ATEN.affine_grid_generator.default],
    _ATEN.bilinear.default: bilinear,
    _ATEN.bucketize.Scalar: bucketize,
    _ATEN.bucketize.Tensor: bucketize,
    _ATEN.cdist.default: cdist,
    _ATEN.cummax.default: cummax,
    _ATEN.cummin.default: cummin,
    _ATEN.embedding_bag.padding_idx: embedding_bag,
    _ATEN.grid_sampler.default: grid_sampler,
    _ATEN.index_fill.int_Scalar: index_fill,
    _ATEN.index_fill.int_Tensor: index_fill,
    _ATEN.index_reduce.default: index_reduce,
    _ATEN.kthvalue.default: kthvalue,
    _ATEN.logcumsumexp.default: logcumsumexp,
    _ATEN.masked_scatter.default: masked_scatter,
    _ATEN.median.default: median_of_all,
    _ATEN.median.dim: median,
    _ATEN.multi_margin_loss.default: decomposition_table[_ATEN.multi_margin_loss.default],
    _ATEN.multilabel_margin_loss.default: multilabel_margin_loss,
    _ATEN.nanmedian.default: nanmedian_of_all,
    _ATEN.nanmedian.dim: nanmedian,
    _ATEN.pdist.default: pdist,
    _ATEN.put.default: put,
    _ATEN.rrelu.default: rrelu,
    _ATEN.searchsorted.Scalar: searchsorted,
    _ATEN.searchsorted.Tensor: searchsorted,
    _ATEN.take.default: take,
}
"""What stands in for each operator."""
