"""Random intervals: a control for FedLAMA, which shows what it is worth to choose the layers by their discrepancy.

Lee, Zhang and Avestimehr, "Layer-wise Adaptive Model Aggregation for Scalable Federated Learning" (arXiv 2110.10302),
relax the layers that drift least. This rule relaxes layers drawn at random, anew in every cycle, until as large a share
of the parameters is relaxed as FedLAMA would relax.
"""

from __future__ import annotations

import numpy as np

from lamina.coordinator.algorithms import fedlama
from lamina.coordinator.algorithms.interval_rule import Adjustment, CycleEnd, IntervalRule

_STREAM = 1  # beside the stream of the cohorts, which is drawn from seed and cycle alone


def adjust(end: CycleEnd) -> Adjustment:
    """The next cycle's intervals; the same seed and cycle give the same ones on every platform."""
    bits = np.random.PCG64(np.random.SeedSequence(end.seed % 2**64, spawn_key=(end.cycle, _STREAM)))
    layers = list(end.candidates)
    keys = dict(zip(layers, bits.random_raw(len(layers)).tolist(), strict=True))
    return fedlama.along(end, sorted(layers, key=lambda layer: (keys[layer], layer)))


ALGORITHM = IntervalRule("random", adjust)
