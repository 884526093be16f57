"""``lamina logs federation.toml [DEVICE]``: the last lines of a running coordinator's log, or those about a device."""

from __future__ import annotations

import argparse
from pathlib import Path
from urllib.parse import quote

import msgspec

from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import add_arguments, show
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.source import LogLine
from lamina.coordinator.dashboard.text import local_time

HELP = "show the last lines of the coordinator's log, or those about a device"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina logs federation.toml pi-3"
    add_arguments(parser)
    parser.add_argument("device", nargs="?", default="", help="its name")


def run(options: argparse.Namespace) -> int:
    """Print the lines, oldest first."""
    folder = Path(load_federation(options.config).folder)
    content = client.ask(folder, f"/api/log?device={quote(options.device, safe='')}")
    lines = msgspec.json.decode(content, type=list[LogLine])
    return show(options, lines, [f"{local_time(line.at)} {line.level:<7} {line.text}" for line in lines])
