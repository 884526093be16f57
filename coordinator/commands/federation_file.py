"""``federation.toml``, as every command reads it: relative paths start at the file's own folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lamina.broker.settings import load_toml
from lamina.coordinator.settings import FederationSettings
from lamina.models.sources import resolved_source


def load_federation(path: Path) -> FederationSettings:
    """The settings of a file.

    Raises:
        ConfigError: the file can't be read, or a key is wrong.
    """
    return _resolved(load_toml(path, FederationSettings), path.parent)


def _resolved(settings: FederationSettings, folder: Path) -> FederationSettings:
    """Relative paths start at the file's own folder."""
    evaluation = settings.evaluation
    if evaluation.data:
        evaluation = msgspec.structs.replace(evaluation, data=resolved_source(evaluation.data, folder))
    return msgspec.structs.replace(
        settings, bundle=str(folder / settings.bundle), folder=str(folder / settings.folder), evaluation=evaluation
    )
