"""Values that do not come at once are asked for a few chunks at a time, until all of them are here."""

from __future__ import annotations

from lamina.edge_agent.service.pieces import AT_ONCE, Pieces


def transfer(pieces: Pieces, sizes: dict[str, int], room: int) -> int:
    """Let a broker with room for so few messages send what is asked for; the questions that it takes."""
    here: dict[str, set[int]] = {layer: set() for layer in sizes}

    def missing(layer: str, most: int) -> list[int]:
        return [index for index in range(sizes[layer]) if index not in here[layer]][:most]

    questions = 0
    while any(len(here[layer]) < size for layer, size in sizes.items()):
        questions += 1
        assert questions < 1000
        for layer, index in pieces.turn(missing)[1][:room]:
            here[layer].add(index)
            pieces.came(layer, index, float(questions), whole=len(here[layer]) == sizes[layer])
    return questions


def test_a_value_comes_however_short_the_queue() -> None:
    for room in (1, 3, AT_ONCE, 100):
        pieces = Pieces()
        pieces.insist(["a", "b"])
        assert transfer(pieces, {"a": 30, "b": 1}, room) <= 31 // min(room, AT_ONCE) + 3


def test_the_next_chunks_are_asked_for_when_the_last_ones_are_here() -> None:
    pieces = Pieces()
    pieces.insist(["a"])
    assert pieces.turn(lambda layer, most: [4, 5])[1] == [("a", 4), ("a", 5)]
    assert not pieces.came("a", 4, 1.0, whole=False)
    assert pieces.came("a", 5, 1.0, whole=False)


def test_nothing_is_asked_for_that_nobody_insists_on() -> None:
    pieces = Pieces()
    assert not pieces.came("a", 0, 1.0, whole=False)
    assert pieces.is_coming(1.5, 1.0)
    assert not pieces.is_coming(2.5, 1.0)
    assert pieces.leave() == []
