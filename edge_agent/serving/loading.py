"""Finds a board's settings, and loads the model that is deployed there."""

from __future__ import annotations

import os
from pathlib import Path

from lamina.broker.settings import load_toml
from lamina.edge_agent.serving.predictor import Predictor
from lamina.edge_agent.settings import AgentSettings, anchored
from lamina.models.errors import ConfigError

CONFIG_VARIABLE = "LAMINA_AGENT"
"""The environment's variable that names the board's settings."""

_PLACES = (Path("agent.toml"), Path("/etc/lamina/agent.toml"))


def load(config: str | os.PathLike[str] | None = None) -> Predictor:
    """The model that is deployed on this board.

    Args:
        config: the board's ``agent.toml``; ``None``: what the environment's ``LAMINA_AGENT`` names, or ``agent.toml``
            in this folder, or ``/etc/lamina/agent.toml``.

    Raises:
        ConfigError: there is no such file, or no model is deployed.
    """
    named = config or os.environ.get(CONFIG_VARIABLE)
    path = Path(named) if named else next((place for place in _PLACES if place.exists()), None)
    if path is None:
        raise ConfigError(f"none of {', '.join(map(str, _PLACES))} is there: name the board's agent.toml")
    return Predictor(anchored(load_toml(path, AgentSettings), path.parent))
