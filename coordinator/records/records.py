"""The records that a run leaves behind, one a round and one a cycle, as they are written to disk."""

from __future__ import annotations

import msgspec

from lamina.coordinator.algorithms.interval_rule import Adjustment
from lamina.coordinator.records.device_figures import DeviceFigures
from lamina.models.metrics import ACCURACY


class RoundRecord(msgspec.Struct, frozen=True):
    """One finished round.

    Attributes:
        round: 0-based.
        cycle: 0-based.
        cohort: devices that were to train.
        due: indices of the layers that were aggregated.
        updates: layer updates folded.
        expected: layer updates that the plan asked for.
        rejected: layer updates refused in this round.
        lr: learning rate.
        loss: mean of the devices' training losses, weighted by their samples; ``None`` when no report came.
        train_accuracy: mean of the devices' training accuracies, weighted by their samples.
        accuracy: of the averaged model on the evaluation data; ``None`` when it was not evaluated.
        c_ratio: parameters communicated so far, relative to FedAvg with the same cohorts and cuts.
        uplink_bytes: payload bytes of updates received so far.
        downlink_bytes: payload bytes of layer values that devices received so far, as they report them.
        fedavg_uplink_bytes: what FedAvg, float32, would have sent up so far for the same steps: every device of the
            cohort every layer of the whole network, every round.
        wall_s: seconds since the first round began, without those in which no coordinator ran.
        round_s: seconds that this round took, from its plan on.
        waited_s: seconds before its plan in which devices were waited for, or in which nobody delivered.
        metrics: of the averaged model on the evaluation data, by name; left out where there is no other than accuracy.
        on_devices: what the model with which the round began came to on the devices' own samples, where they judged.
    """

    round: int
    cycle: int
    cohort: tuple[str, ...]
    due: tuple[int, ...]
    updates: int
    expected: int
    rejected: int
    lr: float
    loss: float | None
    train_accuracy: float | None
    accuracy: float | None
    c_ratio: float
    uplink_bytes: int
    downlink_bytes: int
    fedavg_uplink_bytes: int
    wall_s: float
    round_s: float
    waited_s: float = 0.0
    metrics: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    on_devices: DeviceFigures | msgspec.UnsetType = msgspec.UNSET

    @property
    def figures(self) -> dict[str, float]:
        """All metrics of the averaged model by name; empty where it was not evaluated."""
        return self.metrics or ({} if self.accuracy is None else {ACCURACY: self.accuracy})


class CycleRecord(msgspec.Struct, frozen=True):
    """One adjustment of the intervals, with the curves behind it. Layers are indices into the spec.

    Attributes:
        cycle: 0-based.
        intervals: tau_l of every layer, in local steps, from the next cycle on.
        discrepancy: d_l of every layer.
        order: the layers as they were visited.
        d_curve: D after each layer of ``order``, to its end (beyond the crossing too).
        s_curve: S after each layer of ``order``.
        crossing: how many layers of ``order`` were relaxed (or shortened).
    """

    cycle: int
    intervals: tuple[int, ...]
    discrepancy: tuple[float, ...]
    order: tuple[int, ...]
    d_curve: tuple[float, ...]
    s_curve: tuple[float, ...]
    crossing: int

    @classmethod
    def of(cls, cycle: int, discrepancy: tuple[float, ...], adjustment: Adjustment) -> CycleRecord:
        """The record of an adjustment that these discrepancies led to."""
        return cls(
            cycle=cycle,
            intervals=adjustment.intervals,
            discrepancy=discrepancy,
            order=adjustment.order,
            d_curve=adjustment.d_curve,
            s_curve=adjustment.s_curve,
            crossing=adjustment.crossing,
        )


class DeviceRecord(msgspec.Struct, frozen=True):
    """One device at the end of a run.

    Attributes:
        id: its name.
        budget_mib: its declared memory for training.
        accepted: whether it took part.
        reason: why not, or why its cut.
        cut: first layer that it trains.
        tier: strong, moderate or weak; empty when refused.
        rounds_done: rounds of which it delivered everything that was asked.
        peak_mib: measured peak memory above its idle agent; ``None`` where it can't be told.
        step_s: mean wall time of its training steps.
        refused: updates of it that could not be what an honest device sends.
    """

    id: str
    budget_mib: float
    accepted: bool
    reason: str
    cut: int
    tier: str
    rounds_done: int
    peak_mib: float | None
    step_s: float | None
    refused: int = 0


class RunResult(msgspec.Struct, frozen=True):
    """A whole run, as ``summary.json`` begins.

    Attributes:
        accuracy: of the final averaged model; ``None`` without evaluation data.
        c_ratio: parameters communicated, relative to FedAvg.
        rounds: rounds completed.
        wall_s: from the first round's start to the last one's end.
        devices: every device that ever registered.
        uplink_bytes: payload bytes of updates received.
        downlink_bytes: payload bytes of layer values that devices received.
        fedavg_uplink_bytes: what FedAvg, float32, would have sent up for the same steps.
        aggregations: times each layer was aggregated, by layer index.
        best_round: rounds done when the model was best, by evaluation; ``None`` without evaluation data.
        best_accuracy: its accuracy.
        metrics: of the final averaged model by name; left out where there is no other than accuracy.
        on_devices: what it comes to on the devices' own samples; left out where they didn't judge.
    """

    accuracy: float | None
    c_ratio: float
    rounds: int
    wall_s: float
    devices: tuple[DeviceRecord, ...]
    uplink_bytes: int
    downlink_bytes: int
    fedavg_uplink_bytes: int
    aggregations: tuple[int, ...]
    best_round: int | None = None
    best_accuracy: float | None = None
    metrics: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    on_devices: DeviceFigures | msgspec.UnsetType = msgspec.UNSET
