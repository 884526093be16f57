"""Write-then-rename: a file is replaced as a whole, so that a reader, or a crash, meets the old one or the new one.

The new content is written to a *draft* beside the file, synced, and renamed. A draft that a crash left behind means
nothing; `remove_drafts` removes those of a folder, which nobody else may be writing in meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lamina.models.storage.disk import DISK, Content, Disk

_DRAFT = ".draft"


def replace_file(path: Path, content: Content | Iterable[Content], disk: Disk = DISK, *, durable: bool = True) -> None:
    """Put ``content`` at ``path`` at once, over the file that is there; its folder is made if need be.

    Args:
        path: of the file.
        content: all of it, or its parts in order.
        disk: the file lies on.
        durable: return when the new file would survive a power cut. Otherwise a power cut may leave any part of it,
            and nothing of the old file, unless the caller syncs both the file and its folder later.

    Raises:
        OSError: the disk is full, or the like. The file before is unharmed, and no draft stays.
    """
    disk.make_folder(path.parent)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_DRAFT}")  # two programs may write the same file
    parts = [content] if isinstance(content, Content) else content
    try:
        disk.write(draft, parts)
        if durable:
            disk.sync(draft)
        disk.rename(draft, path)
    except OSError:
        with suppress(OSError):
            disk.remove(draft)
        raise
    if durable:
        disk.sync_folder(path.parent)


def remove_drafts(folder: Path, disk: Disk = DISK) -> None:
    """Remove what crashes left half written in a folder that this program alone writes in."""
    for name in disk.names(folder):
        if name.endswith((_DRAFT, ".partial")):  # the other is what earlier versions called them
            disk.remove(folder / name)
