"""``lamina-agent allow DIGEST``: let a board that pins its bundles train one more."""

from __future__ import annotations

import argparse
from pathlib import Path

from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.settings import load_toml
from lamina.edge_agent.service.orders import ALLOWED, allowed
from lamina.edge_agent.settings import AgentSettings, anchored, check_digest
from lamina.models.errors import ConfigError
from lamina.models.storage.replace import replace_file


def main(arguments: list[str]) -> int:
    """Allow it; an agent that runs takes it up within seconds."""
    parser = argparse.ArgumentParser(
        prog="lamina-agent allow",
        description="Let a board whose agent.toml pins bundles train one more. The agent's log names what waits.",
        epilog="example: lamina-agent allow " + "0" * 64 + " --config pi-3/agent.toml",
    )
    parser.add_argument("digest", help="of the bundle's manifest, 64 hexadecimal digits")
    parser.add_argument("--config", type=Path, default=Path("agent.toml"), help="the board's (agent.toml, here)")
    options = parser.parse_args(arguments)
    digest = check_digest(options.digest.strip().lower(), "DIGEST")
    settings = anchored(load_toml(options.config, AgentSettings), options.config.parent)
    if settings.bundles is None:
        raise ConfigError(
            f"{options.config} pins no bundles, so there is nothing to allow: bundles = [] makes each wait"
        )
    folder = Path(settings.folder)
    try:
        digests = sorted({*allowed(folder), digest})
        replace_file(folder / ALLOWED, "".join(f"{one}\n" for one in digests).encode())
    except OSError as error:
        raise ConfigError(f"{folder / ALLOWED}: can't be written: {error.strerror}") from None
    print(f"device {settings.device} may train bundle {digest[:12]}")
    return ExitStatus.DONE
