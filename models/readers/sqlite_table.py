"""Reads a table or view of an SQLite file, a batch of rows at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from lamina.models.errors import DataError, brief, did_you_mean
from lamina.models.readers.table import BATCH, TableRows

_BUSY_S = 10.0  # for another program that writes


class SqliteTable:
    """A table or view of an SQLite file; the file is opened for reading only.

    Args:
        path: of the file.
        name: of the table; empty: the only one.

    Raises:
        DataError: it can't be opened, or has no such table, or several and none is named.
    """

    unit = "row"

    def __init__(self, path: Path, name: str = "") -> None:
        self._path = path
        with self._opened() as base:
            known = [
                row[0]
                for row in base.execute(
                    "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"
                )
            ]
            self._table = _named(path, name, known)
            described = base.execute(f"PRAGMA table_info({_quoted(self._table)})").fetchall()
        self.source = f"{path}, table {self._table}"
        self.columns = tuple(row[1] for row in described)

    def batches(self, names: Sequence[str]) -> Iterator[TableRows]:
        """The rows in the order in which they were put in, where the table keeps it."""
        columns = ", ".join(_quoted(name) for name in names)
        with self._opened() as base:
            try:
                found = base.execute(f"SELECT {columns} FROM {_quoted(self._table)} ORDER BY rowid")
            except sqlite3.OperationalError:  # a view, or a table without row ids
                found = base.execute(f"SELECT {columns} FROM {_quoted(self._table)}")
            first = 1
            while rows := found.fetchmany(BATCH):
                yield TableRows(list(zip(*rows, strict=True)), range(first, first + len(rows)))
                first += len(rows)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        if not self._path.is_file():
            raise DataError(f"{self._path}: no such file (seen from {Path.cwd()})")
        try:
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as base:
                yield base
        except sqlite3.Error as error:
            raise DataError(f"{self._path}: can't be read as SQLite: {brief(str(error), 120)}") from error


def _named(path: Path, name: str, known: list[str]) -> str:
    if name:
        if name not in known:
            raise DataError(f"{path}: there is no table {name!r}; {did_you_mean(name, known)}")
        return name
    if len(known) != 1:
        tables = ", ".join(known) if known else "none"
        raise DataError(f"{path}: name the table in data.table; there are {brief(tables)}")
    return known[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
