"""Reads CIFAR as published ("python version"): a folder of pickles, of which only plain arrays are admitted.

A pickle can name any function of any module and have it called. This reader resolves the few names that numpy arrays
need, and refuses the rest before anything runs.

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lamina.emulation.readers.raw import Raw, Samples
from lamina.models.errors import DataError

# folder's kind: training files, test file, key of the labels, classes
_CIFAR10 = (tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch", b"labels", 10)
_CIFAR100 = (("train",), "test", b"fine_labels", 100)

# numpy's own function for rebuilding an array has moved between its versions: ask an array which one it is
_REBUILD: Any = np.empty(0).__reduce__()[0]
_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _REBUILD,
    ("numpy._core.multiarray", "_reconstruct"): _REBUILD,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # how pickles of protocol 2 write bytes
}


def is_cifar(folder: Path) -> bool:
    """Whether ``folder`` is named like an unpacked CIFAR-10 or CIFAR-100 archive, going by its files."""
    return (folder / _CIFAR10[1]).is_file() or ((folder / "train").is_file() and (folder / "meta").is_file())


def read_cifar(folder: Path) -> Raw:
    """All of CIFAR-10 or CIFAR-100 (fine labels): x (N, 3, 32, 32) uint8, y (N,).

    Raises:
        DataError: a file is missing, isn't a pickle of arrays, or doesn't hold images.
    """
    train, test, labels, classes = _CIFAR10 if (folder / _CIFAR10[1]).is_file() else _CIFAR100
    return Raw(_read_batches(folder, train, labels), _read_batches(folder, (test,), labels), classes=classes)


def _read_batches(folder: Path, names: Sequence[str], labels: bytes) -> Samples:
    batches = [_read_batch(folder / name, labels) for name in names]
    x = np.concatenate([batch.x for batch in batches])
    return Samples(x.reshape(-1, 3, 32, 32), np.concatenate([batch.y for batch in batches]))


def _read_batch(path: Path, labels: bytes) -> Samples:
    try:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="bytes").load()
        x, y = np.asarray(batch[b"data"]), np.asarray(batch[labels])
    except FileNotFoundError:
        raise DataError(f"{path}: this file of the CIFAR folder is missing; unpack the archive again") from None
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{path}: not a CIFAR batch as published ({type(error).__name__}: {error})") from error
    if x.dtype != np.uint8 or x.ndim != 2 or x.shape[1] != 3 * 32 * 32:
        raise DataError(f"{path}: CIFAR rows are 3072 unsigned bytes, and here they are {x.dtype} {x.shape}")
    return Samples(x, y)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and what needs no name at all (numbers, strings, bytes, lists, dicts)."""

    def find_class(self, module: str, name: str) -> Any:
        """The object behind a name in the pickle.

        Raises:
            UnpicklingError: it is not one that arrays need.
        """
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs: refused") from None
