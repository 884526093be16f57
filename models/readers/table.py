"""Reads the named columns of a table to arrays, batch by batch: memory holds the arrays and one batch of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lamina.models.errors import DataError, did_you_mean
from lamina.models.readers.cells import Cells, ClassColumn, Where, is_empty, is_number, numbers
from lamina.models.readers.read import Read
from lamina.models.readers.rows import Array
from lamina.models.readers.series import Gathered, cut
from lamina.models.readers.settings import DataSettings

BATCH = 4096
"""Rows that a table hands over at once."""


class TableRows(NamedTuple):
    """Some rows of a table, column by column.

    Attributes:
        columns: the cells of each, (B,).
        rows: what a person calls each row: its line in the file, or its number.
    """

    columns: Sequence[Cells]
    rows: Sequence[int]


class Table(Protocol):
    """A table in a file.

    Attributes:
        source: the file, for messages.
        unit: what a row is called there: ``line`` or ``row``.
        columns: their names.
    """

    @property
    def source(self) -> str: ...  # noqa: D102

    @property
    def unit(self) -> str: ...  # noqa: D102

    @property
    def columns(self) -> tuple[str, ...]: ...  # noqa: D102

    def batches(self, names: Sequence[str]) -> Iterator[TableRows]:
        """The rows from the first to the last, with these columns, at most `BATCH` at once.

        Raises:
            DataError: the file is damaged, or a row has other columns than the first line says.
        """
        ...


def read_table(table: Table, settings: DataSettings) -> Read:
    """The samples that the settings make of a table's columns.

    Raises:
        DataError: a column is missing or named twice, a cell can't be used, or the windows are longer than the series.
    """
    inputs, targets = chosen(table, settings)
    return cut(table.source, _gathered(table, inputs, targets, settings), settings)


def chosen(table: Table, settings: DataSettings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of the inputs and of the target.

    Raises:
        DataError: one is missing or named twice, or none is left for the inputs.
    """
    own = [settings.group] if settings.group else []
    away = {*own} if settings.horizon else {*own, *settings.targets}
    inputs = settings.inputs or tuple(name for name in table.columns if name not in away)
    targets = settings.targets or (inputs if settings.horizon else ())
    for name in (*inputs, *targets, *own):
        if (found := table.columns.count(name)) == 0:
            raise DataError(f"{table.source}: there is no column {name!r}; {did_you_mean(name, table.columns)}")
        if found > 1:
            raise DataError(f"{table.source}: {found} columns are named {name!r}: give each a name of its own")
    if not inputs:
        raise DataError(f"{table.source}: no column is left for the inputs; name them in data.inputs")
    return inputs, targets


@dataclass
class _Grown:
    """A float32 or float64 matrix that rows are added to; a bytearray grows in place."""

    columns: int
    dtype: type[np.number[Any]]
    content: bytearray = field(default_factory=bytearray)

    def add(self, columns: Sequence[Array]) -> None:
        self.content += np.stack(columns, axis=1).astype(self.dtype, copy=False).tobytes()

    def array(self) -> Array:
        return np.frombuffer(self.content, self.dtype).reshape(-1, self.columns)


