"""``lamina replace pi-3``: another board takes the place and the name of one, whose certificate is good no more."""

from __future__ import annotations

import argparse

from lamina.broker.programs.exit_status import ExitStatus
from lamina.coordinator.commands.enrol import add_home_flag, add_serving_flags, offer
from lamina.coordinator.commands.revoke import RELOAD
from lamina.coordinator.enrolment.home import Home
from lamina.models.errors import require

HELP = "let another board take the place and the name of one, which is revoked"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina replace pi-3 --in greenhouse --serve"
    parser.add_argument("device", help="name of the board that is replaced")
    add_home_flag(parser)
    parser.add_argument("--days", type=int, default=365, help="for which the new certificate is good (365)")
    add_serving_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Revoke the old certificate, make a new one of the same name, and print a code for it."""
    require(options.days > 0, "--days must be at least 1")
    home, device = Home(options.folder), options.device
    with home.held():
        home.replace(device, days=options.days)
    print(f"{device}: the old board's certificate is revoked. {RELOAD.format(broker=home.broker)}", flush=True)
    print(
        f"to take its state along, on the old board: lamina-agent pack {device}.state; on the new one: "
        f"lamina-agent join CODE --state {device}.state",
        flush=True,
    )
    status = offer(home, [device], options)
    return status or ExitStatus.DONE
