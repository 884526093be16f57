"""A link that dies at the same message again and again points at it; any other death does not."""

from __future__ import annotations

import pytest

from lamina.broker.link.oversize import CERTAIN, SUSPICIOUS, Deaths, MessageTooLarge
from lamina.models.errors import ConfigError


def die(deaths: Deaths, *on_the_way: tuple[str, int], passed: tuple[tuple[str, int], ...] = ()) -> str:
    """One link's life; what its end says besides that it dropped."""
    deaths.begin()
    for message in passed:
        deaths.sending(*message)
        deaths.passed(*message)
    for message in on_the_way:
        deaths.sending(*message)
    verdict = deaths.verdict()
    assert deaths.verdict() == verdict  # whoever asks
    return "" if verdict is None else str(verdict.error("dropped"))


def test_the_message_is_named_with_the_limit_and_the_setting() -> None:
    deaths = Deaths()
    said = [die(deaths, ("bundle/0", 262144), ("bundle/1", 262144), passed=(("status", 80),)) for _ in range(CERTAIN)]
    assert said[: SUSPICIOUS - 1] == ["", ""]
    assert "262144 bytes for bundle/0" in said[2]
    assert "message_size_limit" in said[2]
    assert "wire.chunk_kib" in said[2]


def test_it_is_the_operators_in_the_end() -> None:
    deaths = Deaths()
    for _ in range(CERTAIN):
        die(deaths, ("bundle/0", 262144))
    verdict = deaths.verdict()
    assert verdict is not None
    assert isinstance(verdict.error("dropped"), MessageTooLarge)


def test_links_that_die_at_different_messages_are_bad_links() -> None:
    deaths = Deaths()
    assert [die(deaths, (f"bundle/{n % 2}", 5000)) for n in range(20)] == [""] * 20


def test_a_message_as_large_that_passed_clears_the_size() -> None:
    deaths = Deaths()
    assert [die(deaths, ("b", 5000), passed=(("a", 5000),)) for _ in range(9)] == [""] * 9


def test_a_link_that_dies_with_nothing_large_on_its_way_ends_the_series() -> None:
    deaths = Deaths()
    for _ in range(5):
        assert [die(deaths, ("b", 5000)), die(deaths, ("b", 5000)), die(deaths, ("status", 80))] == ["", "", ""]


def test_what_nobody_waits_for_any_more_is_not_on_its_way() -> None:
    deaths = Deaths()
    for _ in range(9):
        deaths.begin()
        deaths.sending("b", 5000)
        deaths.withdrawn("b", 5000)
        assert deaths.verdict() is None


@pytest.mark.parametrize("twice", [1, 2])
def test_the_same_message_twice_on_its_way_is_counted(twice: int) -> None:
    deaths = Deaths()
    deaths.begin()
    for _ in range(2):
        deaths.sending("b", 5000)
    for _ in range(twice):
        deaths.passed("b", 5000)
    assert (next(iter(deaths._on_the_way), None) is None) == (twice == 2)


def test_links_that_die_at_a_message_to_be_kept_where_none_ever_was_point_at_a_broker_that_keeps_none() -> None:
    deaths = Deaths()
    for _ in range(CERTAIN + 2):
        deaths.begin()
        deaths.sending("lab/question", 50)
        deaths.passed("lab/question", 50)
        deaths.sending("lab/lease", 90, retain=True)
        verdict = deaths.verdict()
    assert verdict is not None
    error = verdict.error("the connection dropped")
    assert "retain_available" in str(error)
    assert not isinstance(error, ConfigError)  # the link may be as bad as that


def test_a_broker_that_has_kept_a_message_is_not_suspected() -> None:
    deaths = Deaths()
    deaths.begin()
    deaths.sending("lab/lease", 90, retain=True)
    deaths.passed("lab/lease", 90)
    for _ in range(CERTAIN):
        deaths.begin()
        deaths.sending("lab/round", 90, retain=True)
        assert deaths.verdict() is None