def _gathered(table: Table, inputs: Sequence[str], targets: Sequence[str], settings: DataSettings) -> Gathered:
    names = list(dict.fromkeys((*inputs, *targets, *((settings.group,) if settings.group else ()))))
    place = {name: index for index, name in enumerate(names)}
    masked, lenient = settings.missing == "mask", settings.missing != "refuse"
    within = settings.horizon and set(targets) <= set(inputs) and not masked
    ahead = [inputs.index(name) for name in targets] if within else []
    further = () if ahead else targets
    gone: list[NDArray[np.bool_]] = []
    read = _Grown(len(inputs) * (1 + masked), np.float32)
    told = _Grown(len(further), np.float32 if settings.horizon else np.float64)
    groups, of_group, label = ClassColumn(), _Grown(1, np.int32), _target(settings, further)
    rows = 0
    for batch in table.batches(names):
        where = _where(table, batch)
        if not rows:
            label.begin(batch.columns[place[further[0]]] if further else ())
        known = {name: numbers(batch.columns[place[name]], name, where, missing=lenient) for name in inputs}
        columns = [known[name] for name in inputs]
        answers = [label.values(batch.columns[place[name]], name, where, known) for name in further]
        read.add(_filled(columns, masked=masked) if lenient else columns)
        if further:
            told.add(answers)
        if settings.missing == "drop":
            gone.append(np.isnan(np.stack([*columns, *answers])).any(axis=0))
        if settings.group:
            of_group.add([groups.labels(batch.columns[place[settings.group]], settings.group, where)])
        rows += len(batch.rows)
    if not rows:
        raise DataError(f"{table.source}: there are no rows in it")
    of_rows = of_group.array()[:, 0] if settings.group else None
    left_out = np.concatenate(gone) if gone else None
    if ahead:  # the targets are among the inputs, and take no memory twice
        x = read.array()
        return Gathered(x, x if list(inputs) == list(targets) else x[:, ahead], of_rows, gone=left_out)
    labels, classes = label.finished(told.array(), left_out) if targets else (None, ())
    return Gathered(read.array(), labels, of_rows, classes, left_out)


def _filled(columns: Sequence[NDArray[np.float64]], *, masked: bool) -> list[NDArray[np.float64]]:
    """Zeros where numbers are missing; and, behind them, whether each was there."""
    there = [~np.isnan(column) for column in columns]
    filled = [np.where(here, column, 0.0) for here, column in zip(there, columns, strict=True)]
    return [*filled, *(here.astype(np.float64) for here in there)] if masked else filled


def _where(table: Table, batch: TableRows) -> Where:
    return lambda index: f"{table.source}, {table.unit} {batch.rows[index]}"


def _target(settings: DataSettings, targets: Sequence[str]) -> _Target:
    if settings.classes and len(targets) > 1:
        raise DataError("data.classes names the classes of one target, and data.target has several columns")
    return _Target(settings, single=len(targets) == 1)


class _Target:
    """Decides by the first cell whether a target is a class by name, or a number."""

    def __init__(self, settings: DataSettings, *, single: bool) -> None:
        self._settings, self._single = settings, single
        self._column = ClassColumn(settings.classes)
        self._named = False

    def begin(self, cells: Cells) -> None:
        text = len(cells) > 0 and any(cell not in (None, "") and not is_number(cell) for cell in cells)
        self._named = self._single and not self._settings.horizon and (bool(self._settings.classes) or text)

    def values(self, cells: Cells, column: str, where: Where, known: dict[str, NDArray[np.float64]]) -> Array:
        lenient = self._settings.missing != "refuse"
        if self._named and self._settings.missing == "drop":
            return self._labels_but_for_empty(cells, column, where)
        if self._named:
            return self._column.labels(cells, column, where).astype(np.float64)
        return known[column] if column in known else numbers(cells, column, where, missing=lenient)

    def _labels_but_for_empty(self, cells: Cells, column: str, where: Where) -> Array:
        """Labels, and NaN where there is none."""
        there = np.array([not is_empty(cell) for cell in cells])
        values, places = np.full(len(there), np.nan), np.flatnonzero(there)
        known = [cells[int(place)] for place in places]
        values[there] = self._column.labels(known, column, lambda index: where(int(places[index])))
        return values

    def finished(self, values: NDArray[np.float64], gone: NDArray[np.bool_] | None) -> tuple[Array, tuple[str, ...]]:
        """Names give labels; so do whole numbers, unless they are to be foretold."""
        if gone is not None:
            values = np.where(np.isnan(values), 0.0, values)  # of rows that are left out
        if self._named:
            names, labels = self._column.ordered(values[:, 0].astype(np.int64))
            return labels, names
        if self._settings.horizon or not _whole(values):
            told = values.astype(np.float32, copy=False)
        else:
            told = values.astype(np.int64)
        return (told[:, 0] if self._single and not self._settings.horizon else told), ()


def _whole(values: NDArray[np.float64]) -> bool:
    return all(bool((block == np.floor(block)).all()) for block in np.array_split(values, 1 + len(values) // BATCH))
