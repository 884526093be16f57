"""Round-robin intervals: a control for FedLAMA in which every layer is relaxed in its turn.

Lee, Zhang and Avestimehr, "Layer-wise Adaptive Model Aggregation for Scalable Federated Learning" (arXiv 2110.10302),
relax the layers that drift least. This rule goes on with the layer after the last one that was relaxed, in forward
order and round again, until as large a share of the parameters is relaxed as FedLAMA would relax.
"""

from __future__ import annotations

from lamina.coordinator.algorithms import fedlama
from lamina.coordinator.algorithms.interval_rule import Adjustment, CycleEnd, IntervalRule


def adjust(end: CycleEnd) -> Adjustment:
    """The next cycle's intervals. Where the last one relaxed no layer, or all, it begins with the first layer."""
    layers, before = list(end.candidates), set(end.relaxed(end.intervals))
    start = next(
        (
            place
            for place, layer in enumerate(layers)
            if layer not in before and layers[place - 1] in before  # the first one's predecessor is the last one
        ),
        0,
    )
    return fedlama.along(end, [*layers[start:], *layers[:start]])


ALGORITHM = IntervalRule("round_robin", adjust)
