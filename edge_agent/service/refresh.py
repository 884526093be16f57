"""Reads a board's samples anew when they have changed: looked for at the start of each cycle.

What can't be read then, because it is damaged or being written, costs a warning, and training goes on with the samples
that there were. While new samples are read, the old ones are still held.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from lamina.models.errors import ConfigError
from lamina.models.readers.settings import DataSettings, Source
from lamina.models.samples import LabelledSamples
from lamina.models.sources import load_samples

log = logging.getLogger("lamina.agent")

Fingerprint = tuple[tuple[str, int, int], ...]
"""Names, sizes and times of change of the files that samples come from."""


class Refresh:
    """Watches one source, whose samples were read already.

    Args:
        source: as the configuration names it.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._watched = is_reread(source)
        self._seen = fingerprint(source) if self._watched else ()

    def changed(self) -> LabelledSamples | None:
        """The samples as they are now; ``None`` where they are the same, or can't be read."""
        if not self._watched or (now := fingerprint(self._source)) == self._seen:
            return None
        self._seen = now
        try:
            return load_samples(self._source)
        except ConfigError as error:
            log.warning("the samples have changed and can't be read; training goes on with those before: %s", error)
            return None


def is_reread(source: Source) -> bool:
    """Whether changes of a source are looked for: where its settings say so, and in a folder of ``.npz``."""
    if isinstance(source, DataSettings):
        return source.reread or source.kind == "npz" or _grows(Path(source.path))
    return _grows(Path(source))


def fingerprint(source: Source) -> Fingerprint:
    """What the files of a source are now, without reading them."""
    path = source.path if isinstance(source, DataSettings) else source
    return tuple(sorted(_stats(Path(path))))


def _grows(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.npz"))


def _stats(path: Path) -> Iterator[tuple[str, int, int]]:
    files = [Path(parent) / name for parent, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
    # SQLite writes into a log beside its file first.
    for file in [*files, *(Path(f"{path}-wal") for _ in range(not path.is_dir()))]:
        try:
            stat = file.stat()
        except OSError:  # gone meanwhile
            continue
        yield str(file), stat.st_size, stat.st_mtime_ns
