"""``lamina devices federation.toml``: the fleet as a table, also while no coordinator runs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import msgspec

from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import add_arguments, overview_by, show
from lamina.coordinator.dashboard.overview import Overview
from lamina.coordinator.dashboard.text import device_lines
from lamina.coordinator.enrolment.expiry import ends

HELP = "show the devices of a federation"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina devices federation.toml"
    add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print a line a device."""
    overview = with_certificates(overview_by(load_federation(options.config)), options.config.parent)
    return show(options, overview.devices, device_lines(overview, time.time()))


def with_certificates(overview: Overview, folder: Path) -> Overview:
    """The overview with the ends of the devices' certificates, where the federation's authority is in its folder."""
    until = ends(folder)
    devices = tuple(
        msgspec.structs.replace(device, certificate_until=until.get(device.id)) for device in overview.devices
    )
    return msgspec.structs.replace(overview, devices=devices)
