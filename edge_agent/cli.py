"""How does an operator start the agent on a board? ``lamina-agent --config agent.toml``.

Flags go before what the file says; paths in flags start at the current folder, those in the file at the file's own.
Exit status: 0 when the federation is finished or the agent was asked to end, 2 when the operator must change something,
1 when the broker stayed away, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from lamina.broker.link.address import host_and_port
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.settings import convert, read_toml
from lamina.edge_agent.ending import PATIENCE_S, end_by_force_after
from lamina.edge_agent.service.agent import Agent
from lamina.edge_agent.settings import AgentSettings, anchored, anchored_data
from lamina.models.errors import ConfigError, LinkError
from lamina.models.sources import load_samples

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lamina-agent``; returns the exit status."""
    options = options_of(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO, format="%(asctime)s %(name)s: %(message)s"
    )
    try:
        return _run(options)
    except ConfigError as error:
        print(f"lamina-agent: {error}", file=sys.stderr)
        return 2
    except LinkError as error:
        print(f"lamina-agent: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    agent = Agent(settings, load_samples(settings.data), mqtt_dial(settings.broker))
    if options.check:
        for name, value in msgspec.structs.asdict(agent.profile).items():
            if name != "v":  # the message's version says nothing of the board
                print(f"{name:14}{value}")
        return 0
    return asyncio.run(_run_until_signalled(agent))


async def _run_until_signalled(agent: Agent) -> int:
    """Run the agent; SIGTERM and Ctrl-C make it say goodbye and end."""
    running = asyncio.ensure_future(agent.run())
    status = 0

    forced: list[threading.Timer] = []

    def end(with_status: int) -> None:
        nonlocal status
        status = with_status
        running.cancel()
        forced.append(end_by_force_after(PATIENCE_S, with_status))

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end, 0)
    loop.add_signal_handler(signal.SIGINT, end, INTERRUPTED)
    try:
        await running
    except asyncio.CancelledError:
        logging.getLogger("lamina.agent").info("ended by a signal")
    finally:
        for timer in forced:
            timer.cancel()
    return status


def settings_of(options: argparse.Namespace) -> AgentSettings:
    """What the file and the flags say together.

    Raises:
        ConfigError: the file can't be read, or a key or flag is wrong or missing.
    """
    here = Path.cwd()
    config = here / options.config if options.config else None
    table = read_toml(config) if config else {}
    table |= {name: value for name, value in _flags(options, here).items() if value is not None}
    if options.broker:
        table["broker"] = {**_table_of(table, "broker"), **host_and_port(options.broker)}
    settings = convert(table, AgentSettings, str(config) if config else "flags")
    return anchored(settings, config.parent if config else here)


def _flags(options: argparse.Namespace, here: Path) -> dict[str, Any]:
    return {
        "federation": options.federation,
        "device": options.device,
        "data": anchored_data(options.data, here) if options.data else None,
        "budget_mib": options.budget_mib,
        "threads": options.threads,
        "folder": str(here / options.folder) if options.folder else None,
    }


def _table_of(table: dict[str, Any], key: str) -> dict[str, Any]:
    """A table inside a table; anything else is left for `convert` to complain of."""
    found = table.get(key, {})
    return found if isinstance(found, dict) else {}


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags of a command line; ``None`` takes the process's."""
    parser = argparse.ArgumentParser(
        prog="lamina-agent", description="Takes part in a federation with the samples on this board."
    )
    parser.add_argument("--version", action="version", version=f"lamina-agent {version('lamina-fl')}")
    parser.add_argument("--config", metavar="FILE", help="agent.toml; without it, flags must say all that is required")
    parser.add_argument("--federation", metavar="NAME", help="name of the federation")
    parser.add_argument("--device", metavar="NAME", help="this board's name")
    parser.add_argument("--data", metavar="SOURCE", help="samples.npz, a pair x.npy,y.npy, or module:function")
    parser.add_argument("--broker", metavar="HOST[:PORT]", help="where the broker is")
    parser.add_argument("--budget-mib", type=float, metavar="MIB", help="memory for training above the idle agent")
    parser.add_argument("--threads", type=int, metavar="N", help="processor cores for training; 0 takes all")
    parser.add_argument("--folder", metavar="FOLDER", help="for the bundle, activations and state")
    parser.add_argument("--check", action="store_true", help="check configuration and data, print the profile, and end")
    parser.add_argument("-v", "--verbose", action="store_true", help="log everything")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
