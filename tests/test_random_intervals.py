"""Random intervals: they save what FedLAMA saves, by other layers, and the same seed draws the same ones."""

from dataclasses import replace

from lamina.coordinator.algorithms import fedlama, random_intervals
from lamina.coordinator.algorithms.interval_rule import CycleEnd

SIZES = (100, 10, 40, 5, 45)
DRIFTS = (0.1, 3.0, 0.5, 4.0, 0.2)


def end(**changes: object) -> CycleEnd:
    settled = CycleEnd(cycle=0, seed=3, intervals=(5,) * 5, discrepancy=DRIFTS, sizes=SIZES, local_steps=5, phi=4)
    return replace(settled, **changes)  # type: ignore[arg-type]


def share(intervals: tuple[int, ...]) -> float:
    return sum(size for size, tau in zip(SIZES, intervals, strict=True) if tau > 5) / sum(SIZES)


def test_as_large_a_share_is_relaxed_as_by_fedlama() -> None:
    wanted = share(fedlama.ALGORITHM.adjust(end()).intervals)
    for cycle in range(20):
        found = random_intervals.adjust(end(cycle=cycle))
        relaxed = found.order[: found.crossing]
        assert share(found.intervals) >= wanted
        assert sum(SIZES[layer] for layer in relaxed[:-1]) < wanted * sum(SIZES)  # no layer more than it takes
        assert set(found.intervals) <= {5, 20}


def test_every_cycle_draws_anew_and_the_same_again() -> None:
    drawn = [random_intervals.adjust(end(cycle=cycle)).order for cycle in range(8)]
    assert len(set(drawn)) > 4
    assert drawn == [random_intervals.adjust(end(cycle=cycle)).order for cycle in range(8)]
    assert drawn != [random_intervals.adjust(end(cycle=cycle, seed=4)).order for cycle in range(8)]
    assert drawn[0] == (2, 0, 4, 3, 1)  # on every platform


def test_phi_1_relaxes_nothing_and_only_candidates_are_drawn() -> None:
    assert random_intervals.adjust(end(phi=1)).intervals == (5,) * 5
    found = random_intervals.adjust(end(relaxable=(0, 2)))
    assert set(found.order) == {0, 2}
    assert found.intervals[1] == found.intervals[3] == found.intervals[4] == 5
