"""What a reader returns: samples as the file holds them, before any scaling or splitting.

Several inputs are one array, too: of records, with a field for each input. So whoever divides samples, or draws some of
them, takes no notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples and their targets.

    Attributes:
        x: samples, batch first; unsigned bytes are pixels, other integers are tokens, floats are ready for use. Records
            (N,) hold several inputs.
        y: targets, (N, ...); ``None`` where there are none.
        stretches: of windows, the rows that each covers; see `lamina.models.samples`.
    """

    x: Array
    y: Array | None
    stretches: Array | None = None

    def part(self, indices: Array) -> Samples:
        """Some of them."""
        y, stretches = (None if array is None else array[indices] for array in (self.y, self.stretches))
        return Samples(self.x[indices], y, stretches)


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set as it was read.

    Attributes:
        train: what devices train on.
        test: what is held out; ``None`` where the source has one set only, which is then split.
        ids: whose each training sample is, (N,), where the source knows; ``None`` elsewhere.
        classes: how many classes the source says there are; ``None`` where only the labels tell.
        class_names: what they are called, by label; empty where nothing says.
    """

    train: Samples
    test: Samples | None = None
    ids: Array | None = None
    classes: int | None = None
    class_names: tuple[str, ...] = ()


def records(parts: Mapping[str, Array]) -> Array:
    """Several inputs, each (N, ...), as records (N,).

    Raises:
        DataError: their numbers differ.
    """
    if len({len(part) if part.ndim else 0 for part in parts.values()}) != 1:
        counted = ", ".join(f"{name} {len(part) if part.ndim else 0}" for name, part in parts.items())
        raise DataError(f"the inputs have different numbers of samples: {counted}")
    kinds = [(name, part.dtype, part.shape[1:]) for name, part in parts.items()]
    joined: Array = np.empty(len(next(iter(parts.values()))), np.dtype(kinds))
    for name, part in parts.items():
        joined[name] = part
    return joined


def inputs_of(x: Array) -> Array | dict[str, Array]:
    """What `LabelledSamples` takes: the inputs of records by name, and any other array as it is."""
    return {name: x[name] for name in x.dtype.names} if x.dtype.names else x
