"""``lamina resume federation.toml``: go on after lamina pause."""

from __future__ import annotations

import argparse

from lamina.coordinator.commands.looking import add_arguments, give, show

HELP = "go on after lamina pause"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Give the order."""
    overview = give(options, "resume")
    return show(options, overview, [f"{overview.federation}: goes on after round {overview.round}"])
