"""A board's state in one file, so that the board which replaces it goes on where it was.

What comes from nowhere else goes into it: the state of the last round, personal layers, how far orders were followed,
which bundles were allowed, and the deployed models. Keys do not: the new board has its own.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from lamina.edge_agent.serving.shelf import FOLDER as DEPLOYED
from lamina.models.errors import ConfigError, brief
from lamina.models.storage.replace import replace_file
from lamina.models.storage.secret_file import write_secret

_FILES = ("state", "personal", "orders", "allowed", "instance")
_IN_DEPLOYED = re.compile(rf"{DEPLOYED}/(?:shelf\.json|[0-9]+-[0-9a-f]{{16}}/[a-z]+\.(?:onnx|json|md))")
_MOST_BYTES = 4 << 30
_MOST_FILES = 1000


def pack(folder: Path, path: Path) -> int:
    """Write the state of an agent's folder to a file of its owner's alone; returns how many files it holds.

    Raises:
        ConfigError: there is no state, or something can't be read or written.
    """
    content, count = io.BytesIO(), 0
    try:
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in _files(folder):
                archive.write(file, str(file.relative_to(folder)))
                count += 1
        if not count:
            raise ConfigError(f"{folder}: there is no state of an agent in it")
        write_secret(path, content.getvalue())
    except OSError as error:
        raise ConfigError(f"{error.filename or path}: {error.strerror}") from error
    return count


def unpack(path: Path, folder: Path) -> int:
    """Put such a file's state into an agent's folder; returns how many files it held.

    Raises:
        ConfigError: it is no such file, or the folder has a state already.
    """
    if any(_files(folder)):
        raise ConfigError(f"{folder}: there is a state of an agent already; remove it, or choose another folder")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > _MOST_FILES or sum(entry.file_size for entry in entries) > _MOST_BYTES:
                raise ConfigError(f"{path}: it is larger than any board's state")
            for entry in entries:
                if entry.filename not in _FILES and not _IN_DEPLOYED.fullmatch(entry.filename):
                    raise ConfigError(f"{path}: {brief(entry.filename, 80)!r} is no file of a board's state")
            for entry in entries:
                replace_file(folder / entry.filename, archive.read(entry))
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"{path}: can't be read as a board's state: {error}") from error
    return len(entries)


def _files(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in _FILES if (folder / name).is_file())
    yield from sorted(
        file for file in (folder / DEPLOYED).rglob("*") if _IN_DEPLOYED.fullmatch(str(file.relative_to(folder)))
    )
