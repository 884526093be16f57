"""``lamina remove federation.toml DEVICE``: a device takes no further part, until ``lamina admit`` takes it back."""

from __future__ import annotations

import argparse

from lamina.coordinator.commands.looking import add_arguments, give, show

HELP = "put a device aside: it takes no further part"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_arguments(parser)
    parser.add_argument("device", help="its name, as `lamina devices` has it")


def run(options: argparse.Namespace) -> int:
    """Give the order."""
    overview = give(options, "put-aside", device=options.device)
    return show(options, overview, [f"{options.device} takes no further part; `lamina admit` takes it back"])
