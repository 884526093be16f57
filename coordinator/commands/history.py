"""``lamina history federation.toml``: the rounds that are done, a line each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import add_arguments, show
from lamina.coordinator.dashboard.source import rounds_after
from lamina.coordinator.dashboard.text import size, table
from lamina.models.errors import ConfigError

HELP = "show the rounds that are done"

_HEAD = ("round", "loss", "accuracy", "layers", "updates", "C", "up", "seconds")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina history federation.toml --last 10"
    add_arguments(parser)
    parser.add_argument("--last", type=int, metavar="N", default=0, help="the last N alone")


def run(options: argparse.Namespace) -> int:
    """Print a line a round."""
    folder = Path(load_federation(options.config).folder)
    rounds = rounds_after(folder, 0)
    if not rounds:
        raise ConfigError(f"{folder} holds no round: `lamina run` trains")
    rounds = rounds[-options.last :] if options.last > 0 else rounds
    return show(options, rounds, table(_HEAD, [_row(record) for record in rounds]))


def _row(record: dict[str, Any]) -> list[str]:
    loss, accuracy = record["loss"], record["accuracy"]
    return [
        str(record["round"] + 1),
        "-" if loss is None else f"{loss:.4f}",
        "-" if accuracy is None else f"{accuracy:.4f}",
        str(len(record["due"])),
        f"{record['updates']}/{record['expected']}",
        f"{record['c_ratio']:.3f}",
        size(record["uplink_bytes"]),
        f"{record['round_s']:.2f}",
    ]
