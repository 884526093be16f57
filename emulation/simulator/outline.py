"""What has to be known of a run's network before devices train? Layers, variants, initial values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emulation.experiment import Tier
from emulation.simulator.rows import Row
from emulation.simulator.tasks import Variant
from models.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class Outline:
    """See the module.

    Attributes:
        spec: of the network, in the setting's granularity.
        relaxable: layers whose interval may grow; ``None``: all.
        variants: what each tier trains.
        covered: which elements of a row the narrow variants hold, (row_size,); the others hold all.
        initial: the state to start from.
    """

    spec: ModelSpec
    relaxable: tuple[int, ...] | None
    variants: Mapping[Tier, Variant]
    covered: Mapping[Variant, NDArray[np.bool_]]
    initial: Row
