"""Reads a folder of ``.npz`` archives that grows while it is read.

A program on the board puts one archive after another there; the newest that fit the memory are used. One that is still
being written is passed over, and read the next time.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lamina.models.errors import DataError, brief
from lamina.models.readers.read import Read
from lamina.models.readers.rows import Array
from lamina.models.readers.settings import DataSettings

log = logging.getLogger("lamina.data")


class _Part(NamedTuple):
    """One archive's samples."""

    path: Path
    x: Array
    y: Array


def read_growing(folder: Path, settings: DataSettings) -> Read:
    """The samples of the newest archives, older ones first.

    Raises:
        DataError: none can be read, or two of them don't go together.
    """
    files = _by_age(folder.glob("*.npz"))
    if not files:
        raise DataError(f"{folder}: there is no .npz file in it yet; put one there, with arrays x and y")
    room, parts = settings.limit_mib * 2**20, list[_Part]()
    for path in reversed(files):
        part = _read(path)
        if part is None or not len(part.x):
            continue
        room -= part.x.nbytes + part.y.nbytes
        if room < 0:
            if not parts:
                raise DataError(f"{path}: it alone takes more than data.limit_mib = {settings.limit_mib:g}")
            break
        parts.append(part)
    if not parts:
        raise DataError(f"{folder}: none of its {len(files)} .npz files can be read; are they being written?")
    parts.reverse()
    _check_alike(parts)
    x, y = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y"))
    return Read(x, y, settings.classes, bool(settings.classes))


def _by_age(paths: Iterable[Path]) -> list[Path]:
    """Sort files from the oldest to the newest; one that has gone meanwhile is left out."""
    dated = []
    for path in paths:
        try:
            if not path.name.startswith("."):
                dated.append((path.stat().st_mtime_ns, path.name, path))
        except OSError:
            continue
    return [path for _, _, path in sorted(dated)]


def _read(path: Path) -> _Part | None:
    """An archive's samples; ``None`` where it isn't whole."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if missing := [name for name in ("x", "y") if name not in archive]:
                raise DataError(f"{path}: it has no array {missing[0]!r}, only {', '.join(archive.files) or 'none'}")
            part = _Part(path, archive["x"], archive["y"])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        log.warning(
            "%s is passed over: %s; write archives under another name and rename them", path, brief(str(error), 80)
        )
        return None
    if part.x.shape[:1] != part.y.shape[:1]:
        raise DataError(f"{path}: x has {len(part.x)} samples and y {len(part.y)}")
    return part


def _check_alike(parts: list[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for name in ("x", "y"):
            mine, other = getattr(part, name), getattr(first, name)
            if (mine.shape[1:], mine.dtype) != (other.shape[1:], other.dtype):
                raise DataError(
                    f"{part.path}: its {name} is {mine.dtype} {mine.shape[1:]} a sample, and that of {first.path} "
                    f"{other.dtype} {other.shape[1:]}; keep one kind in a folder"
                )
