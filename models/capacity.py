"""The share of a network that a sub-model trains: the measure by which EmbracingFL compares devices.

Source: Lee et al. 2024, "Embracing Federated Learning: Enabling Weak Client Participation via Partial Model Training",
whose capacity counts parameters and activations alike. It is a size on paper; a device is sized by its measured peak.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamina.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a device that trains from a cut onwards keeps.

    Attributes:
        parameters: trained parameters (the paper's p).
        activations: outputs of the kept convolutions and dense layers, over the batch (the paper's a).
        ratio: p + a over that of the whole network; 1 at cut 0.
    """

    parameters: int
    activations: int
    ratio: float


def capacity(spec: ModelSpec, cut: int, batch_size: int) -> Capacity:
    """Capacity of the sub-model that trains layers ``cut`` and above, ``batch_size`` samples a step.

    Raises:
        ModelError: no block starts at layer ``cut``.
        ValueError: the batch is empty.
    """
    if batch_size < 1:
        raise ValueError(f"a batch has at least one sample, not {batch_size}")
    first = spec.blocks[spec.block_at(cut)].first
    parameters, activations = _kept(spec, first, batch_size)
    return Capacity(parameters, activations, (parameters + activations) / sum(_kept(spec, 0, batch_size)))


def _kept(spec: ModelSpec, first: int, batch_size: int) -> tuple[int, int]:
    layers = spec.layers[first:]
    return sum(layer.size for layer in layers), batch_size * sum(layer.activations for layer in layers)
