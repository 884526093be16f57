"""Finds the files of a folder and their classes: by the folders that they are in, or by a CSV beside them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lamina.models.errors import DataError, did_you_mean
from lamina.models.readers.cells import ClassColumn, is_number, numbers
from lamina.models.readers.csv_table import CsvTable
from lamina.models.readers.rows import Array
from lamina.models.readers.settings import DataSettings

_FILE_COLUMNS = ("file", "filename", "file_name", "path")
_TARGET_COLUMNS = ("class", "label", "target")


class Labelled(NamedTuple):
    """Files and what they show.

    Attributes:
        files: in the order of their names, or of the CSV.
        targets: (N,) labels int64, or numbers float32; ``None`` where nothing says.
        classes: names, by label; empty where labels are numbers.
    """

    files: list[Path]
    targets: Array | None
    classes: tuple[str, ...]


def labelled_files(folder: Path, suffixes: Collection[str], settings: DataSettings) -> Labelled:
    """The folder's files that end in one of the suffixes.

    Raises:
        DataError: there are none, a class is not among those given, or the CSV names a file that isn't there.
    """
    if settings.labels:
        return _by_table(folder, settings)
    found = sorted(_within(folder, suffixes))
    if not found:
        raise DataError(f"{folder}: there is no file in it that ends in {', '.join(sorted(suffixes))}")
    below = [file for file in found if file.parent != folder]
    if not below:
        return Labelled(found, None, ())
    if len(below) < len(found):
        stray = next(file for file in found if file.parent == folder)
        raise DataError(f"{stray}: it is in no class's folder; move it into one, or name classes in data.labels")
    column = ClassColumn(settings.classes)
    names = [file.relative_to(folder).parts[0] for file in found]
    labels = column.labels(names, "class", lambda index: str(found[index]))
    classes, labels = column.ordered(labels)
    return Labelled(found, labels, classes)


def _within(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Files in the folder and below; hidden ones, which are being written or a system's own, are passed over."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            Path(parent) / name for name in names if not name.startswith(".") and Path(name).suffix.lower() in suffixes
        )


def _by_table(folder: Path, settings: DataSettings) -> Labelled:
    table = CsvTable(folder / settings.labels, settings.delimiter)
    of_file = _column(table, (), _FILE_COLUMNS)
    of_target = _column(table, settings.targets, _TARGET_COLUMNS)
    column, named = ClassColumn(settings.classes), bool(settings.classes)
    files: list[Path] = []
    parts: list[Array] = []
    for batch in table.batches([of_file, of_target]):

        def where(index: int, rows: object = batch.rows) -> str:
            return f"{table.source}, line {rows[index]}"  # type: ignore[index]

        cells = batch.columns[1]
        named = named or (not parts and not all(is_number(cell) for cell in cells))
        parts.append(column.labels(cells, of_target, where) if named else numbers(cells, of_target, where))
        for index, name in enumerate(batch.columns[0]):
            if not (file := folder / name).is_file():
                raise DataError(f"{where(index)}: there is no file {file}")
            files.append(file)
    if not files:
        raise DataError(f"{table.source}: there are no rows in it")
    values = np.concatenate(parts)
    if named:
        classes, labels = column.ordered(values.astype(np.int64))
        return Labelled(files, labels, classes)
    whole = bool((values == np.floor(values)).all())
    return Labelled(files, values.astype(np.int64 if whole else np.float32), ())


def _column(table: CsvTable, asked: tuple[str, ...], usual: tuple[str, ...]) -> str:
    if asked:
        if asked[0] not in table.columns:
            raise DataError(f"{table.source}: there is no column {asked[0]!r}; {did_you_mean(asked[0], table.columns)}")
        return asked[0]
    for name in usual:
        if name in table.columns:
            return name
    raise DataError(f"{table.source}: it needs a column {usual[0]!r}; there are {', '.join(table.columns)}")
