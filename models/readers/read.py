"""What a reader returns: inputs, targets, and the names of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.readers.rows import Array, Rows


@dataclass(frozen=True, eq=False)
class Read:
    """Samples as their source has them.

    Attributes:
        x: inputs, (N, ...); several by name.
        y: targets: labels (N,) int64, numbers (N, ...) float32, or ``None`` where the source has none.
        classes: names of the classes, by label; empty where labels are numbers.
        numbered: whether the operator said in which order the classes are numbered.
        series: which series each sample is of, (N,), where the source tells them apart.
        stretches: of windows, which rows of its series each covers; see `lamina.models.samples`.
    """

    x: Array | Rows | dict[str, Array]
    y: Array | Rows | None
    classes: tuple[str, ...] = ()
    numbered: bool = False
    series: Array | None = None
    stretches: NDArray[np.integer[Any]] | None = None
