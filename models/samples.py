"""Labelled samples: the one set of rules for training and for evaluation, on boards and on the coordinator.

Samples stay as they are stored, so a set of images takes a byte a pixel in memory, and a pair of ``.npy`` files stays
on disk. A batch is turned into what the network takes:

    network takes   samples hold           become
    float32         floating point         float32
    float32         uint8 (images)         float32, divided by 255: 0.0 to 1.0
    float32         bool (masks)           float32: 0.0 or 1.0
    int64           integers, bool         int64 (tokens)

Everything else is refused, because a guess at its scale would cost accuracy silently. What becomes of targets is in
`lamina.models.targets`. Several named inputs are joined into one row of float32 numbers, which the network takes apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.errors import DataError, brief, did_you_mean
from lamina.models.readers.rows import Rows
from lamina.models.spec import ModelSpec, columns_of
from lamina.models.targets import (
    LARGEST_LABEL,
    NO_TARGETS,
    advice_on,
    as_taken,
    fault_of_kind,
    fault_of_values,
)

_BLOCK = 4096  # samples checked at once, so that a check takes little memory
_NOT_FINITE = "that are not finite float32 numbers; fill what is missing, and give a mask as a further input"
_MOST_JOINED = 1 << 24  # the largest whole number up to which float32 holds all

Stored = NDArray[Any] | Rows
"""An array (N, ...) in memory or on disk, or rows that are made when they are asked for."""

Inputs = Stored | Mapping[str, Stored]
"""One array, or several by name."""


@dataclass(frozen=True)
class LabelledSamples:
    """Samples and their targets: what every reader of data returns.

    Attributes:
        x: (N, *sample_shape) floating point or integers; or several such arrays by name, for a network that takes a
            dictionary.
        y: (N, *target_shape) class indices, numbers, or whatever the task takes; ``None`` where the task needs none.
        source: where they come from, for errors.
        class_names: of class 0, 1 and so on, where the source has names.
        numbered: whether somebody has said that the classes come in this order. Else they were found in the samples,
            and another device, which has other classes, numbers them otherwise.
        stretches: of windows of time series, which rows each covers: (N, 3), its series, the first of them and the one
            after the last; ``None``: samples share nothing.

    Raises:
        DataError: there are none, their numbers differ, or something isn't a finite float32 number.
    """

    x: Inputs
    y: Stored | None
    source: str = "data"
    class_names: tuple[str, ...] = ()
    numbered: bool = True
    stretches: NDArray[np.integer[Any]] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.x, Mapping):
            if not self.x:
                raise self._error("x holds no named array")
            object.__setattr__(self, "x", {name: _stored(part) for name, part in self.x.items()})
        else:
            object.__setattr__(self, "x", _stored(self.x))
        for name, part in self.parts.items():
            self._check_inputs(f"x.{name}" if name else "x", part)
        if self.y is not None:
            y = _stored(self.y)
            self._check_targets(y)
            whole = y.ndim == 1 and y.dtype.kind in "iu"
            object.__setattr__(self, "y", np.ascontiguousarray(y[:], np.int64) if whole else y)
        if len(self) == 0:
            raise self._error("there are no samples in it")
        if self.stretches is not None and not _are_stretches(self.stretches, len(self)):
            raise self._error(
                f"stretches must be whole numbers ({len(self)}, 3): series, first row, row after the last"
            )
        for name, part in self.parts.items():
            self._check_numbers(f"input {name}, sample" if name else "sample", part)
        if self.y is not None and self.y.dtype.kind == "f":
            self._check_numbers("target", self.y, missing=True)

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    @property
    def parts(self) -> dict[str, Stored]:
        """The inputs by name; a single one has the empty name."""
        return dict(self.x) if isinstance(self.x, Mapping) else {"": self.x}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample as the network takes it: a row, where several inputs are joined."""
        if isinstance(self.x, Mapping):
            return (sum(math.prod(part.shape[1:]) for part in self.x.values()),)
        return tuple(self.x.shape[1:])

    @property
    def sample_dtype(self) -> str:
        """NumPy's name for the element type of samples; that of a row, where several inputs are joined."""
        return "float32" if isinstance(self.x, Mapping) else self.x.dtype.name

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one target; an empty tuple is a scalar."""
        return () if self.y is None else tuple(self.y.shape[1:])

    @property
    def target_dtype(self) -> str:
        """NumPy's name for the element type of targets."""
        return NO_TARGETS if self.y is None else self.y.dtype.name

    @property
    def classes(self) -> int:
        """How many classes the targets span: the largest + 1; 0 where they are no class indices."""
        if self.y is None or self.y.dtype.kind not in "iub":
            return 0
        largest = max(int(block.max(initial=0)) for block in _blocks(self.y))
        return min(max(largest + 1, 0), LARGEST_LABEL)

    def numbered_for(self, spec: ModelSpec) -> LabelledSamples:
        """The same samples with their classes numbered as the model numbers them, where both have names.

        Raises:
            DataError: the model lacks a class, or neither the model nor anybody else says how to number them.
        """
        if not self.class_names or self.y is None or not spec.wanted.classes:
            return self
        if not spec.names:
            if not self.numbered:
                raise self._error(
                    f"its classes are called {brief(', '.join(self.class_names), 80)}, and nothing says how model "
                    f"{spec.name} numbers them: build its bundle with --classes, or give data.classes on every device"
                )
            return self
        if unknown := [name for name in self.class_names if name not in spec.names]:
            raise self._error(
                f"model {spec.name} has no class {brief(unknown[0], 40)!r}; {did_you_mean(unknown[0], spec.names)}"
            )
        place = np.array([spec.names.index(name) for name in self.class_names], np.int64)
        y = np.asarray(self.y[:])
        if (nameless := y >= len(place)).any():
            raise self._error(f"label {int(y[nameless][0])} has no name: there are {len(place)}, from 0 on")
        return replace(self, y=np.where(y < 0, y, place[np.maximum(y, 0)]), class_names=spec.names, numbered=True)

    def check(self, spec: ModelSpec) -> None:
        """See that a network can learn from these samples.

        Raises:
            DataError: inputs or targets are of another shape or type than it takes, or a target is beyond its classes.
        """
        if reason := self._misnamed(spec) or unsuitable(
            spec, self.sample_shape, self.sample_dtype, 0, self.target_shape, self.target_dtype
        ):
            raise self._error(reason + (advice_on(spec.wanted, self.y[:]) if self.y is not None else ""))
        target = spec.wanted
        for number, block in enumerate(_blocks(self.y) if self.y is not None and not target.is_input else ()):
            if fault := fault_of_values(target, block, number * _BLOCK):
                raise self._error(f"{fault} (model {spec.name})")

    def check_inputs(self, spec: ModelSpec) -> None:
        """See that a network can predict from these samples, whatever targets they have.

        Raises:
            DataError: they are of another shape or type than it takes.
        """
        if reason := self._misnamed(spec) or _unlike(
            spec.input_shape, spec.input_dtype, self.sample_shape, self.sample_dtype, spec.name
        ):
            raise self._error(reason)

    def samples(self, indices: NDArray[np.int64], dtype: str) -> NDArray[Any]:
        """The samples at ``indices`` (B,) as a network of one input takes them: (B, *sample_shape), C-contiguous.

        Args:
            indices: which ones.
            dtype: the network's ``input_dtype``, ``float32`` or ``int64``; `check` has passed.
        """
        if isinstance(self.x, Mapping):
            raise ValueError("several inputs are joined by `inputs`")
        return _scaled(self.x[indices], dtype)

    def inputs(self, indices: NDArray[np.int64], spec: ModelSpec) -> NDArray[Any]:
        """The samples at ``indices`` (B,) as a network takes them: (B, *input_shape), C-contiguous."""
        if not spec.named_inputs:
            return self.samples(indices, spec.input_dtype)
        parts = self.parts
        rows = [_scaled(parts[one.name][indices], one.dtype).reshape(len(indices), -1) for one in spec.named_inputs]
        return np.concatenate(rows, axis=1, dtype=np.float32)

    def targets(self, indices: NDArray[np.int64], spec: ModelSpec) -> NDArray[Any]:
        """The targets at ``indices`` (B,) as a network's task takes them: (B, *target_shape), C-contiguous."""
        target = spec.wanted
        if target.is_input:
            return as_taken(target, self.inputs(indices, spec))
        if self.y is None:
            raise self._error("it has no targets y")
        return as_taken(target, self.y[indices])

    def _misnamed(self, spec: ModelSpec) -> str:
        """Why the names, shapes and types of inputs aren't the network's; empty if they are."""
        wanted = spec.named_inputs
        if isinstance(self.x, Mapping) != bool(wanted) or (wanted and set(self.parts) != {one.name for one in wanted}):
            takes = ", ".join(one.name for one in wanted) or "one array"
            has = ", ".join(self.parts) if isinstance(self.x, Mapping) else "one array"
            return f"its inputs are {has}, and model {spec.name} takes {takes}"
        for one in wanted:
            part = self.parts[one.name]
            if reason := _unlike(one.shape, one.dtype, tuple(part.shape[1:]), part.dtype.name, spec.name):
                return f"input {one.name}: {reason}"
            if one.dtype == "int64" and any(block.max(initial=0) > _MOST_JOINED for block in _blocks(part)):
                return f"input {one.name} has tokens above {_MOST_JOINED}, the most where several inputs are joined"
        return ""

    def _check_inputs(self, name: str, x: Stored) -> None:
        if x.ndim < 2 and not (isinstance(self.x, Mapping) and x.ndim == 1):
            raise self._error(f"{name} must be samples of shape (N, ...), and has the shape {x.shape}")
        if len(x) != len(self):
            raise self._error(f"{name} has {len(x)} samples, and another input {len(self)}")
        if x.dtype.kind not in "fiub":
            raise self._error(f"{name} must be floating point, integers or bool, and is {x.dtype}")

    def _check_targets(self, y: Stored) -> None:
        if y.dtype.kind in "SU":
            raise self._error(
                f"y must be numbers, and is {y.dtype}: number the classes, for instance by "
                "numpy.unique(y, return_inverse=True)[1]"
            )
        if y.dtype.kind not in "biuf":
            raise self._error(f"y must be numbers, and is {y.dtype}")
        if y.ndim == 0 or len(y) != len(self):
            raise self._error(f"x has {len(self)} samples and y {len(y) if y.ndim else 1} labels")

    def _check_numbers(self, what: str, x: Stored, *, missing: bool = False) -> None:
        """Refuse what a network can't take: infinity, numbers beyond float32, integers below 0, and NaN, unless numbers
        may be missing.
        """
        if isinstance(x, Rows):  # their reader has looked at what they are made of
            return
        floating = np.issubdtype(x.dtype, np.floating)
        if x.dtype.kind in "ub":
            return
        for start, block in zip(range(0, len(x), _BLOCK), _blocks(x), strict=True):
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused for it
                fine: NDArray[np.bool_] = np.isfinite(block.astype(np.float32, copy=False)) if floating else block >= 0
                fine = fine | np.isnan(block) if missing and floating else fine
            usable = fine.reshape(len(block), -1).all(axis=1)
            if not usable.all():
                why = _NOT_FINITE if floating else "below 0, and integers are token ids"
                raise self._error(f"{what} {start + int(np.argmin(usable))} has values {why}")

    def _error(self, what: str) -> DataError:
        return DataError(f"{self.source}: {what}")


