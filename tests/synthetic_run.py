"""Records of a run that never was, for what shows and draws them."""

from lamina.coordinator.records.records import CycleRecord, DeviceRecord, RoundRecord, RunResult

LAYERS = ("conv", "hidden", "classifier")


def rounds(count: int, *, evaluated: bool = True) -> list[RoundRecord]:
    """Rounds of two devices; every second one aggregates every layer, the others the first only."""
    return [
        RoundRecord(
            round=index,
            cycle=index // 2,
            cohort=("ann", "bob"),
            due=(0, 1, 2) if index % 2 else (0,),
            updates=6 if index % 2 else 2,
            expected=6,
            rejected=0,
            lr=0.1,
            loss=2.0 / (index + 1),
            train_accuracy=0.5,
            accuracy=1 - 0.9 / (index + 1) if evaluated else None,
            c_ratio=0.75,
            uplink_bytes=1_500_000 * (index + 1),
            downlink_bytes=2_000_000 * (index + 1),
            fedavg_uplink_bytes=4_000_000 * (index + 1),
            wall_s=0.5 * (index + 1),
            round_s=0.5,
        )
        for index in range(count)
    ]


def cycle(
    index: int, intervals: tuple[int, ...] = (5, 10, 10), discrepancy: tuple[float, ...] = (4e-2, 1e-3, 2e-4)
) -> CycleRecord:
    """An adjustment that relaxes the last two layers of three."""
    return CycleRecord(
        cycle=index,
        intervals=intervals,
        discrepancy=discrepancy,
        order=(2, 1, 0),
        d_curve=(0.05, 0.3, 1.0),
        s_curve=(0.2, 0.9, 1.0),
        crossing=2,
    )


def result() -> RunResult:
    """Two devices, one of them refused."""
    return RunResult(
        accuracy=0.9375,
        c_ratio=0.75,
        rounds=4,
        wall_s=2.0,
        devices=(
            DeviceRecord("ann", 20.0, True, "trains the whole network", 0, "strong", 4, 12.5, 0.003),
            DeviceRecord("bob", 0.5, False, "a budget of 0.5 MiB is too small", 0, "", 0, None, None),
        ),
        uplink_bytes=6_000_000,
        downlink_bytes=8_000_000,
        fedavg_uplink_bytes=16_000_000,
        aggregations=(4, 2, 2),
    )
