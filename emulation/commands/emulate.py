"""``lamina emulate [experiment.toml]``: a whole federation on this machine, from partition to plots.

Without a file it runs the experiment that comes with Lamina: eight unequal devices learn handwritten digits.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import msgspec
from rich.console import Console

from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.wire.codecs import CODECS
from lamina.emulation.changes import changed, parse_change, with_devices
from lamina.emulation.experiment import DEMO, BrokerKind, Experiment, PartitionKind, read_experiment
from lamina.emulation.progress import ProgressDisplay
from lamina.models.errors import ConfigError
from lamina.models.readers.settings import source_of

HELP = "train a federation of virtual devices on this machine"

BROKER_VARIABLE = "BROKER"

# flag, key in the experiment, what argparse needs besides
_FLAGS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("--name", "name", {"help": "of the experiment"}),
    ("--data", "data", {"help": "digits, an .npz file, a table, a folder, or {path = ...}"}),
    ("--model", "model", {"help": "a network of the zoo, or path/to/file.py:function"}),
    ("--batch-size", "batch_size", {"type": int, "help": "samples a training step"}),
    ("--rounds", "training.rounds", {"type": int, "help": "rounds to train"}),
    ("--local-steps", "training.local_steps", {"type": int, "help": "training steps a round (tau')"}),
    ("--lr", "training.lr", {"type": float, "help": "learning rate"}),
    ("--phi", "aggregation.phi", {"type": int, "help": "rounds between two averagings of a relaxed layer; 1: FedAvg"}),
    ("--active", "cohorts.active", {"type": float, "help": "devices of a cohort: a share up to 1, or a number"}),
    ("--partition", "partition.kind", {"choices": get_args(PartitionKind), "help": "who holds which samples"}),
    ("--alpha", "partition.alpha", {"type": float, "help": "of the Dirichlet partition; small: uneven"}),
    ("--codec", "wire.update_codec", {"help": "for what devices send", "choices": CODECS}),
    ("--seed", "seed", {"type": int, "help": "of everything that is drawn"}),
    ("--threads", "threads", {"type": int, "help": "of the training engine, a device"}),
    ("--agents-per-process", "agents_per_process", {"type": int, "help": "devices that share a process; 0 chooses"}),
    ("--out", "out", {"help": "folder for the results"}),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina emulate"
    parser.add_argument("experiment", type=Path, nargs="?", default=DEMO, help="experiment.toml (default: the demo)")
    parser.add_argument("--devices", type=int, help="in all; the fleet's groups keep their proportions")
    parser.add_argument(
        "--broker", choices=get_args(BrokerKind), help=f"(default: ${BROKER_VARIABLE}, then what the experiment says)"
    )
    for flag, key, more in _FLAGS:
        parser.add_argument(flag, dest=key, default=None, **more)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other key of the experiment"
    )


def run(options: argparse.Namespace) -> int:
    """Emulate, print the result; the exit status is 1 if not all rounds were done."""
    from lamina.emulation.report import show
    from lamina.emulation.run import emulate  # after the options are known to be right: it imports the training engine

    experiment = chosen(options, os.environ)
    console = Console()
    with (
        ended_by_sigterm(),
        log_to(experiment.folder / "logs" / "coordinator.log"),
        ProgressDisplay(console) as progress,
    ):
        summary = emulate(experiment, progress)
    show(console, summary, experiment.folder)
    return ExitStatus.DONE if summary.rounds >= experiment.rounds else ExitStatus.INCOMPLETE


def chosen(options: argparse.Namespace, environment: Mapping[str, str]) -> Experiment:
    """The experiment of the file, changed by the environment and, before it, by the flags.

    Raises:
        ConfigError: the file, or a change, is no good.
    """
    experiment = read_experiment(options.experiment)
    flags = vars(options)
    changes = {key: flags[key] for _, key, _ in _FLAGS if flags[key] is not None}
    if options.data is not None:
        changes["data"] = msgspec.to_builtins(source_of(options.data))
    if broker := options.broker or _broker_of(environment):
        changes["broker"] = broker
    if options.devices is not None:
        changes["fleet"] = msgspec.to_builtins(with_devices(experiment.fleet, options.devices))
    changes.update(parse_change(text) for text in options.set)
    return changed(experiment, changes)


def _broker_of(environment: Mapping[str, str]) -> str:
    kind = environment.get(BROKER_VARIABLE, "")
    if kind and kind not in get_args(BrokerKind):
        raise ConfigError(f"the environment's {BROKER_VARIABLE} is {kind!r}: use {', '.join(get_args(BrokerKind))}")
    return kind


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let a SIGTERM unwind the program as a Ctrl-C does, so that processes and broker end with it.

    It is passed on as a SIGINT, which asyncio turns into the main task's cancellation. An exception raised from the
    handler itself would strike the event loop anywhere: between two callbacks it takes one away, and what waits for
    that one waits for ever. What a script starts in the background ignores SIGINT, and asyncio heeds none then; so it
    is heeded again.
    """
    told = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, pass_on)
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if told:
            sys.exit(ExitStatus.TERMINATED)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send Lamina's log to a file: the terminal shows the progress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log, handler = logging.getLogger("lamina"), logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    before = log.propagate, log.level
    log.propagate = False
    log.setLevel(min(logging.INFO, log.getEffectiveLevel()))  # --verbose asks for more
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before[0]
        log.setLevel(before[1])
        handler.close()
