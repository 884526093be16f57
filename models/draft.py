"""Writes a bundle beside its folder, and moves it there when it is whole.

A reader sees the old bundle or the new one, never half of one, also after a power cut; and no folder is replaced that
holds anything but a bundle.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lamina.models.bundle import MANIFEST_NAME, digest_of, encode_manifest
from lamina.models.errors import BundleError
from lamina.models.manifest import FileEntry, Manifest
from lamina.models.storage.disk import DISK

_CONTENT_NAME = re.compile(r"[0-9a-f]{64}\.(onnx|safetensors)")


@dataclass(frozen=True)
class Draft:
    """A bundle that is being written.

    Attributes:
        folder: where it lies for the time being.
    """

    folder: Path

    def add(self, content: bytes, suffix: Literal[".onnx", ".safetensors"]) -> FileEntry:
        """Write one file, named by its content; the same content twice is one file."""
        entry = FileEntry(digest_of(content), len(content), suffix)
        (self.folder / entry.file_name).write_bytes(content)
        return entry

    def close(self, manifest: Manifest) -> None:
        """Write the manifest, or write it anew: the draft is then a bundle that can be read."""
        (self.folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))


@contextmanager
def drafted(folder: Path) -> Iterator[Draft]:
    """A draft that becomes the bundle ``folder`` when the context ends, and vanishes when it ends by an exception.

    Raises:
        BundleError: ``folder`` exists and isn't a bundle, or the draft was never closed.
    """
    folder = folder.resolve()
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.draft")
    beside.mkdir()
    try:
        yield Draft(beside)
        if not (beside / MANIFEST_NAME).is_file():
            raise BundleError(f"bundle {folder}: its draft has no manifest")
        _check_replaceable(folder)
        for file in beside.iterdir():
            DISK.sync(file)
        DISK.sync_folder(beside)
        _move(beside, folder)
        DISK.sync_folder(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_replaceable(folder: Path) -> None:
    """A bundle may be replaced, and an empty folder; nothing else is ours to delete."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BundleError(f"bundle {folder}: a file has this name: choose another folder")
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if name != MANIFEST_NAME and not _CONTENT_NAME.fullmatch(name)]
    if foreign:
        raise BundleError(f"bundle {folder}: {foreign[0]!r} in it is no bundle's: move it, or choose another folder")
    if names and MANIFEST_NAME not in names:
        raise BundleError(f"bundle {folder}: it has files but no {MANIFEST_NAME}: choose another folder")


def _move(beside: Path, folder: Path) -> None:
    old = beside.with_suffix(".old")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(beside, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
