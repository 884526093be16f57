"""``lamina completion``: has a shell complete commands, flags and file names."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from importlib.metadata import entry_points

from lamina.broker.programs.exit_status import ExitStatus

HELP = "print what has a shell complete this program's commands, flags and files"

_BASH = """_lamina() {{
    local now=${{COMP_WORDS[COMP_CWORD]}} words
    if [ "$COMP_CWORD" = 1 ]; then
        words={commands}
    else
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$now"))
}}
complete -o default -F _lamina lamina
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina completion bash"
    parser.add_argument("shell", choices=("bash", "zsh"), help='eval "$(lamina completion bash)" in ~/.bashrc')


def run(options: argparse.Namespace) -> int:
    """Print it."""
    print(script(options.shell, _flags_of_commands()), end="")
    return ExitStatus.DONE


def script(shell: str, flags: Mapping[str, list[str]]) -> str:
    """What the shell is to run.

    Args:
        shell: ``bash``, or ``zsh``, which understands bash's when it is told to.
        flags: of each command.
    """
    cases = "\n".join(
        f"            {name}) words={shlex.quote(' '.join(given))} ;;" for name, given in sorted(flags.items())
    )
    text = _BASH.format(commands=shlex.quote(" ".join(sorted(flags))), cases=cases)
    return f"autoload -U +X bashcompinit && bashcompinit\n{text}" if shell == "zsh" else text


def _flags_of_commands() -> dict[str, list[str]]:
    """Each command's long flags; a command whose packages aren't installed is completed without."""
    found: dict[str, list[str]] = {}
    for entry in entry_points(group="lamina.commands"):
        parser = argparse.ArgumentParser(prog=f"lamina {entry.name}")
        try:
            entry.load().configure(parser)
        except ImportError:
            found[entry.name] = []
            continue
        actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        found[entry.name] = sorted(flag for action in actions for flag in action.option_strings if flag[:2] == "--")
    return found
