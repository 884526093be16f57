"""``lamina sensors federation.toml``: boards and federation as sensors that Home Assistant discovers by MQTT."""

from __future__ import annotations

import argparse
import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial
from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.programs.flags import add_broker_flags, broker_table
from lamina.broker.settings import convert
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import overview_by
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.overview import Overview
from lamina.coordinator.settings import FederationSettings
from lamina.coordinator.tracking.home_assistant import retained

HELP = "publish boards and federation as sensors for Home Assistant, while a coordinator runs"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina sensors federation.toml --broker homeassistant.local --username lamina"
    parser.add_argument("config", type=Path, help="federation.toml, whose coordinator runs on this machine")
    add_broker_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Publish until training ends, or Ctrl-C."""
    settings = load_federation(options.config)
    # Home Assistant's broker is another than the federation's, whose certificates are no business of it.
    address = convert(broker_table({}, options, Path.cwd()), BrokerAddress, "flags")
    asyncio.run(publish(_overviews(settings), mqtt_dial(address)))
    return ExitStatus.DONE


async def _overviews(settings: FederationSettings) -> AsyncIterator[Overview]:
    """How the federation stands while its coordinator runs, and how it stood at the end."""
    async for overview in client.overviews(Path(settings.folder)):
        yield overview
    yield await asyncio.to_thread(overview_by, settings)


async def publish(overviews: AsyncIterator[Overview], dial: Dial) -> None:
    """Publish what has changed, whenever the overview does."""
    said: dict[str, bytes] = {}
    async with dial(f"lamina-sensors-{secrets.token_hex(4)}", None) as link:
        async for overview in overviews:
            now = retained(overview)
            for topic, payload in now.items():
                if said.get(topic) != payload:
                    await link.publish(topic, payload, retain=True)
            said = now
