"""An operator sees how a running coordinator stands, and orders it to pause, to go on, or to do without a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from lamina.broker.wire.messages import Task
from lamina.coordinator.dashboard.overview import (
    JudgeView,
    Overview,
    State,
    device_views,
    layer_views,
    left_s,
    overview,
)
from lamina.coordinator.records.device_figures import DeviceFigures
from lamina.coordinator.records.evaluations import Evaluations
from lamina.coordinator.records.orders import StandingOrders, read_orders, write_orders
from lamina.coordinator.rounds.federation import Federation
from lamina.coordinator.service.activity import Activity
from lamina.coordinator.service.round_loop import RoundLoop
from lamina.coordinator.settings import FederationSettings
from lamina.models.errors import ConfigError
from lamina.models.storage.disk import Disk


class Judging(Protocol):
    """What a model came to so far: by evaluations, by the last one's figures, and by what devices said last."""

    evaluations: Evaluations
    figures: dict[str, float]
    devices_said: DeviceFigures | None


class Operator:
    """Who looks at a coordinator and gives it orders, from within its event loop.

    Args:
        settings: of the federation.
        federation: it.
        rounds: its loop.
        activity: what was heard of its devices.
        log: what the model came to so far.
        say: publishes a device's new task.
        disk: orders are kept on.
        wall_clock: seconds since 1970, for people.

    Raises:
        ConfigError: the orders on disk can't be read.
    """

    def __init__(
        self,
        settings: FederationSettings,
        federation: Federation,
        rounds: RoundLoop,
        activity: Activity,
        log: Judging,
        say: Callable[[str, Task], None],
        disk: Disk,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._federation, self._rounds = settings, federation, rounds
        self._activity, self._log, self._say = activity, log, say
        self._folder, self._disk, self._wall_clock = Path(settings.folder), disk, wall_clock
        self._waiting_since: tuple[str, float] | None = None
        self._epoch_s = 0.0  # what the loop's clock lacks to seconds since 1970
        self._orders = read_orders(self._folder, disk)
        rounds.paused = self._orders.paused
        for name in self._orders.aside:
            federation.put_aside(name)

    def overview(self, now: float) -> Overview:
        """How the federation stands at ``now``, in seconds of the coordinator's clock."""
        federation, snapshot = self._federation, self._federation.snapshot
        self._epoch_s = self._epoch_s or self._wall_clock() - now
        spec, known = federation.manifest.spec, federation.devices
        waiting = self._rounds.waits_for(now)
        return overview(
            self._settings.federation,
            federation.rounds,
            snapshot,
            JudgeView.of(federation.manifest, self._log.evaluations, self._log.figures, self._log.devices_said),
            live=True,
            state=self._state(),
            waiting=waiting,
            waiting_since=self._waiting_from(waiting, now),
            downlink_bytes=federation.downlink_bytes,
            left_s=left_s(snapshot.round, federation.rounds, snapshot.wall_s),
            layers=layer_views(spec, snapshot, self._activity.layer_bytes),
            devices=device_views(
                spec,
                federation.device_records(),
                {name: device.online for name, device in known.items()},
                {name: device.profile for name, device in known.items()},
                {name: device.last_report for name, device in known.items() if device.last_report},
                owing=federation.round.owing() if federation.round else (),
                seen_at={name: round(at + self._epoch_s, 1) for name, at in self._activity.seen_at.items()},
                uplink_bytes=self._activity.device_bytes,
            ),
            aside=self._orders.aside,
        )

    def obey(self, order: str, device: str) -> None:
        """Follow an order by its name.

        Raises:
            ConfigError: there is no such order, or it makes no sense for this device.
        """
        match order:
            case "pause":
                self.pause()
            case "resume":
                self.resume()
            case "put-aside":
                self.put_aside(device)
            case "readmit":
                self.readmit(device)
            case _:
                raise ConfigError(f"there is no order {order[:40]!r}; there are pause, resume, put-aside, readmit")

    def pause(self) -> None:
        """Begin no further round; the open one is finished. It holds over a restart of the coordinator."""
        self._order(msgspec.structs.replace(self._orders, paused=True))

    def resume(self) -> None:
        """Undo `pause`."""
        self._order(msgspec.structs.replace(self._orders, paused=False))

    def put_aside(self, device: str) -> None:
        """Have a device take no further part; what it has sent already counts. It holds over a restart.

        Raises:
            ConfigError: nobody of that name has ever registered.
        """
        self._check(device)
        self._order(self._orders.without(device))
        self._judge(device, self._federation.put_aside(device))

    def readmit(self, device: str) -> None:
        """Undo `put_aside`: the device is judged as if it came for the first time.

        Raises:
            ConfigError: nobody of that name was put aside.
        """
        if device not in self._orders.aside:
            raise ConfigError(f"{device!r} was not put aside; these were: {', '.join(self._orders.aside) or 'nobody'}")
        self._order(self._orders.readmitting(device))
        self._judge(device, self._federation.readmit(device))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _order(self, orders: StandingOrders) -> None:
        write_orders(self._folder, orders, self._disk)
        self._orders = orders
        self._rounds.paused = orders.paused
        self._rounds.tell()

    def _judge(self, device: str, task: Task | None) -> None:
        if task is not None:
            self._say(device, task)
        self._rounds.tell()

    def _check(self, device: str) -> None:
        names = [record.id for record in self._federation.device_records()]
        if device not in names:
            known = f"these are known: {', '.join(names[:20])}" if names else "no device has registered yet"
            raise ConfigError(f"no device is called {device!r}; {known}")

    def _state(self) -> State:
        federation = self._federation
        if federation.finished:
            return "finished"
        if federation.round:
            return "training"
        if self._rounds.paused:
            return "paused"
        return "training" if federation.snapshot.round else "waiting"

    def _waiting_from(self, waiting: str, now: float) -> float | None:
        """Since when it has waited for the same: the text's first words say for what."""
        what = " ".join(waiting.split()[:3])
        if self._waiting_since is None or self._waiting_since[0] != what:
            self._waiting_since = (what, now)
        return round(self._waiting_since[1] + self._epoch_s, 1) if what else None
