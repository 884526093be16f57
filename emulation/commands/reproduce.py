"""``lamina reproduce``: the papers' tables, all of them, by the studies in a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from emulation.commands.emulate import ended_by_sigterm
from emulation.commands.simulate import add_common, read_with_seeds, show_study
from models.errors import ConfigError

HELP = "reproduce the papers' tables: every study of a folder"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--studies", type=Path, default=Path("experiments"), help="folder of TOML files")
    add_common(parser)


def run(options: argparse.Namespace) -> int:
    """Conduct every study, one after another; a run that two of them have in common is done once."""
    paths = sorted(options.studies.glob("*.toml"))
    if not paths:
        raise ConfigError(f"{options.studies}: there are no studies (*.toml) in it (seen from {Path.cwd()})")
    studies = [read_with_seeds(path, options.seeds) for path in paths]  # so that an error shows before hours are spent
    console = Console()
    with ended_by_sigterm():
        for study in studies:
            show_study(study, options, console)
    return 0
