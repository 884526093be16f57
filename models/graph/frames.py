"""Stands in for operators that look at how a tensor lies in memory, which a graph has no say in.

Autograd writes the gradients of such views into memory, too; those of gathered elements are added up by their indices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lamina.models.errors import ModelError

_LAYOUT = "as_strided is not supported for such a view: write unfold, flatten or indexing"


def as_strided(x: Tensor, size: Sequence[Any], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """The elements at an offset and multiples of strides in memory.

    The batch may be the first dimension, where every sample's view lies within the sample.
    """
    offset = storage_offset or 0
    own = x.stride()
    if any(not isinstance(step, int) for step in (*stride, *own, offset)):
        raise ModelError(_LAYOUT)
    if not x.dim() or isinstance(x.shape[0], int):
        places = _places(size, stride, offset)
        return _in_memory(x, 0).index_select(0, torch.tensor(places)).reshape(tuple(size))
    inner = math.prod(x.shape[1:])
    places = _places(size[1:], stride[1:], offset)
    if str(size[0]) != str(x.shape[0]) or stride[0] != own[0] or max(places, default=0) >= inner or own[0] != inner:
        raise ModelError(_LAYOUT)
    return _in_memory(x, 1).index_select(1, torch.tensor(places)).reshape(tuple(size))


def _places(size: Sequence[int], stride: Sequence[int], offset: int) -> list[int]:
    ranges = [
        range(0, extent * step, step) if step else [0] * extent for extent, step in zip(size, stride, strict=True)
    ]
    return [offset + sum(place) for place in product(*ranges)]


def _in_memory(x: Tensor, kept: int) -> Tensor:
    """The elements in the order of memory, flat but for so many dimensions in front.

    Raises:
        ModelError: they don't lie close together.
    """
    dims = sorted(range(kept, x.dim()), key=lambda dim: (x.stride(dim), x.shape[dim] == 1), reverse=True)
    expected = 1
    for dim in reversed(dims):
        if x.shape[dim] != 1 and x.stride(dim) != expected:
            raise ModelError(_LAYOUT)
        expected *= x.shape[dim]
    return x.permute(*range(kept), *dims).flatten(kept) if x.dim() else x.reshape(1)


def adaptive_avg_pool2d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """The average over as many windows as the output has elements; torch lays out a single one in memory by itself."""
    if tuple(output_size) == (1, 1):
        return x.mean((-2, -1), keepdim=True)
    pooled: Tensor = torch.ops.aten.adaptive_avg_pool2d.default(x, output_size)
    return pooled


def stft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Tensor:
    """The spectra (N, frequencies, frames) of the frames of a signal (N, T) or (T,)."""
    hop, length = hop_length or n_fft // 4, win_length or n_fft
    if align_to_window:
        raise ModelError("stft with align_to_window is not supported: leave it out")
    frames = x.unfold(-1, n_fft, hop)
    if window is not None or length < n_fft:
        shape = torch.ones(length, dtype=x.dtype) if window is None else window
        before = (n_fft - length) // 2
        frames = frames * torch.nn.functional.pad(shape, (before, n_fft - length - before))
    norm = "ortho" if normalized else "backward"
    half = onesided if onesided is not None else not frames.is_complex()
    spectra = (torch.fft.rfft if half else torch.fft.fft)(frames, norm=norm).transpose(-1, -2)
    return spectra if return_complex else torch.view_as_real(spectra)


def centred_stft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    *options: Any,
    **named: Any,
) -> Tensor:
    """The spectra of a signal that is padded, so that the first frame has its middle at the first element."""
    if center:
        rows = x if x.dim() > 1 else x.unsqueeze(0)
        padded = torch.nn.functional.pad(rows.unsqueeze(1), (n_fft // 2, n_fft // 2), mode=pad_mode).squeeze(1)
        x = padded if x.dim() > 1 else padded.squeeze(0)
    return stft(x, n_fft, hop_length, win_length, window, *options, **named)


IN_MEMORY: dict[Any, Any] = {
    torch.ops.aten.as_strided.default: as_strided,
    torch.ops.aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
    torch.ops.aten.stft.default: stft,
    torch.ops.aten.stft.center: centred_stft,
}
"""What stands in for each operator."""
