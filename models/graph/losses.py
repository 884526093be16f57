"""The losses that a training graph may minimise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lamina.models.errors import ModelError, did_you_mean


@dataclass(frozen=True)
class Loss:
    """A loss, averaged over the batch.

    Attributes:
        value: of logits (N, classes) and labels y (N,), a scalar.
        correct: how many of the batch are right, an int64 scalar.
        dtype: element type of y.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    correct: Callable[[Tensor, Tensor], Tensor]
    dtype: str = "int64"


def loss_named(name: str) -> Loss:
    """The loss of that name.

    Raises:
        ModelError: there is none.
    """
    if not isinstance(name, str):
        raise ModelError(f"a loss is given by its name, one of {', '.join(LOSSES)}, and this is {type(name).__name__}")
    if name not in LOSSES:
        raise ModelError(f"there is no loss {name!r}; {did_you_mean(name, LOSSES)}")
    return LOSSES[name]


def _smoothed_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """A tenth of the weight goes to all classes alike (Szegedy et al. 2016, section 7)."""
    return F.cross_entropy(logits, y, label_smoothing=0.1)


def _binary_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The cross entropy of one logit for yes and no, or of a logit for each class that is judged by itself."""
    return F.binary_cross_entropy_with_logits(logits, _targets(logits, y))


def _squared_error(logits: Tensor, y: Tensor) -> Tensor:
    """The squared error of the outputs, against 1 for the class and 0 for the others; it is averaged over the classes,
    too.
    """
    return F.mse_loss(logits, _targets(logits, y))


def _targets(logits: Tensor, y: Tensor) -> Tensor:
    """What the logits should say, (N, classes): 1 in the column of y; y itself where there is one column."""
    if logits.shape[1] == 1:
        return y.unsqueeze(1).to(logits.dtype)
    return (y.unsqueeze(1) == torch.arange(logits.shape[1])).to(logits.dtype)


def _most_likely(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) == y).sum()


def _most_likely_or_positive(logits: Tensor, y: Tensor) -> Tensor:
    return ((logits[:, 0] > 0).long() == y).sum() if logits.shape[1] == 1 else _most_likely(logits, y)


LOSSES = {
    "cross_entropy": Loss(F.cross_entropy, _most_likely),
    "smoothed_cross_entropy": Loss(_smoothed_cross_entropy, _most_likely),
    "binary_cross_entropy": Loss(_binary_cross_entropy, _most_likely_or_positive),
    "squared_error": Loss(_squared_error, _most_likely),
}
