"""Files that hold secrets: nobody but their owner reads them, from the moment on when they exist."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lamina.models.errors import ConfigError
from lamina.models.storage.disk import RealDisk
from lamina.models.storage.replace import replace_file


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o600)


_PRIVATE = RealDisk(_owner_only)


def write_secret(path: Path, content: str | bytes) -> None:
    """Put a file at ``path`` at once, over one that is there; it would survive a power cut, and is its owner's alone.

    Raises:
        OSError: the disk is full, or the like. The file before is unharmed, and nothing else stays.
    """
    replace_file(path, content.encode() if isinstance(content, str) else content, _PRIVATE)


def read_secret(path: Path, what: str) -> str:
    """The text of a secret file.

    Raises:
        ConfigError: it can't be read, or others can read it; ``what`` says what it is.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        raise ConfigError(f"{what} {path}: can't be read: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(f"{what} {path}: others may read it, so it is no secret: chmod 600 {path}")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path}: it is no text, so it holds no key") from None
