"""``lamina rollback federation.toml ROUND``: have a run go on after an earlier round, such as before it diverged."""

from __future__ import annotations

import argparse
from pathlib import Path

from lamina.broker.programs.exit_status import ExitStatus
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.records.kept_model import as_trained
from lamina.coordinator.records.rolling_back import roll_back
from lamina.models.bundle import read_bundle
from lamina.models.storage.folder_lock import held

HELP = "have a run go on after an earlier round that is kept"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina rollback federation.toml 120"
    parser.add_argument("config", type=Path, help="federation.toml")
    parser.add_argument("round", type=int, metavar="ROUND", help="rounds done, as `lamina run` counts them")


def run(options: argparse.Namespace) -> int:
    """Set later rounds aside; devices begin afresh, from the values of that round."""
    settings = load_federation(options.config)
    folder, bundle = Path(settings.folder), as_trained(read_bundle(Path(settings.bundle)), settings)
    with held(folder, "lamina rollback"):
        roll_back(settings, bundle, options.round)
    print(f"`lamina run {options.config}` goes on after round {options.round}; what came later is set aside")
    return ExitStatus.DONE
