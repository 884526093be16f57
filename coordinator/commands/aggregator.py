"""``lamina aggregator FEDERATION``: fold a site's updates, or a share of the layers, for the coordinator."""

from __future__ import annotations

import argparse
import re
import signal

from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.programs.ending import STATUS_OF, run_until_signalled
from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.programs.flags import add_federation_argument, federation_and_broker
from lamina.coordinator.service.aggregator import Aggregator
from lamina.models.errors import ConfigError

HELP = "fold the updates of a site, or of a share of the layers, and send the coordinator their sums"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina aggregator greenhouse --site hall-2 --broker 127.0.0.1"
    add_federation_argument(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--site", help="fold all layers for the devices of this broker; a name for the site")
    which.add_argument(
        "--share", metavar="K/N", help="fold share K of N of the layers (the federation's aggregation.aggregators is N)"
    )
    parser.add_argument("--broker-s", type=float, default=0.0, help="give up after so long without a broker (0: never)")


def run(options: argparse.Namespace) -> int:
    """Fold until the federation is finished."""
    index, count = share_of(options.share) if options.share else (0, 1)
    name = options.site or f"share-{index + 1}-of-{count}"
    federation, address = federation_and_broker(options)
    aggregator = Aggregator(federation, name, mqtt_dial(address), index=index, count=count, broker_s=options.broker_s)
    ended = run_until_signalled(aggregator.run())
    return STATUS_OF[ended] if isinstance(ended, signal.Signals) else ExitStatus.DONE


def share_of(text: str) -> tuple[int, int]:
    """``2/4`` as (1, 4): which share, from 0, of how many.

    Raises:
        ConfigError: it says something else.
    """
    found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text)
    if not found or int(found[1]) > int(found[2]):
        raise ConfigError(f"--share {text}: give it as K/N, such as 2/4, with K from 1 to N")
    return int(found[1]) - 1, int(found[2])
