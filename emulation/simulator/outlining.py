"""How is a run's network outlined? With torch: it is loaded, traced, and made narrow where devices take part so."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from emulation.experiment import Tier
from emulation.simulator.granularity import by_kernel
from emulation.simulator.outline import Outline
from emulation.simulator.rows import Row, layer_offsets, to_row
from emulation.simulator.setting import Setting
from emulation.simulator.tasks import Variant
from emulation.simulator.width import matching_ratio, narrowed, positions
from models.capacity import capacity
from models.definition import Definition, load_definition
from models.errors import ConfigError
from models.layout import derive_spec
from models.spec import ModelSpec


def outlined(setting: Setting) -> Outline:
    """The outline of a setting's network.

    Raises:
        ConfigError: the network offers no sub-model for a tier that the fleet has.
        ModelError: it can't be loaded, or traced.
    """
    definition = load_definition(setting.model, seed=setting.seed)
    layered = derive_spec(definition)
    spec, relaxable = by_kernel(layered) if setting.granularity == "kernel" else (layered, None)
    variants = _variants(setting, definition, spec)
    covered = {variant: _covered(definition, spec, variant) for variant in variants.values() if variant.ratio < 1}
    return Outline(spec, relaxable, variants, covered, to_row(spec, initial_tensors(definition)))


def initial_tensors(definition: Definition) -> dict[str, Row]:
    """The values that a network starts from, by name."""
    state: dict[str, torch.Tensor] = definition.module.state_dict()
    return {name: tensor.numpy() for name, tensor in state.items() if tensor.dtype == torch.float32}


def _variants(setting: Setting, definition: Definition, spec: ModelSpec) -> dict[Tier, Variant]:
    """What each tier trains: the sub-models on offer, or networks of the same capacities that are less wide."""
    offered = {"strong": 0, "moderate": spec.cuts[len(spec.cuts) // 2], "weak": spec.cuts[-1]}
    variants: dict[Tier, Variant] = {}
    for tier in dict.fromkeys(setting.fleet.tiers):
        cut = offered[tier]
        if tier != "strong" and cut == 0:
            raise ConfigError(f"fleet.{tier}: model {spec.name} offers no cut, so every device must be strong")
        if setting.reduction == "cut" or tier == "strong":
            variants[tier] = Variant(cut)
        else:
            wanted = capacity(spec, cut, setting.batch_size).ratio
            variants[tier] = Variant(ratio=matching_ratio(definition, spec, wanted, setting.batch_size))
    return variants


def _covered(definition: Definition, spec: ModelSpec, variant: Variant) -> NDArray[np.bool_]:
    covered = np.zeros(layer_offsets(spec)[-1], bool)
    covered[positions(spec, narrowed(definition, spec, variant.ratio).spec)] = True
    return covered
