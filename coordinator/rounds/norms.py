"""How large an update of a layer may be: a multiple of what the layer's recent updates were.

One update of a million an element would move a mean for good, however many honest ones stand beside it. So an update
whose norm is ``aggregation.norm_bound`` times that of recent ones is refused, its parameters and its statistics each by
themselves. The bound is wide: it stops what no training does, and leaves what is merely wrong to robust folds.

*Recent* is the median of the last round in which the layer was averaged, or half of what counted before, whichever is
larger: a minority can't move a median, and a quiet round does not make the next one suspicious. Where nothing is known
yet, the layer's own values stand in, and they are the least that counts later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lamina.coordinator.folds.fold import Norms
from lamina.models.arrays import Vector
from lamina.models.spec import LayerSpec, ModelSpec

_AT_FIRST = 0.1  # of the norm of a layer's parameters: what an update is taken to have, before one was seen
_LEAST = 0.01  # the same once some were seen
_STATISTICS_AT_FIRST = 1000.0  # an element: running variances begin at 1, and go to wherever the data are
_FADING = 0.5

NOTHING_SEEN: Norms = (0.0, 0.0)


def bounds(factor: float, spec: ModelSpec, values: Sequence[Vector], recent: Sequence[Norms]) -> tuple[Norms, ...]:
    """The largest norms that an update of each layer may have; empty, for no bound, where ``factor`` is 0.

    Args:
        factor: ``aggregation.norm_bound``.
        spec: the model.
        values: every layer's global value (vector_size,).
        recent: what `remembered` gave for each layer; empty at the beginning.
    """
    if not factor:
        return ()
    known = recent or (NOTHING_SEEN,) * len(spec.layers)
    return tuple(_bounds(factor, *each) for each in zip(spec.layers, values, known, strict=True))


def remembered(recent: Sequence[Norms], seen: Mapping[int, Norms], layers: int) -> tuple[Norms, ...]:
    """What counts as recent after a round, by layer.

    Args:
        recent: what counted before; empty at the beginning.
        seen: medians of the norms of the updates that were folded, by layer.
        layers: of the model.
    """
    known = recent or (NOTHING_SEEN,) * layers
    return tuple(
        (_faded(before[0], seen[layer][0]), _faded(before[1], seen[layer][1])) if layer in seen else before
        for layer, before in enumerate(known)
    )


def _bounds(factor: float, layer: LayerSpec, value: Vector, recent: Norms) -> Norms:
    parameters, statistics = (float(np.linalg.norm(part)) for part in np.split(value, [layer.size]))
    least = max(parameters, math.sqrt(layer.size)) * (_LEAST if recent[0] else _AT_FIRST)
    least_statistics = statistics * _LEAST
    if not recent[1]:
        least_statistics = max(statistics, _STATISTICS_AT_FIRST * math.sqrt(layer.statistics_size))
    return factor * max(recent[0], least), factor * max(recent[1], least_statistics)


def _faded(before: float, now: float) -> float:
    return max(now, _FADING * before)
