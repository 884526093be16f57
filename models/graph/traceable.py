"""Functions of torch that look at values or at memory while they are computed, written so that they can be traced."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules import transformer

from lamina.models.errors import ModelError
from lamina.models.graph.alignment import ctc_loss
from lamina.models.graph.written_out import cdist


@contextmanager
def traceable_functions() -> Iterator[None]:
    """Inside, torch's functions are these; ``torch.nn``'s modules call them by name."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in _IN_PLACE_OF]
    for owner, name, function in _IN_PLACE_OF:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def embedding_bag(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The sum, mean or maximum of each bag's rows; bags of one length (N, B) are not laid out one after another."""
    if input.dim() != 2 or max_norm is not None or scale_grad_by_freq:
        return _EMBEDDING_BAG(
            *(input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights),
            *(include_last_offset, padding_idx),
        )
    rows = F.embedding(input, weight)
    rows = rows if per_sample_weights is None else rows * per_sample_weights.unsqueeze(2)
    if padding_idx is None:
        return rows.amax(1) if mode == "max" else rows.sum(1) if mode == "sum" else rows.mean(1)
    is_in = (input != padding_idx % weight.shape[0]).unsqueeze(2)
    if mode == "max":
        return rows.masked_fill(~is_in, -math.inf).amax(1).masked_fill(~is_in.any(1), 0.0)
    total = rows.masked_fill(~is_in, 0.0).sum(1)
    return total if mode == "sum" else total / is_in.sum(1).clamp_min(1)


def is_causal_as_told(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """What the caller of a transformer says; a mask that is given counts as any mask, and isn't looked at."""
    return bool(is_causal)


def gaussian_nll_loss(
    input: Tensor,  # noqa: A002 - torch's name
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """The loss of a normal number, whose variance is not looked at: it must not be negative."""
    variance = var if isinstance(var, Tensor) else torch.full_like(input, var)
    if variance.dim() == input.dim() - 1:
        variance = variance.unsqueeze(-1)
    variance = variance + (variance.detach().clamp_min(eps) - variance.detach())
    loss = 0.5 * (variance.log() + (input - target) ** 2 / variance)
    return _reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


def refuse_packing(*arguments: object) -> None:
    """Refuse packed sequences, whose extents depend on the lengths.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        "packed sequences are not supported: run the layer over the padded sequence, and take each sample's last valid "
        "output with y[torch.arange(y.shape[0]), lengths - 1]"
    )


_EMBEDDING_BAG = F.embedding_bag
_IN_PLACE_OF: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (F, "ctc_loss", ctc_loss),
    (F, "embedding_bag", embedding_bag),
    (F, "gaussian_nll_loss", gaussian_nll_loss),
    (torch, "cdist", cdist),  # torch's own looks at the batch size
    (torch._VF, "_pack_padded_sequence", refuse_packing),
    (transformer, "_detect_is_causal_mask", is_causal_as_told),
)
