"""``lamina devices federation.toml``: the fleet as a table, also while no coordinator runs."""

from __future__ import annotations

import argparse

from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import add_arguments, overview_by, show, wall_clock
from lamina.coordinator.dashboard.text import device_lines

HELP = "show the devices of a federation"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print a line a device."""
    overview = overview_by(load_federation(options.config))
    return show(options, overview.devices, device_lines(overview, wall_clock()))
