"""Reads a Parquet file, a batch of rows at a time, where pyarrow is installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lamina.models.errors import ConfigError, DataError, brief
from lamina.models.readers.cells import Cells
from lamina.models.readers.table import BATCH, TableRows


class ParquetTable:
    """A Parquet file.

    Args:
        path: of the file.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: it can't be opened.
    """

    unit = "row"

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet as parquet
            from pyarrow.lib import ArrowException
        except ImportError:
            raise ConfigError(
                f"{path}: reading Parquet needs pyarrow: pip install 'lamina-fl[parquet]', or give a CSV"
            ) from None
        self.source, self._errors = str(path), (ArrowException, OSError)
        try:
            self._file: Any = parquet.ParquetFile(path, memory_map=True)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file (seen from {Path.cwd()})") from None
        except self._errors as error:
            raise DataError(f"{path}: can't be read as Parquet: {brief(str(error), 120)}") from error
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)

    def batches(self, names: Sequence[str]) -> Iterator[TableRows]:
        """The rows, with these columns."""
        first = 1
        try:
            for part in self._file.iter_batches(BATCH, columns=list(names)):
                yield TableRows([_cells(part.column(name)) for name in names], range(first, first + part.num_rows))
                first += part.num_rows
        except self._errors as error:
            raise DataError(f"{self.source}: can't be read as Parquet: {brief(str(error), 120)}") from error


def _cells(column: Any) -> Cells:
    """Numbers as an array; what has gaps, and text, as Python's values, of which a gap is ``None``."""
    if column.null_count == 0:
        found = column.to_numpy(zero_copy_only=False)
        if found.dtype.kind in "buif":
            cells: Cells = found
            return cells
    values: Sequence[Any] = column.to_pylist()
    return values
