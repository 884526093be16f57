"""A layer's value on the wire may hold further vectors of an algorithm, behind its parameters and its statistics.

Each is as long as the layer's parameters and has their tensors. Codecs, chunks, deltas, checks and folds know nothing
of it: to them a further vector is like statistics, which are averaged and not trained. Where no algorithm asks for one,
the model is what it was, and not a byte is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from lamina.models.errors import DecodeError
from lamina.models.spec import LayerSpec, ModelSpec, TensorSpec

MOST_VECTORS = 4
"""As many further vectors may an algorithm have."""


@lru_cache(maxsize=16)
def _extended(spec: ModelSpec, names: tuple[str, ...]) -> ModelSpec:
    return msgspec.structs.replace(spec, layers=tuple(_layer(layer, names) for layer in spec.layers))


def with_further(spec: ModelSpec, names: Sequence[str]) -> ModelSpec:
    """The model as its values cross the wire with these further vectors.

    Raises:
        DecodeError: more are asked for than any algorithm has.
    """
    if len(names) > MOST_VECTORS:
        raise DecodeError(f"{len(names)} further vectors a layer, where at most {MOST_VECTORS} are possible")
    return _extended(spec, tuple(names)) if names else spec


def _layer(layer: LayerSpec, names: Sequence[str]) -> LayerSpec:
    further = tuple(
        TensorSpec(f"{tensor.name}.{name}", tensor.shape, "statistic") for name in names for tensor in layer.parameters
    )
    return LayerSpec(layer.name, layer.parameters, (*layer.statistics, *further), layer.activations)
