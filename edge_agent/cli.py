"""The command by which an operator starts the agent on a board: ``lamina-agent --config agent.toml``.

Flags go before what the file says; paths in flags start at the current folder, those in the file at the file's own.
Exit status: 0 when the federation is finished or the agent was asked to end, 2 when the operator must change something,
1 when the broker stayed away, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.programs.ending import drop_output, refuse_windows, run_until_signalled, said_of
from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.programs.flags import add_broker_flags, broker_table
from lamina.broker.programs.logs import start_logging
from lamina.broker.settings import convert, read_toml
from lamina.edge_agent.service.agent import Agent
from lamina.edge_agent.service.data_summary import summary
from lamina.edge_agent.settings import AgentSettings, anchored
from lamina.models.bundle import read_bundle
from lamina.models.errors import ConfigError, LinkError
from lamina.models.readers.settings import source_of
from lamina.models.samples import LabelledSamples
from lamina.models.sources import load_samples, resolved_source
from lamina.models.storage.folder_lock import held
from lamina.models.storage.replace import remove_drafts

PATIENCE_S = 8.0
"""How long a training step may go on after the agent was asked to end. The state on the disk is whole at any time."""

SUBCOMMANDS = ("allow", "doctor", "join", "pack", "predict", "serve")
"""Modules of `lamina.edge_agent.commands`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lamina-agent``; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        refuse_windows()
        status = _subcommand(words[0])(words[1:]) if words and words[0] in SUBCOMMANDS else _take_part(words)
        sys.stdout.flush()
        return status
    except ConfigError as error:
        print(f"lamina-agent: {error}", file=sys.stderr)
        return ExitStatus.MISUSED
    except LinkError as error:
        print(f"lamina-agent: {error}", file=sys.stderr)
        return ExitStatus.INCOMPLETE
    except BrokenPipeError:
        drop_output()
        print("lamina-agent: whoever read the output has closed it", file=sys.stderr)
        return ExitStatus.MISUSED
    except OSError as error:
        print(f"lamina-agent: {said_of(error)}", file=sys.stderr)
        return ExitStatus.MISUSED


def _subcommand(name: str) -> Callable[[list[str]], int]:
    main: Callable[[list[str]], int] = import_module(f"lamina.edge_agent.commands.{name}").main
    return main


def _take_part(words: Sequence[str]) -> int:
    options = options_of(words)
    start_logging(verbose=options.verbose)
    settings = settings_of(options)
    data = load_samples(settings.data)
    agent = Agent(settings, data, mqtt_dial(settings.broker))
    if options.check:
        for name, value in msgspec.structs.asdict(agent.profile).items():
            if name not in ("v", "instance") and value is not msgspec.UNSET:  # they say nothing of the board
                print(f"{name:14}{value}")
        _check_data(data, options.bundle)
        return ExitStatus.DONE
    folder = Path(settings.folder)
    with held(folder, f"lamina-agent of device {settings.device}"):
        remove_drafts(folder)
        remove_drafts(folder / "bundle")
        ended = run_until_signalled(agent.run(), patience_s=PATIENCE_S)
    if not isinstance(ended, signal.Signals):
        return ExitStatus.DONE
    logging.getLogger("lamina.agent").info("ended by %s; started again, it goes on where it was", ended.name)
    # A service that is stopped has not failed.
    return ExitStatus.INTERRUPTED if ended is signal.SIGINT else ExitStatus.DONE


def _check_data(data: LabelledSamples, bundle: str | None) -> None:
    """Print what the samples are like, and see that the network of a bundle can learn from them."""
    if bundle is not None:
        spec = read_bundle(Path(bundle)).manifest.spec
        data = data.numbered_for(spec)
        data.check(spec)
    for name, value in summary(data):
        print(f"{name.replace(' ', '_'):14}{value}")
    if bundle is not None:
        print(f"{'fits':14}model {spec.name} of {bundle}")


def settings_of(options: argparse.Namespace) -> AgentSettings:
    """What the file and the flags say together.

    Raises:
        ConfigError: the file can't be read, or a key or flag is wrong or missing.
    """
    here = Path.cwd()
    config = here / options.config if options.config else None
    table = read_toml(config) if config else {}
    table |= {name: value for name, value in _flags(options, here).items() if value is not None}
    table["broker"] = broker_table(table.get("broker", {}), options, here)
    settings = convert(table, AgentSettings, str(config) if config else "flags")
    return anchored(settings, config.parent if config else here)


def _flags(options: argparse.Namespace, here: Path) -> dict[str, Any]:
    return {
        "federation": options.federation,
        "device": options.device,
        "data": _data(options.data, here) if options.data else None,
        "budget_mib": options.budget_mib,
        "threads": options.threads,
        "folder": str(here / options.folder) if options.folder else None,
        "once": options.once,
    }


def _data(flag: str, here: Path) -> object:
    """The flag's source as a file would hold it."""
    return msgspec.to_builtins(resolved_source(source_of(flag), here))


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags of a command line; ``None`` takes the process's."""
    parser = argparse.ArgumentParser(
        prog="lamina-agent",
        description="Takes part in a federation with the samples on this board.",
        epilog="`lamina-agent join CODE` brings a board into a federation; `lamina-agent allow DIGEST` lets it train a "
        "bundle, where bundles are pinned; `lamina-agent predict FILE` and `lamina-agent serve` use the deployed "
        "model, and `lamina-agent doctor` looks for what is amiss. Each has its own --help. "
        "example: lamina-agent --config pi-3/agent.toml",
    )
    parser.add_argument("-V", "--version", action="version", version=f"lamina-agent {version('lamina-fl')}")
    parser.add_argument("--config", metavar="FILE", help="agent.toml; without it, flags must say all that is required")
    parser.add_argument("--federation", metavar="NAME", help="name of the federation")
    parser.add_argument("--device", metavar="NAME", help="this board's name")
    parser.add_argument(
        "--data", metavar="SOURCE", help="a file, a folder, x.npy,y.npy, module:function, or a table {path = ...}"
    )
    parser.add_argument("--budget-mib", type=float, metavar="MIB", help="memory for training above the idle agent")
    parser.add_argument("--threads", type=int, metavar="N", help="processor cores for training; 0 takes all")
    parser.add_argument("--folder", metavar="FOLDER", help="for the bundle, activations and state")
    parser.add_argument("--once", action="store_true", default=None, help="end with the federation's training")
    parser.add_argument(
        "--check", action="store_true", help="check configuration and data, say what they are like, and end"
    )
    parser.add_argument("--bundle", metavar="FOLDER", help="with --check: see that its network can learn from the data")
    parser.add_argument("-v", "--verbose", action="store_true", help="log everything")
    add_broker_flags(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
