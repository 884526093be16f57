"""Where labelled samples are read from: an archive, a pair of arrays, a table, a folder, or a function of the user's.

An archive holds ``x`` and ``y``. Several inputs stand there as ``x.NAME`` each; a task without targets has no ``y`` and
nothing else than ``x``; ``class_names`` may name the classes.
"""

from __future__ import annotations

import importlib
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lamina.models.errors import DataError
from lamina.models.readers.kinds import is_readable, read
from lamina.models.readers.settings import DataSettings, Source
from lamina.models.samples import LabelledSamples

_FUNCTION = re.compile(r"[\w.]+:\w+")

CLASS_NAMES = "class_names"
"""The array of an archive that names the classes."""

STRETCHES = "stretches"
"""The array of an archive that says which rows of a time series each sample covers."""


def load_samples(source: Source) -> LabelledSamples:
    """The samples that a configuration names.

    Args:
        source: ``samples.npz`` (see above); a pair ``x.npy,y.npy``, which stay on disk; a table or a folder, with
            settings or without (`lamina.models.readers`); or ``module:function``, called without arguments, which
            returns ``(x, y)``, ``x`` alone, or `LabelledSamples`. A module is also looked for in the current folder.

    Raises:
        DataError: there is no such thing, or what it holds can't be used.
        ConfigError: a package is missing that reads it.
    """
    if isinstance(source, DataSettings):
        return _set(source)
    parts = [part.strip() for part in source.split(",")]
    if len(parts) == 2 and all(part.endswith(".npy") for part in parts):
        return LabelledSamples(_mapped(parts[0]), _mapped(parts[1]), source)
    if len(parts) == 1 and source.endswith(".npz") and not Path(source).is_dir():
        return _archive(source)
    if len(parts) == 1 and is_readable(source):
        return _set(DataSettings(source))
    if len(parts) == 1 and source.count(":") == 1 and all(source.split(":")):
        return _called(source)
    raise DataError(
        f"{source or 'no path'}: there is no such folder; give samples.npz, a pair "
        "x.npy,y.npy, a .csv, .parquet or .sqlite, a folder, or module:function"
    )


def resolved_source(source: Source, folder: Path) -> Source:
    """The same source with its relative paths seen from ``folder``; ``module:function`` stays as it is."""
    if isinstance(source, DataSettings):
        return msgspec.structs.replace(source, path=str(folder / source.path))
    if is_function(source):
        return source
    return ",".join(str(folder / part.strip()) for part in source.split(","))


def is_function(source: str) -> bool:
    """Whether a source is written as ``module:function``."""
    return _FUNCTION.fullmatch(source) is not None


def _set(settings: DataSettings) -> LabelledSamples:
    """The samples of a table or a folder, or of an archive that is named in a table."""
    if settings.path.endswith(".npz") and not Path(settings.path).is_dir():
        samples = _archive(settings.path)
        return replace(samples, class_names=settings.classes) if settings.classes else samples
    found = read(settings)
    return LabelledSamples(found.x, found.y, settings.path, found.classes, found.numbered, found.stretches)


def _archive(path: str) -> LabelledSamples:
    try:
        with Path(path).open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: it is a single array, not an archive with x and y")
            return _of_archive(archive, path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (seen from {Path.cwd()})") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: can't be read as .npz: {error}") from error


def _of_archive(archive: np.lib.npyio.NpzFile, path: str) -> LabelledSamples:
    names = {*archive.files} - {CLASS_NAMES, STRETCHES}
    parts = sorted(name for name in names if name.startswith("x."))
    inputs = set(parts) or {"x"}
    missing = sorted(inputs - names) or ([] if "y" in names or names == inputs else ["y"])
    if missing:
        raise DataError(f"{path}: it has no array {missing[0]!r}, only {', '.join(archive.files) or 'none'}")
    x = {name.removeprefix("x."): archive[name] for name in parts} or archive["x"]
    class_names = tuple(map(str, archive[CLASS_NAMES].reshape(-1))) if CLASS_NAMES in archive else ()
    stretches = archive.get(STRETCHES)
    return LabelledSamples(x, archive["y"] if "y" in names else None, path, class_names, stretches=stretches)


def _mapped(path: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (seen from {Path.cwd()})") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: can't be read as .npy: {error}") from error
    return array


def _called(source: str) -> LabelledSamples:
    name, function_name = source.split(":")
    if "" not in sys.path:  # an installed command does not look in the current folder by itself
        sys.path.append("")
    try:
        module = importlib.import_module(name)
        if not callable(function := getattr(module, function_name, None)):
            raise DataError(f"{source}: module {name} has no function {function_name!r}")
        returned = function()
    except DataError:
        raise
    except Exception as error:  # the operator's own code may raise anything
        raise DataError(f"{source}: {type(error).__name__}: {error}") from error
    if isinstance(returned, LabelledSamples):
        return replace(returned, source=source)
    x, y = returned if type(returned) is tuple and len(returned) == 2 else (returned, None)
    if not isinstance(x, np.ndarray | list | tuple | Mapping) or (
        returned is x and not isinstance(x, np.ndarray | Mapping)
    ):
        raise DataError(f"{source}: it must return (x, y), and returned a {type(returned).__name__}")
    x = {str(name): np.asanyarray(part) for name, part in x.items()} if isinstance(x, Mapping) else np.asanyarray(x)
    return LabelledSamples(x, None if y is None else np.asanyarray(y), source)
