"""Reads a bundle from a folder, and trusts no byte that its digest doesn't vouch for.

``manifest.json`` names every other file by its SHA-256, and its own SHA-256 is the bundle's digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from lamina.models.arrays import Vector
from lamina.models.bounds import check_bounds
from lamina.models.decoding import from_json
from lamina.models.errors import BundleError, ModelError, brief
from lamina.models.manifest import FORMAT, ONNXRUNTIME, FileEntry, Manifest, SubModel
from lamina.models.values import Tensors, read_values

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were all there, and what the manifest says they are, when it was read.

    Attributes:
        folder: where its files lie.
        manifest: what they mean.
        digest: SHA-256 of the manifest's bytes, in hex; the bundle's name on the wire.
    """

    folder: Path
    manifest: Manifest
    digest: str

    def path(self, entry: FileEntry) -> Path:
        """Return the path of one of the manifest's files."""
        return self.folder / entry.file_name

    def state(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """The module's whole state dictionary, with these values of what is trained: it loads strictly."""
        manifest = self.manifest
        known: dict[str, NDArray[Any]] = {}
        for entry in filter(None, (manifest.constants, manifest.unread)):
            known |= read_values(self.path(entry))
        known = {name: value for name, value in known.items() if name not in manifest.transient} | dict(tensors)
        return known | {alias: known[name] for alias, name in manifest.aliases.items() if name in known}

    def initial_values(self) -> dict[str, Vector]:
        """Every tensor that the federation starts from, by name."""
        return read_values(self.path(self.manifest.values))


def read_bundle(folder: Path) -> Bundle:
    """Read the manifest and verify every file that it names.

    Raises:
        BundleError: the folder is no bundle, is of another format, or a file is missing or damaged.
    """
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise BundleError(f"bundle {folder}: there is no such folder; `lamina bundle` builds one")
    if not path.is_file():
        raise BundleError(f"bundle {folder}: it has no {MANIFEST_NAME}, so it is no bundle; `lamina bundle` builds one")
    content = path.read_bytes()
    manifest = decode_manifest(content, str(path))
    for entry in entries(manifest):
        _verify(folder / entry.file_name, entry)
    return Bundle(folder, manifest, digest_of(content))


def digest_of(content: bytes) -> str:
    """SHA-256 in hex: the name of a file, or, of the manifest's bytes, the bundle's digest."""
    return hashlib.sha256(content).hexdigest()


def entries(manifest: Manifest) -> Iterator[FileEntry]:
    """Every file of the bundle but the manifest; one that serves twice comes twice."""
    for sub_model in manifest.sub_models:
        for engine in (ONNXRUNTIME, *sub_model.of_engines):
            yield from graphs(sub_model.on(engine))
        for form in sub_model.forms:
            yield from graphs(sub_model.written(form))
    for piece in manifest.pieces:
        yield piece.graph
    yield manifest.inference
    yield from filter(None, (manifest.constants, manifest.unread))
    yield manifest.values


def graphs(sub_model: SubModel) -> Iterator[FileEntry]:
    """The files of one sub-model."""
    yield sub_model.graph
    yield from (
        entry for entry in (sub_model.accumulating, sub_model.updating, sub_model.recomputing) if entry is not None
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON that people can read; equal manifests give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(content: bytes, source: str = MANIFEST_NAME) -> Manifest:
    """The inverse of `encode_manifest`.

    Args:
        content: JSON.
        source: where it comes from, for the error.

    Raises:
        BundleError: it is no manifest of this format, or contradicts itself.
    """
    try:
        found = from_json(content, _AnyFormat).format
        if found != FORMAT:
            raise BundleError(f"{source}: a bundle of format {found}; this program reads {FORMAT}: build it again")
        manifest = from_json(content, Manifest)
        check_bounds(manifest)
        _check_order(manifest)
    except (msgspec.MsgspecError, ModelError, UnicodeDecodeError, RecursionError) as error:
        why = brief(str(error)) or "it is nested too deeply"
        raise BundleError(f"{source}: no manifest of a bundle: {why}") from error
    return manifest


class _AnyFormat(msgspec.Struct):
    """The one field that every format has."""

    format: int


def _check_order(manifest: Manifest) -> None:
    """The sub-models are the spec's cuts, and the pieces lead from each cut to the next."""
    spec = manifest.spec
    cuts = tuple(sub_model.cut for sub_model in manifest.sub_models)
    if cuts != spec.cuts:
        raise ModelError(f"its sub-models start at {cuts}, its spec's cuts are {spec.cuts}")
    leading, spans = [(piece.first_block, piece.stop_block) for piece in manifest.pieces], list(spec.spans)
    if leading != spans:
        raise ModelError(f"its pieces span the blocks {leading}, and must span {spans}")


def _verify(path: Path, entry: FileEntry) -> None:
    try:
        size = path.stat().st_size
        if size != entry.size_bytes:
            raise BundleError(f"bundle file {path}: it has {size} bytes, and the manifest says {entry.size_bytes}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"bundle file {path}: can't be read: {error.strerror}; build the bundle again") from error
    if found != entry.sha256:
        raise BundleError(f"bundle file {path}: its digest is {found}, and the manifest says {entry.sha256}")
