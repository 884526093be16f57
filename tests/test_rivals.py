"""A newer program of the same name is told from what was there before, and from oneself."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.broker.link.address import BrokerAddress
from lamina.edge_agent.service.rivals import AGAIN, WITHIN_S, Instances, Rivals, instance_of
from lamina.edge_agent.settings import AgentSettings
from lamina.models.storage.disk import DISK


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


KEY, OTHERS = b"k" * 32, b"o" * 32


@pytest.mark.parametrize(
    ("instance", "taken_over"),
    [
        (instance_of(9, "ff", KEY), True),  # a clone, which has the board's key
        (instance_of(9, "ff"), False),  # made up
        (instance_of(9, "ff", OTHERS), False),
        (instance_of(9, "ff", KEY)[:-1] + "0", False),
        ("f" * 64, False),
        ("", False),
        (instance_of(3, "ff", KEY), False),  # this board's own, of an earlier start, said again
    ],
)
def test_an_enrolled_board_believes_only_who_has_its_key(instance: str, taken_over: bool) -> None:
    rivals = Rivals(instance_of(5, "aa", KEY), KEY)
    assert not rivals.took_over(instance_of(5, "aa", KEY), 0.0)
    assert any(rivals.took_over(instance, float(at)) for at in range(2 * AGAIN)) == taken_over
    assert rivals.found == taken_over


def test_of_two_clones_the_one_that_was_started_later_stays_whoever_comes_first() -> None:
    older, newer = instance_of(5, "aa", KEY), instance_of(6, "bb", KEY)
    assert Rivals(older, KEY).took_over(newer, 0.0)  # before it has heard its own profile, too
    assert not Rivals(newer, KEY).took_over(older, 0.0)


def enrolled(folder: Path) -> AgentSettings:
    (folder / "board.key").write_text("secret")
    broker = BrokerAddress(cert_file=str(folder / "board.crt"), key_file=str(folder / "board.key"))
    return AgentSettings("lab", "pi", "x.npz", broker, folder=str(folder), operator_key_file="operator.pub")


def test_instances_grow_whatever_the_clock_does(tmp_path: Path) -> None:
    names = []
    for now_ms in (1000, 500, 0, 2000):
        instances = Instances(enrolled(tmp_path), DISK)
        names.append(instances.next(now_ms, "ff"))
        instances.note(names[-1])
    assert names == sorted(names)
    assert len(set(names)) == 4
    assert all(len(name) <= 64 for name in names)


def test_a_board_that_was_not_enrolled_has_no_proof_and_no_file(tmp_path: Path) -> None:
    instances = Instances(AgentSettings("lab", "pi", "x.npz", folder=str(tmp_path)))
    instances.note(instances.next(5, "ff"))
    assert instances.next(5, "ff") == "000000000005-ff"
    assert list(tmp_path.iterdir()) == []
