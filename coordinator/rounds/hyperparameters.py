"""Sees that a bundle's training graphs have what an operator's settings ask of them."""

from __future__ import annotations

from lamina.coordinator.settings import FederationSettings
from lamina.models.errors import ConfigError
from lamina.models.manifest import Manifest


def check_hyperparameters(settings: FederationSettings, manifest: Manifest) -> None:
    """See that the training graphs have what the operator sets.

    Raises:
        ConfigError: they lack something.
    """
    known = manifest.hyperparameters
    for term in settings.local.terms:
        if term.hyperparameter not in known:
            raise ConfigError(
                f"local.{term.setting}: the bundle's graphs don't have it; build it anew: lamina bundle {term.flag}"
            )
    if settings.algorithm.sgd_only and manifest.optimiser != "sgd":
        raise ConfigError(
            f"aggregation.algorithm: {settings.algorithm.name} is for devices that train by sgd, and the bundle has "
            f"{manifest.optimiser}: build it anew with lamina bundle --optimiser sgd"
        )
    for name in settings.training.hyperparameters:
        if name not in known:
            raise ConfigError(f"training.hyperparameters.{name}: {manifest.optimiser} has {', '.join(sorted(known))}")
