"""``lamina-agent predict FILE``: what the deployed model says of a file."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from lamina.broker.programs.exit_status import ExitStatus
from lamina.edge_agent.serving.loading import load
from lamina.edge_agent.serving.readings import Prediction


def main(arguments: list[str]) -> int:
    """Predict, and print a line a sample."""
    parser = argparse.ArgumentParser(
        prog="lamina-agent predict",
        description="Say what the deployed model makes of files, which are read as the board's samples are.",
        epilog="example: lamina-agent predict photo.png --config pi-3/agent.toml",
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="an image, a recording, a table, .npy, .npz"
    )
    parser.add_argument("--config", type=Path, help="the board's (agent.toml, here, or /etc/lamina/agent.toml)")
    parser.add_argument("--json", action="store_true", help="a JSON object a file")
    options = parser.parse_args(arguments)
    model = load(options.config)
    for file in options.files:
        told = model.tell(file)
        if options.json:
            print(msgspec.json.encode({"file": str(file), **vars(told)}).decode(), flush=True)
            continue
        for index, prediction in enumerate(told.predictions):
            place = f"{file}[{index}]" if len(told.predictions) > 1 else str(file)
            print(f"{place}: {_shown(prediction)}")
    return ExitStatus.DONE


def _shown(prediction: Prediction) -> str:
    """A prediction for a person."""
    if "class" in prediction:
        return f"{prediction['class']} ({100 * prediction['score']:.1f} %)"
    if "classes" in prediction:
        return ", ".join(prediction["classes"]) or "none of the labels"
    return ", ".join(f"{name} {value}" for name, value in prediction.items())
