"""Who trains what next, and what is the model now? The whole federation as one pure value machine.

The service feeds it what happened (a profile, a status, an update, a report) and asks it what to do. It knows no clock,
no disk and no network: ``now`` is a parameter, and what must survive a restart is a `Snapshot` of plain values.

    waiting ──(min_devices are accepted and online)──► between rounds
    between rounds ──begin()──► in a round ──(it is done) finish()──► between rounds, or finished

At the start of a cycle the cohort is drawn from the accepted devices that are online; at its end every layer has been
aggregated, and FedLAMA adjusts the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from lamina.broker.wire.chunks import LayerValue
from lamina.broker.wire.messages import DeviceProfile, Report, RoundPlan, Task
from lamina.coordinator.algorithms import fedavg, fedlama, server
from lamina.coordinator.algorithms.selection import draw
from lamina.coordinator.folds.aggregate import Fold, rule
from lamina.coordinator.records.records import CycleRecord, DeviceRecord
from lamina.coordinator.records.snapshot import Snapshot
from lamina.coordinator.rounds.global_model import GlobalModel
from lamina.coordinator.rounds.registry import Device, Registry
from lamina.coordinator.rounds.round import PartialUpdate, Round, Update
from lamina.coordinator.settings import FederationSettings
from lamina.models.errors import ConfigError, RejectedUpdate
from lamina.models.manifest import Manifest
from lamina.models.values import Vector


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What a finished round came to, before its model is evaluated.

    ``adjustment`` is there at the end of a cycle in which intervals were adjusted.
    """

    round: Round
    updates: int
    expected: int
    seconds: float
    snapshot: Snapshot
    values: tuple[Vector, ...]
    owed: dict[int, Vector]
    memory: dict[int, Vector]
    adjustment: CycleRecord | None


