"""``lamina track federation.toml``: finished rounds as curves in TensorBoard or MLflow."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lamina.broker.programs.exit_status import ExitStatus
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.dashboard.source import rounds_after
from lamina.coordinator.tracking.curves import Tracker, points
from lamina.models.errors import ConfigError

HELP = "write the rounds that are done as curves for TensorBoard or MLflow"

_LOOK_S = 2.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina track federation.toml --tensorboard runs/curves --follow"
    parser.add_argument("config", type=Path, help="federation.toml")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--tensorboard", metavar="FOLDER", help="for event files")
    where.add_argument("--mlflow", metavar="URI", help="of a tracking server, or sqlite:///mlflow.db")
    parser.add_argument("--follow", action="store_true", help="go on with each new round, until Ctrl-C")


def run(options: argparse.Namespace) -> int:
    """Write all rounds, and with ``--follow`` those to come."""
    settings = load_federation(options.config)
    tracker = _tracker(options, settings.federation)
    written = 0
    try:
        while True:
            written += _write(tracker, Path(settings.folder), written)
            if not options.follow:
                break
            time.sleep(_LOOK_S)
    finally:
        tracker.close()
    print(f"{written} rounds written")
    return ExitStatus.DONE


def _write(tracker: Tracker, folder: Path, done: int) -> int:
    """Write the rounds from one on; returns how many."""
    records = rounds_after(folder, done)
    for record in records:
        tracker.point(record["round"] + 1, points(record))
    return len(records)


def _tracker(options: argparse.Namespace, federation: str) -> Tracker:
    name = "tensorboard" if options.tensorboard else "mlflow"
    try:  # neither is there where nobody asked for it
        if options.tensorboard:
            from lamina.coordinator.tracking.tensorboard import TensorBoard

            return TensorBoard(options.tensorboard)
        from lamina.coordinator.tracking.mlflow import MlFlow

        return MlFlow(options.mlflow, federation)
    except ImportError as error:
        raise ConfigError(f"{name} isn't installed ({error}): pip install 'lamina-fl[{name}]'") from None
