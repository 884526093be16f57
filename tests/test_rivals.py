"""A newer program of the same name is told from what was there before, and from oneself."""

from __future__ import annotations

import pytest

from lamina.edge_agent.service.rivals import AGAIN, WITHIN_S, Rivals, instance_of


@pytest.mark.parametrize(
    ("heard", "taken_over"),
    [
        (("mine",), False),
        (("before", "mine"), False),  # the profile of its own last start, or of the one that it replaces
        (("before", "mine", "before"), False),  # a broker that lost what it had not saved
        (("before", "mine", "newer"), True),
        (("mine", "newer"), True),
        (("before", "mine", "earlier"), False),  # of a start before the last one: a killed broker's old state
        (("mine", ""), False),  # an agent that doesn't say
        (("mine", "mine"), False),
    ],
)
def test_what_is_heard_under_ones_own_name(heard: tuple[str, ...], taken_over: bool) -> None:
    rivals = Rivals("mine")
    assert [rivals.took_over(instance, 0.0) for instance in heard][-1] == taken_over


def test_of_two_that_take_each_others_place_the_older_one_ends() -> None:
    older, newer = Rivals("a-older"), Rivals("b-newer")
    assert not older.took_over("a-older", 0.0)
    assert not newer.took_over("a-older", 1.0)
    assert not newer.took_over("b-newer", 1.0)
    assert older.took_over("b-newer", 2.0)  # when it is back
    assert not newer.took_over("a-older", 3.0)


def test_a_rival_whose_clock_is_behind_shows_by_coming_again_and_again() -> None:
    rivals = Rivals("mine")
    assert not rivals.took_over("mine", 0.0)
    assert [rivals.took_over("behind", float(at)) for at in range(AGAIN)] == [False] * (AGAIN - 1) + [True]


def test_a_broker_that_forgets_now_and_then_is_no_rival() -> None:
    rivals = Rivals("mine")
    assert not rivals.took_over("mine", 0.0)
    assert not any(rivals.took_over("earlier", WITHIN_S * at) for at in range(100))


def test_instances_sort_as_their_starts() -> None:
    starts = [0, 15, 16, 1_700_000_000_000, 2**44]
    assert sorted(instance_of(start, "ff") for start in starts) == [instance_of(start, "ff") for start in starts]
