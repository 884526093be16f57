"""Draws what may enter a network or one of its blocks, to find out how long that takes and how much memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.spec import BlockSpec, ModelSpec, columns_of

_IDS = 2  # token ids stay below any vocabulary's size


def random_inputs(spec: ModelSpec, count: int, rng: np.random.Generator) -> NDArray[Any]:
    """Samples as the network takes them, (count, *input_shape)."""
    x = random_array(count, spec.blocks[0], rng)
    for one, columns in columns_of(spec.named_inputs):
        if one.dtype == "int64":
            x[:, columns] = rng.integers(0, _IDS, (count, one.size))
    return x


def random_array(count: int, block: BlockSpec, rng: np.random.Generator) -> NDArray[Any]:
    """What may enter a block, (count, *input_shape)."""
    shape = (count, *block.input_shape)
    if block.input_dtype == "int64":
        return rng.integers(0, _IDS, shape)
    return rng.standard_normal(shape, np.float32)
