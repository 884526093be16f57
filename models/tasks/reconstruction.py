"""The target is the input: what a network can't reproduce is unlike what it has seen, an anomaly.

The threshold is a quantile of the samples' errors, from a histogram: counts add up over devices, and quantiles don't.
Its bins are ten per cent wide, and so exact is the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lamina.models.metrics import ERROR_BASE, ERROR_BINS, LEAST_ERROR
from lamina.models.targets import TargetSpec
from lamina.models.tasks.base import LearningTask, Metric, NetworkFacts, Objective, samples
from lamina.models.tasks.regression import absolute_error, squared_error


@dataclass(frozen=True)
class Reconstruction(LearningTask):
    """The input once more, as an autoencoder gives it."""

    name = "reconstruction"
    losses = ("mse", "mae")

    def objective(self, network: NetworkFacts, loss: str) -> Objective:
        """See `LearningTask`."""
        if network.inputs:
            raise network.error(
                f"it is to reproduce its input, and takes several, {', '.join(network.inputs)}: choose task = "
                f"'regression', and give as y what it is to reproduce"
            )
        if network.output_shape != network.input_shape:
            raise network.error(
                f"it is to reproduce its input {network.input_shape}, and returns {network.output_shape}"
            )
        if network.input_dtype != "float32":
            raise network.error(
                "it is to reproduce its input, which must be float32: for tokens choose task = 'tokens'"
            )
        return Objective(
            target=TargetSpec(self.name, "float32", network.input_shape, is_input=True),
            loss=F.mse_loss if loss == "mse" else F.l1_loss,
            loss_name=loss,
            weight=samples,
            metrics={
                "mse": Metric(squared_error, better="lower"),
                "mae": Metric(absolute_error, better="lower"),
                "threshold": Metric(_histogram, "quantile"),
            },
        )


def sample_error(outputs: Tensor, y: Tensor) -> Tensor:
    """The mean squared error of each sample, (N,), which the threshold is for."""
    return (outputs - y).square().reshape(y.shape[0], -1).mean(1)


def _histogram(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How many samples' errors lie in each bin, (bins,)."""
    error = sample_error(outputs, y).clamp_min(LEAST_ERROR)
    place = ((error / LEAST_ERROR).log() / math.log(ERROR_BASE)).ceil().clamp(0, ERROR_BINS - 1)
    within = place.reshape(-1, 1) == torch.arange(ERROR_BINS, dtype=torch.float32)
    found = within.double().sum(0)
    return found, torch.ones_like(found)
