"""``lamina clear FEDERATION``: have the broker forget a federation that is over."""

from __future__ import annotations

import argparse
import asyncio
import secrets

from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial
from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.programs.flags import add_federation_argument, federation_and_broker
from lamina.broker.wire import messages
from lamina.broker.wire.messages import CoordinatorStatus
from lamina.broker.wire.topics import Topics
from lamina.coordinator.service.retained import retained
from lamina.models.errors import ConfigError, DecodeError

HELP = "have the broker forget a federation that is over: its bundle, values, plan, and what its devices said"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina clear greenhouse --broker broker.local"
    add_federation_argument(parser)
    parser.add_argument("--force", action="store_true", help="though its coordinator is there, or may come back")


def run(options: argparse.Namespace) -> int:
    """Print how many messages were cleared."""
    federation, address = federation_and_broker(options)
    cleared = asyncio.run(clear(mqtt_dial(address), federation, force=options.force))
    print(f"{federation}: {cleared} retained messages cleared at {address}")
    return ExitStatus.DONE


async def clear(dial: Dial, federation: str, *, force: bool = False) -> int:
    """Clear all that is retained below a federation's topics; returns how many messages that was.

    Raises:
        ConfigError: the federation is not finished, and ``force`` is not set.
    """
    topics = Topics(federation)
    async with dial(topics.client("clear", secrets.token_hex(4)), None) as link:
        kept = {delivery.topic: delivery.payload async for delivery in retained(link, f"{topics.root}/#")}
        state = _state(kept.get(topics.coordinator_status))
        if state in ("waiting", "training", "stopped", "lost") and not force:
            raise ConfigError(
                f"the coordinator of {federation!r} is {state}: devices need what the broker keeps; --force clears it"
            )
        for topic in kept:
            await link.publish(topic, b"", retain=True)
    return len(kept)


def _state(status: bytes | None) -> str:
    try:
        return messages.decode(status, CoordinatorStatus).state if status else ""
    except DecodeError:  # of another protocol
        return "unreadable"
