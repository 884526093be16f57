"""``lamina watch federation.toml``: the dashboard in the terminal, until training ends or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from pathlib import Path

from lamina.broker.programs.exit_status import ExitStatus
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import add_arguments, overview_by, show
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.client import NobodyRuns
from lamina.coordinator.dashboard.overview import Overview
from lamina.coordinator.dashboard.source import rounds_after
from lamina.coordinator.dashboard.text import device_lines, layer_lines, sparkline, summary_lines

HELP = "watch a federation in the terminal"

_CLEAR = "\x1b[H\x1b[J"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina watch federation.toml"
    add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Draw it anew whenever it changes; without a terminal, or with --json, print each change below the last one."""
    settings = load_federation(options.config)
    try:
        asyncio.run(_watch(options, Path(settings.folder)))
    except NobodyRuns:
        overview = overview_by(settings)
        show(options, overview, _screen(overview, Path(settings.folder)))
    return ExitStatus.DONE


async def _watch(options: argparse.Namespace, folder: Path) -> None:
    async for overview in client.overviews(folder):
        if options.json:
            show(options, overview, [])
            continue
        if sys.stdout.isatty():
            print(_CLEAR, end="")
        show(options, overview, [*_screen(overview, folder), ""])


def _screen(overview: Overview, folder: Path) -> list[str]:
    width = shutil.get_terminal_size().columns
    lines = summary_lines(overview, time.time())
    found = [record["figures"] for record in rounds_after(folder, 0)]
    names = list(dict.fromkeys(name for figures in found for name in figures))
    for name in names:
        values = [figures[name] for figures in found if name in figures]
        if len(values) > 1:
            lines.append(f"  {name} {sparkline(values[-(width - len(name) - 4) :])}")
    lines += ["", *layer_lines(overview), "", *device_lines(overview, time.time())]
    return [line[:width] for line in lines]
