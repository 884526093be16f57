"""What survives a restart of the coordinator: plain values, which `records.store` writes after every round."""

from __future__ import annotations

import msgspec

from lamina.coordinator.records.records import DeviceRecord
from lamina.coordinator.records.run_state import RunState, beginning
from lamina.coordinator.settings import FederationSettings
from lamina.models.errors import ConfigError
from lamina.models.manifest import Manifest
from lamina.models.personal import personal_layers, personal_tensors


class Snapshot(RunState, frozen=True, kw_only=True):
    """What survives a restart of the coordinator, beside the layers' values: a `RunState`, and

    Attributes:
        epoch: identifies this run of the federation; devices keep their state while it stays.
        manifest: digest of the bundle that it trains.
        devices: every device that ever registered.
        local_steps: tau' that the intervals are multiples of.
        phi: rounds of a cycle.
        wall_s: seconds spent in rounds, and in waiting between them.
        uplink_bytes: payload bytes of updates received.
        unfolded: devices, and the layers due from them in the last round that were not folded.
        downlink_bytes: payload bytes of layer values that devices received, as they reported.
        present: devices that were accepted, and there or waited for, when the last round ended, ascending.
        patterns: ``aggregation.personal``.
        run: the epoch in which the run began, where a rollback has given it another since; 0: in this one.
        norms: what every layer's recent updates were like (`coordinator.rounds.norms`); empty before the first.
    """

    epoch: int
    manifest: str
    devices: tuple[DeviceRecord, ...]
    local_steps: int
    phi: int
    wall_s: float = 0.0
    uplink_bytes: int = 0
    unfolded: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    present: tuple[str, ...] = ()
    norms: tuple[tuple[float, float], ...] = ()
    downlink_bytes: int = 0
    patterns: tuple[str, ...] = ()
    run: int = 0

    def check(self, settings: FederationSettings) -> None:
        """Whether a run can go on with these settings.

        Raises:
            ConfigError: rounds and cycles would no longer be what they were.
        """
        for name, was, now in (
            ("training.local_steps", self.local_steps, settings.training.local_steps),
            ("aggregation.phi", self.phi, settings.aggregation.phi),
            ("aggregation.personal", list(self.patterns), list(settings.aggregation.personal)),
        ):
            if was != now:
                raise ConfigError(f"{name} was {was} when this run began and is {now}: put it back, or use --fresh")


def fresh(manifest: Manifest, digest: str, epoch: int, settings: FederationSettings) -> Snapshot:
    """The snapshot of a federation that has not begun: every layer at version 0, every interval at tau'."""
    patterns = settings.aggregation.personal
    personal = personal_layers(manifest.spec, personal_tensors(manifest.spec, patterns))
    state = beginning(len(manifest.spec.layers), settings.training.local_steps, personal)
    return Snapshot(
        **msgspec.structs.asdict(state),
        epoch=epoch,
        manifest=digest,
        devices=(),
        local_steps=settings.training.local_steps,
        phi=settings.aggregation.phi,
        patterns=patterns,
    )
