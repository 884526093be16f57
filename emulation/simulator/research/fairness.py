"""Judges the model for each device, by its own samples: mean, spread, and the worst tenth of the devices.

Federated evaluation: a model that is right for all samples together may fail those whose data are unlike the others'.
The worst tenth is the mean of the worst ceil(m/10) of m devices, as in Li et al., "Fair Resource Allocation in
Federated Learning" (ICLR 2020, arXiv 1905.10497).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceSpread:
    """Accuracies of many devices in brief.

    Attributes:
        mean: over the devices, each counting once, however many samples it has; in percent.
        spread: standard deviation over the devices, in points; 0 for one device.
        worst: mean of the worst tenth, in percent.
    """

    mean: float
    spread: float
    worst: float


def device_spread(accuracies: Collection[float]) -> DeviceSpread:
    """Summarise at least one device's accuracy, from 0 to 1."""
    percent = sorted(100 * accuracy for accuracy in accuracies)
    worst = percent[: math.ceil(len(percent) / 10)]
    spread = statistics.stdev(percent) if len(percent) > 1 else 0.0
    return DeviceSpread(statistics.fmean(percent), spread, statistics.fmean(worst))


def over_seeds(spreads: Collection[DeviceSpread]) -> DeviceSpread:
    """The mean of each figure."""
    mean, spread, worst = (
        statistics.fmean(getattr(one, name) for one in spreads) for name in ("mean", "spread", "worst")
    )
    return DeviceSpread(mean, spread, worst)
