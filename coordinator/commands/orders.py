"""The commands that give a running coordinator an order: ``lamina pause``, ``resume``, ``remove`` and ``admit``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import add_arguments, show
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.overview import Overview


@dataclass(frozen=True)
class OrderCommand:
    """A command of ``lamina`` that gives one order.

    Attributes:
        HELP: for ``lamina --help``.
        order: its name for the coordinator.
        answer: what is printed when the order is obeyed.
        device: whether it is about a device, which the command line then names.
    """

    HELP: str  # the name that every command's help has
    order: str
    answer: Callable[[argparse.Namespace, Overview], str]
    device: bool = False

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        named = " pi-3" if self.device else ""
        parser.epilog = f"example: {parser.prog} federation.toml{named}"
        add_arguments(parser)
        if self.device:
            parser.add_argument("device", help="its name, as `lamina devices` has it")

    def run(self, options: argparse.Namespace) -> int:
        """Give the order."""
        given = {"device": options.device} if self.device else {}
        overview = client.order(Path(load_federation(options.config).folder), self.order, **given)
        return show(options, overview, [self.answer(options, overview)])


PAUSE = OrderCommand(
    "begin no further round until lamina resume; the open one is finished",
    "pause",
    lambda options, now: f"{now.federation}: no further round begins until `lamina resume {options.config}`",
)
RESUME = OrderCommand(
    "go on after lamina pause",
    "resume",
    lambda options, now: f"{now.federation}: goes on after round {now.round}",
)
REMOVE = OrderCommand(
    "put a device aside: it takes no further part",
    "put-aside",
    lambda options, now: f"{options.device} takes no further part; `lamina admit` takes it back",
    device=True,
)
ADMIT = OrderCommand(
    "take a device back that was put aside",
    "readmit",
    lambda options, now: f"{options.device} may take part again, from the next cohort on",
    device=True,
)
