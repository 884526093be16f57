"""``lamina-agent pack FILE``: this board's state in one file, for the board that replaces it."""

from __future__ import annotations

import argparse
from pathlib import Path

from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.settings import load_toml
from lamina.edge_agent.service.moving import pack
from lamina.edge_agent.settings import AgentSettings, anchored
from lamina.models.storage.folder_lock import held


def main(arguments: list[str]) -> int:
    """Pack, and say what to do with the file."""
    parser = argparse.ArgumentParser(
        prog="lamina-agent pack",
        description="Write this board's state (personal layers, deployed models, how far it is) to a file, which "
        "`lamina-agent join CODE --state FILE` takes on the board that replaces it. Stop the agent first.",
        epilog="example: lamina-agent pack pi-3.state --config pi-3/agent.toml",
    )
    parser.add_argument("file", type=Path, help="to be written; it is its owner's alone")
    parser.add_argument("--config", type=Path, default=Path("agent.toml"), help="the board's (agent.toml, here)")
    options = parser.parse_args(arguments)
    settings = anchored(load_toml(options.config, AgentSettings), options.config.parent)
    with held(Path(settings.folder), "lamina-agent pack"):
        count = pack(Path(settings.folder), options.file)
    print(
        f"{options.file}: the state of {settings.device}, {count} files; with the code of "
        f"`lamina replace {settings.device}`: lamina-agent join CODE --state {options.file.name}"
    )
    return ExitStatus.DONE
