"""How the commands that look at a federation find it: through its coordinator, or by its folder while none runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lamina.broker.programs.exit_status import ExitStatus
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.beside import with_what_lies_beside
from lamina.coordinator.dashboard.client import NobodyRuns
from lamina.coordinator.dashboard.overview import Overview
from lamina.coordinator.dashboard.source import overview_of
from lamina.coordinator.settings import FederationSettings
from lamina.models.bundle import read_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file, and ``--json``."""
    parser.add_argument("config", type=Path, help="federation.toml")
    parser.add_argument("--json", action="store_true", help="for programs")


def overview_by(settings: FederationSettings) -> Overview:
    """How a federation stands on this machine.

    Raises:
        ConfigError: no coordinator runs, and its folder holds no committed round.
    """
    folder = Path(settings.folder)
    try:
        return client.overview(folder)
    except NobodyRuns:
        found = overview_of(folder, settings.federation, read_bundle(Path(settings.bundle)), settings.rounds)
        return with_what_lies_beside(found, folder)


def show(options: argparse.Namespace, value: object, lines: Sequence[str]) -> int:
    """Print a value as JSON, or its lines."""
    print(msgspec.json.format(msgspec.json.encode(value)).decode() if options.json else "\n".join(lines), flush=True)
    return ExitStatus.DONE
