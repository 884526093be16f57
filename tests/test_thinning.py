"""Messages become smaller where links die before larger ones have passed, and larger where links hold."""

from __future__ import annotations

from lamina.broker.link.thinning import LEAST_BYTES, Thinning


def link(thinning: Thinning, carries: int, message_bytes: int = 1 << 16) -> int:
    """One link that dies after so many bytes, on which messages are sent one after the other; how many passed."""
    thinning.begin()
    passed, carried = 0, 0
    while True:
        size = min(message_bytes, thinning.most_bytes or message_bytes)
        thinning.sending(size)
        if carried + size > carries:
            thinning.died()
            return passed
        carried += size
        thinning.passed(size)
        passed += 1


def test_links_that_hold_limit_nothing() -> None:
    thinning = Thinning()
    for _ in range(10):
        link(thinning, 1 << 20)
    assert thinning.most_bytes == 0


def test_one_cut_is_an_accident() -> None:
    thinning = Thinning()
    link(thinning, 5000)
    assert thinning.most_bytes == 0


def test_messages_are_halved_until_some_pass() -> None:
    thinning = Thinning()
    passed = [link(thinning, 6000) for _ in range(10)]
    assert passed[0] == 0
    assert passed[-1] >= 2
    assert LEAST_BYTES <= thinning.most_bytes <= 3000


def test_messages_are_never_cut_finer_than_the_least() -> None:
    thinning = Thinning()
    for _ in range(50):
        link(thinning, 100)
    assert thinning.most_bytes == LEAST_BYTES


def test_a_link_that_carries_plenty_has_them_doubled() -> None:
    thinning = Thinning()
    for _ in range(10):
        link(thinning, 6000)
    small = thinning.most_bytes
    link(thinning, 1 << 20)
    assert thinning.most_bytes > small


def test_the_death_of_a_link_is_counted_once() -> None:
    thinning = Thinning()
    thinning.begin()
    thinning.sending(1 << 16)
    for _ in range(5):
        thinning.died()
    assert thinning.most_bytes == 0


def test_what_nobody_waits_for_is_not_on_its_way() -> None:
    thinning = Thinning()
    for _ in range(5):
        thinning.begin()
        thinning.sending(1 << 16)
        thinning.withdrawn(1 << 16)
        thinning.died()
    assert thinning.most_bytes == 0
