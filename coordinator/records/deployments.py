"""Keeps what is deployed in a run's folder: how far a rollout is, and the files of the models that devices may need.

deployment/state.json        which model is in force, which were before, how far the last rollout is
deployment/3/model.onnx      the model of deployment 3, and its card
deployment/lock              one program at a time deploys
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from lamina.broker.wire.deployments import Offer
from lamina.coordinator.deployment.rollout import DeploymentState
from lamina.models.bundle import digest_of
from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError
from lamina.models.storage.disk import DISK, Disk, read
from lamina.models.storage.folder_lock import held
from lamina.models.storage.replace import replace_file

FOLDER = "deployment"
NAME = "model"
_STATE = "state.json"


class DeploymentFiles:
    """The deployments of one run.

    Args:
        run_folder: the run's.
        disk: they lie on.
    """

    def __init__(self, run_folder: Path, disk: Disk = DISK) -> None:
        self.folder, self._disk = run_folder / FOLDER, disk

    @contextmanager
    def held(self) -> Iterator[None]:
        """One program at a time deploys.

        Raises:
            ConfigError: another one does.
        """
        with held(self.folder, "lamina deploy"):
            yield

    def state(self) -> DeploymentState:
        """What is deployed.

        Raises:
            ConfigError: the file is damaged.
        """
        path = self.folder / _STATE
        try:
            return from_json(read(path, self._disk), DeploymentState)
        except FileNotFoundError:
            return DeploymentState()
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: it is damaged: {error}; remove it, and deploy again") from error

    def keep(self, state: DeploymentState) -> None:
        """Have another state count, and remove the models that no device can be told to take any more."""
        replace_file(self.folder / _STATE, msgspec.json.encode(state), self._disk)
        kept = {str(offer.number) for offer in state.kept}
        for name in self._disk.names(self.folder):
            if name.isdecimal() and name not in kept and int(name) <= state.last_number:
                self._disk.remove_folder(self.folder / name)

    def place(self, number: int) -> Path:
        """The folder of a model's files."""
        return self.folder / str(number)

    def has(self, offer: Offer) -> bool:
        """Whether a model was deployed from this folder."""
        return self.place(offer.number).is_dir()

    def contents(self, offer: Offer) -> dict[str, bytes]:
        """All that a device needs of a model, by SHA-256: the model, its card, the manifest, the graph of its metrics.

        Raises:
            ConfigError: one can't be read, or is not what it was.
        """
        place = self.place(offer.number)
        try:
            files = [read(place / name, self._disk) for name in self._disk.names(place)]
        except OSError as error:
            raise ConfigError(
                f"deployment {offer.number}: {error.filename}: can't be read: {error.strerror}"
            ) from error
        contents = {digest_of(content): content for content in files}
        if missing := {offer.model, offer.card, offer.bundle} - contents.keys():
            raise ConfigError(f"deployment {offer.number}: {place} lacks the file with the digest {min(missing)[:12]}")
        return contents
