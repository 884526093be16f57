"""Keeps a device's personal layers on its disk, in a file of their own.

The state of a round (`state`) may be lost, and costs a device a cycle's drift: what it trains comes from the
coordinator. Personal layers come from nowhere else. So the file is written before anything of a round is sent, and it
outlives what the state does not: another budget and its cut, and a coordinator that went back to an earlier round.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import numpy as np

from lamina.broker.wire.framing import seal_of, unseal
from lamina.edge_agent.session.personal import PersonalValues, Values
from lamina.models.arrays import Vector
from lamina.models.decoding import from_msgpack
from lamina.models.errors import DecodeError
from lamina.models.spec import ModelSpec
from lamina.models.storage.disk import DISK, Disk
from lamina.models.storage.replace import replace_file

log = logging.getLogger("lamina.agent")

_MAGIC = b"LAMP"

FILE = "personal"
"""In the agent's folder."""


class Owner(msgspec.Struct, frozen=True):
    """What personal values belong to.

    Attributes:
        run: the epoch in which the run of the federation began; a rollback leaves it as it is.
        manifest: SHA-256 of the bundle's manifest.
        tensors: the places of the personal tensors (`lamina.models.personal.numbered`).
    """

    run: int
    manifest: str
    tensors: tuple[int, ...]


class _Content(msgspec.Struct, frozen=True):
    """Little-endian float32, by round and layer."""

    owner: Owner
    generations: dict[int, dict[str, bytes]]


def read_personal(path: Path, owner: Owner, spec: ModelSpec, disk: Disk = DISK) -> PersonalValues:
    """What is kept for an owner; nothing where the file is another's, or can't be read, which is said."""
    sizes = {layer.name: 4 * layer.vector_size for layer in spec.layers}
    try:
        with disk.open(path) as file:
            content = from_msgpack(unseal(file.read(), _MAGIC), _Content)
    except FileNotFoundError:
        return PersonalValues()
    except (OSError, DecodeError, msgspec.MsgspecError) as error:
        log.warning("personal layers %s: can't be read, so they begin anew: %s", path, error)
        return PersonalValues()
    kept = content.generations.values()
    if content.owner != owner or any(len(held) != sizes.get(name) for each in kept for name, held in each.items()):
        return PersonalValues()
    return PersonalValues(
        {start: {name: _vector(held) for name, held in values.items()} for start, values in content.generations.items()}
    )


def newest_personal(folder: Path, owner: Owner, spec: ModelSpec, disk: Disk = DISK) -> Values:
    """The values after the last round that the device trained; nothing where it trained none for this owner."""
    generations = read_personal(folder / FILE, owner, spec, disk).generations
    return generations[max(generations)] if generations else {}


def write_personal(path: Path, owner: Owner, values: PersonalValues, disk: Disk = DISK) -> None:
    """Put the file in the place of the one before; it survives a power cut when this returns.

    Raises:
        OSError: the disk is full, or the like. The file before is unharmed.
    """
    generations = {
        start: {name: vector.astype("<f4", copy=False).tobytes() for name, vector in held.items()}
        for start, held in values.generations.items()
    }
    content = msgspec.msgpack.encode(_Content(owner, generations))
    replace_file(path, [seal_of(_MAGIC, content), content], disk)


def _vector(content: bytes) -> Vector:
    return np.frombuffer(content, "<f4").astype(np.float32)
