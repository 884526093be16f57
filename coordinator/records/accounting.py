"""Counts what a federation saves: parameters communicated, relative to FedAvg with the same cohorts and cuts.

The measure C is the sum of dim_l over all aggregations, relative to FedAvg, which aggregates every layer every
tau' steps (arXiv 2110.10302, section 4). With cuts, layer l is sent by |T_l| devices, in FedAvg as here, so

    C = sum over rounds and due layers of dim_l |T_l|  /  sum over rounds and all layers of dim_l |T_l|

With strong devices only, |T_l| is the cohort's size in both sums, and C is the paper's wherever that size keeps. Cuts
save traffic too, but not in C: both savings show against `Ledger.fedavg_uplink_bytes`, for which every device sends the
whole network.

T_l is as planned: an update that was lost on its way would have been lost to FedAvg as well. Statistics stay out of C,
as in the paper, and are in the bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping

import msgspec

from lamina.models.spec import ModelSpec

FLOAT32_BYTES = 4


class Ledger(msgspec.Struct, frozen=True):
    """Sums over the rounds so far. A frozen value: `after_round` gives the next one.

    Attributes:
        communicated: sum of dim_l |T_l| over the due layers of every round, in parameters.
        fedavg_communicated: the same over all layers of every round.
        fedavg_uplink_bytes: what plain FedAvg, in float32, would have sent up: every device of the cohort, the whole
            network whatever its cut, every round; running statistics included, headers not.
    """

    communicated: int = 0
    fedavg_communicated: int = 0
    fedavg_uplink_bytes: int = 0

    def after_round(self, spec: ModelSpec, cuts: Mapping[str, int], due: Collection[int]) -> Ledger:
        """The ledger with one more round in it.

        Args:
            spec: the model.
            cuts: first layer that each device of the cohort trains.
            due: layers that were to be aggregated.
        """
        # dim_l |T_l| of every layer
        ascending = sorted(cuts.values())
        sent = [layer.size * bisect_right(ascending, index) for index, layer in enumerate(spec.layers)]
        network_bytes = FLOAT32_BYTES * sum(layer.vector_size for layer in spec.layers)
        return Ledger(
            communicated=self.communicated + sum(sent[layer] for layer in set(due)),
            fedavg_communicated=self.fedavg_communicated + sum(sent),
            fedavg_uplink_bytes=self.fedavg_uplink_bytes + len(cuts) * network_bytes,
        )

    @property
    def c_ratio(self) -> float:
        """C: from 1/phi to 1 at the end of every cycle; 1.0 while there is nothing to compare with."""
        return self.communicated / self.fedavg_communicated if self.fedavg_communicated else 1.0
