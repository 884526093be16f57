"""Reads a folder of ``.npz`` archives that grows while it is read.

A program on the board puts one archive after another there; the newest that fit the memory are used. One that is still
being written is passed over, and read the next time.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Iterable, Sequence
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
    arrays: dict[str, Array]

    @property
    def samples(self) -> int:
        return len(next(iter(self.arrays.values())))


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
        if part is None or not part.samples:
            continue
        room -= sum(array.nbytes for array in part.arrays.values())
        if room < 0:
            if not parts:
                raise DataError(f"{path}: it alone takes more than data.limit_mib = {settings.limit_mib:g}")
            break
        parts.append(part)
    if not parts:
        raise DataError(f"{folder}: none of its {len(files)} .npz files can be read; are they being written?")
    parts.reverse()
    _check_alike(parts)
    joined = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    y = joined.pop("y", None)
    x = joined["x"] if "x" in joined else {name.removeprefix("x."): part for name, part in joined.items()}
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
            part = _Part(path, {name: archive[name] for name in _wanted(path, archive.files)})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        log.warning(
            "%s is passed over: %s; write archives under another name and rename them", path, brief(str(error), 80)
        )
        return None
    first, *others = part.arrays
    for name in others:
        if part.arrays[first].shape[:1] != part.arrays[name].shape[:1]:
            counted = [f"{each} {len(part.arrays[each])}" for each in (first, name)]
            raise DataError(f"{path}: its numbers of samples differ: {', '.join(counted)}")
    return part


def _wanted(path: Path, names: Sequence[str]) -> list[str]:
    """The arrays of an archive that are read: the inputs, and ``y``, without which it holds nothing else."""
    inputs = sorted(name for name in names if name.startswith("x.")) or ["x"]
    lacking = [name for name in inputs if name not in names]
    lacking += [] if "y" in names or set(names) == set(inputs) else ["y"]
    if lacking:
        raise DataError(f"{path}: it has no array {lacking[0]!r}, only {', '.join(names) or 'none'}")
    return [*inputs, "y"] if "y" in names else inputs


def _check_alike(parts: list[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.arrays.keys() != first.arrays.keys():
            raise DataError(
                f"{part.path}: it holds {', '.join(part.arrays)}, and {first.path} {', '.join(first.arrays)}; keep one "
                "kind in a folder"
            )
        for name, mine in part.arrays.items():
            other = first.arrays[name]
            if (mine.shape[1:], mine.dtype) != (other.shape[1:], other.dtype):
                raise DataError(
                    f"{part.path}: its {name} is {mine.dtype} {mine.shape[1:]} a sample, and that of {first.path} "
                    f"{other.dtype} {other.shape[1:]}; keep one kind in a folder"
                )
