"""``lamina pause federation.toml``: begin no further round until lamina resume; the open one is finished."""

from __future__ import annotations

import argparse

from lamina.coordinator.commands.looking import add_arguments, give, show

HELP = "begin no further round until lamina resume; the open one is finished"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Give the order."""
    overview = give(options, "pause")
    line = f"{overview.federation}: no further round begins until `lamina resume {options.config}`"
    return show(options, overview, [line])
