"""``lamina history federation.toml``: the rounds that are done, a line each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import add_arguments, show
from lamina.coordinator.dashboard.source import rounds_after
from lamina.coordinator.dashboard.text import figure, size, table
from lamina.models.errors import ConfigError
from lamina.models.metrics import ACCURACY

HELP = "show the rounds that are done"

_HEAD = ("layers", "updates", "C", "up", "seconds")


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
    metrics = list(dict.fromkeys(name for record in rounds for name in record["figures"])) or [ACCURACY]
    head = ("round", "loss", *("held-out loss" if name == "loss" else name for name in metrics), *_HEAD)
    return show(options, rounds, table(head, [_row(record, metrics) for record in rounds]))


def _row(record: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    loss = record["loss"]
    return [
        str(record["round"] + 1),
        "-" if loss is None else f"{loss:.4f}",
        *(figure(record["figures"].get(name)) for name in metrics),
        str(len(record["due"])),
        f"{record['updates']}/{record['expected']}",
        f"{record['c_ratio']:.3f}",
        size(record["uplink_bytes"]),
        f"{record['round_s']:.2f}",
    ]
