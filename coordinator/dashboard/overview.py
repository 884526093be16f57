"""How a federation stands, as one value: what the dashboard shows and the commands print. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import msgspec

from lamina.broker.wire.messages import DeviceProfile, Report
from lamina.coordinator.records.device_figures import DeviceFigures
from lamina.coordinator.records.evaluations import Evaluations
from lamina.coordinator.records.records import DeviceRecord
from lamina.coordinator.records.run_state import RunState
from lamina.coordinator.records.snapshot import Snapshot
from lamina.models.manifest import Manifest
from lamina.models.spec import ModelSpec

State = Literal["waiting", "training", "paused", "finished", "stopped"]


class LayerView(msgspec.Struct, frozen=True):
    """One layer.

    Attributes:
        name: its name.
        parameters: elements that are averaged, statistics included.
        interval: local steps between two aggregations (tau_l).
        aggregations: how often it was averaged.
        discrepancy: last d_l.
        uplink_bytes: payload bytes of its updates since the coordinator started; ``None`` where nobody counted.
    """

    name: str
    parameters: int
    interval: int
    aggregations: int
    discrepancy: float
    uplink_bytes: int | None


class DeviceView(msgspec.Struct, frozen=True):
    """One device, as the coordinator knows it.

    Attributes:
        id: its name.
        state: ``online``, ``away`` or ``refused``.
        reason: why it is refused, or why it trains from its cut.
        cut: first layer that it trains; ``None`` when refused.
        layer: that layer's name.
        tier: strong, moderate or weak; empty when refused.
        budget_mib: its declared memory for training.
        cores: of its processor.
        architecture: of its processor.
        engine: name and version.
        examples: its samples.
        rounds_done: rounds of which it delivered everything.
        owes: whether the open round still waits for it.
        seen_at: when it was last heard of, in seconds since 1970.
        step_s: mean time of a training step.
        peak_mib: measured peak memory above its idle agent.
        loss: its last training loss.
        accuracy: its last training accuracy; ``None`` where its task has none.
        uplink_bytes: payload bytes of its updates since the coordinator started.
        downlink_bytes: payload bytes of layer values that it received, as it reported.
        refused: updates of it that no honest device sends.
        certificate_until: when its certificate ends, in seconds since 1970, where the authority is at hand.
    """

    id: str
    state: Literal["online", "away", "refused"]
    reason: str
    cut: int | None
    layer: str
    tier: str
    budget_mib: float
    rounds_done: int
    refused: int
    step_s: float | None
    peak_mib: float | None
    cores: int | None = None
    architecture: str = ""
    engine: str = ""
    examples: int | None = None
    owes: bool = False
    seen_at: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    uplink_bytes: int | None = None
    downlink_bytes: int | None = None
    certificate_until: int | None = None


class DeploymentView(msgspec.Struct, frozen=True):
    """What is deployed.

    Attributes:
        in_force: the model that devices have, in words; empty: none.
        rollout: how the last rollout stands, in words; empty: there was none.
        reason: why.
        under_way: whether it goes on.
        answers: what each device made of it.
        silent: devices of which an answer is awaited.
    """

    in_force: str
    rollout: str
    reason: str
    under_way: bool
    answers: dict[str, str] = {}
    silent: tuple[str, ...] = ()


class JudgeView(msgspec.Struct, frozen=True):
    """What the averaged model is judged by, and what it came to.

    Attributes:
        name: of the figure by which the best round is chosen: ``accuracy``, or whatever the task says.
        lower_is_better: whether a lower one is the better one.
        last: the figure when the model was last evaluated; ``None`` before.
        best: the best one so far.
        best_round: rounds done when it was best.
        figures: all metrics of the last evaluation, by name.
        on_devices: what devices said last of the model, on the samples that they keep.
    """

    name: str
    lower_is_better: bool = False
    last: float | None = None
    best: float | None = None
    best_round: int | None = None
    figures: dict[str, float] = {}
    on_devices: DeviceFigures | None = None

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        evaluations: Evaluations,
        figures: Mapping[str, float],
        on_devices: DeviceFigures | None = None,
    ) -> JudgeView:
        """The view of evaluations by a bundle's task."""
        last, best = evaluations.last, evaluations.best
        return cls(
            name=manifest.judge,
            lower_is_better=manifest.lower_is_better,
            last=last[1] if last else None,
            best=best[1] if best else None,
            best_round=best[0] if best else None,
            figures=dict(figures),
            on_devices=on_devices,
        )


class Overview(msgspec.Struct, frozen=True):
    """A federation at one instant.

    Attributes:
        federation: its name.
        live: whether a coordinator runs; else it is what the folder tells.
        state: what goes on.
        waiting: for what or whom the coordinator waits now; empty where it does not.
        waiting_since: since when, in seconds since 1970.
        round: rounds done.
        rounds: rounds to do.
        phi: rounds of a cycle.
        local_steps: tau'.
        judge: what the model is judged by, and what it came to.
        c_ratio: parameters communicated, relative to FedAvg.
        uplink_bytes: payload bytes of updates received.
        downlink_bytes: payload bytes of layer values that devices received.
        fedavg_uplink_bytes: what FedAvg, float32, would have sent up for the same steps.
        wall_s: seconds since the first round began.
        left_s: an estimate of the seconds to the end; ``None`` before the first round and after the last one.
        layers: from input to output.
        devices: ascending by name.
        aside: devices that the operator put aside.
        deployment: what is deployed; ``None``: nothing ever was.
        kept: rounds done, of those that can be exported, deployed and gone back to.
        notice: what came of the last order that took its time; empty: there was none.
    """

    federation: str
    live: bool
    state: State
    waiting: str
    waiting_since: float | None
    round: int
    rounds: int
    phi: int
    local_steps: int
    judge: JudgeView
    c_ratio: float
    uplink_bytes: int
    downlink_bytes: int
    fedavg_uplink_bytes: int
    wall_s: float
    left_s: float | None
    layers: tuple[LayerView, ...]
    devices: tuple[DeviceView, ...]
    aside: tuple[str, ...] = ()
    deployment: DeploymentView | None = None
    kept: tuple[int, ...] = ()
    notice: str = ""


