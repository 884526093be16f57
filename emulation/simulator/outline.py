"""What has to be known of a run's network before devices train? Layers, variants, initial values; it takes torch.

To load torch, and to trace a network, costs a process some 330 MiB, and one that conducts a pool needs neither
afterwards. There a process of its own finds out, and its memory goes with it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emulation.experiment import Tier
from emulation.simulator import processes
from emulation.simulator.rows import Row
from emulation.simulator.setting import Setting
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


def outline(setting: Setting, *, apart: bool) -> Outline:
    """Of a setting's network.

    Args:
        setting: its model, granularity, fleet and reduction count.
        apart: keep torch out of this process, if it isn't there already.

    Raises:
        ConfigError: the network offers no sub-model for a tier that the fleet has.
        ModelError: it can't be loaded, or traced.
    """
    if apart and "torch" not in sys.modules:
        return processes.apart(_outlined, setting)
    return _outlined(setting)


def _outlined(setting: Setting) -> Outline:
    from emulation.simulator.outlining import outlined

    return outlined(setting)
