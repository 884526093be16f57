"""The command ``lamina``: one subcommand a module, found through the entry points ``lamina.commands``.

So a package further out (``emulation``) adds its commands without being imported from here. A command's module has
``HELP``, ``configure(parser)`` and ``run(options) -> int``.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import entry_points, version
from typing import Protocol

from lamina.broker.programs.ending import drop_output, refuse_windows, said_of
from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.programs.logs import start_logging
from lamina.models.errors import LaminaError


class Command(Protocol):
    """A subcommand's module."""

    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it, and return the exit status."""


def main(arguments: list[str] | None = None) -> int:
    """Run ``lamina``. An error that a person can act upon is one line on stderr and exit status 2."""
    names = [word for word in (sys.argv[1:] if arguments is None else arguments) if not word.startswith("-")]
    parser, commands = _parser(names[0] if names else "")
    options = parser.parse_args(arguments)
    try:
        start_logging(verbose=options.verbose)
        refuse_windows()
        status = commands[options.command].run(options)
        sys.stdout.flush()
        return status
    except LaminaError as error:
        print(f"lamina: {error}", file=sys.stderr)
        return ExitStatus.MISUSED
    except BrokenPipeError:
        drop_output()
        print("lamina: whoever read the output has closed it", file=sys.stderr)
        return ExitStatus.MISUSED
    except OSError as error:
        print(f"lamina: {said_of(error)}", file=sys.stderr)
        return ExitStatus.MISUSED
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED


def _parser(chosen: str) -> tuple[argparse.ArgumentParser, dict[str, Command]]:
    """The parser, and the modules behind it. Only the chosen one is loaded, unless none is: torch is slow to import."""
    parser = argparse.ArgumentParser(prog="lamina", description="Federated learning over MQTT, layer by layer.")
    parser.add_argument("-V", "--version", action="version", version=f"lamina {version('lamina-fl')}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log everything")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    found = sorted(entry_points(group="lamina.commands"), key=lambda entry: entry.name)
    commands: dict[str, Command] = {}
    for entry in found:
        if chosen in (entry.name, "") or chosen not in {other.name for other in found}:
            command: Command = entry.load()
            command.configure(subparsers.add_parser(entry.name, help=command.HELP, description=command.HELP))
            commands[entry.name] = command
    return parser, commands


if __name__ == "__main__":
    sys.exit(main())
