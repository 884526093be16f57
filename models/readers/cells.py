"""Turns the cells of a column into numbers or labels, and says which cell can't be turned."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.errors import DataError, brief, did_you_mean

Cells = Sequence[Any] | NDArray[Any]
Where = Callable[[int], str]
"""Names the row with an index in a batch of cells, as ``readings.csv, line 7``."""

_MOST_CLASSES = 1 << 16
_FILL = "fill the gap, leave the row out, or set data.missing to drop or mask"
_SHOWN = 40  # characters of a cell in a message
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d[\d.]*,\d+\s*")


def numbers(cells: Cells, column: str, where: Where, *, missing: bool = False) -> NDArray[np.float64]:
    """The cells as finite numbers, (N,).

    Args:
        cells: of a column.
        column: its name.
        where: names a row.
        missing: whether empty cells and NaN are let pass, as NaN.

    Raises:
        DataError: one is none, or is too large for float32.
    """
    try:
        values = _converted(_with_nan(cells) if missing else cells)
    except (ValueError, TypeError, OverflowError):
        index = next(i for i, cell in enumerate(cells) if not is_number(cell) and not (missing and is_empty(cell)))
        raise DataError(f"{where(index)}, column {column!r}: {_not_a_number(cells[index])}") from None
    with np.errstate(over="ignore"):
        usable = np.isfinite(values.astype(np.float32)) | (missing & np.isnan(values))
    if not usable.all():
        index = int(np.argmin(usable))
        raise DataError(f"{where(index)}, column {column!r}: {values[index]:g} is not a finite float32 number; {_FILL}")
    return values


def _with_nan(cells: Cells) -> Cells:
    """The cells with NaN in those that are empty."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "buif":
        return cells
    return [("nan" if isinstance(cell, str) else math.nan) if is_empty(cell) else cell for cell in cells]


def is_empty(cell: object) -> bool:
    """Whether there is nothing in a cell."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def is_number(cell: object) -> bool:
    """Whether a cell is a number, NaN included."""
    try:
        float(cell)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        return False
    return not (isinstance(cell, str) and "_" in cell)  # Python's own way to write digits


def _converted(cells: Cells) -> NDArray[np.float64]:
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "buif":
        return cells.astype(np.float64, copy=False)
    values = np.fromiter(map(float, cells), np.float64, len(cells))
    if isinstance(cells[0] if len(cells) else None, str) and "_" in "".join(cells):
        raise ValueError
    return values


def _not_a_number(cell: object) -> str:
    if is_empty(cell):
        return f"the cell is empty; {_FILL}"
    shown = repr(brief(str(cell), _SHOWN))
    if isinstance(cell, str) and _DECIMAL_COMMA.fullmatch(cell):
        return f"{shown} has a decimal comma; write numbers with a point"
    return f"{shown} is not a number; name the columns to take in data.inputs, and classes as data.target"


class ClassColumn:
    """Numbers the classes of a column as they come.

    Args:
        names: of the classes, if the operator gave them: no other may come.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._given = bool(names)
        self._codes = {name: code for code, name in enumerate(names)}

    def labels(self, cells: Cells, column: str, where: Where) -> NDArray[np.int64]:
        """The cells' labels (N,), as `names` numbers them.

        Raises:
            DataError: a cell is empty, names a class that was not given, or there are too many classes.
        """
        found = np.empty(len(cells), np.int64)
        for index, cell in enumerate(cells):
            name = _name_of(cell)
            if name not in self._codes:
                self._add(name, column, where, index)
            found[index] = self._codes[name]
        return found

    def _add(self, name: str, column: str, where: Where, index: int) -> None:
        at = f"{where(index)}, column {column!r}"
        if not name:
            raise DataError(f"{at}: the cell is empty; give its class or leave the row out")
        if self._given:
            raise DataError(f"{at}: {brief(name, _SHOWN)!r} is not in data.classes; {did_you_mean(name, self._codes)}")
        if len(self._codes) == _MOST_CLASSES:
            raise DataError(f"{at}: there are more than {_MOST_CLASSES} different names; is {column!r} the target?")
        self._codes[name] = len(self._codes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their labels."""
        return tuple(self._codes)

    def ordered(self, labels: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Names and labels, numbered by the names' order instead of that in which they came, unless that was given."""
        if self._given:
            return self.names, labels
        names = sorted(self._codes)
        place = np.empty(len(names), np.int64)
        for new, name in enumerate(names):
            place[self._codes[name]] = new
        return tuple(names), place[labels]


def _name_of(cell: object) -> str:
    """A class's name as text: whole numbers lose a ``.0`` that a table gave them."""
    if cell is None:
        return ""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    if isinstance(cell, float | np.floating) and math.isfinite(cell) and cell == int(cell):
        return str(int(cell))
    return str(cell).strip()
