"""Which devices are there, and what may each of them train? A pure machine: no clock, disk or network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from lamina.broker.wire.messages import DeviceProfile, Report, Task
from lamina.coordinator.records.records import DeviceRecord
from lamina.coordinator.settings import Wire
from lamina.models.fitting import choose
from lamina.models.manifest import Manifest


@dataclass(slots=True)
class Device:
    """What the coordinator knows of one device."""

    profile: DeviceProfile
    task: Task
    online: bool = False
    rounds_done: int = 0
    last_report: Report | None = None

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
        further: names of the algorithm's vectors in every layer's value.

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
        further: tuple[str, ...] = (),
    ) -> None:
        self._wire, self._manifest, self._digest, self._epoch = wire, manifest, digest, epoch
        self._further = further
        self._before = {record.id: record for record in before}
        self._online: set[str] = set()
        self.devices: dict[str, Device] = {}

    def register(self, profile: DeviceProfile) -> Task:
        """Judge a device by its profile. Registering again (a restart, another budget) replaces the judgement."""
        cut, reason = self._judge(profile)
        task = Task(
            epoch=self._epoch,
            accepted=cut is not None,
            reason=reason,
            cut=cut or 0,
            manifest=self._digest if cut is not None else "",
            further=self._further or msgspec.UNSET,
        )
        known = self.devices.get(profile.device)
        self.devices[profile.device] = Device(
            profile=profile,
            task=task,
            online=profile.device in self._online,
            rounds_done=known.rounds_done if known else self._rounds_before(profile.device),
            last_report=known.last_report if known else None,
        )
        return task

    def came(self, name: str) -> bool:
        """A device is there. Whether that is news."""
        if name in self._online:
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
        report = device.last_report
        return DeviceRecord(
            id=device.profile.device,
            budget_mib=device.profile.budget_mib,
            accepted=device.task.accepted,
            reason=device.task.reason,
            cut=device.task.cut,
            tier=self._manifest.spec.tier(device.task.cut) if device.task.accepted else "",
            rounds_done=device.rounds_done,
            peak_mib=report.peak_mib if report else None,
            step_s=report.step_s if report else None,
        )

    def _rounds_before(self, name: str) -> int:
        known = self._before.get(name)
        return known.rounds_done if known else 0

    def _judge(self, profile: DeviceProfile) -> tuple[int | None, str]:
        """The cut for a device and why, or None and why not."""
        spec, wire = self._manifest.spec, self._wire
        if profile.num_examples < 1:
            return None, "it has no training examples"
        if profile.sample_shape != spec.input_shape:
            return (
                None,
                f"its samples have shape {profile.sample_shape}, the model {spec.name} takes {spec.input_shape}",
            )
        if profile.classes > spec.classes:
            return None, f"its labels reach {profile.classes - 1}, the model {spec.name} has {spec.classes} classes"
        if wire.codec_for(profile.codecs) is None:
            return (
                None,
                f"it can't encode {wire.fallback_codec}, only {', '.join(profile.codecs)}; set wire.fallback_codec",
            )
        choice = choose(self._manifest, profile.budget_mib, profile.savings)
        return (choice.way.cut if choice.way else None), choice.reason
