"""What survives a restart of the coordinator? Plain values, which `records.store` writes after every round."""

from __future__ import annotations

import msgspec

from lamina.coordinator.algorithms import fedavg
from lamina.coordinator.records.accounting import Ledger
from lamina.coordinator.records.records import DeviceRecord
from lamina.coordinator.settings import FederationSettings
from lamina.models.errors import ConfigError
from lamina.models.manifest import Manifest


class Snapshot(msgspec.Struct, frozen=True):
    """What survives a restart of the coordinator, beside the layers' values.

    Attributes:
        epoch: identifies this run of the federation; devices keep their state while it stays.
        manifest: digest of the bundle that it trains.
        round: rounds completed.
        cohort: of the current cycle; empty between cycles.
        versions: of every layer's global value.
        intervals: tau_l of every layer.
        discrepancy: last d_l of every layer.
        ledger: what was communicated so far.
        devices: every device that ever registered.
        local_steps: tau' that the intervals are multiples of.
        phi: rounds of a cycle.
        wall_s: seconds spent in rounds.
        uplink_bytes: payload bytes of updates received.
        unfolded: devices, and the layers due from them in the last round that were not folded.
        downlink_bytes: payload bytes of layer values that devices received, as they reported.
    """

    epoch: int
    manifest: str
    round: int
    cohort: tuple[str, ...]
    versions: tuple[int, ...]
    intervals: tuple[int, ...]
    discrepancy: tuple[float, ...]
    ledger: Ledger
    devices: tuple[DeviceRecord, ...]
    local_steps: int
    phi: int
    wall_s: float = 0.0
    uplink_bytes: int = 0
    unfolded: dict[str, tuple[int, ...]] = {}
    downlink_bytes: int = 0

    def check(self, settings: FederationSettings) -> None:
        """Whether a run can go on with these settings.

        Raises:
            ConfigError: rounds and cycles would no longer be what they were.
        """
        for name, was, now in (
            ("training.local_steps", self.local_steps, settings.training.local_steps),
            ("aggregation.phi", self.phi, settings.aggregation.phi),
        ):
            if was != now:
                raise ConfigError(f"{name} was {was} when this run began and is {now}: put it back, or use --fresh")


def fresh(manifest: Manifest, digest: str, epoch: int, settings: FederationSettings) -> Snapshot:
    """The snapshot of a federation that has not begun: every layer at version 0, every interval at tau'."""
    layers = len(manifest.spec.layers)
    return Snapshot(
        epoch=epoch,
        manifest=digest,
        round=0,
        cohort=(),
        versions=(0,) * layers,
        intervals=fedavg.intervals(layers, settings.training.local_steps),
        discrepancy=(0.0,) * layers,
        ledger=Ledger(),
        devices=(),
        local_steps=settings.training.local_steps,
        phi=settings.aggregation.phi,
    )
