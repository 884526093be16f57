"""Reads a user's own data set: a NumPy archive with a few agreed names.

``x_train, y_train, x_test, y_test``, or ``x, y``, which are then split. Optional: ``ids`` (whose each training sample
is; ``ids_train`` means the same), and ``classes`` (their number, or their names). Other entries are left alone. A task
without targets takes ``x_train, x_test``, or ``x``, alone. Several inputs are ``x_train.NAME`` each, or ``x.NAME``.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from numpy.lib.npyio import NpzFile

from lamina.emulation.readers.raw import Array, Raw, Samples, records
from lamina.models.errors import DataError

_NAMES = "x_train, y_train, x_test, y_test, or x and y"


def read_npz(path: Path) -> Raw:
    """The samples of an ``.npz``.

    Raises:
        DataError: it is no numpy archive, holds Python objects, or lacks the names above.
    """
    try:
        with path.open("rb") as file:
            return _read(path, NpzFile(file, allow_pickle=False))
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path}: not an archive of plain numpy arrays: {error}") from error


def _read(path: Path, archive: NpzFile) -> Raw:
    held = set(archive.files)
    ids = next((archive[name] for name in ("ids", "ids_train") if name in held), None)
    classes = _count(archive["classes"]) if "classes" in held else None
    train, test, whole = (_samples(path, archive, end) for end in ("_train", "_test", ""))
    if train is not None and test is not None and (train.y is None) == (test.y is None):
        return Raw(train, test, ids, classes)
    if whole is not None:
        return Raw(whole, None, ids, classes)
    raise DataError(f"{path}: it holds {', '.join(sorted(held)) or 'nothing'}; name the arrays {_NAMES}")


def _samples(path: Path, archive: NpzFile, end: str) -> Samples | None:
    """The arrays of one part, whose names have an end; ``None`` where they aren't there."""
    names, parts = archive.files, [name for name in archive.files if name.startswith(f"x{end}.")]
    if not parts and f"x{end}" not in names:
        return None
    y = archive[f"y{end}"] if f"y{end}" in names else None
    if not parts:
        return Samples(archive[f"x{end}"], y)
    try:
        return Samples(records({name.removeprefix(f"x{end}."): archive[name] for name in parts}), y)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _count(classes: Array) -> int:
    """Number of classes, from a number or from the list of their names."""
    return int(classes) if classes.ndim == 0 else len(classes)
