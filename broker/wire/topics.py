"""The topic tree of protocol 1: where on the broker each thing lives.

At most 6 slashes; AWS IoT Core accepts 7. Names in topics are ``[A-Za-z0-9_.-]{1,64}``, and are checked on receipt as
they are in settings: what a topic names may then stand in a file name, a record or a log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lamina.broker.wire.bounds import LAYER_NAME, NAME
from lamina.models.errors import ConfigError, DecodeError, brief

PROTOCOL = 1
ROOT = f"lamina/v{PROTOCOL}"
_NAME = re.compile(NAME)
_LAYER = re.compile(LAYER_NAME)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_DIGITS = 9


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it may stand in a topic.

    Raises:
        ConfigError: it may not; ``what`` says whose name it is.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {brief(name, 80)!r} can't stand in an MQTT topic: use 1 to 64 of letters, digits, '_', '.', '-'"
        )
    return name


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one federation.

    Attributes:
        federation: its name.
    """

    federation: str

    def __post_init__(self) -> None:
        check_name(self.federation, "federation")

    @property
    def root(self) -> str:
        """What every topic of the federation begins with, without the last slash."""
        return f"{ROOT}/{self.federation}"

    def client(self, role: str, name: str = "") -> str:
        """The id of a program at the broker: unlike any other's, since no name has a slash.

        Args:
            role: ``coordinator``, ``device``, ``aggregator``, or what a command does.
            name: of the device or site, or random where any number may run.
        """
        return "/".join(filter(None, (self.federation, role, name)))

    @property
    def coordinator_status(self) -> str:
        """Retained, and the coordinator's will."""
        return f"{self.root}/coordinator/status"

    @property
    def lease(self) -> str:
        """Retained: which coordinator leads the federation."""
        return f"{self.root}/coordinator/lease"

    @property
    def lease_question(self) -> str:
        """Coordinator to coordinator: is the holder of the lease there?"""
        return f"{self.root}/coordinator/question"

    @property
    def kept(self) -> str:
        """Retained: which files of the bundle are there, by the coordinator for itself."""
        return f"{self.root}/coordinator/kept"

    @property
    def round(self) -> str:
        """Retained: the plan of the round."""
        return f"{self.root}/round"

    @property
    def deployment(self) -> str:
        """Retained: which model devices predict with (`lamina.broker.wire.deployments`)."""
        return f"{self.root}/deployment"

    def layer_global(self, layer: str, chunk: int) -> str:
        """Retained: one chunk of a layer's value."""
        return f"{self.root}/layer/{layer}/global/{chunk}"

    def layer_globals(self, layer: str) -> str:
        """Filter for all chunks of a layer's value."""
        return f"{self.root}/layer/{layer}/global/+"

    def advance(self, part: int) -> str:
        """Retained: one message of the last round's advance (`lamina.broker.wire.deltas`)."""
        return f"{self.root}/advance/{part}"

    @property
    def advances(self) -> str:
        """Filter for the whole of it."""
        return f"{self.root}/advance/+"

    def layer_update(self, layer: str, device: str) -> str:
        """Device to coordinator: chunks of an update."""
        return f"{self.root}/layer/{layer}/update/{device}"

    def layer_partial(self, layer: str, site: str) -> str:
        """Aggregator to coordinator: chunks of the sum of its devices' updates."""
        return f"{self.root}/layer/{layer}/partial/{site}"

    def aggregator_status(self, site: str) -> str:
        """Retained, and the aggregator's will."""
        return f"{self.root}/aggregator/{site}/status"

    @property
    def aggregators(self) -> str:
        """Filter for every aggregator's status."""
        return f"{self.root}/aggregator/+/status"

    def bundle(self, sha256: str, chunk: int) -> str:
        """Retained: one chunk of a file of the bundle, or of a deployed model."""
        return f"{self.root}/bundle/{sha256}/{chunk}"

    def bundle_chunks(self, sha256: str) -> str:
        """Filter for all chunks of one such file."""
        return f"{self.root}/bundle/{sha256}/+"

    def device(self, device: str, leaf: str) -> str:
        """A device's own topic; ``leaf`` is status, profile, task, request, report, updates or deployed."""
        return f"{self.root}/device/{device}/{leaf}"

    def batch(self, device: str) -> str:
        """Device to coordinator: updates of several layers in one message (`lamina.broker.wire.batches`)."""
        return self.device(device, "updates")

    @property
    def updates(self) -> str:
        """Filter for every device's updates of every layer."""
        return f"{self.root}/layer/+/update/+"

    def layer_updates(self, layer: str) -> str:
        """Filter for every device's updates of one layer."""
        return f"{self.root}/layer/{layer}/update/+"

    @property
    def partials(self) -> str:
        """Filter for every aggregator's partials of every layer."""
        return f"{self.root}/layer/+/partial/+"

    def devices(self, leaf: str) -> str:
        """Filter for one leaf of every device."""
        return f"{self.root}/device/+/{leaf}"

    def parse(self, topic: str) -> Address:
        """What a topic of this federation addresses.

        Raises:
            DecodeError: it is no topic of this federation and protocol, or a name in it is none.
        """
        prefix, parts = topic[: len(self.root) + 1], topic[len(self.root) + 1 :].split("/")
        if prefix != f"{self.root}/":
            raise DecodeError(f"topic {brief(topic, 80)!r} is not below {self.root}/")
        match parts:
            case ["coordinator", "status"]:
                return Address("coordinator_status")
            case ["coordinator", ("lease" | "question") as kind]:
                return Address(kind)
            case ["coordinator", "kept"]:
                return Address("kept")
            case [("round" | "deployment") as kind]:
                return Address(kind)
            case ["layer", layer, "global", chunk] if _LAYER.fullmatch(layer) and _is_number(chunk):
                return Address("layer_global", layer=layer, chunk=int(chunk))
            case ["advance", part] if _is_number(part):
                return Address("advance", chunk=int(part))
            case ["layer", layer, "update", device] if _LAYER.fullmatch(layer) and _NAME.fullmatch(device):
                return Address("layer_update", layer=layer, device=device)
            case ["layer", layer, "partial", site] if _LAYER.fullmatch(layer) and _NAME.fullmatch(site):
                return Address("layer_partial", layer=layer, site=site)
            case ["aggregator", site, "status"] if _NAME.fullmatch(site):
                return Address("aggregator_status", site=site)
            case ["bundle", sha256, chunk] if _SHA256.fullmatch(sha256) and _is_number(chunk):
                return Address("bundle", sha256=sha256, chunk=int(chunk))
            case [
                "device",
                device,
                ("status" | "profile" | "task" | "request" | "report" | "updates" | "deployed") as leaf,
            ] if _NAME.fullmatch(device):
                return Address(leaf, device=device)
        raise DecodeError(f"topic {brief(topic, 80)!r} is not of protocol {PROTOCOL}")


def _is_number(part: str) -> bool:
    return len(part) <= _MOST_DIGITS and part.isascii() and part.isdecimal()


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed topic: ``kind``, and those of the other fields that this kind has."""

    kind: str
    layer: str = ""
    device: str = ""
    site: str = ""
    sha256: str = ""
    chunk: int = 0
