"""What does this board learn from? Its own samples, checked once, and the order in which rounds visit them.

Samples stay as they are stored, so a set of images takes a byte a pixel in memory, and a pair of ``.npy`` files stays
on disk. A batch is turned into what the network takes:

    network takes   samples hold           become
    float32         floating point         float32
    float32         uint8 (images)         float32, divided by 255: 0.0 to 1.0
    int64           any integers (tokens)  int64

Everything else is refused, because a guess at its scale would cost accuracy silently.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.errors import DataError
from lamina.models.spec import ModelSpec

_BLOCK = 4096  # samples checked at once, so that a check takes little memory


@dataclass(frozen=True)
class TrainingData:
    """Labelled samples.

    Attributes:
        x: (N, *sample_shape) floating point, or integers.
        y: (N,) class indices, int64 once it is built.
        source: where they come from, for errors.

    Raises:
        DataError: there are none, their numbers differ, a label is no class index, or a sample isn't finite.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    source: str = "data"

    def __post_init__(self) -> None:
        x, y = np.asanyarray(self.x), np.asarray(self.y)  # asanyarray: a memory map stays one
        if y.ndim != 1:
            raise self._error(f"y must be class indices of shape (N,), and has the shape {y.shape}")
        if x.ndim < 2:
            raise self._error(f"x must be samples of shape (N, ...), and has the shape {x.shape}")
        if len(x) != len(y):
            raise self._error(f"x has {len(x)} samples and y {len(y)} labels")
        if len(x) == 0:
            raise self._error("there are no samples in it")
        if not np.issubdtype(y.dtype, np.integer):
            raise self._error(f"y must be integers, and is {y.dtype}")
        if not np.issubdtype(x.dtype, np.integer) and not np.issubdtype(x.dtype, np.floating):
            raise self._error(f"x must be floating point or integers, and is {x.dtype}")
        if (y < 0).any():
            index = int(np.argmax(y < 0))
            raise self._error(f"label {index} is {y[index]}; class indices start at 0")
        self._check_finite(x)
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
        if self.sample_shape != spec.input_shape:
            raise self._error(
                f"its samples have the shape {self.sample_shape}, and model {spec.name} takes {spec.input_shape}"
            )
        if self.x.dtype != np.uint8 and np.issubdtype(self.x.dtype, np.floating) != (spec.input_dtype == "float32"):
            advice = "convert the samples to float32" if spec.input_dtype == "float32" else "give token ids"
            raise self._error(
                f"its samples are {self.x.dtype}, and model {spec.name} takes {spec.input_dtype}: {advice}"
            )
        if self.classes > spec.classes:
            index = int(np.argmax(self.y >= spec.classes))
            raise self._error(
                f"label {index} is {self.y[index]}, and model {spec.name} has the classes 0 to {spec.classes - 1}"
            )

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

    def _check_finite(self, x: NDArray[Any]) -> None:
        if not np.issubdtype(x.dtype, np.floating):
            return
        for start in range(0, len(x), _BLOCK):
            block = x[start : start + _BLOCK]
            finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
            if not finite.all():
                raise self._error(f"sample {start + int(np.argmin(finite))} has values that are not finite")

    def _error(self, what: str) -> DataError:
        return DataError(f"{self.source}: {what}")


def load_data(source: str) -> TrainingData:
    """The samples that a configuration names.

    Args:
        source: ``samples.npz`` with ``x`` and ``y``; a pair ``x.npy,y.npy``, of which the samples stay on disk; or
            ``module:function``, called without arguments, which returns ``(x, y)``. A module is also looked for in the
            current folder.

    Raises:
        DataError: there is no such thing, or what it holds can't be used.
    """
    parts = [part.strip() for part in source.split(",")]
    if len(parts) == 2 and all(part.endswith(".npy") for part in parts):
        return TrainingData(_array(parts[0], mapped=True), _array(parts[1]), source)
    if len(parts) == 1 and source.endswith(".npz"):
        return _archive(source)
    if len(parts) == 1 and source.count(":") == 1 and all(source.split(":")):
        return _called(source)
    raise DataError(f"data {source!r}: give samples.npz, a pair x.npy,y.npy, or module:function")


def sample_order(
    seed: int,
    device: str,
    round: int,  # noqa: A002 - the field's word for it
    n: int,
    count: int,
) -> NDArray[np.int64]:
    """Which samples a device visits in a round: (count,) indices below ``n``, batch after batch.

    A device passes through its samples epoch by epoch, each in a new order; round r goes on where round r - 1 ends, so
    every sample is seen equally often. The order depends on the arguments alone: on no process, platform or version of
    numpy, of whose generators only the raw bits are used (those of PCG64 and SeedSequence are promised not to change).

    Args:
        seed: the federation's.
        device: its name.
        round: 0-based.
        n: samples that the device has, at least 1.
        count: samples to visit: local steps times batch size, the same in every round.
    """
    start, stop = round * count, (round + 1) * count
    epochs = range(start // n, -(-stop // n))
    stream = np.concatenate([_shuffled(seed, device, epoch, n) for epoch in epochs])
    return stream[start - epochs.start * n :][:count]


def _shuffled(seed: int, device: str, epoch: int, n: int) -> NDArray[np.int64]:
    """A permutation of n: the ranks of random 64-bit numbers. Equal ones, practically none, keep their order."""
    name = int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "little")
    bits = np.random.PCG64(np.random.SeedSequence((seed % 2**64, name, epoch)))
    return np.argsort(bits.random_raw(n), kind="stable").astype(np.int64, copy=False)


def _archive(path: str) -> TrainingData:
    try:
        with Path(path).open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: it is a single array, not an archive with x and y")
            if missing := [name for name in ("x", "y") if name not in archive]:
                raise DataError(f"{path}: it has no array {missing[0]!r}, only {', '.join(archive.files) or 'none'}")
            return TrainingData(archive["x"], archive["y"], path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (seen from {Path.cwd()})") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: can't be read as .npz: {error}") from error


def _array(path: str, *, mapped: bool = False) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (seen from {Path.cwd()})") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: can't be read as .npy: {error}") from error
    return array


def _called(source: str) -> TrainingData:
    name, function_name = source.split(":")
    if "" not in sys.path:  # an installed command does not look in the current folder by itself
        sys.path.append("")
    try:
        module = importlib.import_module(name)
        if not callable(function := getattr(module, function_name, None)):
            raise DataError(f"data {source}: module {name} has no function {function_name!r}")
        returned = function()
    except DataError:
        raise
    except Exception as error:  # the operator's own code may raise anything
        raise DataError(f"data {source}: {type(error).__name__}: {error}") from error
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise DataError(f"data {source}: it must return (x, y), and returned a {type(returned).__name__}")
    return TrainingData(np.asanyarray(returned[0]), np.asarray(returned[1]), source)
