"""``lamina dashboard federation.toml``: the dashboard of a run in a folder, whether a coordinator runs or not."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import msgspec

from lamina.broker.programs.ending import run_until_signalled
from lamina.broker.programs.exit_status import ExitStatus
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import overview_by
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.app import Dashboard
from lamina.coordinator.dashboard.asked import Asked
from lamina.coordinator.dashboard.hosting import served_on_port
from lamina.coordinator.dashboard.overview import Overview
from lamina.coordinator.settings import DashboardSettings, FederationSettings

HELP = "serve the dashboard of a federation that is over, or that was broken off"

_PORT = 8765


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina dashboard federation.toml --port 8080"
    parser.add_argument("config", type=Path, help="federation.toml")
    parser.add_argument("--port", type=int, default=_PORT, help=f"on this machine (default: {_PORT})")


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    settings = load_federation(options.config)
    overview_by(settings)  # whether there is anything to show
    ended = run_until_signalled(_serve(settings, options.port))
    return ExitStatus.DONE if isinstance(ended, signal.Signals) else ExitStatus.INCOMPLETE


async def _serve(settings: FederationSettings, port: int) -> None:
    folder = Path(settings.folder)

    async def overview() -> Overview:
        return await asyncio.to_thread(overview_by, settings)

    async def order(name: str, asked: Asked) -> None:
        await asyncio.to_thread(client.order, folder, name, **msgspec.structs.asdict(asked))

    dashboard = Dashboard(folder, overview, order)
    async with served_on_port(dashboard, DashboardSettings(port=port)) as address:
        print(f"dashboard: {address}  (Ctrl-C ends it)", flush=True)
        await asyncio.Event().wait()
