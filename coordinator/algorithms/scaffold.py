"""SCAFFOLD: control variates keep devices from drifting apart, each towards its own data.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning" (ICML 2020, arXiv 1910.06378,
Algorithm 1, option II). The server has a control variate c, every device one of its own, c_i; both begin at 0:

    device i, K steps:  y = y - eta_l (g(y) - c_i + c)
    afterwards:         c_i' = c_i - c + (x - y) / (K eta_l);   it sends y - x and c_i' - c_i
    server:             x = x + mean of y - x;   c = c + |S| / N (mean of c_i' - c_i)

c travels behind each layer's value, and c_i' - c_i behind each update: twice the traffic of FedAvg. With momentum,
``K eta_l`` is what the mean gradient was multiplied by in y - x. Use it where devices' data differ, cohorts are not too
small a part of the fleet (a c_i that is old is wrong), and weights are uniform. S counts the devices that were folded,
N those that could train the layer. Running statistics are averaged, and have no control variate.
"""

from __future__ import annotations

import numpy as np

from lamina.broker.wire.local_work import Control, LocalWork
from lamina.coordinator.algorithms.local_algorithm import Cohort, LayerFacts, LocalAlgorithm
from lamina.coordinator.folds.fold import Aggregate
from lamina.models.arrays import Vector


def plan(cohort: Cohort) -> LocalWork:
    """G + c - c_i in every step; then c_i' = c_i - c + (mean of g + c - c_i)."""
    return LocalWork(control=Control(shared=1.0, own=-1.0, own_from_shared=-1.0, own_from_gradient=1.0))


def average(aggregate: Aggregate, value: Vector, facts: LayerFacts) -> Vector:
    """The average, with c moved by |S| / N of the mean change of the c_i."""
    share = min(1.0, len(aggregate.devices) / max(1, facts.population))
    result, control = aggregate.value.copy(), slice(facts.further, None)
    before = value[control].astype(np.float64)
    result[control] = before + share * (aggregate.value[control] - before)
    return result


ALGORITHM = LocalAlgorithm("scaffold", plan, average, further=("control",))
