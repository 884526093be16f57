"""Keeps deployed models on a board's disk: the one that it predicts with, and the one before.

A model has a folder of its own below ``deployed`` in the agent's folder, with all that is needed to use it. A small
file says which one is active; it is replaced at once, so a program that predicts, and a board that loses its power,
meet the model before or the new one, whole.

    deployed/shelf.json          which model is active, which was before, and what was refused
    deployed/3-1f2e.../model.onnx    the network, with this board's personal layers in it
                      /manifest.json the bundle's manifest: what inputs, outputs and classes mean
                      /card.md       the model card
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from lamina.broker.wire.deployments import Offer
from lamina.edge_agent.session.deployment import ShelfState
from lamina.models.bundle import decode_manifest
from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError
from lamina.models.manifest import Manifest
from lamina.models.personal import at_places, with_personal
from lamina.models.storage.disk import DISK, Disk, read
from lamina.models.storage.replace import replace_file

log = logging.getLogger("lamina.agent")

FOLDER = "deployed"
MODEL, OFFERED, MANIFEST, CARD = "model.onnx", "offered.onnx", "manifest.json", "card.md"
_STATE = "shelf.json"


class Shelf:
    """The deployed models of one board.

    Args:
        agent_folder: the agent's.
        disk: they lie on.
    """

    def __init__(self, agent_folder: Path, disk: Disk = DISK) -> None:
        self._folder, self._disk = agent_folder / FOLDER, disk

    def state(self) -> ShelfState:
        """What is deployed; nothing where the file is damaged, which is said."""
        path = self._folder / _STATE
        try:
            return from_json(read(path, self._disk), ShelfState)
        except FileNotFoundError:
            return ShelfState()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s: can't be read, so no model counts as deployed: %s", path, error)
            return ShelfState()

    def mark(self) -> tuple[int, int] | None:
        """A value that changes whenever another model is active; ``None`` where none ever was."""
        try:
            found = (self._folder / _STATE).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def keep(self, state: ShelfState) -> None:
        """Have another state count, and remove the models that it doesn't name.

        Raises:
            OSError: the disk is full, or the like; then the state before stands.
        """
        replace_file(self._folder / _STATE, msgspec.json.encode(state), self._disk)
        named = {self.place(offer) for offer in (state.active, state.before) if offer}
        for name in self._disk.names(self._folder):
            place = self._folder / name
            if place not in named and name != _STATE and not name.endswith(".draft"):
                self._disk.remove_folder(place)

    def place(self, offer: Offer) -> Path:
        """The folder of a model."""
        return self._folder / f"{offer.number}-{offer.model[:16]}"

    def path(self, offer: Offer, name: str = MODEL) -> Path:
        """One file of a model."""
        return self.place(offer) / name

    def manifest(self, offer: Offer) -> Manifest:
        """The manifest of the bundle that a model was trained from, its layers divided as its personal ones are.

        Raises:
            ConfigError: it can't be read.
        """
        path = self.path(offer, MANIFEST)
        try:
            manifest = decode_manifest(read(path, self._disk), str(path))
        except OSError as error:
            raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
        return with_personal(manifest, at_places(manifest.spec, offer.personal))
