"""Outlines a run's network with torch: it is loaded, traced, and made narrow where devices take part so."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lamina.emulation.experiment import Tier
from lamina.emulation.simulator.backends.tasks import Variant
from lamina.emulation.simulator.granularity import by_kernel
from lamina.emulation.simulator.outline import Outline
from lamina.emulation.simulator.research.width import matching_ratio, narrowed, positions
from lamina.emulation.simulator.rows import Row, layer_offsets, to_row
from lamina.emulation.simulator.setting import Setting
from lamina.models.capacity import capacity
from lamina.models.definition import Definition, load_definition
from lamina.models.errors import ConfigError
from lamina.models.layout import derive_spec
from lamina.models.personal import divided, personal_layers, personal_tensors
from lamina.models.spec import ModelSpec


def outlined(setting: Setting) -> Outline:
    """The outline of a setting's network.

    Raises:
        ConfigError: the network offers no sub-model for a tier that the fleet has.
        ModelError: it can't be loaded, or traced.
    """
    definition = load_definition(setting.model, seed=setting.seed)
    layered = derive_spec(definition)
    personal = personal_tensors(layered, setting.aggregation.personal)
    layered = divided(layered, personal)
    spec, relaxable = by_kernel(layered) if setting.granularity == "kernel" else (layered, None)
    variants = _variants(setting, definition, spec)
    covered = {variant: _covered(definition, spec, variant) for variant in variants.values() if variant.ratio < 1}
    initial = to_row(spec, initial_tensors(definition))
    return Outline(spec, relaxable, variants, covered, initial, personal_layers(spec, personal))


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
