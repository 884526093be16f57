"""``lamina admit federation.toml DEVICE``: a device that was put aside takes part again, from the next cohort on."""

from __future__ import annotations

import argparse

from lamina.coordinator.commands.looking import add_arguments, give, show

HELP = "take a device back that was put aside"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_arguments(parser)
    parser.add_argument("device", help="its name")


def run(options: argparse.Namespace) -> int:
    """Give the order."""
    overview = give(options, "readmit", device=options.device)
    return show(options, overview, [f"{options.device} may take part again, from the next cohort on"])
