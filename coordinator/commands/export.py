"""``lamina export federation.toml``: write the model of a kept round, at any time, also while ``lamina run`` trains."""

from __future__ import annotations

import argparse
from pathlib import Path

from lamina.broker.programs.exit_status import ExitStatus
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.records.exporting import export_round

HELP = "write the model of a round that is kept, also while training goes on"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina export federation.toml --best --out models/greenhouse"
    parser.add_argument("config", type=Path, help="federation.toml")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--round", type=int, metavar="N", help="after so many rounds; without it, the last one")
    which.add_argument("--best", action="store_true", help="the best one by evaluation, of those that are kept")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the files; without it, the federation's folder")


def run(options: argparse.Namespace) -> int:
    """Write ``model``, ``best`` or ``round-N``, as safetensors and ONNX, with a model card."""
    settings = load_federation(options.config)
    paths, said = export_round(settings, round_=options.round, best=options.best, folder=options.out)
    print(f"{said}: {' and '.join(map(str, paths))}")
    return ExitStatus.DONE
