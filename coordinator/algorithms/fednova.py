"""FedNova: devices that make more steps do not pull the model their way; each counts by the direction it found.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization" (NeurIPS 2020, arXiv
2007.07481, equations 7 and 8). Device i makes tau_i local steps, in proportion to its samples (as many epochs for all);
a_i is what its mean gradient was multiplied by in Delta_i, with its momentum:

    d_i = Delta_i / a_i          tau_eff = sum_i p_i a_i          x = x + tau_eff sum_i p_i d_i

with p_i the weights, sum p_i = 1. Use it where devices hold very different numbers of samples. It is exact where
momentum begins each round anew (phi = 1). Where all devices make the same steps, it is FedAvg.

Each update says its a_i, and is folded with the weight f_i = p_i A / a_i, for A a bound on the a_i that the plan can
lead to. So the fold's mean is sum f_i Delta_i / sum f_i. With p_i = f_i a_i / sum f_j a_j, what is left is a factor:

    tau_eff sum_i p_i d_i = mean * (sum f_i) (sum f_i a_i^2) / (sum f_i a_i)^2
"""

from __future__ import annotations

import math

import numpy as np

from lamina.broker.wire.local_work import GRADIENT_WEIGHT, LocalWork
from lamina.coordinator.algorithms.local_algorithm import Cohort, LayerFacts, LocalAlgorithm
from lamina.coordinator.folds.fold import Aggregate
from lamina.models.arrays import Vector

MOST_TIMES = 4
"""No device makes more steps than this many times tau', however many samples it claims."""


def plan(cohort: Cohort) -> LocalWork:
    """Steps in proportion to the samples: tau' on average over the cohort, one at least."""
    mean = math.fsum(cohort.examples.values()) / max(1, len(cohort.examples))
    most = MOST_TIMES * cohort.local_steps
    steps = {
        device: min(most, max(1, int(cohort.local_steps * examples / mean + 0.5))) if mean else cohort.local_steps
        for device, examples in cohort.examples.items()
    }
    longest = cohort.phi * max([cohort.local_steps, *steps.values()])
    largest = cohort.lr * longest / (1.0 - cohort.momentum)  # what momentum multiplies a gradient by, in the limit
    return LocalWork(steps=steps, scalars=(GRADIENT_WEIGHT,), reference=largest)


def average(aggregate: Aggregate, value: Vector, facts: LayerFacts) -> Vector:
    """The layer's average, by the factor above; running statistics, which are no steps, are averaged as they are."""
    folded, a = aggregate.weights, aggregate.scalars[GRADIENT_WEIGHT]
    first = math.fsum(f * a_i for f, a_i in zip(folded, a, strict=True))
    second = math.fsum(f * a_i**2 for f, a_i in zip(folded, a, strict=True))
    factor = math.fsum(folded) * second / first**2
    result = aggregate.value.copy()
    before = value[: facts.size].astype(np.float64)
    result[: facts.size] = before + factor * (aggregate.value[: facts.size] - before)
    return result


ALGORITHM = LocalAlgorithm("fednova", plan, average)
