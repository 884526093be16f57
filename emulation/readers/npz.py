"""Reads a user's own data set: a NumPy archive with a few agreed names.

``x_train, y_train, x_test, y_test``, or ``x, y``, which are then split. Optional: ``ids`` (whose each training sample
is; ``ids_train`` means the same), and ``classes`` (their number, or their names). Other entries are left alone. A task
without targets takes ``x_train, x_test`` alone.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from numpy.lib.npyio import NpzFile

from lamina.emulation.readers.raw import Array, Raw, Samples
from lamina.models.errors import DataError

_WITH_TEST = ("x_train", "y_train", "x_test", "y_test")
_ONE_SET = ("x", "y")
_INPUTS_WITH_TEST = ("x_train", "x_test")


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
    if held.issuperset(_WITH_TEST):
        x_train, y_train, x_test, y_test = (archive[name] for name in _WITH_TEST)
        return Raw(Samples(x_train, y_train), Samples(x_test, y_test), ids, classes)
    if held.issuperset(_ONE_SET):
        return Raw(Samples(archive["x"], archive["y"]), None, ids, classes)
    if held.issuperset(_INPUTS_WITH_TEST) and not held & set(_WITH_TEST[1::2]):
        return Raw(Samples(archive["x_train"], None), Samples(archive["x_test"], None), ids, classes)
    raise DataError(
        f"{path}: it holds {', '.join(sorted(held)) or 'nothing'}; "
        f"name the arrays {', '.join(_WITH_TEST)}, or {' and '.join(_ONE_SET)}"
    )


def _count(classes: Array) -> int:
    """Number of classes, from a number or from the list of their names."""
    return int(classes) if classes.ndim == 0 else len(classes)
