"""``lamina status``: how a federation and its devices stand, whether its coordinator runs or not."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Delivery, Dial
from lamina.broker.programs.flags import add_federation_argument, federation_and_broker
from lamina.broker.wire import messages
from lamina.broker.wire.messages import CoordinatorStatus, DeviceProfile, DeviceStatus
from lamina.broker.wire.topics import Topics
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import overview_by, show
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.client import NobodyRuns
from lamina.coordinator.dashboard.overview import Overview
from lamina.coordinator.dashboard.text import device_lines, summary_lines
from lamina.coordinator.enrolment.expiry import ending_soon
from lamina.coordinator.service.retained import retained
from lamina.coordinator.settings import FederationSettings
from lamina.models.errors import ConfigError, DecodeError, LaminaError, LinkError

HELP = "show a federation and its devices"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina status federation.toml --json"
    add_federation_argument(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    """Print how the coordinator stands, and a line a device.

    A coordinator that runs on this machine says it itself. Otherwise the broker is asked, which knows of devices
    that are there without a coordinator; and where it does not answer or knows nothing, the folder is read.
    """
    settings = _settings(options)
    if settings is not None:
        with suppress(NobodyRuns):
            return _show(options, client.overview(Path(settings.folder)))
    federation, address = federation_and_broker(options)
    try:
        sight = asyncio.run(look(mqtt_dial(address), federation))
        if sight.coordinator is None and not sight.profiles:
            raise ConfigError(f"no federation {federation!r} is known at {address}")
    except (LinkError, ConfigError):
        overview = None if settings is None else _kept(settings)
        if overview is None:
            raise
        return _show(options, overview)
    return show(options, sight.facts(), [*sight.text(federation).splitlines(), *_ending(options)])


def _show(options: argparse.Namespace, overview: Overview) -> int:
    now = time.time()
    return show(options, overview, [*summary_lines(overview, now), *_ending(options), "", *device_lines(overview, now)])


def _ending(options: argparse.Namespace) -> list[str]:
    """What ends soon of the certificates in the federation's folder."""
    if not options.federation.endswith(".toml"):
        return []
    return [f"  {line}" for line in ending_soon(Path(options.federation).parent, time.time())]


def _settings(options: argparse.Namespace) -> FederationSettings | None:
    """The settings of a ``federation.toml``; ``None`` for a name, an agent.toml, or a file that is wrong."""
    if not options.federation.endswith(".toml"):
        return None
    try:
        return load_federation(Path(options.federation))
    except ConfigError:
        return None


def _kept(settings: FederationSettings) -> Overview | None:
    """What the federation's folder holds; ``None`` where that is no committed round."""
    try:
        return overview_by(settings)
    except LaminaError:
        return None


class Sight:
    """What is retained about one federation."""

    def __init__(self) -> None:
        self.coordinator: CoordinatorStatus | None = None
        self.profiles: dict[str, DeviceProfile] = {}
        self.states: dict[str, str] = {}
        self.aggregators: dict[str, str] = {}

    def see(self, topics: Topics, delivery: Delivery) -> None:
        """Take in one message; what does not decode is passed over."""
        try:
            address = topics.parse(delivery.topic)
            if address.kind == "coordinator_status":
                self.coordinator = messages.decode(delivery.payload, CoordinatorStatus)
            elif address.kind == "aggregator_status":
                self.aggregators[address.site] = messages.decode(delivery.payload, DeviceStatus).state
            elif address.kind == "profile":
                self.profiles[address.device] = messages.decode(delivery.payload, DeviceProfile)
            elif address.kind == "status":
                self.states[address.device] = messages.decode(delivery.payload, DeviceStatus).state
        except DecodeError:
            return

    def facts(self) -> dict[str, object]:
        """What is known, for programs."""
        return {
            "coordinator": self.coordinator,
            "aggregators": self.aggregators,
            "devices": {
                name: {"state": self.states.get(name, "unknown"), "profile": profile}
                for name, profile in self.profiles.items()
            },
        }

    def text(self, federation: str) -> str:
        """A line for the coordinator, and one for each aggregator and device, in ascending order."""
        lines = [f"{federation}: {_progress(self.coordinator)}"]
        lines += [f"  aggregator {name:<13} {self.aggregators[name]}" for name in sorted(self.aggregators)]
        for name in sorted(self.profiles):
            profile = self.profiles[name]
            state = self.states.get(name, "unknown")
            lines.append(
                f"  {name:<24} {state:<9} {profile.budget_mib:8.1f} MiB  {profile.cores} cores"
                f"  {profile.architecture:<8} {profile.num_examples:>8,} examples  {profile.engine}"
            )
        return "\n".join(lines)


async def look(dial: Dial, federation: str) -> Sight:
    """Collect what is retained, until nothing more comes."""
    topics, sight = Topics(federation), Sight()
    async with dial(topics.client("status", secrets.token_hex(4)), None) as link:
        filters = topics.coordinator_status, topics.aggregators, topics.devices("status"), topics.devices("profile")
        async for delivery in retained(link, *filters):
            sight.see(topics, delivery)
    return sight


def _progress(status: CoordinatorStatus | None) -> str:
    if status is None:
        return "no coordinator"
    accuracy = "" if status.accuracy is None else f", accuracy {status.accuracy:.4f}"
    if status.figure is not msgspec.UNSET:
        accuracy = f", {status.judge} {status.figure:.4g}"
    ratio = "" if status.c_ratio is None else f", C {status.c_ratio:.3f}"
    return f"{status.state}, round {status.round} of {status.rounds}, {status.devices} devices{accuracy}{ratio}"