@dataclass
class Federation:
    """The state of a run.

    Attributes:
        settings: the operator's.
        manifest: of the bundle.
        digest: of the manifest.
        values: every layer's global value (vector_size,), as the devices decode it.
        snapshot: where to go on; `fresh` gives the beginning.
        owed: what the codec of deltas has lost so far, by layer (vector_size,), to be sent with the next ones.
        memory: what the server's optimiser remembers, by layer, as `server.to_vector` writes it.
    """

    settings: FederationSettings
    manifest: Manifest
    digest: str
    values: list[Vector]
    snapshot: Snapshot
    owed: dict[int, Vector] = field(default_factory=dict)
    memory: dict[int, Vector] = field(default_factory=dict)
    round: Round | None = None

    def __post_init__(self) -> None:
        _check_hyperparameters(self.settings, self.manifest)
        self._spec = self.manifest.spec
        self._model = GlobalModel(
            self._spec, self.settings.wire, self.snapshot.epoch, self.values, self.snapshot.versions, self.owed
        )
        self._drifts: dict[int, float] = {}  # d_l of the layers that are closed, in the open round
        self._gone_at: dict[str, float] = {}  # when a device that is gone is no longer waited for
        self._registry = Registry(
            self.settings.wire, self.manifest, self.digest, self.snapshot.epoch, self.snapshot.devices
        )

    # -- devices -----------------------------------------------------------------------------------------------------

    @property
    def devices(self) -> dict[str, Device]:
        """Those that have registered, by name."""
        return self._registry.devices

    @property
    def accepted(self) -> int:
        """Devices accepted and online."""
        return self._registry.accepted

    @property
    def downlink_bytes(self) -> int:
        """Payload bytes that devices received, as they last reported; after a restart they count up to it again."""
        return max(self._registry.downlink_bytes, self.snapshot.downlink_bytes)

    def register(self, profile: DeviceProfile) -> Task:
        """Judge a device by its profile. Registering again (a restart, another budget) replaces the judgement."""
        return self._registry.register(profile)

    def came(self, name: str) -> bool:
        """A device is there. Whether that is news."""
        if not self._registry.came(name):
            return False
        if self.round:
            self.round.regain(name)
        return True

    def went(self, name: str, now: float, patience_s: float) -> bool:
        """A device is gone; an open round waits ``patience_s`` longer for it. Whether that is news."""
        if not self._registry.went(name):
            return False
        self._gone_at[name] = now + patience_s
        if self.round:
            self.round.lose(name, now + patience_s)
        return True

    def report(self, name: str, report: Report) -> None:
        """Keep a device's report. One of another run, or from a stranger, is passed over."""
        if self._registry.report(name, report) and self.round:
            self.round.report(name, report)

    def device_records(self) -> tuple[DeviceRecord, ...]:
        """Every device that ever registered, in ascending order."""
        return self._registry.records()

    # -- rounds ------------------------------------------------------------------------------------------------------

    @property
    def rounds(self) -> int:
        """Rounds to do: whole cycles."""
        phi = self.settings.aggregation.phi
        return math.ceil(self.settings.training.rounds / phi) * phi

    @property
    def finished(self) -> bool:
        """All rounds are done."""
        return self.snapshot.round >= self.rounds

    def can_begin(self, waited_s: float) -> bool:
        """Whether the next round may begin, having waited so long for devices.

        Within a cycle its cohort must be known again (after a restart it registers anew); at the start of one,
        ``min_devices`` must be there. After the first round nobody is waited for longer than a round's deadline.
        """
        if self.round or self.finished:
            return False
        cohort = self.snapshot.cohort
        wanted = self.settings.cohorts.min_devices
        complete = (
            all(name in self.devices for name in cohort)
            if cohort
            else self._registry.online >= wanted
            and self.accepted >= wanted  # the devices are counted when it may matter
        )
        patience_ends = self.snapshot.round > 0 and waited_s >= self.settings.deadlines.round_s
        return complete or (patience_ends and self.accepted > 0)

    def begin(self, now: float) -> RoundPlan:
        """Open the next round; its deadline counts from ``now``, in seconds."""
        snapshot, training = self.snapshot, self.settings.training
        cycle = snapshot.round // self.settings.aggregation.phi
        cohort = tuple(name for name in snapshot.cohort if name in self.devices)
        if not cohort:
            available = [name for name, device in self.devices.items() if device.available]
            cohort = draw(available, self.settings.cohorts.active, training.seed, cycle)
        self.snapshot = msgspec.structs.replace(snapshot, cohort=cohort)
        last_step = (snapshot.round + 1) * training.local_steps
        plan = RoundPlan(
            epoch=snapshot.epoch,
            round=snapshot.round,
            cycle=cycle,
            cohort=cohort,
            local_steps=training.local_steps,
            batch_size=self.manifest.batch_size,
            hyperparameters=self.hyperparameters(snapshot.round),
            due=fedavg.due(snapshot.intervals, training.local_steps, last_step),
            versions=snapshot.versions,
            checks=tuple(self._model.checks),
            codec=self.settings.wire.update_codec,
            small_codec=self.settings.wire.small_codec,
            small_elements=self.settings.wire.small_elements,
            codecs=self._exceptional_codecs(cohort),
            unfolded=snapshot.unfolded,
            advanced=self._model.advanced,
            chunk_bytes=self.settings.wire.chunk_bytes,
            batched=self.settings.wire.batched and not self.settings.aggregation.aggregators,  # who share by layer
            seed=training.seed,
            weighting=self.settings.aggregation.weighting,
            deadline_s=self.settings.deadlines.round_s,
        )
        cuts = {name: self.devices[name].task.cut for name in cohort if self.devices[name].task.accepted}
        self.round = Round(plan, cuts, self._new_fold, now)
        for name in cohort:
            if not self.devices[name].online:
                self.round.lose(name, self._gone_at.get(name, now))
        return plan

    def receive(self, update: Update) -> None:
        """Fold an update into the open round.

        Raises:
            RejectedUpdate: it may not be folded (`rounds.round` lists the reasons), or no round is open.
        """
        if self.round is None:
            raise RejectedUpdate("round", f"{update.device} sent layer {update.layer} while no round is open")
        self.round.receive(update)

    def receive_partial(self, update: PartialUpdate) -> None:
        """Fold what an aggregator folded for the open round, all of it or nothing.

        Raises:
            RejectedUpdate: one of its updates may not be folded, or no round is open.
        """
        if self.round is None:
            raise RejectedUpdate("round", f"site {update.site} sent layer {update.layer} while no round is open")
        self.round.receive_partial(update)

    def close(self, layers: Sequence[int]) -> None:
        """Aggregate ready layers of the open round; where no update was folded, value and version stay.

        What they come to takes effect when the round finishes: until then a device may ask for the plan's values.
        """
        round_ = self.round
        assert round_ is not None, "a layer is closed in a round"
        drifts: dict[int, float] = {}
        exact: dict[int, Vector] = {}
        for layer in layers:
            if aggregate := round_.close(layer, self.values[layer]):
                size, tau = self._spec.layers[layer].size, self.snapshot.intervals[layer]
                drifts[layer] = fedlama.discrepancy(aggregate.discrepancy_numerator, tau, size) if size else 0.0
                exact[layer] = self._stepped(layer, aggregate.value)
        self._drifts |= drifts
        self._model.prepare(exact, self.snapshot.round)

    @property
    def advance(self) -> list[LayerValue]:
        """What leads devices from the versions before to those of the plan, layers ascending; see `wire.deltas`."""
        return self._model.advance

    def whole(self, layer: int) -> LayerValue:
        """A layer's global value, of the plan's version while a round is open, ready to be published."""
        return self._model.whole(layer, self.snapshot.round)

    def finish(self, now: float, uplink_bytes: int) -> RoundOutcome:
        """End the open round, which is done; adjust the intervals where a cycle ends with it.

        Args:
            now: seconds on the clock of `begin`.
            uplink_bytes: payload bytes of updates received since the federation began.
        """
        round_ = self.round
        assert round_ is not None
        assert round_.done(now), "every layer is closed before a round ends"
        self._model.move()
        drifts, self._drifts = self._drifts, {}
        for name in round_.delivered_everything():
            self.devices[name].rounds_done += 1
        for name in round_.silent():
            self.went(name, now, 0.0)  # until it shows a sign of life again
        ledger = self.snapshot.ledger.after_round(self._spec, round_.cuts, round_.plan.due)
        seconds, done = now - round_.began, self.snapshot.round + 1
        cycle_ends = done % self.settings.aggregation.phi == 0
        self.snapshot = msgspec.structs.replace(
            self.snapshot,
            round=done,
            versions=tuple(self._model.versions),
            discrepancy=tuple(drifts.get(layer, known) for layer, known in enumerate(self.snapshot.discrepancy)),
            cohort=() if cycle_ends else self.snapshot.cohort,
            ledger=ledger,
            wall_s=self.snapshot.wall_s + seconds,
            uplink_bytes=uplink_bytes,
            downlink_bytes=self.downlink_bytes,
            unfolded=round_.unfolded(),
        )
        adjustment = self._adjust(round_.plan.cycle) if cycle_ends else None
        self.snapshot = msgspec.structs.replace(self.snapshot, devices=self.device_records())
        self.round = None
        return RoundOutcome(
            round=round_,
            updates=round_.updates,
            expected=sum(len(devices) for devices in round_.expected.values()),
            seconds=seconds,
            snapshot=self.snapshot,
            values=tuple(self.values),
            owed=dict(self.owed),
            memory=dict(self.memory),
            adjustment=adjustment,
        )

    def hyperparameters(self, round_: int) -> dict[str, float]:
        """The training graph's 0-d inputs in a round: defaults of the bundle, the operator's, and the rate."""
        training = self.settings.training
        decays = sum(round_ >= share * self.rounds for share in training.lr_decay_at)
        defaults = self.manifest.hyperparameters
        rate = (defaults["lr"] if training.lr is None else training.lr) / training.lr_decay**decays
        return {**defaults, **training.hyperparameters, **self.settings.local.hyperparameters, "lr": rate}

    # -- inside ------------------------------------------------------------------------------------------------------

    def _exceptional_codecs(self, cohort: tuple[str, ...]) -> dict[str, str]:
        """Devices that can't encode what is configured, and what they use instead."""
        chosen = {name: self.settings.wire.codec_for(self.devices[name].profile.codecs) for name in cohort}
        return {name: codec for name, codec in chosen.items() if codec}

    def _stepped(self, layer: int, average: Vector) -> Vector:
        """Where the server's optimiser leads from a layer's value, given the cohort's average."""
        settings = self.settings.server
        memory = server.from_vector(settings, self.memory.get(layer), self._spec.layers[layer].size)
        if memory is None:
            self.memory.pop(layer, None)
            return average
        value, after = server.step(settings, self.values[layer], average, memory)
        self.memory[layer] = server.to_vector(after)
        return value

    def _new_fold(self, layer: int) -> Fold:
        spec = self._spec.layers[layer]
        return rule(self.settings.aggregation.fold)(spec.vector_size, spec.size)

    def _adjust(self, cycle: int) -> CycleRecord | None:
        aggregation, snapshot = self.settings.aggregation, self.snapshot
        if snapshot.round < aggregation.warmup_rounds:
            return None
        adjustment = fedlama.adjust(
            snapshot.discrepancy,
            self._spec.sizes,
            self.settings.training.local_steps,
            aggregation.phi,
            accelerate=aggregation.accelerate,
        )
        self.snapshot = msgspec.structs.replace(snapshot, intervals=adjustment.intervals)
        return CycleRecord.of(cycle, snapshot.discrepancy, adjustment)


def _check_hyperparameters(settings: FederationSettings, manifest: Manifest) -> None:
    """See that the training graphs have what the operator sets."""
    known = manifest.hyperparameters
    local = settings.local.hyperparameters
    for key, name, flag in (("proximal", "mu", "--proximal"), ("clip_norm", "clip_norm", "--clip")):
        if name in local and name not in known:
            raise ConfigError(f"local.{key}: the bundle's graphs don't have it; build it anew: lamina bundle {flag}")
    for name in settings.training.hyperparameters:
        if name not in known:
            raise ConfigError(f"training.hyperparameters.{name}: {manifest.optimiser} has {', '.join(sorted(known))}")
