"""``lamina renew pi-3``: a new certificate for a board, for the broker or for the coordinator."""

from __future__ import annotations

import argparse

from lamina.coordinator.commands.enrol import add_home_flag, add_serving_flags, offer
from lamina.coordinator.commands.revoke import RELOAD
from lamina.coordinator.enrolment.home import BROKER, COORDINATOR, Home
from lamina.models.errors import require

HELP = "make a new certificate for a board, `broker` or `coordinator`"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina renew pi-1 --in greenhouse"
    parser.add_argument("names", nargs="+", metavar="NAME", help="of boards, or `broker`, or `coordinator`")
    add_home_flag(parser)
    parser.add_argument("--days", type=int, default=365, help="for which a board's certificate is good (365)")
    add_serving_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Renew, and print a code for each board."""
    require(options.days > 0, "--days must be at least 1")
    home = Home(options.folder)
    for name in options.names:
        with home.held():
            if name == BROKER:
                home.renew_broker()
                print(f"{name}: a new certificate. {RELOAD.format(broker=home.broker)}")
            elif name == COORDINATOR:
                home.renew_coordinator()
                print(f"{name}: a new certificate; start `lamina run` anew")
            else:
                home.renew(name, days=options.days)
    return offer(home, [name for name in options.names if name not in (BROKER, COORDINATOR)], options)
