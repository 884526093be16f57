"""Round-robin intervals: every layer has its turn, and they save what FedLAMA saves."""

from dataclasses import replace

from lamina.coordinator.algorithms import fedlama, round_robin
from lamina.coordinator.algorithms.interval_rule import CycleEnd

SIZES = (100, 10, 40, 5, 45)
DRIFTS = (0.1, 3.0, 0.5, 4.0, 0.2)


def end(**changes: object) -> CycleEnd:
    settled = CycleEnd(cycle=0, seed=3, intervals=(5,) * 5, discrepancy=DRIFTS, sizes=SIZES, local_steps=5, phi=4)
    return replace(settled, **changes)  # type: ignore[arg-type]


def share(intervals: tuple[int, ...]) -> float:
    return sum(size for size, tau in zip(SIZES, intervals, strict=True) if tau > 5) / sum(SIZES)


def test_the_next_cycle_goes_on_after_the_last_relaxed_layer() -> None:
    # FedLAMA relaxes layers 0, 4 and 2: 185 of 200 parameters, so 185 are wanted here, too
    small = end(discrepancy=(9.0, 9.0, 0.001, 9.0, 9.0))  # FedLAMA relaxes 2, and one more
    first = round_robin.adjust(small)
    assert first.order == (0, 1, 2, 3, 4)
    before = [layer for layer, tau in enumerate(first.intervals) if tau > 5]
    second = round_robin.adjust(replace(small, cycle=1, intervals=first.intervals))
    assert second.order[0] == (before[-1] + 1) % 5


def test_every_layer_has_its_turn() -> None:
    seen, state = set(), end(discrepancy=(9.0, 9.0, 9.0, 9.0, 0.001))
    for cycle in range(10):
        found = round_robin.adjust(replace(state, cycle=cycle))
        assert share(found.intervals) >= share(fedlama.ALGORITHM.adjust(state).intervals)
        seen |= set(found.order[: found.crossing])
        state = replace(state, intervals=found.intervals)
    assert seen == {0, 1, 2, 3, 4}


def test_the_window_wraps_around() -> None:
    state = end(intervals=(20, 5, 5, 5, 20))  # 4 and 0 were relaxed: it goes on with 1
    assert round_robin.adjust(state).order[0] == 1


def test_it_begins_with_the_first_layer_where_nothing_or_everything_was_relaxed() -> None:
    assert round_robin.adjust(end()).order[0] == 0
    assert round_robin.adjust(end(intervals=(20,) * 5)).order[0] == 0
    assert round_robin.adjust(end(phi=1)).intervals == (5,) * 5
