"""``lamina revoke pi-3``: a board's certificate is good no more."""

from __future__ import annotations

import argparse

from lamina.broker.programs.exit_status import ExitStatus
from lamina.coordinator.commands.enrol import add_home_flag
from lamina.coordinator.enrolment.home import Home

HELP = "take back what a board, a site or the coordinator was let in by"

RELOAD = (
    "a broker that runs as `lamina broker --folder` takes this at once; for another, carry {broker} there, and have it "
    "read its files again (systemctl reload mosquitto, or SIGHUP)"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina revoke pi-2 --in greenhouse"
    parser.add_argument("names", nargs="+", metavar="NAME", help="of boards and sites, or `coordinator`")
    add_home_flag(parser)


def run(options: argparse.Namespace) -> int:
    """Revoke, and say how the broker learns of it."""
    home = Home(options.folder)
    for name in options.names:
        with home.held():
            home.revoke(name)
        print(f"{name}: revoked")
    print(RELOAD.format(broker=home.broker))
    return ExitStatus.DONE
