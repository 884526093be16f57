"""Evaluations: which was best, and whether there is still a better one now and then."""

from lamina.coordinator.records.evaluations import Evaluations


def test_the_best_is_the_first_of_equals() -> None:
    evaluations = Evaluations({1: 0.5, 3: 0.75, 2: 0.25, 4: 0.75})
    assert (evaluations.best, evaluations.last, evaluations.since_best) == ((3, 0.75), (4, 0.75), 1)


def test_training_stalls_after_so_many_that_are_no_better() -> None:
    evaluations = Evaluations({})
    assert (evaluations.best, evaluations.last) == (None, None)
    assert not evaluations.stalled(1)
    for rounds, accuracy in enumerate([0.5, 0.4, 0.5]):
        evaluations.add(rounds, accuracy)
    assert evaluations.stalled(2)
    assert not evaluations.stalled(3)
    assert not evaluations.stalled(0)
    evaluations.add(4, 0.6)
    assert not evaluations.stalled(1)
