"""EmbracingFL: a device too small for the whole network trains the output-side layers that fit its memory.

Lee et al., "Embracing Federated Learning: Enabling Weak Client Participation via Partial Model Training"
(IEEE Transactions on Mobile Computing 2024, arXiv 2406.15125). With cut[i] the first layer that device i trains:

    device i: forward through all layers; backward only through layers >= cut[i]
    server, layer l: T_l = {active i : cut[i] <= l};  u_l = mean over T_l;  unchanged where T_l is empty

Which cut fits a device's memory is `lamina.models.fitting`'s question.
"""

from __future__ import annotations

from collections.abc import Mapping


def trainers(cuts: Mapping[str, int], layer: int) -> tuple[str, ...]:
    """T_l: the active devices that train ``layer``, ascending.

    Args:
        cuts: cut[i] of every active device.
        layer: index of the layer.
    """
    return tuple(sorted(device for device, cut in cuts.items() if cut <= layer))
