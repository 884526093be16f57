"""What a reader returns: samples as the file holds them, before any scaling or splitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples and their targets.

    Attributes:
        x: samples, batch first; unsigned bytes are pixels, other integers are tokens, floats are ready for use.
        y: targets, (N, ...); ``None`` where there are none.
    """

    x: Array
    y: Array | None


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
