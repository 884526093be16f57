"""Where labelled samples are read from: an archive, a pair of arrays, or a function of the user's."""

from __future__ import annotations

import importlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.errors import DataError
from lamina.models.samples import LabelledSamples


def load_samples(source: str) -> LabelledSamples:
    """The samples that a configuration names.

    Args:
        source: ``samples.npz`` with ``x`` and ``y``; a pair ``x.npy,y.npy``, of which the samples stay on disk; or
            ``module:function``, called without arguments, which returns ``(x, y)``. A module is also looked for in the
            current folder.

    Raises:
        DataError: there is no such thing, or what it holds can't be used.
    """
    parts = [part.strip() for part in source.split(",")]
    if len(parts) == 2 and all(part.endswith(".npy") for part in parts):
        return LabelledSamples(_array(parts[0], mapped=True), _array(parts[1]), source)
    if len(parts) == 1 and source.endswith(".npz"):
        return _archive(source)
    if len(parts) == 1 and source.count(":") == 1 and all(source.split(":")):
        return _called(source)
    raise DataError(f"{source or 'no path'}: give samples.npz, a pair x.npy,y.npy, or module:function")


def resolved_source(source: str, folder: Path) -> str:
    """The same source with its relative paths seen from ``folder``; ``module:function`` stays as it is."""
    if ":" in source and not source.endswith((".npz", ".npy")):
        return source
    return ",".join(str(folder / part.strip()) for part in source.split(","))


def _archive(path: str) -> LabelledSamples:
    try:
        with Path(path).open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: it is a single array, not an archive with x and y")
            if missing := [name for name in ("x", "y") if name not in archive]:
                raise DataError(f"{path}: it has no array {missing[0]!r}, only {', '.join(archive.files) or 'none'}")
            return LabelledSamples(archive["x"], archive["y"], path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (seen from {Path.cwd()})") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: can't be read as .npz: {error}") from error


def _array(path: str, *, mapped: bool = False) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
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
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise DataError(f"{source}: it must return (x, y), and returned a {type(returned).__name__}")
    return LabelledSamples(np.asanyarray(returned[0]), np.asarray(returned[1]), source)