def overview(
    federation: str,
    rounds: int,
    snapshot: Snapshot,
    judge: JudgeView,
    *,
    live: bool,
    state: State,
    layers: tuple[LayerView, ...],
    devices: tuple[DeviceView, ...],
    waiting: str = "",
    waiting_since: float | None = None,
    downlink_bytes: int | None = None,
    left_s: float | None = None,
    aside: tuple[str, ...] = (),
) -> Overview:
    """How a federation stands by its snapshot and what it is judged by; the other arguments are fields of `Overview`.

    Without ``downlink_bytes``, those of the snapshot are taken.
    """
    return Overview(
        federation=federation,
        live=live,
        state=state,
        waiting=waiting,
        waiting_since=waiting_since,
        round=snapshot.round,
        rounds=rounds,
        phi=snapshot.phi,
        local_steps=snapshot.local_steps,
        judge=judge,
        c_ratio=snapshot.ledger.c_ratio,
        uplink_bytes=snapshot.uplink_bytes,
        downlink_bytes=snapshot.downlink_bytes if downlink_bytes is None else downlink_bytes,
        fedavg_uplink_bytes=snapshot.ledger.fedavg_uplink_bytes,
        wall_s=snapshot.wall_s,
        left_s=left_s,
        layers=layers,
        devices=devices,
        aside=aside,
    )


def layer_views(
    spec: ModelSpec, state: RunState, uplink_bytes: Mapping[int, int] | None = None
) -> tuple[LayerView, ...]:
    """The layers of a run.

    Args:
        spec: of its model.
        state: how far it is.
        uplink_bytes: payload bytes by layer index; ``None`` where nobody counted.
    """
    return tuple(
        LayerView(
            layer.name,
            layer.vector_size,
            state.intervals[index],
            state.versions[index],
            state.discrepancy[index],
            None if uplink_bytes is None else uplink_bytes.get(index, 0),
        )
        for index, layer in enumerate(spec.layers)
    )


def device_views(
    spec: ModelSpec,
    records: Iterable[DeviceRecord],
    online: Mapping[str, bool],
    profiles: Mapping[str, DeviceProfile],
    reports: Mapping[str, Report],
    *,
    owing: Collection[str] = (),
    seen_at: Mapping[str, float] | None = None,
    uplink_bytes: Mapping[str, int] | None = None,
) -> tuple[DeviceView, ...]:
    """The devices of a run, of which some have only been heard of in an earlier run of the program.

    Args:
        spec: of the model.
        records: every device that ever registered.
        online: whether each one is there; nobody is where it is left out.
        profiles: of those that registered since the program started.
        reports: the last of each.
        owing: who the open round waits for.
        seen_at: when each was last heard of, in seconds since 1970.
        uplink_bytes: payload bytes by device.
    """
    owing = frozenset(owing)
    return tuple(
        msgspec.structs.replace(
            _device_view(spec, record, bool(online.get(record.id))),
            **_of_profile(profiles.get(record.id)),
            **_of_report(reports.get(record.id), right_or_wrong=spec.wanted.is_right_or_wrong),
            owes=record.id in owing,
            seen_at=(seen_at or {}).get(record.id),
            uplink_bytes=None if uplink_bytes is None else uplink_bytes.get(record.id, 0),
        )
        for record in records
    )


def _device_view(spec: ModelSpec, record: DeviceRecord, online: bool) -> DeviceView:
    """What is recorded of a device."""
    return DeviceView(
        id=record.id,
        state="refused" if not record.accepted else "online" if online else "away",
        reason=record.reason,
        cut=record.cut if record.accepted else None,
        layer=spec.layers[record.cut].name if record.accepted else "",
        tier=record.tier,
        budget_mib=record.budget_mib,
        rounds_done=record.rounds_done,
        refused=record.refused,
        step_s=record.step_s,
        peak_mib=record.peak_mib,
    )


def _of_profile(profile: DeviceProfile | None) -> dict[str, Any]:
    """What a profile adds to it."""
    if profile is None:
        return {}
    return {
        "cores": profile.cores,
        "architecture": profile.architecture,
        "engine": profile.engine,
        "examples": profile.num_examples,
    }


def _of_report(report: Report | None, *, right_or_wrong: bool) -> dict[str, Any]:
    """What the last report adds to it; in a task where no sample is right or wrong there is no accuracy."""
    if report is None:
        return {}
    accuracy = report.accuracy if right_or_wrong else None
    return {"loss": report.loss, "accuracy": accuracy, "downlink_bytes": report.downlink_bytes}


def left_s(round_: int, rounds: int, wall_s: float) -> float | None:
    """The seconds to the end, if the rounds to come take as long as those that are done."""
    return None if not 0 < round_ < rounds else wall_s / round_ * (rounds - round_)
