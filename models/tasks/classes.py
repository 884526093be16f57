"""Arithmetic that tasks with class indices share: masks, class weights, cross entropy, and counts by class.

Logits have the classes along one dimension; targets have the same shape without it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NOTHING = 1e-12  # what a batch weighs at least, in which everything is ignored: its loss is 0, and not NaN


def counted(y: Tensor, ignored: int | None) -> Tensor:
    """A truth value for each target: whether it counts."""
    return torch.ones_like(y, dtype=torch.bool) if ignored is None else y != ignored


def class_weight(y: Tensor, ignored: int | None, weights: tuple[float, ...]) -> Tensor:
    """What each target weighs, float32: 0 where it is ignored, else its class's weight."""
    mask = counted(y, ignored).to(torch.float32)
    if not weights:
        return mask
    return mask * sum((y == index).to(torch.float32) * weight for index, weight in enumerate(weights) if weight)


def weighted_cross_entropy(
    logits: Tensor, y: Tensor, dim: int, ignored: int | None, weights: tuple[float, ...]
) -> Tensor:
    """``torch.nn.functional.cross_entropy`` with class weights and an index to ignore; 0 where nothing counts."""
    log_p = F.log_softmax(logits, dim)
    place = torch.where(counted(y, ignored), y, torch.zeros_like(y)).unsqueeze(dim)
    picked = log_p.gather(dim, place).squeeze(dim)
    weight = class_weight(y, ignored, weights).to(logits.dtype)
    return -(weight * picked).sum() / weight.sum().clamp_min(_NOTHING)


def right(logits: Tensor, y: Tensor, dim: int, ignored: int | None) -> tuple[Tensor, Tensor]:
    """How many targets that count are met by the largest logit, and how many count."""
    mask = counted(y, ignored)
    return ((logits.argmax(dim) == y) & mask).double().sum(), mask.double().sum()


def recall_by_class(logits: Tensor, y: Tensor, dim: int, ignored: int | None = None) -> tuple[Tensor, Tensor]:
    """Count, for each class (C,), the targets that are met, and all its targets."""
    of_class = _of_class(y, logits.shape[dim], ignored)  # (N, C)
    met = (logits.argmax(dim) == y).reshape(-1, 1) & of_class
    return met.double().sum(0), of_class.double().sum(0)


def overlap_by_class(logits: Tensor, y: Tensor, dim: int, ignored: int | None) -> tuple[Tensor, Tensor]:
    """Count, for each class (C,), the places where output and target both say it, and where either does."""
    classes = logits.shape[dim]
    truly = _of_class(y, classes, ignored)
    said = _of_class(logits.argmax(dim), classes, None) & counted(y, ignored).reshape(-1, 1)
    return (said & truly).double().sum(0), (said | truly).double().sum(0)


def _of_class(y: Tensor, classes: int, ignored: int | None) -> Tensor:
    """Whether each target is of each class, (N, C)."""
    of_class = y.reshape(-1, 1) == torch.arange(classes)
    return of_class & counted(y, ignored).reshape(-1, 1)