def inputs_of_rows(x: NDArray[Any], spec: ModelSpec) -> Inputs:
    """The named inputs that are joined to rows ``x`` (N, R); ``x`` itself, where the network takes one array."""
    if not spec.named_inputs:
        return x
    return {
        one.name: x[:, columns].reshape(len(x), *one.shape).astype(one.dtype)
        for one, columns in columns_of(spec.named_inputs)
    }


def unsuitable(
    spec: ModelSpec,
    sample_shape: tuple[int, ...],
    dtype: str,
    classes: int,
    target_shape: tuple[int, ...] = (),
    target_dtype: str = "int64",
) -> str:
    """Why a network can't learn from samples of a kind, as a sentence; empty if it can.

    Args:
        spec: of the network.
        sample_shape: shape of one sample.
        dtype: NumPy's name for the type of the samples' elements; empty where it isn't known, which passes.
        classes: largest label + 1; 0 where that isn't known.
        target_shape: shape of one target.
        target_dtype: NumPy's name for the type of the targets' elements; `NO_TARGETS` where there are none.
    """
    if reason := _unlike(spec.input_shape, spec.input_dtype, sample_shape, dtype, spec.name):
        return reason
    target = spec.wanted
    if fault := fault_of_kind(target, target_shape, target_dtype):
        return f"{fault}, and model {spec.name} takes {target.what}"
    if 0 < target.classes < classes and (target.ignored is None or target.ignored < target.classes):
        return f"its labels reach {classes - 1}, and model {spec.name} has the classes 0 to {target.classes - 1}"
    return ""


