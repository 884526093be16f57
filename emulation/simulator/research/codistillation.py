"""Co-distillation on a public set: devices tell each other what they conclude, not what they have learned.

Every device keeps a network of its own, of any width. What crosses the wire is logits on samples that everybody has, P
of them: P times the number of classes, whatever the size of the network. Everybody learns from the mean.

    server:    z = mean over the cohort of z_i,   z_i = f_i(public)                          # (P, classes)
    device i:  tau' steps of SGD on  CE(f_i(x), y) + weight T^2 KL(softmax(z / T) || softmax(f_i(p) / T))
               with x, y of its own samples, and p of the public ones; then it sends its z_i

Sources: Li and Wang, "FedMD: Heterogenous Federated Learning via Model Distillation" (arXiv 1910.03581), for the mean
of logits on a public set; Chan and Ngai, "FedHe: Heterogeneous Models and Communication-Efficient Federated Learning"
(arXiv 2110.09910), for logits in place of parameters and the sum of the two losses (FedHe itself has no public set, and
averages by class); Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), for T.

Here both losses are taken in every step, where FedMD first digests the mean and then revisits its own samples, and
there is no training on labels of the public set, which has none. Take it where networks can't be alike, or where they
are much larger than P times the classes. It ends in no network for all, and asks for public samples like the devices'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lamina.emulation.simulator.setting import Codistillation

Logits = NDArray[np.float32]  # (P, classes)


def consensus(before: Logits | None, sent: Sequence[Logits]) -> tuple[Logits | None, int]:
    """The mean of what the cohort sent, and how many were refused because their numbers are not finite.

    Args:
        before: the last mean; it stays where nothing can be used.
        sent: logits of each device, in an order that does not depend on who was first.
    """
    usable = [logits for logits in sent if np.isfinite(logits).all()]
    refused = len(sent) - len(usable)
    if not usable:
        return before, refused
    mean: Logits = np.asarray(np.mean(usable, 0, dtype=np.float64), np.float32)
    return mean, refused


def distillation(targets: Tensor, how: Codistillation) -> Callable[[Tensor], Tensor]:
    """The loss of a device's logits (B, classes) for public samples, given the mean's for the same ones."""
    temperature = how.temperature
    wanted = torch.log_softmax(targets / temperature, 1)

    def loss(logits: Tensor) -> Tensor:
        found = torch.log_softmax(logits / temperature, 1)
        divergence = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
        return how.weight * temperature**2 * divergence

    return loss
