"""A newer program of the same name is told from what was there before, and from oneself."""

from __future__ import annotations

import pytest

from lamina.edge_agent.service.rivals import Rivals


@pytest.mark.parametrize(
    ("heard", "taken_over"),
    [
        (("mine",), False),
        (("before", "mine"), False),  # the profile of its own last start, or of the one that it replaces
        (("before", "mine", "before"), False),  # a broker that lost what it had not saved
        (("before", "mine", "other"), True),
        (("mine", "other"), True),
        (("mine", ""), False),  # an agent that doesn't say
        (("mine", "mine"), False),
    ],
)
def test_what_is_heard_under_ones_own_name(heard: tuple[str, ...], taken_over: bool) -> None:
    rivals = Rivals("mine")
    assert [rivals.took_over(instance) for instance in heard][-1] == taken_over


def test_of_two_that_take_each_others_place_the_older_one_ends() -> None:
    older, newer = Rivals("older"), Rivals("newer")
    assert [older.took_over("older"), newer.took_over("older"), newer.took_over("newer")] == [False] * 3
    assert older.took_over("newer")  # when it is back
    assert [older.took_over("older"), newer.took_over("older")] == [False, False]
