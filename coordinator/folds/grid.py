"""The fixed-point grid that sums are kept on, and the lanes that a norm is added up in.

A pass does this to every element k of a delta, in float64:

    term = weight * delta[k]                            exact for whole weights
    sums[k] += bits of (term + SNAP)                    `lamina.coordinator.folds.exact` says why
    lanes[k % LANES] += term * term                     in ascending k

The order of the last line's additions is settled, in every pass, and nothing is left to a BLAS: norms come out the
same, bit for bit, on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Steps = NDArray[np.int64]

GRID = 2.0**-36
"""What terms are rounded to."""

SNAP = 1.5 * 2.0**16
"""Added to a term of at most 2^15, it leaves the term's multiple of 2^-36 in the result's last bits."""

BIAS = int(np.array(SNAP).view(np.int64))
"""The bits of SNAP, which every term leaves in a sum beside its own."""

LANES = 256
"""Partial sums of a norm. Element k goes to lane ``k % LANES``."""
