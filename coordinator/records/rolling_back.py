"""Has a run's folder hold an earlier round as its newest: later ones are set aside, and records end with it."""

from __future__ import annotations

import secrets
from pathlib import Path

from lamina.coordinator.records.exporting import set_results_aside
from lamina.coordinator.records.journal import Journal
from lamina.coordinator.records.kept_model import kept_spec
from lamina.coordinator.records.recorder import Recorder
from lamina.coordinator.settings import FederationSettings
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError


def check_kept(settings: FederationSettings, round_: int) -> None:
    """Refuse a round that a run can't go back to.

    Raises:
        ConfigError: it isn't kept.
    """
    kept = Journal(Path(settings.folder)).store.generations()
    if round_ not in kept:
        raise ConfigError(f"round {round_} is not kept; these are: {', '.join(map(str, sorted(kept))) or 'none'}")


def roll_back(settings: FederationSettings, bundle: Bundle, round_: int) -> None:
    """Go back to a round; devices begin afresh, from its values.

    Args:
        settings: of the federation; nobody else may be writing in its folder.
        bundle: that it trains, as trained.
        round_: rounds done.

    Raises:
        ConfigError: it isn't kept.
    """
    folder = Path(settings.folder)
    journal = Journal(folder, settings.state.generations)
    journal.roll_back(round_, kept_spec(bundle, settings), epoch=secrets.randbits(53))
    set_results_aside(folder)
    Recorder(folder, journal.history.rounds(journal.history.past()), metrics=bundle.manifest.figure_names)
