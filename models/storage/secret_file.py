"""Files that hold secrets: nobody but their owner reads them, from the moment on when they exist."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from lamina.models.errors import ConfigError


def write_secret(path: Path, content: str | bytes) -> None:
    """Put a file at ``path`` at once, over one that is there; it would survive a power cut, and is its owner's alone.

    Raises:
        OSError: the disk is full, or the like. The file before is unharmed, and nothing else stays.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.draft")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
