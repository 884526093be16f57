"""Writes the reference of the command line from its parsers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module
from unittest.mock import patch

from lamina.coordinator import cli as coordinator
from lamina.edge_agent import cli as agent

INTRO = """# Commands

Made from the programs' own `--help`. Every command ends with one of the [exit statuses](../exit-codes.md), and says on
standard error, in one line, what is wrong and what to do. `--json`, where a command has it, prints one JSON document on
standard output and nothing else.
"""


def page() -> str:
    """The whole page."""
    lines = [*INTRO.split("\n"), "## lamina", ""]
    for name, parser in sorted(lamina_parsers().items()):
        lines += _section(f"lamina {name}", parser)
    lines += ["## lamina-agent", ""]
    for name, parser in agent_parsers().items():
        lines += _section(name, parser)
    return "\n".join(lines).rstrip() + "\n"


def lamina_parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each subcommand of ``lamina``."""
    parser, _ = coordinator._parser("")
    [subparsers] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(subparsers.choices)


def agent_parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of ``lamina-agent`` and of each of its subcommands."""
    modules = {name: import_module(f"lamina.edge_agent.commands.{name}") for name in agent.SUBCOMMANDS}
    return {"lamina-agent": _parser_in(agent.options_of)} | {
        f"lamina-agent {name}": _parser_in(module.main) for name, module in modules.items()
    }


class _Parsing(Exception):
    """A program is about to parse its command line, by the parser that this holds."""


def _parser_in(main: Callable[[list[str]], object]) -> argparse.ArgumentParser:
    def stop(self: argparse.ArgumentParser, *_: object) -> None:
        raise _Parsing(self)

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main([])
        except _Parsing as parsing:
            found: argparse.ArgumentParser = parsing.args[0]
            return found
    raise LookupError(f"{main.__module__} parses no command line")


def example_of(parser: argparse.ArgumentParser) -> str:
    """The command line that its ``--help`` ends with.

    Raises:
        LookupError: it has none.
    """
    _, found, example = (parser.epilog or "").rpartition("example: ")
    if not found:
        raise LookupError(f"{parser.prog}: its --help has no example")
    return example


def _section(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from (f"### {name}", "", _sentence(parser.description or ""), "", "```sh", example_of(parser), "```", "")
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    if shown:
        yield "| argument | meaning |"
        yield "| --- | --- |"
        yield from (f"| {_names(action)} | {_meaning(action)} |" for action in shown)
        yield ""


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else text + "."


def _names(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else None
    if action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return f"`{value or action.dest}`"
    takes = "" if action.nargs == 0 else f" {value or action.dest.upper()}"
    return ", ".join(f"`{flag}{takes}`" for flag in action.option_strings).replace("|", "\\|")


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%").replace("|", "\\|")
    if action.required and action.option_strings:
        text = f"{text} (must be given)".strip()
    if text or action.default in (None, False, argparse.SUPPRESS):
        return text
    return f"default: {action.default}"
