"""Labelled samples: the one set of rules for training and for evaluation, on boards and on the coordinator.

Samples stay as they are stored, so a set of images takes a byte a pixel in memory, and a pair of ``.npy`` files stays
on disk. A batch is turned into what the network takes:

    network takes   samples hold           become
    float32         floating point         float32
    float32         uint8 (images)         float32, divided by 255: 0.0 to 1.0
    int64           any integers (tokens)  int64

Everything else is refused, because a guess at its scale would cost accuracy silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.errors import DataError
from lamina.models.spec import ModelSpec

_LARGEST_LABEL = 2**31 - 1
_BLOCK = 4096  # samples checked at once, so that a check takes little memory


@dataclass(frozen=True)
class LabelledSamples:
    """Labelled samples.

    Attributes:
        x: (N, *sample_shape) floating point, or integers.
        y: (N,) class indices, int64 once it is built.
        source: where they come from, for errors.

    Raises:
        DataError: there are none, their numbers differ, a label is no class index, or a sample isn't finite in float32.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    source: str = "data"

    def __post_init__(self) -> None:
        x, y = np.asanyarray(self.x), np.asarray(self.y)  # asanyarray: a memory map stays one
        if y.ndim != 1:
            advice = _advice_for_labels(y)
            raise self._error(f"y must be class indices of shape (N,), and has the shape {y.shape}{advice}")
        if x.ndim < 2:
            raise self._error(f"x must be samples of shape (N, ...), and has the shape {x.shape}")
        if len(x) != len(y):
            raise self._error(f"x has {len(x)} samples and y {len(y)} labels")
        if len(x) == 0:
            raise self._error("there are no samples in it")
        if not np.issubdtype(y.dtype, np.integer):
            raise self._error(f"y must be integers, and is {y.dtype}{_advice_for_labels(y)}")
        if not np.issubdtype(x.dtype, np.integer) and not np.issubdtype(x.dtype, np.floating):
            raise self._error(f"x must be floating point or integers, and is {x.dtype}")
        if (wrong := (y < 0) | (y > _LARGEST_LABEL)).any():
            index = int(np.argmax(wrong))
            raise self._error(f"label {index} is {y[index]}; class indices start at 0 and end at {_LARGEST_LABEL}")
        self._check_numbers(x)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", np.ascontiguousarray(y, np.int64))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x.shape[1:])

    @property
    def classes(self) -> int:
        """How many classes the labels span: the largest label + 1."""
        return int(self.y.max()) + 1

    def check(self, spec: ModelSpec) -> None:
        """See that a network can learn from these samples.

        Raises:
            DataError: their shape or type isn't what it takes, or a label is beyond its classes.
        """
        if reason := unsuitable(spec, self.sample_shape, self.x.dtype.name, self.classes):
            if self.classes > spec.classes:
                index = int(np.argmax(self.y >= spec.classes))
                reason += f" (label {index} is {self.y[index]})"
            raise self._error(reason)

    def samples(self, indices: NDArray[np.int64], dtype: str) -> NDArray[Any]:
        """The samples at ``indices`` (B,) as a network takes them: (B, *sample_shape), C-contiguous.

        Args:
            indices: which ones.
            dtype: the network's ``input_dtype``, ``float32`` or ``int64``; `check` has passed.
        """
        chosen: NDArray[Any] = self.x[indices]
        if dtype == "float32" and chosen.dtype == np.uint8:
            chosen = np.divide(chosen, np.float32(255), dtype=np.float32)
        return np.ascontiguousarray(chosen, dtype)

    def _check_numbers(self, x: NDArray[Any]) -> None:
        """Refuse what a network can't take: NaN, infinity, numbers beyond float32, and integers below 0."""
        floating = np.issubdtype(x.dtype, np.floating)
        if not floating and x.dtype.kind == "u":
            return
        for start in range(0, len(x), _BLOCK):
            block = x[start : start + _BLOCK]
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused for it
                fine: NDArray[np.bool_] = np.isfinite(block.astype(np.float32, copy=False)) if floating else block >= 0
            usable = fine.reshape(len(block), -1).all(axis=1)
            if not usable.all():
                what = "that are not finite float32 numbers" if floating else "below 0, and integers are token ids"
                raise self._error(f"sample {start + int(np.argmin(usable))} has values {what}")

    def _error(self, what: str) -> DataError:
        return DataError(f"{self.source}: {what}")


def unsuitable(spec: ModelSpec, sample_shape: tuple[int, ...], dtype: str, classes: int) -> str:
    """Why a network can't learn from samples of a kind, as a sentence; empty if it can.

    Args:
        spec: of the network.
        sample_shape: shape of one sample.
        dtype: NumPy's name for the type of the samples' elements; empty where it isn't known, which passes.
        classes: largest label + 1.
    """
    if sample_shape != spec.input_shape:
        return f"its samples have the shape {sample_shape}, and model {spec.name} takes {spec.input_shape}"
    if dtype and dtype != "uint8" and dtype.startswith("float") != (spec.input_dtype == "float32"):
        advice = "convert the samples to float32" if spec.input_dtype == "float32" else "give token ids"
        return f"its samples are {dtype}, and model {spec.name} takes {spec.input_dtype}: {advice}"
    if classes > spec.classes:
        return f"its labels reach {classes - 1}, and model {spec.name} has the classes 0 to {spec.classes - 1}"
    return ""


def _advice_for_labels(y: NDArray[Any]) -> str:
    """What to do about labels of a common wrong form, as the end of a sentence; empty for others."""
    if y.ndim == 2 and y.shape[1] == 1:
        return ": give y[:, 0]"
    if y.ndim == 2 and y.dtype.kind in "buif" and y.size and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
        return ": it looks one-hot, so give y.argmax(axis=1)"
    if y.ndim == 1 and y.dtype.kind in "SU":
        return ": number the classes, for instance by numpy.unique(y, return_inverse=True)[1]"
    if y.ndim == 1 and y.dtype.kind == "f" and (y == np.floor(y)).all():
        return ": give y.astype(int)"
    if y.ndim == 1 and y.dtype.kind == "b":
        return ": give y.astype(int)"
    return ""
