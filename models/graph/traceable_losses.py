"""Losses of torch that look at values while they are computed, written so that they can be traced."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from lamina.models.graph.alignment import ctc_loss


@contextmanager
def traceable_losses() -> Iterator[None]:
    """Inside, torch's functions are these; ``torch.nn``'s modules call them by name."""
    before = F.ctc_loss, F.gaussian_nll_loss
    F.ctc_loss, F.gaussian_nll_loss = ctc_loss, gaussian_nll_loss  # type: ignore[assignment]  # for the while
    try:
        yield
    finally:
        F.ctc_loss, F.gaussian_nll_loss = before


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