def _unlike(wanted: tuple[int, ...], wanted_dtype: str, shape: tuple[int, ...], dtype: str, model: str) -> str:
    """Why samples of this shape and type are none for an input of a network, as a sentence; empty if they are."""
    if shape != wanted:
        return f"its samples have the shape {shape}, and model {model} takes {wanted}"
    if dtype and dtype not in ("uint8", "bool") and dtype.startswith("float") != (wanted_dtype == "float32"):
        advice = "convert the samples to float32" if wanted_dtype == "float32" else "give token ids"
        return f"its samples are {dtype}, and model {model} takes {wanted_dtype}: {advice}"
    return ""


def _are_stretches(stretches: NDArray[Any], samples: int) -> bool:
    whole = stretches.shape == (samples, 3) and stretches.dtype.kind == "i"
    return whole and bool((stretches[:, 1] >= 0).all()) and bool((stretches[:, 1] < stretches[:, 2]).all())


def _stored(array: Stored) -> Stored:
    return array if isinstance(array, Rows) else np.asanyarray(array)  # asanyarray: a memory map stays one


def _blocks(array: Stored) -> Iterator[NDArray[Any]]:
    """All rows, some at a time."""
    return (array[start : start + _BLOCK] for start in range(0, len(array), _BLOCK))


def _scaled(chosen: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Stored samples as a network takes them, C-contiguous."""
    if dtype == "float32" and chosen.dtype == np.uint8:
        chosen = np.divide(chosen, np.float32(255), dtype=np.float32)
    return np.ascontiguousarray(chosen, dtype)
