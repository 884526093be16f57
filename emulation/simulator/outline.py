"""What has to be known of a run's network before devices train: layers, variants, initial values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.emulation.experiment import Tier
from lamina.emulation.simulator.backends.tasks import Variant
from lamina.emulation.simulator.rows import Row
from lamina.models.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class Outline:
    """See the module.

    Attributes:
        spec: of the network, in the setting's granularity.
        relaxable: layers whose interval may grow; ``None``: all.
        variants: what each tier trains.
        covered: which elements of a row the narrow variants hold, (row_size,); the others hold all.
        initial: the state to start from.
        personal: layers that every device trains for itself, ascending.
    """

    spec: ModelSpec
    relaxable: tuple[int, ...] | None
    variants: Mapping[Tier, Variant]
    covered: Mapping[Variant, NDArray[np.bool_]]
    initial: Row
    personal: tuple[int, ...] = ()
