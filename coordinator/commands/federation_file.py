"""``federation.toml``, as every command reads it: relative paths start at the file's own folder."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from lamina.broker.programs.flags import broker_table
from lamina.broker.settings import convert, read_toml
from lamina.coordinator.settings import DashboardSettings, FederationSettings
from lamina.models.sources import resolved_source


def load_federation(path: Path, flags: argparse.Namespace | None = None) -> FederationSettings:
    """The settings of a file.

    Args:
        path: of the file.
        flags: those of the broker, which go before what the file says; ``None`` where a command has none.

    Raises:
        ConfigError: the file can't be read, or a key or flag is wrong.
    """
    table = read_toml(path)
    if flags is not None:
        table["broker"] = broker_table(table.get("broker", {}), flags, Path.cwd())
    return _resolved(convert(table, FederationSettings, str(path)), path.parent)


def _resolved(settings: FederationSettings, folder: Path) -> FederationSettings:
    """Relative paths start at the file's own folder."""
    evaluation = settings.evaluation
    if evaluation.data:
        evaluation = msgspec.structs.replace(evaluation, data=resolved_source(evaluation.data, folder))
    signing = settings.signing
    files = {name: getattr(signing, name) for name in ("key_file", "mandate_file", "operator_key_file")}
    return msgspec.structs.replace(
        settings,
        signing=msgspec.structs.replace(signing, **{name: str(folder / file) for name, file in files.items() if file}),
        bundle=str(folder / settings.bundle),
        folder=str(folder / settings.folder),
        broker=settings.broker.anchored(folder),
        evaluation=evaluation,
        dashboard=_anchored(settings.dashboard, folder),
    )


def _anchored(dashboard: DashboardSettings, folder: Path) -> DashboardSettings:
    files = {name: getattr(dashboard, name) for name in ("token_file", "cert_file", "key_file")}
    return msgspec.structs.replace(dashboard, **{name: str(folder / file) for name, file in files.items() if file})
