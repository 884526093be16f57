"""What a network's outputs are compared with: the element type and shape of a task's targets, and their rules.

Nothing here needs torch: a board reads a `TargetSpec` from a bundle's manifest, checks its data by it, and turns a
batch of stored targets into what a training graph takes:

    the task takes     targets are stored as              become
    class indices      integers or bool                   int64
    numbers            floating point, integers or bool   float32, with their scale
    the input itself   nothing                            float32: the batch that the network takes
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

NO_TARGETS = "none"
"""The element type that is told of data without targets."""

LARGEST_LABEL = 2**31 - 1


class TargetSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """The targets of a task.

    Attributes:
        task: its name.
        dtype: ``int64`` for class indices, ``float32`` for numbers.
        shape: of one sample's target; an empty tuple is a scalar.
        classes: how many there are, where targets are class indices; 0: they are not.
        ignored: a target of this value counts for nothing; ``None``: all count.
        weights: what each class weighs in the loss; empty: all weigh the same.
        largest: what a number may be at most, where there is such a bound (and 0 is the least then); 0: any.
        is_input: the network is to reproduce its input, and the data need no targets.
        missing: whether a number may be NaN, which counts for nothing.
    """

    task: str
    dtype: Literal["int64", "float32"] = "int64"
    shape: tuple[int, ...] = ()
    classes: int = 0
    ignored: int | None = None
    weights: tuple[float, ...] = ()
    largest: float = 0.0
    is_input: bool = False
    missing: bool = False

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether a sample is one or the other, so that there is a share of right ones."""
        return bool(self.classes) and not self.shape

    @property
    def what(self) -> str:
        """What the targets are, for a person."""
        if self.is_input:
            return "no targets: it reproduces its input"
        kind = "class indices" if self.classes else "numbers"
        return f"{kind} of shape {self.shape}, one such target a sample" if self.shape else f"{kind}, one a sample"


def fault_of_kind(target: TargetSpec, shape: tuple[int, ...], dtype: str) -> str:
    """Why stored targets of this kind are none for a task, as a clause; empty if they may be.

    Args:
        target: what the task takes.
        shape: of one stored target.
        dtype: NumPy's name for its element type, or `NO_TARGETS`.
    """
    if target.is_input:
        return ""
    if dtype == NO_TARGETS:
        return "it has no targets y"
    if target.classes and dtype.startswith("float"):
        return f"its targets are {dtype}"
    if not _same_but_for_ones(shape, target.shape):
        return f"its targets have the shape {shape}"
    return ""


def advice_on(target: TargetSpec, y: NDArray[Any]) -> str:
    """What to do about targets of a common wrong form, as the end of a sentence; empty for others."""
    kind = y.dtype.kind
    if target.task != SINGLE_LABEL:
        return ""
    if kind == "f" and y.ndim == 1 and (y == np.floor(y)).all():
        return ": give y.astype(int)"
    if y.ndim == 2 and kind in "buif" and y.size and ((y == 0) | (y == 1)).all():
        if (y.sum(1) == 1).all():
            return ": it looks one-hot, so give y.argmax(axis=1)"
        return ": for several labels a sample give the network task = 'multi_label'"
    return ": for numbers give the network task = 'regression'" if kind == "f" else ""


def fault_of_values(target: TargetSpec, y: NDArray[Any], first: int = 0) -> str:
    """The first stored target (N, ...) that is none for a task, as a clause; empty where there is none.

    `fault_of_kind` has passed; ``first`` is the number of ``y[0]``.
    """
    if not target.missing and y.dtype.kind == "f" and np.isnan(y).any():
        first_nan = first + int(np.argmax(np.isnan(y).reshape(len(y), -1).any(axis=1)))
        return (
            f"target {first_nan} is missing (NaN), and every number counts: leave it out, or give the network "
            "task = Regression(missing=True)"
        )
    if target.classes:
        allowed = (y >= 0) & (y < target.classes)
        if target.ignored is not None:
            allowed |= y == target.ignored
        what = f"the classes are 0 to {target.classes - 1}"
        what += "" if target.ignored is None else f", and {target.ignored} is ignored"
    elif target.largest:
        allowed = (y >= 0) & (y <= target.largest)
        what = f"they go from 0 to {target.largest:g}"
    else:
        return ""
    if allowed.all():
        return ""
    place = np.unravel_index(int(np.argmin(allowed)), y.shape)
    return f"target {first + place[0]} has the value {y[place]}, and {what}"


def as_taken(target: TargetSpec, y: NDArray[Any]) -> NDArray[Any]:
    """Stored targets (B, ...) as a training graph takes them: (B, *shape), C-contiguous."""
    return np.ascontiguousarray(y, target.dtype).reshape(len(y), *target.shape)


def drawn(target: TargetSpec, count: int, rng: np.random.Generator) -> NDArray[Any]:
    """Random targets (count, *shape), as they are taken."""
    shape = (count, *target.shape)
    if target.classes:
        return rng.integers(0, target.classes, shape)
    return (rng.integers(0, 2, shape) if target.largest else rng.standard_normal(shape)).astype(target.dtype)


def weight_of(target: TargetSpec, y: NDArray[Any]) -> float:
    """How much a batch of targets (B, ...), as they are taken, weighs in a mean over several batches."""
    if target.missing:
        return float(np.count_nonzero(~np.isnan(y)))
    if target.ignored is None and not target.weights:
        return float(len(y))
    counted = y[y != target.ignored] if target.ignored is not None else y.reshape(-1)
    if target.weights:
        return float(np.asarray(target.weights, np.float64)[counted].sum())
    return float(counted.size)


SINGLE_LABEL = "single_label"
"""The task whose bundles say nothing of it: one class index a sample."""


def _same_but_for_ones(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes are the same, but for extents of 1 at their ends."""
    return _without_ones(shape) == _without_ones(other)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
