"""Figures that a model is judged by, as a bundle names them: sums and counts that add up, and what becomes of them.

Nothing here needs torch. A bundle's metrics graph makes two vectors of a batch, sums and counts, in which each metric
has a stretch. They are added over batches and over devices in float64, and only then divided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Finish = Literal["mean", "root", "exp", "quantile"]
"""What a metric is: the mean over its stretch of sums over counts (whatever has a count of 0 is left out), the root of
it, its exponential; or the quantile of a histogram of `ERROR_BINS`."""

ACCURACY = "accuracy"
"""The metric of one label a sample, which has a column of its own in records."""

Better = Literal["higher", "lower", ""]

ERROR_BINS = 256
"""Bins of a histogram of errors; their edges are powers of `ERROR_BASE`, from `LEAST_ERROR` on."""
ERROR_BASE = 1.1
LEAST_ERROR = 1e-6
THRESHOLD_QUANTILE = 0.99
"""Share of the errors that lie below the threshold."""

Sums = NDArray[np.float64]


class MetricSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric of a bundle.

    Attributes:
        name: by which it is known.
        size: elements of its stretch in sums and counts.
        finish: what becomes of these.
        better: whether a higher or a lower figure is the better one; empty: it isn't known.
    """

    name: str
    size: int = 1
    finish: Finish = "mean"
    better: Better = ""


def finished(figures: Sequence[MetricSpec], sums: Sums, counts: Sums) -> dict[str, float]:
    """The metrics by name; NaN where nothing was counted."""
    values: dict[str, float] = {}
    at = 0
    for figure in figures:
        stretch = slice(at, at + figure.size)
        values[figure.name] = _finished(figure.finish, sums[stretch], counts[stretch])
        at += figure.size
    return values


def _finished(finish: Finish, sums: Sums, counts: Sums) -> float:
    if finish == "quantile":
        return _quantile(sums)
    counted = counts != 0
    if not counted.any():
        return math.nan
    mean = float(np.mean(sums[counted] / counts[counted]))
    if finish == "root":
        return math.sqrt(mean) if mean >= 0 else math.nan
    return math.exp(min(mean, 700.0)) if finish == "exp" else mean


def _quantile(histogram: Sums) -> float:
    """The upper edge of the bin up to which `THRESHOLD_QUANTILE` of the errors lie."""
    below = np.cumsum(histogram)
    if not below[-1] > 0:
        return math.nan
    place = int(np.searchsorted(below, THRESHOLD_QUANTILE * below[-1]))
    return float(LEAST_ERROR * ERROR_BASE**place)


def added(total: Sums | None, further: Any) -> Sums:
    """A sum, or what it begins with, and one vector more."""
    vector = np.asarray(further, np.float64)
    return vector if total is None else total + vector
