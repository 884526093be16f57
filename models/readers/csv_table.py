"""Reads a CSV file, gzipped or not, a batch of rows at a time."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import IO, cast

from lamina.models.errors import DataError, brief
from lamina.models.readers.table import BATCH, TableRows

_GZIP = b"\x1f\x8b"
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = ",;\t|"
_MOST_HEADER = 1 << 20  # characters of the first line


class CsvTable:
    """A CSV file whose first line names its columns.

    Args:
        path: of the file.
        delimiter: empty: the one that the first line has most of.

    Raises:
        DataError: it can't be opened, is empty, or isn't UTF-8.
    """

    unit = "line"

    def __init__(self, path: Path, delimiter: str = "") -> None:
        self.source = str(path)
        self._path = path
        with self._opened() as file:
            header = file.readline(_MOST_HEADER)
        if not header.strip():
            raise DataError(f"{path}: it is empty; its first line must name the columns")
        self._delimiter = delimiter or max(_DELIMITERS, key=header.count)
        self.columns = tuple(name.strip() for name in next(csv.reader([header], delimiter=self._delimiter)))

    def batches(self, names: Sequence[str]) -> Iterator[TableRows]:
        """The rows, with these columns; blank lines are passed over."""
        pick = itemgetter(*(self.columns.index(name) for name in names))
        with self._opened() as file:
            reader = csv.reader(file, delimiter=self._delimiter)
            next(reader)
            rows: list[list[str]] = []
            lines: list[int] = []
            try:
                for row in reader:
                    if len(row) != len(self.columns):
                        if not row:
                            continue
                        raise self._error(reader.line_num, row)
                    rows.append(row)
                    lines.append(reader.line_num)
                    if len(rows) == BATCH:
                        yield _batch(pick, rows, lines, len(names))
                        rows, lines = [], []
            except csv.Error as error:
                raise DataError(f"{self.source}, line {reader.line_num}: {error}") from error
            if rows:
                yield _batch(pick, rows, lines, len(names))

    def _error(self, line: int, row: list[str]) -> DataError:
        what = f"{self.source}, line {line}: it has {len(row)} cells, and the first line {len(self.columns)}"
        if self._delimiter == "," and len(row) > len(self.columns):
            return DataError(f"{what}; numbers with decimal commas need another delimiter, and then a point")
        if len(row) == 1:
            return DataError(f"{what}, which are separated by {self._delimiter!r}; data.delimiter says otherwise")
        return DataError(f"{what}; if the file is being written, write it under another name and rename it")

    @contextmanager
    def _opened(self) -> Iterator[IO[str]]:
        try:
            with self._path.open("rb") as raw:
                begin = raw.read(2)
                raw.seek(0)
                if begin in _OTHER_UNICODE:
                    raise DataError(f"{self.source}: it is UTF-16; save it as UTF-8")
                stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if begin == _GZIP else raw
                yield io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        except FileNotFoundError:
            raise DataError(f"{self.source}: no such file (seen from {Path.cwd()})") from None
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.source}: it is not UTF-8 ({brief(error.reason, 60)}); save it as UTF-8, for instance by iconv"
            ) from error
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.source}: can't be read: {brief(str(error), 120)}") from error


def _batch(pick: itemgetter[object], rows: list[list[str]], lines: list[int], count: int) -> TableRows:
    picked = map(pick, rows)
    columns = list(zip(*picked, strict=True)) if count > 1 else [tuple(picked)]
    return TableRows(cast("list[tuple[str, ...]]", columns), lines)
