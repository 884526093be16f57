"""Connectionist temporal classification, written so that it can be traced: the loss of an unaligned transcript.

The loss is that of Graves et al. 2006: minus the logarithm of the probability of all ways in which the labels, with
blanks between them, may be spread over the steps. Torch computes it in one operator, which looks at the lengths. Here
it is a recursion over the steps, written out, so autograd finds the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lamina.models.errors import ModelError

# The logarithm of a probability of 0; it is finite, so that no gradient is infinity less infinity.
_NOTHING = -1e30

# Each step has some twenty operators in the graph.
_MOST_STEPS = 256

Lengths = Tensor | Sequence[int]


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Return the loss of log_probs (T, N, C) for labels (N, S), as `torch.nn.functional.ctc_loss` does.

    Where no way leads through, it is infinite, or 0 with ``zero_infinity``; neither has a gradient.
    """
    if log_probs.dim() == 2:
        valid, lengths = (torch.as_tensor(each).reshape(1) for each in (input_lengths, target_lengths))
        loss = ctc_loss(log_probs.unsqueeze(1), targets.unsqueeze(0), valid, lengths, blank, "none", zero_infinity)
        return (loss / lengths.clamp_min(1)).mean() if reduction == "mean" else loss.squeeze(0)
    steps, classes = log_probs.shape[0], log_probs.shape[2]
    if not isinstance(steps, int) or steps > _MOST_STEPS:
        raise ModelError(f"ctc_loss is written out for at most {_MOST_STEPS} steps: pool or stride over time before it")
    valid, lengths = _counted(input_lengths), _counted(target_lengths)
    labels = _padded(targets, lengths, target_lengths).clamp(0, classes - 1)
    probable = -_log_likelihood(log_probs, labels, valid, lengths, blank) + _of_normed_inputs(log_probs, valid)
    impossible = probable > -0.1 * _NOTHING
    loss = probable.masked_fill(impossible, 0.0 if zero_infinity else torch.inf)
    if reduction == "mean":
        return (loss / lengths.clamp_min(1)).mean()
    return loss.sum() if reduction == "sum" else loss


def _log_likelihood(log_probs: Tensor, labels: Tensor, valid: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """The logarithm of each sample's probability (N,)."""
    blanks = torch.full_like(labels, blank)
    way = torch.cat([torch.stack([blanks, labels], 2).flatten(1), blanks[:, :1]], 1)  # (N, 2 S + 1)
    emitted = log_probs.transpose(0, 1).gather(2, way.unsqueeze(1).expand(-1, log_probs.shape[0], -1))
    emitted = emitted.clamp_min(_NOTHING)
    may_skip = F.pad((way[:, 2:] != blank) & (way[:, 2:] != way[:, :-2]), (2, 0))
    begins = torch.arange(way.shape[1]) < 2
    reached = emitted[:, 0].masked_fill(~begins, _NOTHING)
    for step in range(1, log_probs.shape[0]):
        one_on = F.pad(reached[:, :-1], (1, 0), value=_NOTHING)
        two_on = F.pad(reached[:, :-2], (2, 0), value=_NOTHING).masked_fill(~may_skip, _NOTHING)
        here = torch.stack([reached, one_on, two_on]).logsumexp(0) + emitted[:, step]
        reached = torch.where((step < valid).unsqueeze(1), here, reached)
    last = 2 * lengths.unsqueeze(1)
    ends_blank = reached.gather(1, last)
    ends_label = reached.gather(1, (last - 1).clamp_min(0)).masked_fill(last == 0, _NOTHING)
    return torch.cat([ends_blank, ends_label], 1).logsumexp(1)


def _of_normed_inputs(log_probs: Tensor, valid: Tensor) -> Tensor:
    """Return 0, with the gradient exp(log_probs) (N,): torch adds it, since it takes log_probs for a log_softmax.

    Behind a log_softmax it makes no difference.
    """
    is_valid = torch.arange(log_probs.shape[0]).unsqueeze(1) < valid  # (T, N)
    mass = log_probs.exp().sum(2).masked_fill(~is_valid, 0.0).sum(0)
    return mass - mass.detach()


def _counted(lengths: Lengths) -> Tensor:
    return lengths.long() if isinstance(lengths, Tensor) else torch.tensor(list(lengths))


def _padded(targets: Tensor, lengths: Tensor, given: Lengths) -> Tensor:
    """The labels (N, S), of which torch also takes those of all samples one after another."""
    if targets.dim() == 2:
        return targets.long()
    if isinstance(given, Tensor):
        raise ModelError("how long the labels of a sample are is known only when it is run: give labels (N, S), padded")
    first = lengths.cumsum(0) - lengths
    places = first.unsqueeze(1) + torch.arange(max(given))
    return targets.long()[places.clamp_max(targets.shape[0] - 1)]
