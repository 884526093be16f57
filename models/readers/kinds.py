"""Finds the reader for a source: by its kind, or by its suffix and by what a folder holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from lamina.models.errors import ConfigError, DataError
from lamina.models.readers.csv_table import CsvTable
from lamina.models.readers.growing import read_growing
from lamina.models.readers.images import SUFFIXES as IMAGES
from lamina.models.readers.images import images, read_images
from lamina.models.readers.parquet_table import ParquetTable
from lamina.models.readers.read import Read
from lamina.models.readers.rows import Array, Rows
from lamina.models.readers.settings import DataSettings, Kind, suffix_of
from lamina.models.readers.sound import SUFFIXES as SOUND
from lamina.models.readers.sound import read_sound, stretches
from lamina.models.readers.sqlite_table import SqliteTable
from lamina.models.readers.table import Table, read_table

_OF_SUFFIX: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".db": "sqlite",
}
_MOST_LOOKED_AT = 10_000  # files of a folder, until one says what the folder holds

_TABLES: dict[Kind, Callable[[Path, DataSettings], Table]] = {
    "csv": lambda path, settings: CsvTable(path, settings.delimiter),
    "parquet": lambda path, settings: ParquetTable(path),
    "sqlite": lambda path, settings: SqliteTable(path, settings.table),
}
_FOLDERS: dict[Kind, Callable[[Path, DataSettings], Read]] = {
    "images": read_images,
    "wav": read_sound,
    "npz": read_growing,
}
_OF_TABLES = ("inputs", "horizon", "group", "table")
_OF_FOLDERS = ("labels", "size", "pad")
_MEANINGLESS: dict[Kind, tuple[str, ...]] = {
    "csv": (*_OF_FOLDERS, "table"),
    "parquet": (*_OF_FOLDERS, "table", "delimiter"),
    "sqlite": (*_OF_FOLDERS, "delimiter"),
    "images": (*_OF_TABLES, "window", "pad"),
    "wav": (*_OF_TABLES, "size"),
    "npz": (*_OF_TABLES, *_OF_FOLDERS, "window", "target", "delimiter"),
}
"""Settings that would be passed over in silence, by the kind of a source."""


def is_readable(path: str) -> bool:
    """Whether a bare path names something that these readers read: a table, or a folder."""
    return suffix_of(path) in _OF_SUFFIX or Path(path).is_dir()


def kind_of(settings: DataSettings) -> Kind:
    """What a source is.

    Raises:
        DataError: there is no such file or folder, or nothing says what it is.
    """
    path = Path(settings.path)
    if settings.kind != "auto":
        return settings.kind
    if path.is_dir():
        return _of_folder(path)
    if kind := _OF_SUFFIX.get(suffix_of(settings.path)):
        return kind
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder (seen from {Path.cwd()})")
    raise DataError(f"{path}: its suffix doesn't say what it is; set data.kind to csv, parquet or sqlite")


def read(settings: DataSettings) -> Read:
    """The samples of a source.

    Raises:
        DataError: it isn't there, or what it holds can't be used.
        ConfigError: a package is missing, or a setting does not go with this kind.
    """
    kind, path = kind_of(settings), Path(settings.path)
    _check_settings(kind, settings)
    if table := _TABLES.get(kind):
        return read_table(table(path, settings), settings)
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder (seen from {Path.cwd()}); {kind} are read from one")
    return _FOLDERS[kind](path, settings)


def read_unlabelled(settings: DataSettings) -> Array | Rows | dict[str, Array]:
    """The inputs of a source whose targets are not known, or don't matter: of a table, a folder, or a single file.

    Raises:
        DataError: it isn't there, or what it holds can't be used.
        ConfigError: a package is missing.
    """
    path = Path(settings.path)
    suffix = path.suffix.lower()
    if path.is_file() and suffix in IMAGES:
        return images([path], settings)
    if path.is_file() and suffix in SOUND:
        return stretches([path], settings)[0]
    kind = kind_of(settings)
    if not (opened := _TABLES.get(kind)):
        return read(msgspec.structs.replace(settings, target=(), labels="")).x
    table = opened(path, settings)
    away = {settings.group} if settings.horizon else {settings.group, *settings.targets}
    inputs = settings.inputs or tuple(name for name in table.columns if name not in away)
    group = settings.group if settings.group in table.columns else ""
    return read_table(table, msgspec.structs.replace(settings, inputs=inputs, target=(), horizon=0, group=group)).x


def _of_folder(folder: Path) -> Kind:
    looked_at = 0
    for _, _, names in os.walk(folder):
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if suffix == ".npz":
                return "npz"
            if suffix in IMAGES:
                return "images"
            if suffix in SOUND:
                return "wav"
            looked_at += 1
            if looked_at > _MOST_LOOKED_AT:
                break
    what = "it is empty" if not looked_at else "there are neither images, nor .wav, nor .npz files in it"
    raise DataError(f"{folder}: {what}; data.kind says what will be there")


def _check_settings(kind: Kind, settings: DataSettings) -> None:
    """Refuse what would be passed over in silence."""
    for name in _MEANINGLESS[kind]:
        if getattr(settings, name):
            raise ConfigError(f"data.{name} means nothing for {kind}: leave it out")
    if kind not in _TABLES and settings.missing != "refuse":
        raise ConfigError(f"data.missing means nothing for {kind}: leave it out")
