"""The devices that are there, and what each of them may train. A pure machine: no clock, disk or network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from lamina.broker.wire.messages import DeviceProfile, Report, Task
from lamina.coordinator.records.records import DeviceRecord
from lamina.coordinator.settings import Devices, Wire
from lamina.models.errors import brief
from lamina.models.fitting import choose
from lamina.models.manifest import Manifest
from lamina.models.samples import unsuitable

DISHONEST = frozenset({"weight", "not_finite", "out_of_bounds", "norm"})
"""Reasons to refuse a whole update of this round: nobody sends one by being late.

What can't be decoded is not among them: it is as likely a damaged link, or a stranger who writes below its name."""


_ORDERED_ASIDE = "put aside by the operator; `lamina admit` takes it back"


@dataclass(slots=True)
class Device:
    """What the coordinator knows of one device."""

    profile: DeviceProfile
    task: Task
    online: bool = False
    rounds_done: int = 0
    last_report: Report | None = None
    refused: int = 0

    @property
    def available(self) -> bool:
        """It can be drawn into a cohort."""
        return self.task.accepted and self.online


class Registry:
    """Every device that the coordinator has heard of in this run.

    Args:
        wire: what a device must be able to encode.
        manifest: of the bundle, which it must fit.
        digest: of the manifest.
        epoch: of the federation.
        before: what is known of devices from an earlier run.
        trust: which devices may come.
        most: devices that may register, those known from before included.
        further: names of the algorithm's vectors in every layer's value.
        personal: places of the tensors that are never averaged.
        run: the epoch in which the run began, if it is not this one.

    Attributes:
        devices: those that have registered, by name.
    """

    def __init__(
        self,
        wire: Wire,
        manifest: Manifest,
        digest: str,
        epoch: int,
        before: Iterable[DeviceRecord],
        *,
        trust: Devices,
        most: int,
        further: tuple[str, ...] = (),
        personal: tuple[int, ...] = (),
        run: int = 0,
        held_out: float = 0.0,
    ) -> None:
        self._wire, self._manifest, self._digest, self._epoch = wire, manifest, digest, epoch
        self._trust, self._most, self._further = trust, most, further
        self._personal, self._run, self._held_out = personal, run, held_out
        self._before = {record.id: record for record in before}
        self._online: set[str] = set()
        self._aside: set[str] = set()
        self.devices: dict[str, Device] = {}

    def register(self, profile: DeviceProfile) -> Task:
        """Judge a device by its profile. Registering again (a restart, another budget) replaces the judgement.

        One that may not come at all, or for which there is no place, is refused and not kept.
        """
        if reason := self._turned_away(profile.device):
            return self._refusal(reason)
        known, before = self.devices.get(profile.device), self._before.get(profile.device)
        refused = known.refused if known else before.refused if before else 0
        cut, reason = (None, self._put_aside(refused)) if self._is_aside(refused) else self._judge(profile)
        task = self._refusal(reason) if cut is None else self._acceptance(cut, reason)
        if profile.device in self._aside:
            task = msgspec.structs.replace(self._refusal(_ORDERED_ASIDE), aside=True)
        self.devices[profile.device] = Device(
            profile=profile,
            task=task,
            online=profile.device in self._online,
            rounds_done=known.rounds_done if known else before.rounds_done if before else 0,
            last_report=known.last_report if known else None,
            refused=refused,
        )
        return task

    def put_aside(self, name: str) -> Task | None:
        """Have a device take no part any more, by the operator's order. Its new task, if it has registered."""
        self._aside.add(name)
        return self._judged_again(name)

    def readmit(self, name: str) -> Task | None:
        """Undo `put_aside`. The device's new task, if it has registered."""
        self._aside.discard(name)
        return self._judged_again(name)

    def _judged_again(self, name: str) -> Task | None:
        device = self.devices.get(name)
        if device is None:
            return None
        return self.register(device.profile)

    def knows(self, name: str) -> bool:
        """Whether a device has registered, in this run of the program or before."""
        return name in self.devices or name in self._before

    def refused(self, name: str, reason: str) -> bool:
        """An update of a device was refused, for one of the reasons of `rounds.round`. Whether that puts it aside."""
        device = self.devices.get(name)
        if device is None or reason not in DISHONEST:
            return False
        device.refused += 1
        if not (device.task.accepted and self._is_aside(device.refused)):
            return False
        device.task = self._refusal(self._put_aside(device.refused, reason))
        return True

    def came(self, name: str) -> bool:
        """A device is there. Whether that is news."""
        if name in self._online or (name not in self.devices and len(self._online) >= 2 * self._most):
            return False
        self._online.add(name)
        if device := self.devices.get(name):
            device.online = True
        return True

    def went(self, name: str) -> bool:
        """A device is gone. Whether that is news."""
        if name not in self._online:
            return False
        self._online.discard(name)
        if device := self.devices.get(name):
            device.online = False
        return True

    def report(self, name: str, report: Report) -> bool:
        """Keep a device's report; one of another run, or from a stranger, is passed over. Whether it was kept."""
        device = self.devices.get(name)
        if device is None or report.epoch != self._epoch:
            return False
        known = device.last_report
        if not report.steps and known:  # it has judged, and trained nothing: what a step took stays
            report = msgspec.structs.replace(report, loss=known.loss, accuracy=known.accuracy, step_s=known.step_s)
        device.last_report = report
        return True

    @property
    def online(self) -> int:
        """Devices that are there, accepted or not."""
        return len(self._online)

    @property
    def accepted(self) -> int:
        """Devices accepted and online."""
        return sum(device.available for device in self.devices.values())

    @property
    def downlink_bytes(self) -> int:
        """Payload bytes that devices received, as they last reported."""
        reports = (device.last_report for device in self.devices.values())
        return sum(report.downlink_bytes for report in reports if report)

    def population(self, layer: int) -> int:
        """Devices that could train a layer, there or not."""
        tasks = [device.task for device in self.devices.values()]
        return sum(task.accepted and task.cut <= layer for task in tasks)

    def records(self) -> tuple[DeviceRecord, ...]:
        """Every device that ever registered, in ascending order."""
        known = self._before | {name: self._record(device) for name, device in self.devices.items()}
        return tuple(known[name] for name in sorted(known))

    def _record(self, device: Device) -> DeviceRecord:
        report, before = device.last_report, self._before.get(device.profile.device)
        return DeviceRecord(
            id=device.profile.device,
            budget_mib=device.profile.budget_mib,
            accepted=device.task.accepted,
            reason=device.task.reason,
            cut=device.task.cut,
            tier=self._manifest.spec.tier(device.task.cut) if device.task.accepted else "",
            rounds_done=device.rounds_done,
            peak_mib=report.peak_mib if report else before.peak_mib if before else None,
            step_s=report.step_s if report else before.step_s if before else None,
            refused=device.refused,
        )

    def _acceptance(self, cut: int, reason: str) -> Task:
        return Task(
            epoch=self._epoch,
            accepted=True,
            reason=brief(reason, 900),
            cut=cut,
            manifest=self._digest,
            further=self._further or msgspec.UNSET,
            personal=self._personal or msgspec.UNSET,
            run=self._run or msgspec.UNSET,
            held_out=self._held_out or msgspec.UNSET,
        )

    def _refusal(self, reason: str) -> Task:
        return Task(epoch=self._epoch, accepted=False, reason=brief(reason, 900))

    def _turned_away(self, name: str) -> str:
        """Why a device may not register; empty if it may."""
        if not self._trust.allows(name):
            return f"{name} is not among devices.allow of federation.toml"
        if not self.knows(name) and len(self.devices.keys() | self._before.keys()) >= self._most:
            return (
                f"the federation has its {self._most} devices already: raise cohorts.max_devices, or name those that "
                "may come in devices.allow"
            )
        return ""

    def _is_aside(self, refused: int) -> bool:
        return 0 < self._trust.put_aside_after <= refused

    def _put_aside(self, refused: int, last: str = "") -> str:
        why = f", the last one for {last}" if last else ""
        return (
            f"put aside after {refused} updates that no honest device sends (devices.put_aside_after){why}: look at "
            "the device and its data; --fresh begins without what was counted"
        )

    def _judge(self, profile: DeviceProfile) -> tuple[int | None, str]:
        """The cut for a device and why, or None and why not."""
        spec, wire = self._manifest.spec, self._wire
        if profile.num_examples < 1:
            return None, "it has no training examples"
        targets = profile.target_shape or (), profile.target_dtype or "int64"
        if reason := unsuitable(spec, profile.sample_shape, profile.sample_dtype, profile.classes, *targets):
            return None, reason
        if wire.codec_for(profile.codecs) is None:
            return (
                None,
                f"it can't encode {wire.fallback_codec}, only {', '.join(profile.codecs)}; set wire.fallback_codec",
            )
        choice = choose(self._manifest, profile.budget_mib, profile.savings)
        return (choice.plan.cut if choice.plan else None), choice.reason
