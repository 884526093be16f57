"""The whole federation as one pure value machine: who trains what next, and what the model is now.

The service feeds it what happened (a profile, a status, an update, a report) and asks it what to do. It knows no clock,
no disk and no network: ``now`` is a parameter, and what must survive a restart is a `Snapshot` of plain values.

    waiting ──(min_devices are accepted and online)──► between rounds
    between rounds ──begin()──► in a round ──(it is done) finish()──► between rounds, or finished

At the start of a cycle the cohort is drawn from the accepted devices that are online; at its end every layer has been
aggregated, and the intervals are adjusted (`rounds.course`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from lamina.broker.wire.chunks import LayerValue
from lamina.broker.wire.messages import DeviceProfile, Report, RoundPlan, Task
from lamina.coordinator.algorithms.local_algorithm import LayerFacts
from lamina.coordinator.folds.aggregate import Fold, rule
from lamina.coordinator.folds.fold import UNLIMITED, Norms
from lamina.coordinator.records.records import CycleRecord, DeviceRecord
from lamina.coordinator.records.snapshot import Snapshot
from lamina.coordinator.rounds import course, norms
from lamina.coordinator.rounds.attendance import Attendance
from lamina.coordinator.rounds.global_model import GlobalModel
from lamina.coordinator.rounds.hyperparameters import check_hyperparameters
from lamina.coordinator.rounds.registry import Device, Registry
from lamina.coordinator.rounds.round import PartialUpdate, Round, Update
from lamina.coordinator.settings import FederationSettings
from lamina.models.arrays import Vector
from lamina.models.errors import RejectedUpdate
from lamina.models.further import with_further
from lamina.models.manifest import Manifest
from lamina.models.personal import numbered, personal_tensors


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What a finished round came to, before its model is evaluated.

    ``waited_s`` passed between the end of the round before and its beginning. ``late`` are devices that missed its
    deadline, and how many cycles each of them sits out. ``adjustment`` is there at the end of a cycle in which
    intervals were adjusted.
    """

    round: Round
    updates: int
    expected: int
    seconds: float
    waited_s: float
    late: dict[str, int]
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
        check_hyperparameters(self.settings, self.manifest)
        self._spec, further = self.manifest.spec, self.settings.algorithm.further
        self.wire_spec = with_further(self._spec, further)
        self.personal = numbered(self._spec, personal_tensors(self._spec, self.settings.aggregation.personal))
        for layer, spec in enumerate(self.wire_spec.layers):  # an algorithm's vectors begin at 0
            missing = spec.vector_size - self.values[layer].size
            self.values[layer] = np.pad(self.values[layer], (0, max(0, missing)))
        self._stopped = False
        self._unjudged = self.settings.evaluation.devices > 0  # the last model, by the devices
        self._model = GlobalModel(
            self.wire_spec, self.settings.wire, self.snapshot.epoch, self.values, self.snapshot.versions, self.owed
        )
        self._work = course.RoundWork(0, (), ())  # of the open round
        self._discrepancies: dict[int, float] = {}  # d_l of the layers that are closed, in the open round
        self._attendance = Attendance(self.snapshot.present)
        self._idle_since: float | None = None  # when the last round of this run of the program ended
        self._waited_s = 0.0  # before the open round
        self._registry = Registry(
            self.settings.wire,
            self.manifest,
            self.digest,
            self.snapshot.epoch,
            self.snapshot.devices,
            trust=self.settings.devices,
            most=max(self.settings.cohorts.max_devices, self.settings.cohorts.min_devices),
            further=further,
            personal=self.personal,
            run=self.snapshot.run,
            held_out=self.settings.evaluation.devices,
        )
        self._norms: dict[int, Norms] = {}  # of the updates that closed layers were averaged from, in the open round

    # -- devices -----------------------------------------------------------------------------------------------------

    @property
    def devices(self) -> dict[str, Device]:
        """The devices that have registered, by name."""
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
        task = self._registry.register(profile)
        if self.round is not None and task.accepted:
            self.round.restate(profile.device, profile.num_examples)
        return task

    def came(self, name: str) -> bool:
        """A device is there. Whether that is news."""
        if not self._registry.came(name):
            return False
        self._attendance.came(name)
        if self.round and name in self.devices and self.devices[name].available:
            self.round.regain(name)
        return True

    def went(self, name: str, now: float, patience_s: float, *, goodbye: bool = False) -> bool:
        """A device is gone; rounds wait ``patience_s`` longer for it. Whether that is news.

        One that had said goodbye before this coordinator was started is not waited for.
        """
        is_news = self._registry.went(name)
        ours = name in self.devices or self._attendance.was_present(name)  # of strangers nothing is kept
        if ours and (is_news or goodbye):
            self._attendance.went(name, now + (patience_s if is_news else 0.0), goodbye=goodbye)
        if not is_news:
            return False
        if self.round:
            self.round.lose(name, now + patience_s)
        return True

    def refused(self, name: str, reason: str) -> Task | None:
        """An update of a device was refused. Its new task, if that was one too many, and it is put aside."""
        if not self._registry.refused(name, reason):
            return None
        if self.round:
            self.round.lose(name, -math.inf)
        return self.devices[name].task

    def put_aside(self, name: str) -> Task | None:
        """Have a device take no further part, by the operator's order. Its new task, if it has registered."""
        task = self._registry.put_aside(name)
        if task and self.round:
            self.round.lose(name, -math.inf)
        return task

    def readmit(self, name: str) -> Task | None:
        """Undo `put_aside`. The device's new task, if it has registered; it takes part from the next cohort on."""
        return self._registry.readmit(name)

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
        return self.settings.rounds

    @property
    def trained(self) -> bool:
        """All rounds are done, or training was stopped."""
        return self._stopped or self.snapshot.round >= self.rounds

    @property
    def finished(self) -> bool:
        """It is trained, and devices have judged the last model where they are to."""
        return self.trained and not self._unjudged

    def judged(self) -> None:
        """Have devices judge the last model no more."""
        self._unjudged = False

    def stop(self) -> None:
        """Do no more rounds; called between two cycles, when all devices have the same values."""
        self._stopped = True

    def listen(self, now: float) -> None:
        """Devices can be heard from now on, in seconds: those that were there at the last commit are waited for."""
        self._attendance.listen(now + self.settings.deadlines.lost_s)

    def can_begin(self, now: float) -> bool:
        """Whether the next round may begin.

        The first one waits for ``min_devices``. A later one waits for nobody but those that may be back in a moment
        (`awaited`), and needs one device.
        """
        if self.round or self.finished:
            return False
        if self.trained:  # whoever is there judges it
            return not self.awaited(now)
        if self.snapshot.round == 0:
            wanted = self.settings.cohorts.min_devices
            return self._registry.online >= wanted and self.accepted >= wanted  # counted when it may matter
        return self.accepted > 0 and not self.awaited(now)

    def awaited(self, now: float) -> dict[str, float]:
        """Devices that a later round waits for before it begins, and until when, in seconds.

        Within a cycle it is its cohort alone that matters.
        """
        if self.snapshot.round == 0:
            return {}
        cohort = self.snapshot.cohort
        return {
            name: until
            for name, until in self._attendance.awaited(now).items()
            if (not cohort or name in cohort) and not self._has_answered(name)
        }

    def begin(self, now: float) -> RoundPlan:
        """Open the next round; its deadline counts from ``now``, in seconds.

        Once it is `trained`, that is one without local steps, in which all devices judge the last model.
        """
        snapshot, training = self.snapshot, self.settings.training
        known = tuple(name for name in snapshot.cohort if name in self.devices)
        available = [name for name, device in self.devices.items() if device.available]
        if not known and not self.trained:
            available = self._attendance.drawable(available, snapshot.round // self.settings.aggregation.phi)
        self._work = work = (
            course.RoundWork(snapshot.round // self.settings.aggregation.phi, tuple(sorted(available)), ())
            if self.trained
            else course.plan(self.settings, msgspec.structs.replace(snapshot, cohort=known), available, training.seed)
        )
        judges = self.trained or (not snapshot.cohort and self._is_judged(snapshot.round))
        cohort = work.cohort
        if not self.trained:
            self.snapshot = msgspec.structs.replace(snapshot, cohort=cohort)
        hyperparameters = self.hyperparameters(snapshot.round)
        examples = {name: self.devices[name].profile.num_examples for name in cohort}
        plan = RoundPlan(
            epoch=snapshot.epoch,
            round=snapshot.round,
            cycle=work.cycle,
            cohort=cohort,
            local_steps=0 if self.trained else training.local_steps,
            judges=judges or msgspec.UNSET,
            batch_size=self.manifest.batch_size,
            hyperparameters=hyperparameters,
            due=work.due,
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
            norm_bounds=norms.bounds(
                self.settings.aggregation.norm_bound, self.wire_spec, self.values, self.snapshot.norms
            ),
            **({} if self.trained else course.local_work(self.settings, examples, hyperparameters).given),
        )
        cuts = {name: self.devices[name].task.cut for name in cohort if self.devices[name].task.accepted}
        examples = {name: self.devices[name].profile.num_examples for name in cuts}
        most = plan.norm_bounds or (UNLIMITED,) * len(self._spec.layers)
        self.round = Round(plan, cuts, lambda layer: self._new_fold(layer, most[layer]), now, examples)
        self._waited_s = 0.0 if self._idle_since is None else now - self._idle_since
        for name in cohort:
            if not self.devices[name].online or self._attendance.is_late(name):
                self.round.lose(name, self._attendance.gone_at(name, now))
        return plan

    def _is_judged(self, rounds: int) -> bool:
        """Whether devices judge the model after so many rounds, before they train in the cycle that begins."""
        every, phi = self.settings.evaluation.every, self.settings.aggregation.phi
        return bool(self.settings.evaluation.devices and rounds and rounds // every > (rounds - phi) // every)

    def end_judging(self, now: float) -> Round:
        """End the round in which devices judged the last model."""
        round_, self.round = self.round, None
        assert round_ is not None
        assert self.trained, "a round of training is finished or abandoned"
        assert round_.done(now), "devices are waited for"
        self._idle_since = now
        self.judged()
        return round_

    def abandon(self, now: float) -> Round:
        """End the open round, which is done and in which nobody delivered, as if it had never been planned.

        It is planned again, and its cohort drawn again; what it took counts as time waited.
        """
        round_ = self.round
        assert round_ is not None
        assert round_.done(now), "a round is waited for before it is given up"
        assert round_.empty, "what was delivered counts"
        self._idle_since = round_.began - self._waited_s
        self.snapshot = msgspec.structs.replace(self.snapshot, cohort=())
        self.round = None
        return round_

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
        exact: dict[int, Vector] = {}
        for layer in layers:
            if aggregate := round_.close(layer, self.values[layer]):
                spec, tau = self._spec.layers[layer], self.snapshot.intervals[layer]
                facts = LayerFacts(spec.size, spec.vector_size, self._registry.population(layer))
                self._norms[layer] = aggregate.norms
                moved = course.layer_value(
                    self.settings, aggregate, self.values[layer], self.memory.pop(layer, None), tau, facts
                )
                self._discrepancies[layer], exact[layer] = moved.discrepancy, moved.value
                if moved.memory is not None:
                    self.memory[layer] = moved.memory
        self._model.prepare(exact, self.snapshot.round)

    @property
    def digests(self) -> bytes:
        """The digests of all layers' values, as a signed plan carries them."""
        return self._model.digests

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
        discrepancies, self._discrepancies = self._discrepancies, {}
        seen, self._norms = self._norms, {}
        late = self._note_attendance(round_, now)
        seconds = now - round_.began
        state, adjustment = course.apply(
            self.settings,
            self._spec,
            self.snapshot,
            self._work,
            seed=self.settings.training.seed,
            cuts=round_.cuts,
            discrepancies=discrepancies,
        )
        self.snapshot = msgspec.structs.replace(
            state,
            wall_s=state.wall_s + self._waited_s + seconds,
            uplink_bytes=uplink_bytes,
            downlink_bytes=self.downlink_bytes,
            unfolded=round_.unfolded(),
            norms=norms.remembered(self.snapshot.norms, seen, len(self._spec.layers)),
            devices=self.device_records(),
            present=self._there_or_soon_back(now),
        )
        self.round, self._idle_since = None, now
        return RoundOutcome(
            round=round_,
            updates=round_.updates,
            expected=sum(len(devices) for devices in round_.expected.values()),
            seconds=seconds,
            waited_s=self._waited_s,
            late=late,
            snapshot=self.snapshot,
            values=tuple(self.values),
            owed=dict(self.owed),
            memory=dict(self.memory),
            adjustment=adjustment,
        )

    def _note_attendance(self, round_: Round, now: float) -> dict[str, int]:
        """Note who delivered everything in a round that is done; return how many cycles each late device sits out."""
        in_time = round_.delivered_everything()
        for name in in_time:
            self.devices[name].rounds_done += 1
        self._attendance.was_in_time(in_time)
        return self._attendance.was_late(round_.late() if now >= round_.deadline else (), round_.plan.cycle)

    def hyperparameters(self, round_: int) -> dict[str, float]:
        """The training graph's 0-d inputs in a round: defaults of the bundle, the operator's, and the rate."""
        settings, defaults = self.settings, self.manifest.hyperparameters
        rate = settings.rate(round_, defaults["lr"])
        return {**defaults, **settings.training.hyperparameters, **settings.local.hyperparameters, "lr": rate}

    def _has_answered(self, name: str) -> bool:
        device = self.devices.get(name)
        return device is not None and (device.available or not device.task.accepted)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _there_or_soon_back(self, now: float) -> tuple[str, ...]:
        """Accepted devices that are there, or are waited for: a coordinator that starts again waits for them, too."""
        awaited = self._attendance.awaited(now)
        there = (
            name
            for name, device in self.devices.items()
            if device.available or (device.task.accepted and name in awaited)
        )
        return tuple(sorted(there))

    def _exceptional_codecs(self, cohort: tuple[str, ...]) -> dict[str, str]:
        """Devices that can't encode what is configured, and what they use instead."""
        chosen = {name: self.settings.wire.codec_for(self.devices[name].profile.codecs) for name in cohort}
        return {name: codec for name, codec in chosen.items() if codec}

    def _new_fold(self, layer: int, most: Norms) -> Fold:
        spec = self.wire_spec.layers[layer]
        return rule(self.settings.aggregation.fold)(spec.vector_size, spec.size, most=most)
